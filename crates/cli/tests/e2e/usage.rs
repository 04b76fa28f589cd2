//! Command lines that make no sense are refused before anything happens: exit status 2 and the reason on stderr.

use crate::machine::{Outcome, Vmette};

/// The run must be refused as a wrong command line, with these words and nothing on stdout.
fn refused<const N: usize>(args: &[&str], words: [&str; N]) {
    Vmette::new(args).exits(2).said(words).printed("");
}

#[test]
fn a_flag_in_place_of_a_value_is_named() {
    let outcome: Outcome = Vmette::new(["--rootfs", "--exec", "true"]).exits(2);
    let expected = ["expects a value", "needs a value"];
    assert!(expected.iter().any(|text| outcome.stderr.contains(text)), "{outcome:?}");
}

#[test]
fn what_is_no_number_is_called_so() {
    refused(&["--rootfs", "/", "--exec", "true", "--vsock-port", "1234x"], ["expects a number"]);
    refused(&["run", "--timeout", "soon"], ["expects a number"]);
    refused(&["run", "--vcpus", "many"], ["expects a number"]);
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    refused(
        &["--rootfs", "/", "--switch-root", "--rootfs-ro", "--exec", "true"],
        ["--switch-root", "--rootfs-ro", "--exec"],
    );
    refused(&["--rootfs", "/", "--rootfs-ro", "--scratch", "1G", "--exec", "true"], ["--scratch"]);
    refused(&["run", "--rootfs-ro", "--scratch", "1G"], ["--scratch"]);
    refused(&["run", "--require-hardware", "--accel", "tcg"], ["--require-hardware", "tcg"]);
    refused(&["--rootfs", "/", "--build-snapshot", "/a", "--resume-snapshot", "/b"], ["--resume-snapshot"]);
    refused(&["--rootfs", "/", "--resume-snapshot", "/b"], ["--exec"]);
}

#[test]
fn the_original_form_needs_a_rootfs() {
    refused(&["--exec", "true"], ["--rootfs"]);
}

#[test]
fn unknown_words_are_refused() {
    refused(&["--frobnicate"], ["--frobnicate"]);
    refused(&["frobnicate"], ["frobnicate"]);
    refused(&["run", "--accel", "magic"], ["magic"]);
    refused(&[], ["Usage"]);
}

#[test]
fn sizes_and_grants_that_cannot_be_read_are_refused() {
    refused(&["run", "--scratch", "0"], ["--scratch"]);
    refused(&["run", "--scratch", "18446744073709551615G"], ["too large"]);
    refused(&["run", "-m", "0"], ["--mem-mib"]);
    refused(&["run", "-m", "12X"], ["number of MiB"]);
    refused(&["run", "--share", "no-path"], ["TAG=PATH"]);
    refused(&["run", "-v", "/only-host"], ["HOST:GUEST"]);
    refused(&["run", "-e", "=x"], ["name of the variable"]);
    refused(&["run", "-v", "/tmp:/x:rslave"], ["rslave", "between host and guest"]);
    refused(&["run", "-v", "/tmp:/x:z,foo"], ["foo", "not known"]);
    refused(&["run", "--vsock-port", "4294967296"], ["4294967295"]);
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["run", "--help"], &["-h"]] {
        let outcome = Vmette::new(args).exits(0);
        assert!(outcome.text().contains("Usage") && outcome.stderr.is_empty(), "{outcome:?}");
    }
    for arg in ["--version", "-V", "version"] {
        Vmette::new([arg]).exits(0).printed(format!("vmette {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn completions_are_scripts_of_the_shell() {
    let outcome = Vmette::new(["completions", "bash"]).exits(0);
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("completions");
    std::fs::write(&script, &outcome.stdout).unwrap();
    let syntax = std::process::Command::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(syntax.success());
    for word in ["_vmette", "--rootfs-ro", "--require-hardware", "doctor"] {
        assert!(outcome.text().contains(word), "{word}");
    }
    Vmette::new(["completions", "cobol"]).exits(2);
}

#[test]
fn providers_are_listed_with_an_example_each() {
    let outcome = Vmette::new(["providers"]).exits(0);
    for name in ["dir", "squashfs", "tar", "builtin"] {
        assert!(outcome.text().contains(name), "{name}: {outcome:?}");
    }
    assert!(outcome.text().contains("tar+file:///"), "{outcome:?}");
}
