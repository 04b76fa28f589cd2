//! Packages of the distribution, fetched and unpacked without installing them and without privileges.
//!
//! Nothing here checks a signature, because apt does: the lists are signed by the distribution, they hold the digest
//! of every package, and what has no valid signature is refused (also where the host's configuration would let it
//! pass).

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::AssetError;
use super::cache::CacheRoot;

/// A command that takes longer has lost its network or its disk; the largest fetch is 30 to 100 MiB.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How much of a command's output is kept.
const MAX_OUTPUT: u64 = 4 << 20;
/// How many characters of its own words go into an error.
const LONGEST_CAUSE: usize = 300;

/// Sees to it that the command does not outlive us, also if we are killed.
const SETPRIV: &str = "/usr/bin/setpriv";

/// The lists that packages are looked up in.
enum Lists {
    /// Those of the host, as the last `apt-get update` of its administrator left them.
    Host,
    /// Our own, of the same sources, which need no privileges to update.
    Own(PathBuf),
}

/// A way to get packages.
pub(super) struct Apt {
    lists: Lists,
}

impl Apt {
    /// Does `work` with the host's lists; if those are missing or stale (the archive keeps only the newest version of
    /// a package), once more with lists of our own, freshly updated.
    pub(super) fn attempt<T>(
        cache: &CacheRoot,
        progress: &dyn Fn(&str),
        work: impl Fn(&Self) -> Result<T, AssetError>,
    ) -> Result<T, AssetError> {
        let host = Self { lists: Lists::Host };
        host.run("apt-get", &["--version"])?;
        match work(&host) {
            Err(AssetError::Tool { .. } | AssetError::Package { .. }) => {}
            result => return result,
        }
        let shelf = cache.shelf("apt")?;
        let _lock = shelf.lock(progress)?;
        let own = Self { lists: Lists::Own(shelf.path().to_owned()) };
        for folder in ["lists/partial", "cache/archives/partial"] {
            let path = shelf.path().join(folder);
            fs::create_dir_all(&path).map_err(AssetError::cache(path))?;
        }
        progress("updating private package lists");
        // One source out of order does not matter if another one has the package; if none has, it is the reason.
        let updated = own.run("apt-get", &["-q", "update"]);
        let done = work(&own).map_err(|error| updated.err().unwrap_or(error));
        // The lists are 100 MiB of parsed text, and stale tomorrow.
        for folder in ["lists", "cache"] {
            let path = shelf.path().join(folder);
            fs::remove_dir_all(&path).map_err(AssetError::cache(path))?;
        }
        done
    }

    /// The names of the packages that this one needs, in the order of its control file.
    pub(super) fn depends(&self, package: &str) -> Result<Vec<String>, AssetError> {
        let output = self.run("apt-cache", &["depends", "--", package])?;
        Ok(output
            .lines()
            .filter_map(|line| line.trim_start_matches([' ', '|']).strip_prefix("Depends: "))
            .filter(|name| is_package_name(name))
            .map(str::to_owned)
            .collect())
    }

    /// Fetches a package into a new folder below `folder` and returns the file.
    pub(super) fn download(&self, package: &str, folder: &Path) -> Result<PathBuf, AssetError> {
        let own = folder.join(package);
        fs::create_dir(&own).map_err(AssetError::cache(&own))?;
        self.run_in("apt-get", &["-q", "download", "--", package], Some(&own))?;
        let file = fs::read_dir(&own)
            .map_err(AssetError::cache(&own))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        file.ok_or_else(|| AssetError::Package {
            package: package.to_owned(),
            reason: "apt-get download left no .deb file".to_owned(),
        })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, AssetError> {
        self.run_in(program, arguments, None)
    }

    fn run_in(&self, program: &str, arguments: &[&str], folder: Option<&Path>) -> Result<String, AssetError> {
        let mut command = contained(program);
        for option in self.options() {
            command.arg("-o").arg(option);
        }
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        output_of(command.args(arguments), &format!("{program} {}", arguments.join(" ")))
    }

    fn options(&self) -> Vec<String> {
        let mut options = vec![
            "APT::Get::AllowUnauthenticated=false".to_owned(),
            "Acquire::AllowInsecureRepositories=false".to_owned(),
            "APT::Update::Error-Mode=any".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=2".to_owned(),
            // The unprivileged `_apt` cannot write into a private folder of ours.
            "APT::Sandbox::User=root".to_owned(),
        ];
        if let Lists::Own(path) = &self.lists {
            options.push(format!("Dir::State::lists={}/", path.join("lists").display()));
            options.push(format!("Dir::Cache={}/", path.join("cache").display()));
        }
        options
    }
}

/// Unpacks a package's files below a folder. No script of the package runs.
pub(super) fn unpack(deb: &Path, folder: &Path) -> Result<(), AssetError> {
    output_of(contained("dpkg-deb").arg("-x").arg(deb).arg(folder), &format!("dpkg-deb -x {}", deb.display()))
        .map(drop)
}

/// The package's version.
pub(super) fn version(deb: &Path) -> Result<String, AssetError> {
    let output = output_of(
        contained("dpkg-deb").arg("-f").arg(deb).arg("Version"),
        &format!("dpkg-deb -f {}", deb.display()),
    )?;
    Ok(output.trim().to_owned())
}

/// As Debian's policy has it. A name that begins otherwise could be taken for an option, or leave the folder.
pub(super) fn is_package_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

/// A command that ends with us, speaks English and asks nothing.
fn contained(program: &str) -> Command {
    let mut command = if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--", program]);
        command
    } else {
        Command::new(program)
    };
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// Runs a command to its end, at most for `DEADLINE`, and returns its standard output.
fn output_of(command: &mut Command, line: &str) -> Result<String, AssetError> {
    let failed = |reason: String| AssetError::Tool { command: line.to_owned(), reason };
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Owned(child.map_err(|error| failed(format!("cannot be run: {error}")))?);
    let (Some(stdout), Some(stderr)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(failed("has no pipes".to_owned()));
    };
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    let end = Instant::now() + DEADLINE;
    let take = |text: &mpsc::Receiver<String>| {
        text.recv_timeout(end.saturating_duration_since(Instant::now()))
            .map_err(|_| failed(format!("took longer than {} minutes", DEADLINE.as_secs() / 60)))
    };
    let (stdout, stderr) = (take(&stdout)?, take(&stderr)?);
    let status = child.wait().map_err(|error| failed(format!("cannot be waited for: {error}")))?;
    if status.success() {
        return Ok(stdout);
    }
    Err(failed(format!("failed ({status}): {}", cause(&stderr))))
}

/// The line that says why: apt's first error, for the others follow from it; of a command that marks none, its last
/// words.
fn cause(stderr: &str) -> String {
    let mut lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let marked = lines.clone().find_map(|line| line.strip_prefix("E: "));
    marked.or_else(|| lines.next_back()).unwrap_or("it said nothing").chars().take(LONGEST_CAUSE).collect()
}

/// Reads a pipe to its end on a thread of its own, so that neither of two pipes fills up; keeps the first part.
fn collect(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut pipe = pipe;
        let read = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut kept);
        if read.is_ok() {
            // What is too much is read all the same, or the command would wait for us; its end is in its status.
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
        // Nobody listens after the deadline.
        let _ = sender.send(String::from_utf8_lossy(&kept).into_owned());
    });
    receiver
}

/// A command that is killed and reaped if it is given up.
struct Owned(Child);

impl Owned {
    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only if it is reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_options_or_paths_are_no_packages() {
        for good in ["linux-image-6.1.0-56-cloud-amd64", "g++", "0ad"] {
            assert!(is_package_name(good), "{good}");
        }
        for bad in ["", "-o", "../x", "<linux-initramfs-tool>", "a b", "A", "a/b"] {
            assert!(!is_package_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_cause_is_the_first_error_or_the_last_words() {
        assert_eq!(cause("W: odd\nE: no network\nE: nothing fetched\n"), "no network");
        assert_eq!(cause("reading\ncannot read\n\n"), "cannot read");
        assert_eq!(cause(""), "it said nothing");
        assert_eq!(cause(&"x".repeat(1000)).len(), LONGEST_CAUSE);
    }

    #[test]
    fn a_failing_command_is_quoted_with_its_last_words() {
        let error =
            output_of(contained("sh").args(["-c", "echo out; echo why >&2; exit 3"]), "sh -c …").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("`sh -c …` failed") && text.contains('3') && text.ends_with("why"),
            "{text}"
        );
    }

    #[test]
    fn a_loud_command_neither_blocks_nor_fills_memory() {
        let script =
            format!("head -c {} /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero >&2", MAX_OUTPUT * 2);
        let output = output_of(contained("sh").args(["-c", &script]), "sh").unwrap();
        assert_eq!(output.len() as u64, MAX_OUTPUT);
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = output_of(&mut Command::new("/nonexistent/apt-get"), "apt-get").unwrap_err().to_string();
        assert!(error.contains("`apt-get` cannot be run"), "{error}");
    }
}
