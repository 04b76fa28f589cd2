//! A Debian suite becomes a rootfs, by `mmdebstrap`, the distribution's own tool. For people without a registry.
//!
//! It unpacks into a temporary folder, as root or, for an ordinary user, in a user namespace, and its result comes as a
//! tar archive through its standard output. apt verifies what it downloads: nothing here can turn that off.

mod options;
mod sources;

use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette_spawn::{AtOurEnd, Command, NETWORK_VARIABLES, Tool};

pub use options::{BuildOptions, DebianVariant};

use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::layers::{self, Layer, Rules};
use crate::providers::limits::{TAR_MAX_VARIABLE, TarLimits};
use crate::sniff::FileKind;
use crate::store::{Description, ImageKind};
use crate::tool::{self, Output};
use vmette_oci::{ImageConfig, Platform};

const TOOL: &str = "mmdebstrap";
/// Longest build. A large one over a slow line takes minutes; one that hangs is ended.
const TIME_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// Longest time for removing its folder and everything that it has mounted there, after it was asked to end.
const CLEAN_UP_MAX: Duration = Duration::from_secs(10);
/// Takes the build host's name and name servers out of the system, which the tool has copied there. A link in their place
/// is the system's own.
const CLEAN: &str =
    r#"for file in resolv.conf hostname; do test -L "$1/etc/$file" || rm -f "$1/etc/$file" || exit 1; done"#;
/// The login's `PATH` of root on a Debian system.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the system and writes its image to `staging`, which does not exist yet. The options were checked.
pub(crate) fn build(options: &BuildOptions, ctx: &Context, staging: &Path) -> Result<Description> {
    let needs_network = !options.mirrors.iter().all(|mirror| mirror.starts_with("file:"));
    if ctx.is_offline() && (needs_network || options.mirrors.is_empty()) {
        return Err(ProviderError::OfflineCacheMiss(options.source()));
    }
    let max_bytes = TarLimits::from_env()?.max_bytes;
    let program = tool::require(TOOL, TOOL)?;
    let work = ctx.work().child();
    let reporter = work.clone();
    let tool = Tool::new(TOOL, command(&program, options), TIME_MAX)
        .causes(is_cause)
        .on_line(move |line| {
            if let Some(step) = line.strip_prefix("I: ") {
                reporter.step(&format!("{TOOL}: {step}"));
            }
        })
        .clean_up(CLEAN_UP_MAX);
    let output = Output::start(tool, PathBuf::from(&options.suite), &work)?;
    let archive = Layer {
        name: options.source(),
        open: Box::new(move || Ok(Box::new(output))),
        compression: Some(FileKind::Tar),
        diff_id: None,
    };
    let rules = Rules { whiteouts: false, max_bytes, max_bytes_variable: TAR_MAX_VARIABLE };
    let converted = layers::convert(vec![archive], rules, &work, staging)?;
    let described = converted.describe(ImageKind::Debian, options.source());
    let config = ImageConfig {
        env: vec![("PATH".to_owned(), PATH.to_owned())],
        cmd: vec!["bash".to_owned()],
        ..ImageConfig::default()
    };
    Ok(Description { platform: Some(Platform::of_guest()), config, ..described })
}

/// apt's errors, such as of a package that is not there, and mmdebstrap's own, except those that only say that there
/// were some.
fn is_cause(line: &str) -> bool {
    let hollow = ["setup failed", "mmdebstrap failed to run", "apt-get ", "Some index files failed"];
    line.strip_prefix("E: ").is_some_and(|error| !hollow.iter().any(|start| error.starts_with(start)))
}

fn command(program: &Path, options: &BuildOptions) -> Command {
    // Killed, it would leave its folder, and everything that it has mounted there.
    let command =
        Command::new(program).at_our_end(AtOurEnd::Terminate).pass_on(&["TMPDIR"]).pass_on(NETWORK_VARIABLES);
    // Two of its modes give files their real owners; there is no fallback to the others.
    let mode = if rustix::process::geteuid().is_root() { "root" } else { "unshare" };
    let listed =
        |flag: &str, words: &[String]| (!words.is_empty()).then(|| format!("--{flag}={}", words.join(",")));
    command
        .arg(format!("--mode={mode}"))
        .arg(format!("--variant={}", options.variant))
        .arg("--format=tar")
        .arg(format!("--customize-hook={CLEAN}"))
        .args(listed("components", &options.components))
        .args(listed("include", &options.include))
        .arg("--")
        .arg(&options.suite)
        .arg("-")
        .args(sources::lines(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BuildOptions {
        BuildOptions::new("bookworm", "mydeb")
    }

    #[test]
    fn a_build_without_a_network_says_so() {
        let ctx = Context::new("/nonexistent").offline(true);
        let e = build(&options(), &ctx, Path::new("/nonexistent/x")).unwrap_err();
        assert!(matches!(e, ProviderError::OfflineCacheMiss(_)), "{e}");
    }

    #[test]
    fn the_build_host_leaves_no_traces() {
        let arguments = format!("{:?}", command(Path::new("/usr/bin/mmdebstrap"), &options()));
        assert!(arguments.contains("--customize-hook="), "{arguments}");
        let clean = |prepare: fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("etc")).unwrap();
            prepare(&dir.path().join("etc"));
            let mut shell = std::process::Command::new("sh");
            assert!(shell.args(["-c", CLEAN, "sh"]).arg(dir.path()).status().unwrap().success());
            let left = dir.path().join("etc").read_dir().unwrap();
            left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let copied = |etc: &Path| {
            for name in ["resolv.conf", "hostname", "hosts"] {
                std::fs::write(etc.join(name), "x").unwrap();
            }
        };
        assert_eq!(clean(copied), ["hosts"]);
        assert!(clean(|_| {}).is_empty());
        // As a service of the system has it.
        let own = |etc: &Path| std::os::unix::fs::symlink("/run/resolve", etc.join("resolv.conf")).unwrap();
        assert_eq!(clean(own), ["resolv.conf"]);
    }

    #[test]
    fn the_cause_of_a_failure_is_told_and_what_follows_from_it_is_not() {
        let printed = "\
Reading package lists...
E: Unable to locate package no-such-package
E: setup failed: E: apt-get --yes install no-such-package failed
I: main() received signal PIPE: waiting for setup...
E: apt-get update --error-on=any failed
E: mmdebstrap failed to run";
        let causes: Vec<_> = printed.lines().filter(|line| is_cause(line)).collect();
        assert_eq!(causes, ["E: Unable to locate package no-such-package"]);
    }
}
