//! Other sandboxes on the same machine: which of them are here, and which of their options work here.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::program::Program;

/// A sandbox that vmette is measured beside.
pub(crate) enum Peer {
    /// It ran `true`.
    Here(Program),
    /// It is not measured, and why.
    Absent(String),
}

/// Applets of the built-in root that the benchmark's peers run.
const APPLETS: [&str; 3] = ["sh", "true", "echo"];

/// gVisor. It runs on the host's root, as `runsc do` does. Not every host lets it make a network or control groups.
pub(crate) fn runsc() -> Peer {
    let variants: [&[&str]; 4] = [
        &["do", "true"],
        &["--network=none", "do", "true"],
        &["--network=none", "--ignore-cgroups", "do", "true"],
        &["--network=none", "--rootless", "--ignore-cgroups", "do", "true"],
    ];
    first_that_works("runsc", variants.map(|variant| variant.iter().map(|&arg| arg.to_owned()).collect()))
}

/// podman on `rootfs`. Its default limits are refused in some containers, and crun does not run on every layout of
/// control groups.
pub(crate) fn podman(rootfs: &Path) -> Peer {
    let limits: &[&str] = &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let variants: [(&[&str], &[&str]); 4] =
        [(&[], &[]), (&[], limits), (&["--runtime=runc"], &[]), (&["--runtime=runc"], limits)];
    let command = |(before, after): (&[&str], &[&str])| {
        let words = before.iter().chain(&["run", "--rm", "--network=none"]).chain(after);
        let mut args: Vec<String> = words.map(|&word| word.to_owned()).collect();
        args.extend(["--rootfs".to_owned(), rootfs.display().to_string(), "true".to_owned()]);
        args
    };
    first_that_works("podman", variants.map(command))
}

/// Fills `folder` with a root like vmette's built-in one, for peers that need a folder.
pub(crate) fn rootfs(folder: &Path, busybox: &Path) -> anyhow::Result<()> {
    let fill = || {
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let copy = folder.join("bin/busybox");
        fs::copy(busybox, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        APPLETS.iter().try_for_each(|applet| symlink("busybox", folder.join("bin").join(applet)))
    };
    fill().with_context(|| format!("make a root in {}", folder.display()))
}

/// The same root as an archive beside the folder.
pub(crate) fn archive(rootfs: &Path) -> anyhow::Result<PathBuf> {
    let archive = rootfs.with_extension("tar");
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .args([rootfs, Path::new(".")])
        .status()
        .context("start tar")?;
    anyhow::ensure!(made.success(), "tar could not make {}: {made}", archive.display());
    Ok(archive)
}

fn first_that_works(name: &str, variants: impl IntoIterator<Item = Vec<String>>) -> Peer {
    let Some(path) = on_path(name) else { return Peer::Absent("not installed".to_owned()) };
    let mut reason = String::new();
    for variant in variants {
        let program = Program::new(&path, variant);
        match program.time_to_end() {
            Ok(_) => return Peer::Here(program),
            Err(error) => reason = error.to_string(),
        }
    }
    Peer::Absent(format!("installed, but does not run here: {reason}"))
}

/// The program of that name.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| {
            fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn what_is_not_installed_is_absent_and_no_error() {
        let peer = first_that_works("a-sandbox-that-nobody-has", [Vec::new()]);
        assert!(matches!(peer, Peer::Absent(reason) if reason == "not installed"));
    }

    #[test]
    fn the_first_variant_that_succeeds_is_taken() {
        let variants = [arguments(&["-c", "exit 1"]), arguments(&["-c", "exit 0"]), arguments(&["-c", ":"])];
        let Peer::Here(program) = first_that_works("sh", variants) else { panic!("sh is everywhere") };
        assert_eq!(program.shown(), "sh -c exit 0");
    }

    #[test]
    fn one_that_never_succeeds_says_why() {
        let variants = [arguments(&["-c", "echo no permission >&2; exit 1"])];
        let Peer::Absent(reason) = first_that_works("sh", variants) else { panic!("it failed") };
        assert!(reason.contains("no permission"), "{reason}");
    }
}
