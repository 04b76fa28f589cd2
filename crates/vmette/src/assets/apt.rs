//! Packages of the distribution, fetched and unpacked without installing them and without privileges.
//!
//! Nothing here checks a signature, because apt does: the lists are signed by the distribution, they hold the digest
//! of every package, and what has no valid signature is refused (also where the host's configuration would let it
//! pass).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette_cache::{CacheRoot, private_folder};
use vmette_spawn::{Command, NETWORK_VARIABLES, Tool, find};
use vmette_work::Work;

use super::AssetError;

/// A command that takes longer has lost its network or its disk; the largest fetch is 30 to 100 MiB.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// What tools say of a full disk: the system's text, in the language that they speak without a variable for it.
const NO_SPACE: &str = "No space left on device";
/// Bytes of a command's output that are kept.
const OUTPUT_MAX: usize = 4 << 20;

/// The lists that packages are looked up in.
enum Lists {
    /// Those of the host, as the last `apt-get update` of its administrator left them.
    Host,
    /// Our own, of the same sources, which need no privileges to update.
    Own(PathBuf),
}

/// A way to get packages.
pub(super) struct Apt<'a> {
    lists: Lists,
    work: &'a Work,
}

impl<'a> Apt<'a> {
    /// Does `job` with the host's lists; if those are missing or stale (the archive keeps only the newest version of
    /// a package), once more with lists of our own, freshly updated.
    pub(super) fn attempt<T>(
        cache: &CacheRoot,
        work: &'a Work,
        job: impl Fn(&Self) -> Result<T, AssetError>,
    ) -> Result<T, AssetError> {
        let host = Self { lists: Lists::Host, work };
        host.run("apt-get", &["--version"])?;
        match job(&host).map_err(|error| or_no_space(error, cache)) {
            Err(error) if error.is_of_packages() => {}
            result => return result,
        }
        let shelf = cache.shelf("apt")?;
        let _lock = shelf.lock(work)?;
        let own = Self { lists: Lists::Own(shelf.path().to_owned()), work };
        for folder in ["lists/partial", "cache/archives/partial"] {
            let path = shelf.path().join(folder);
            private_folder(&path)?;
        }
        work.step("updating private package lists");
        // One source out of order does not matter if another one has the package; if none has, it is the reason.
        let updated = match own.run("apt-get", &["-q", "update"]) {
            Err(error) if !error.is_of_packages() => Err(error),
            updated => Ok(updated.err()),
        };
        let done = updated.and_then(|failed| job(&own).map_err(|error| failed.unwrap_or(error)));
        let done = done.map_err(|error| or_no_space(error, cache));
        // The lists are 100 MiB of parsed text, and stale tomorrow.
        for folder in ["lists", "cache"] {
            let path = shelf.path().join(folder);
            fs::remove_dir_all(&path).map_err(AssetError::cache(&path))?;
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
        self.run_in("apt-get", &["-q", "download", "--", package], &own)?;
        let file = fs::read_dir(&own)
            .map_err(AssetError::cache(&own))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        file.ok_or_else(|| AssetError::Package {
            package: package.to_owned(),
            reason: "apt-get download left no .deb file".to_owned(),
        })
    }

    /// Unpacks a package's files below a folder. No script of the package runs.
    pub(super) fn unpack(&self, deb: &Path, folder: &Path) -> Result<(), AssetError> {
        let line = format!("dpkg-deb -x {}", deb.display());
        output_of(command("dpkg-deb").arg("-x").arg(deb).arg(folder), &line, self.work).map(drop)
    }

    /// The package's version.
    pub(super) fn version(&self, deb: &Path) -> Result<String, AssetError> {
        let line = format!("dpkg-deb -f {}", deb.display());
        let output = output_of(command("dpkg-deb").arg("-f").arg(deb).arg("Version"), &line, self.work)?;
        Ok(output.trim().to_owned())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, AssetError> {
        self.run_in(program, arguments, Path::new("/"))
    }

    fn run_in(&self, program: &str, arguments: &[&str], folder: &Path) -> Result<String, AssetError> {
        let options = self.options().into_iter().flat_map(|option| ["-o".to_owned(), option]);
        let command = command(program).args(options).args(arguments).folder(folder);
        output_of(command, &format!("{program} {}", arguments.join(" ")), self.work)
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

/// The error of a tool that found its disk full is the cache's: no other list of packages leads around that.
fn or_no_space(error: AssetError, cache: &CacheRoot) -> AssetError {
    if error.is_of_packages() && error.to_string().contains(NO_SPACE) {
        return vmette_cache::Error::NoSpace { path: cache.path().to_owned() }.into();
    }
    error
}

/// As Debian's policy has it. A name that begins otherwise could be taken for an option, or leave the folder.
pub(super) fn is_package_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

/// A command that asks nothing, and knows the way to the network and the caller's own configuration of apt. One that is not
/// installed fails when it is started.
fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .pass_on(&["APT_CONFIG"])
        .pass_on(NETWORK_VARIABLES)
}

/// Runs a command to its end, and returns its standard output. `line` is for messages.
fn output_of(command: Command, line: &str, work: &Work) -> Result<String, AssetError> {
    let tool = Tool::new(format!("`{line}`"), command, DEADLINE).causes(|line| line.starts_with("E: "));
    let output = tool.output(OUTPUT_MAX, work)?;
    Ok(String::from_utf8_lossy(&output).into_owned())
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
    fn a_failing_command_is_quoted_with_its_last_words() {
        let script = ["-c", "echo out; echo 'E: why' >&2; echo more >&2; exit 3"];
        let error = output_of(command("sh").args(script), "sh -c …", &Work::quiet()).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c …` failed (exit status: 3): E: why");
        assert!(error.is_of_packages());
    }

    #[test]
    fn a_full_disk_is_the_caches_error_and_no_reason_to_try_other_lists() {
        let cache = CacheRoot::at("/the/cache");
        let failing = |words: &str| {
            let script = format!("echo 'E: {words}' >&2; exit 100");
            or_no_space(
                output_of(command("sh").args(["-c", &script]), "sh", &Work::quiet()).unwrap_err(),
                &cache,
            )
        };
        let full = failing("Error writing to file - write (28: No space left on device)");
        assert!(!full.is_of_packages(), "{full}");
        let text = full.to_string();
        assert!(text.contains("/the/cache: no space") && text.contains("VMETTE_CACHE_DIR"), "{text}");
        assert!(failing("Unable to locate package").is_of_packages());
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = output_of(command("no-such-apt-get"), "no-such-apt-get", &Work::quiet()).unwrap_err();
        assert!(error.to_string().starts_with("`no-such-apt-get` cannot be started: "), "{error}");
    }
}
