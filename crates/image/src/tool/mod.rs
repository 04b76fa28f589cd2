//! Programs of the distribution that this crate runs.

mod limits;
mod output;

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{ProviderError, Result};

pub(crate) use limits::Limits;
pub(crate) use output::{Output, Watch};

/// Where the distribution keeps programs. Asked after `PATH`, which lacks the `sbin`s for an ordinary user.
const SYSTEM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// `PATH` of every program run from here: the caller's own may point anywhere.
pub(crate) const CHILD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first executable file of that name. Relative entries of `PATH` are passed over: what lies in the current
/// directory may be what the user wants to confine.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| {
            candidate.is_file() && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

/// As [`find`], or an error that names the package.
pub(crate) fn require(tool: &'static str, package: &'static str) -> Result<PathBuf> {
    find(tool).ok_or(ProviderError::MissingTool { tool, package })
}

/// Makes the kernel send a program a signal when its parent dies.
const SETPRIV: &str = "setpriv";

/// What a program gets when we are gone, also if we were killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtOurEnd {
    /// Its end, at once.
    Kill,
    /// The request to end, for one that has something to clean up.
    Terminate,
}

/// A command of that program, which does not outlive us. The kernel means the thread that starts it: that one has to
/// wait for it.
pub(crate) fn contained(program: &Path, at_our_end: AtOurEnd) -> Command {
    // BusyBox has a program of that name, which knows nothing of parents.
    let real =
        |path: &PathBuf| path.canonicalize().is_ok_and(|path| path.file_name() == Some(OsStr::new(SETPRIV)));
    let Some(setpriv) = cfg!(target_os = "linux").then(|| find(SETPRIV)).flatten().filter(real) else {
        return Command::new(program);
    };
    let signal = match at_our_end {
        AtOurEnd::Kill => "KILL",
        AtOurEnd::Terminate => "TERM",
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// The end of what a program printed, which is where the cause is, for a message.
pub(crate) fn last_words(printed: &[u8]) -> String {
    const LINES: usize = 4;
    let text = String::from_utf8_lossy(printed);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len() {
        0 => "it gave no reason".to_owned(),
        n => lines[n.saturating_sub(LINES)..].join("; "),
    }
}
