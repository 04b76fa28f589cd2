//! The version of a QEMU program. Asking costs a process start, so the answer is kept as long as the program's file is the
//! same.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmette_cache::{Stamp, hash, replace};
use vmette_spawn::{Command, Outcome, Tool};
use vmette_vmm::{Error, Result};
use vmette_work::Work;

use crate::ENGINE;
use crate::host_facts::read_small;

/// The oldest release that this engine is made for: `-sandbox`, the `q35` properties and `x-ignore-shared` work as
/// expected from here on, and the long-term distributions have it.
const OLDEST: (u32, u32) = (6, 2);

/// Time for `qemu -version`.
const LIMIT: Duration = Duration::from_secs(20);

/// Longest answer that is read.
const ANSWER_MAX: usize = 4096;

/// File of the cache folder with the last answer.
const CACHE_FILE: &str = "qemu-version.json";

/// A version of QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// `7` of 7.2.22.
    pub(crate) major: u32,
    /// `2` of 7.2.22.
    pub(crate) minor: u32,
    /// QEMU's own words, with the distribution's own number: `7.2.22 (Debian 1:7.2+dfsg-7)`.
    pub(crate) text: String,
    /// Digest of the program's file: two builds may call themselves the same.
    pub(crate) sha256: String,
}

impl fmt::Display for Version {
    /// The number without the distribution's remark.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.split_whitespace().next().unwrap_or_default())
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Known {
    binary: PathBuf,
    stamp: Stamp,
    version: Version,
}

static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Known>>> = LazyLock::new(Mutex::default);

/// The version of a QEMU program, from memory, from the cache folder, or from the program itself.
///
/// # Errors
/// It does not run, says something else, or is too old.
pub(crate) fn of(binary: &Path, cache_dir: Option<&Path>) -> Result<Version> {
    let stamp = stamp_of(binary)?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let cache_file = cache_dir.map(|dir| dir.join(CACHE_FILE));
    let fits = |known: &Known| known.binary == binary && known.stamp == stamp;
    let found = known.get(binary).cloned().filter(fits).or_else(|| {
        let cached: Known = serde_json::from_str(&read_small(cache_file.as_deref()?)?).ok()?;
        Some(cached).filter(fits)
    });
    let version = match found {
        Some(found) => found.version,
        None => {
            let version = Version { sha256: sha256_of(binary)?, ..ask(binary)? };
            let entry = Known { binary: binary.into(), stamp, version: version.clone() };
            if let (Some(dir), Some(file), Ok(json)) = (cache_dir, &cache_file, serde_json::to_vec(&entry)) {
                // A folder that cannot be written costs a process start per run and nothing else.
                let _ = fs::create_dir_all(dir).and_then(|()| replace(file, &json));
            }
            version
        }
    };
    known.insert(binary.into(), Known { binary: binary.into(), stamp, version: version.clone() });
    check(version)
}

fn sha256_of(binary: &Path) -> Result<String> {
    let read = fs::File::open(binary).and_then(|file| hash(file, || Ok(())));
    read.map(|digest| digest.hex()).map_err(|source| Error::File {
        what: "the QEMU program",
        path: binary.into(),
        source,
    })
}

/// The stamp of the program's file.
pub(crate) fn stamp_of(binary: &Path) -> Result<Stamp> {
    let meta = fs::metadata(binary).map_err(|source| Error::File {
        what: "the QEMU program",
        path: binary.into(),
        source,
    })?;
    Ok(Stamp::of(&meta))
}

fn check(version: Version) -> Result<Version> {
    if (version.major, version.minor) < OLDEST {
        return Err(unavailable(format!(
            "version {version} is too old, {}.{} or newer is needed: install a newer one, or name it in VMETTE_QEMU",
            OLDEST.0, OLDEST.1
        )));
    }
    Ok(version)
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable { engine: ENGINE, reason }
}

fn ask(binary: &Path) -> Result<Version> {
    let command = Command::new(binary).pass_on(&["PATH"]).arg("-version");
    let Outcome { status, output, .. } = Tool::new("qemu -version", command, LIMIT)
        .outcome(ANSWER_MAX, &Work::quiet())
        .map_err(|e| unavailable(format!("{}: {e}", binary.display())))?;
    if !status.success() {
        return Err(unavailable(format!("`{} -version` ended with {status}", binary.display())));
    }
    let answer = String::from_utf8_lossy(&output);
    parse(&answer).ok_or_else(|| {
        let line = answer.lines().next().unwrap_or_default();
        unavailable(format!("`{} -version` says {line:?}, which is not QEMU", binary.display()))
    })
}

/// `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)`
fn parse(answer: &str) -> Option<Version> {
    let text = answer.lines().next()?.strip_prefix("QEMU emulator version ")?.trim();
    let mut numbers = text.split_whitespace().next()?.split('.');
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(Version { major, minor, text: text.to_owned(), sha256: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("qemu");
        // Written under another name: a program that is open for writing elsewhere cannot be started.
        fs::write(dir.join("new"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(dir.join("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(dir.join("new"), &path).unwrap();
        path
    }

    #[test]
    fn distributions_add_their_remarks() {
        let version = parse("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright\n").unwrap();
        assert_eq!((version.major, version.minor), (7, 2));
        assert_eq!(version.to_string(), "7.2.22");
        assert_eq!(version.text, "7.2.22 (Debian 1:7.2+dfsg-7)");
        assert_eq!(parse("QEMU emulator version 10.0.0-rc1").unwrap().major, 10);
        assert_eq!(parse("VirtualBox 7.2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn the_program_is_asked_once_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let count = dir.path().join("count");
        let say = |version: &str| {
            let script = format!("echo x >> '{}'; echo QEMU emulator version {version}", count.display());
            program(dir.path(), &script)
        };
        let asked = || fs::read_to_string(&count).unwrap().lines().count();
        let binary = say("8.2.0");
        assert_eq!(of(&binary, Some(&cache)).unwrap().to_string(), "8.2.0");
        of(&binary, Some(&cache)).unwrap();
        assert_eq!(asked(), 1);
        KNOWN.lock().unwrap().remove(&binary);
        of(&binary, Some(&cache)).unwrap();
        assert_eq!(asked(), 1, "the cache folder has the answer");
        say("9.0.1");
        assert_eq!(of(&binary, Some(&cache)).unwrap().to_string(), "9.0.1");
        assert_eq!(asked(), 2);
    }

    #[test]
    fn what_is_too_old_fails_or_is_no_qemu_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |script| of(&program(dir.path(), script), None).unwrap_err().to_string();
        let old = error("echo QEMU emulator version 4.1.0");
        assert!(old.contains("4.1.0") && old.contains("6.2"), "{old}");
        assert!(error("exit 3").contains("exit status: 3"));
        assert!(error("echo hello").contains("not QEMU"));
        let missing = of(&dir.path().join("none"), None).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
