//! The set-up leaves the user's packages alone: `scripts/setup`, with an `apt-get` that writes down what it is asked.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What the script needs of a system that has nothing of what it looks for.
const TOOLS: [&str; 14] = [
    "awk", "cat", "dirname", "env", "grep", "head", "mkdir", "mv", "rm", "sed", "sh", "touch", "uname", "ln",
];

struct Host {
    folder: TempDir,
}

impl Host {
    /// A host whose `apt-get --simulate` does this.
    fn new(simulated: &str) -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(host.bin()).unwrap();
        for tool in TOOLS {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
            symlink(found.iter().find(|path| path.exists()).unwrap(), host.bin().join(tool)).unwrap();
        }
        let asked = host.asked_file();
        host.program(
            "apt-get",
            &format!(
                "echo \"$*\" >>'{}'\ncase \" $* \" in\n*' --simulate '*)\n{simulated}\nesac",
                asked.display()
            ),
        );
        host.program("apt-cache", "for suite in now oldstable oldstable-backports; do echo \" release v=12,o=Debian,a=$suite,n=x\"; done");
        host.program("id", "echo 0");
        host.program("cargo", "exit 0");
        host
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn asked_file(&self) -> PathBuf {
        self.folder.path().join("asked")
    }

    fn program(&self, name: &str, script: &str) {
        // Written under another name: a program that is open for writing elsewhere cannot be started.
        let (new, path) = (self.bin().join("new"), self.bin().join(name));
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn set_up(&self, mode: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/setup");
        let mut command = Command::new(script);
        command.arg(mode).env_clear().env("PATH", self.bin()).env("HOME", self.folder.path());
        command
            .env("CARGO_TARGET_DIR", self.folder.path().join("target"))
            .env("CARGO_HOME", self.folder.path());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What apt was asked to really do, besides fetching its lists.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.asked_file()).unwrap();
        let real = asked.lines().filter(|line| !line.contains("--simulate") && !line.ends_with(" update"));
        real.map(str::to_owned).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn nothing_is_installed_that_would_remove_a_package() {
    let host = Host::new("echo 'E: Packages need to be removed but remove is disabled.'; exit 100");
    let output = host.set_up("run");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in
        ["without removing or downgrading", "remove is disabled", "qemu-system", "apt-get --simulate install"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(host.asked(), [""; 0]);
}

#[test]
fn packages_that_are_not_known_are_the_lists_fault() {
    let host = Host::new("echo 'E: Unable to locate package qemu-system-x86'; exit 100");
    let said = said(&host.set_up("run"));
    assert!(said.contains("Check the network") && !said.contains("removing"), "{said}");
    assert_eq!(host.asked(), [""; 0]);
}

/// A part of QEMU from a backport keeps that of the release from being installed, and fits the backport's.
#[test]
fn what_fits_what_is_installed_is_taken() {
    let host = Host::new(
        "case \" $* \" in
*' --target-release oldstable-backports '*) echo 'Inst seabios [1.16.2-1] (1.16.3-2 Debian:backports [all])'; exit 0 ;;
*) echo ' qemu-utils : Breaks: qemu-system-common'; echo 'E: Unable to correct problems'; exit 100 ;;
esac",
    );
    let said = said(&host.set_up("test"));
    assert!(said.contains("seabios [1.16.2-1] (1.16.3-2)"), "{said}");
    let asked = host.asked();
    let [install] = asked.as_slice() else { panic!("{asked:?}: {said}") };
    for part in ["install --yes", "--no-remove", "--target-release oldstable-backports", "qemu-system"] {
        assert!(install.contains(part), "{part}: {install}");
    }
    for part in ["busybox", "docker-registry"] {
        assert!(!install.contains(part), "{part} would replace a program, or start a server: {install}");
    }
}
