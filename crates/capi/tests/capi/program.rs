//! A C program: compiled, run, looked at.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::build;

/// The cache that all tests share.
pub(crate) fn cache() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&path).unwrap();
    path
}

/// The folder with the C programs.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c")
}

/// Runs a compiler, which must have nothing to say.
pub(crate) fn compile(compiler: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Werror", "-pedantic"]).args(args);
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A compiled program and the folder it lies in, which is its home too.
pub(crate) struct Program {
    pub(crate) dir: TempDir,
    path: PathBuf,
}

impl Program {
    /// Compiles `tests/c/<name>.c` against the header and links it with the shared library.
    pub(crate) fn new(name: &str) -> Self {
        Self::compiled(&sources().join(name).with_extension("c"))
    }

    pub(crate) fn compiled(source: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, lib) = (dir.path().join("program"), dir.path().join("lib"));
        // What the program looks for is the interface's name, which an installation links to the library.
        fs::create_dir(&lib).unwrap();
        symlink(build::built().join("libvmette.so"), lib.join(env!("VMETTE_SONAME"))).unwrap();
        let mut args: Vec<PathBuf> = ["-std=c11", "-g", "-pthread", "-o"].map(PathBuf::from).into();
        args.extend([path.clone(), source.to_owned(), "-I".into(), build::include_dir()]);
        args.extend(["-I".into(), sources(), "-L".into(), build::built().to_owned(), "-lvmette".into()]);
        args.push(format!("-Wl,-rpath,{}", lib.display()).into());
        compile("cc", args);
        Self { dir, path }
    }

    /// The program, ready to be started.
    pub(crate) fn command(&self) -> Command {
        self.under(Command::new(&self.path))
    }

    /// The program, started by another one.
    pub(crate) fn started_by(&self, mut other: Command) -> Command {
        other.arg(&self.path);
        self.under(other)
    }

    fn under(&self, mut command: Command) -> Command {
        surroundings(&mut command, self.dir.path());
        command
    }
}

/// An environment without the developer's own settings.
pub(crate) fn surroundings(command: &mut Command, temp: &Path) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("VMETTE_") && name != "VMETTE_SUITE" {
            command.env_remove(name.as_ref());
        }
    }
    command.env("VMETTE_CACHE_DIR", cache()).env("TMPDIR", temp).env_remove("XDG_RUNTIME_DIR");
    command.stdin(Stdio::null());
}

/// Runs it to its end, which must be success.
pub(crate) fn succeeds(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}
