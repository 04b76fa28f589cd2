//! What `make install` puts in place, and a program that finds all of it by pkg-config.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build;
use crate::program::{compile, sources, succeeds, surroundings};

fn install(prefix: &Path, destdir: &str) {
    let mut script = Command::new(build::workspace().join("scripts/install"));
    script.arg(build::built()).arg(prefix).env("DESTDIR", destdir);
    succeeds(script);
}

fn pkg_config(prefix: &Path, args: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(args).arg("vmette");
    let output = String::from_utf8(succeeds(command).stdout).unwrap();
    output.split_whitespace().map(str::to_owned).collect()
}

fn words<const N: usize>(words: [&str; N]) -> Vec<PathBuf> {
    words.map(PathBuf::from).into()
}

/// Compiles a program with what pkg-config says.
fn compiled(name: &str, prefix: &Path, program: &Path, link: &[&str]) {
    let mut args = words(["-std=c11", "-pthread", "-o"]);
    args.extend([program.to_owned(), sources().join(name), "-I".into(), sources()]);
    args.extend(pkg_config(prefix, &["--cflags"]).into_iter().map(PathBuf::from));
    args.extend(link.iter().map(PathBuf::from));
    compile("cc", args);
}

fn run(program: &Path, home: &Path, argument: Option<&Path>) {
    let mut command = Command::new(program);
    surroundings(&mut command, home);
    command.args(argument);
    succeeds(command);
}

#[test]
fn a_program_elsewhere_finds_the_library_and_the_library_its_helpers() {
    let home = tempfile::tempdir().unwrap();
    let prefix = home.path().join("prefix");
    install(&prefix, "");
    assert_eq!(pkg_config(&prefix, &["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let (program, share) = (home.path().join("program"), home.path().join("share"));
    let libs = pkg_config(&prefix, &["--libs"]);
    let rpath = format!("-Wl,-rpath,{}", prefix.join("lib").display());
    let link: Vec<&str> = libs.iter().chain([&rpath]).map(String::as_str).collect();
    compiled("roots.c", &prefix, &program, &link);
    // It shares a folder: for that a program of vmette's is needed, which is only in the prefix.
    fs::create_dir(&share).unwrap();
    fs::write(share.join("question"), "shared\n").unwrap();
    run(&program, home.path(), Some(&share));

    // The same from the archive, with what that needs of the system.
    let archive = prefix.join("lib/libvmette.a");
    let private = pkg_config(&prefix, &["--static", "--libs-only-l"]);
    let system = private.iter().map(String::as_str).filter(|word| *word != "-lvmette");
    let link: Vec<&str> = [archive.to_str().unwrap()].into_iter().chain(system).collect();
    compiled("run.c", &prefix, &program, &link);
    run(&program, home.path(), None);
}

#[test]
fn a_package_is_staged_below_destdir_and_says_where_it_will_be() {
    let stage = tempfile::tempdir().unwrap();
    let prefix = Path::new("/opt/vm&ette");
    install(prefix, stage.path().to_str().unwrap());
    let root = stage.path().join("opt/vm&ette");
    let version = env!("CARGO_PKG_VERSION");
    let expected: BTreeSet<String> = [
        "bin/vmette",
        "include/vmette.h",
        "lib/libvmette.a",
        "lib/libvmette.so",
        &format!("lib/{}", env!("VMETTE_SONAME")),
        &format!("lib/libvmette.so.{version}"),
        "lib/pkgconfig/vmette.pc",
        "libexec/vmette/vmette-virtiofsd",
        "libexec/vmette/vmette-vsockd",
    ]
    .map(str::to_owned)
    .into();
    let described = |files: BTreeSet<String>| -> (BTreeSet<String>, BTreeSet<String>) {
        files.into_iter().partition(|file| !file.starts_with("share/"))
    };
    let (installed, documents) = described(files(&root, &root));
    assert_eq!(installed, expected);
    for page in ["vmette.1", "vmette-run.1", "vmette-image-pull.1"] {
        assert!(documents.contains(&format!("share/man/man1/{page}")), "{page}: {documents:?}");
    }
    let completions = [
        "bash-completion/completions/vmette",
        "zsh/site-functions/_vmette",
        "fish/vendor_completions.d/vmette.fish",
    ];
    for script in completions {
        assert!(documents.contains(&format!("share/{script}")), "{script}: {documents:?}");
    }
    let description = fs::read_to_string(root.join("lib/pkgconfig/vmette.pc")).unwrap();
    assert!(description.contains("prefix=/opt/vm&ette\n") && !description.contains('@'), "{description}");
    // A second installation takes the place of the first.
    install(prefix, stage.path().to_str().unwrap());
    assert_eq!(described(files(&root, &root)), (expected, documents));
}

fn files(root: &Path, folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| match entry.file_type().unwrap().is_dir() {
            true => files(root, &entry.path()),
            false => BTreeSet::from([entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned()]),
        })
        .collect()
}

/// A folder of commands that make this look like a Mac to scripts: `uname`, and one for each name, which does nothing.
fn mac_commands(dir: &Path, others: &[&str]) -> String {
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    for (name, text) in others.iter().map(|name| (*name, "")).chain([("uname", "echo Darwin")]) {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn on_a_mac_the_library_is_the_dylib_and_static_linking_names_the_frameworks() {
    let dir = tempfile::tempdir().unwrap();
    let (built, prefix) = (dir.path().join("built"), dir.path().join("prefix"));
    fs::create_dir(&built).unwrap();
    for name in ["vmette", "libvmette.a", "libvmette.dylib"] {
        fs::write(built.join(name), name).unwrap();
    }
    // The one that writes its pages: one will do.
    let command = built.join("vmette");
    fs::write(&command, "#!/bin/sh\n[ \"$1\" != man ] || echo page >\"$2/vmette.1\"\n").unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    let mut script = Command::new(build::workspace().join("scripts/install"));
    script.arg(&built).arg(&prefix).env("DESTDIR", "");
    script.env("PATH", mac_commands(dir.path(), &["codesign"]));
    succeeds(script);
    let expected = [
        "bin/vmette",
        "include/vmette.h",
        "lib/libvmette.a",
        "lib/libvmette.dylib",
        "lib/pkgconfig/vmette.pc",
        "share/bash-completion/completions/vmette",
        "share/fish/vendor_completions.d/vmette.fish",
        "share/man/man1/vmette.1",
        "share/zsh/site-functions/_vmette",
    ];
    assert_eq!(files(&prefix, &prefix), expected.map(str::to_owned).into());
    let link = pkg_config(&prefix, &["--static", "--libs"]).join(" ");
    for needed in ["-framework Virtualization", "-framework Foundation", "-framework Security", "-lobjc"] {
        assert!(link.contains(needed), "{link}");
    }
}

#[test]
fn on_a_mac_what_is_run_is_signed_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut make = Command::new("make");
    make.args(["--dry-run", "--no-print-directory", "run"]).current_dir(build::workspace());
    make.env_remove("CARGO_TARGET_DIR").env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    make.env("PATH", mac_commands(dir.path(), &[]));
    let output = String::from_utf8(succeeds(make).stdout).unwrap();
    let at = |what: &str| output.find(what).unwrap_or_else(|| panic!("{what}: {output}"));
    assert!(at("cargo build") < at("scripts/sign") && at("scripts/sign") < at("scripts/demo"), "{output}");
}

#[test]
fn make_install_is_this_script_on_a_release_build() {
    let mut make = Command::new("make");
    // The suite itself may have been started by make, which a make below it would mention.
    make.args(["--dry-run", "--no-print-directory", "install", "PREFIX=/opt/vmette", "DESTDIR=/stage"])
        .current_dir(build::workspace());
    make.env_remove("CARGO_TARGET_DIR").env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    let output = String::from_utf8(succeeds(make).stdout).unwrap();
    let last = output.lines().last().unwrap().trim();
    assert_eq!(last, "env DESTDIR=\"/stage\" scripts/install target/release \"/opt/vmette\"");
}
