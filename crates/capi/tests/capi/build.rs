//! The library that the programs are linked with. Cargo builds it for nobody's tests, since no Rust code can use it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder with the header.
pub(crate) fn include_dir() -> PathBuf {
    workspace().join("include")
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The folder with `libvmette.so`, `libvmette.a` and the programs of the workspace, all of them up to date.
pub(crate) fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        // As scripts/test builds it: with other packages Cargo would choose other features, and build everything again.
        cargo.args(["build", "--quiet", "--locked", "--workspace", "--target-dir"]).arg(target);
        cargo.current_dir(workspace());
        for (name, _) in std::env::vars_os() {
            if of_this_test(&name.to_string_lossy()) {
                cargo.env_remove(name);
            }
        }
        assert!(cargo.status().unwrap().success(), "the workspace does not build: see above");
        target.join("debug")
    })
}

/// What the test runner says of this test, and what build scripts would take for their own package's.
fn of_this_test(variable: &str) -> bool {
    let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "NEXTEST"];
    let single = ["CARGO", "CARGO_CRATE_NAME", "CARGO_TARGET_TMPDIR", "OUT_DIR", "LD_LIBRARY_PATH"];
    of_package.iter().any(|prefix| variable.starts_with(prefix)) || single.contains(&variable)
}
