//! What the header and the library show of themselves.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::build;
use crate::program::{Program, compile, sources, succeeds};

/// Names of functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(build::include_dir().join("vmette.h")).unwrap();
    header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#']))
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("vmette_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only", "--format=posix"]).arg(build::built().join("libvmette.so"));
    let output = succeeds(nm).stdout;
    let exported: BTreeSet<String> = String::from_utf8(output)
        .unwrap()
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    let declared = declared();
    assert!(declared.len() > 80, "{declared:?}");
    assert_eq!(exported, declared);
}

#[test]
fn the_header_is_plain_c_and_plain_cpp() {
    let header = build::include_dir().join("vmette.h");
    for standard in ["-std=c99", "-std=c11", "-std=c17"] {
        compile("cc", [standard.into(), "-fsyntax-only".into(), "-x".into(), "c".into(), header.clone()]);
    }
    for standard in ["-std=c++11", "-std=c++20"] {
        compile("g++", [standard.into(), "-fsyntax-only".into(), "-x".into(), "c++".into(), header.clone()]);
    }
}

#[test]
fn statuses_have_a_prefix_and_their_names_without_one_can_be_left_out() {
    let source = sources().join("names.c");
    for (compiler, standard, language) in
        [("cc", "-std=c99", "c"), ("cc", "-std=c17", "c"), ("g++", "-std=c++20", "c++")]
    {
        for without in [None, Some("-DVMETTE_NO_SHORT_NAMES")] {
            let args = [standard, "-fsyntax-only", "-x", language].into_iter().chain(without).map(Into::into);
            compile(compiler, args.chain([source.clone(), "-I".into(), build::include_dir()]));
        }
    }
}

#[test]
fn a_cpp_program_is_linked_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    std::os::unix::fs::symlink(build::built().join("libvmette.so"), dir.path().join(env!("VMETTE_SONAME")))
        .unwrap();
    let args = ["-o".into(), program.clone(), sources().join("plain.cpp"), "-I".into(), build::include_dir()];
    let link = ["-L".into(), build::built().to_owned(), "-lvmette".into()];
    let rpath = format!("-Wl,-rpath,{}", dir.path().display());
    compile("g++", args.into_iter().chain(link).chain([rpath.into()]));
    let output = succeeds(Command::new(program));
    assert_eq!(String::from_utf8_lossy(&output.stdout), env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_program_asks_for_the_interface_by_its_versioned_name() {
    let program = Program::new("arguments");
    let mut readelf = Command::new("readelf");
    readelf.arg("--dynamic").arg(program.dir.path().join("program"));
    let output = String::from_utf8(succeeds(readelf).stdout).unwrap();
    assert!(output.contains(&format!("[{}]", env!("VMETTE_SONAME"))), "{output}");
}

#[test]
fn what_is_null_or_no_utf8_is_a_status_everywhere() {
    succeeds(Program::new("arguments").command());
}

/// Functions that `arguments.c` does not call cannot be among those that it has tried with NULL.
#[test]
fn every_function_is_tried_with_null() {
    let program = fs::read_to_string(sources().join("arguments.c")).unwrap();
    // These have no arguments.
    let without = ["vmette_version", "vmette_last_error_message", "vmette_last_error_exit_code"];
    let missing: Vec<String> = declared()
        .into_iter()
        .filter(|name| !without.contains(&name.as_str()) && !program.contains(&format!("{name}(")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
