//! Caches that a test may damage.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::machine::{Vmette, entries, private_folder, shared_cache};
use crate::roots::is_builtin;

/// A cache of a test's own, with everything that takes long to get.
pub(crate) struct Cache {
    dir: TempDir,
}

impl Cache {
    /// Has a kernel and an initramfs, and no template.
    pub(crate) fn without_template() -> Self {
        Self::filled_from_shared(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    /// Has a kernel and an initramfs, and neither a template nor any image.
    pub(crate) fn without_images() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fill_shelves(dir.path(), &KERNEL_SHELVES);
        Self { dir }
    }

    /// Has a template that works, too.
    pub(crate) fn with_template() -> Self {
        let cache = Self::without_template();
        Vmette::run(["--", "true"]).cache(cache.path()).exits(0).said([", template,"]);
        cache
    }

    fn filled_from_shared(dir: TempDir) -> Self {
        fill(dir.path());
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The one template.
    pub(crate) fn template(&self) -> PathBuf {
        let folder = self.path().join("templates");
        let mut found =
            entries(&folder).into_iter().map(|name| folder.join(name)).filter(|path| path.is_dir());
        let template = found.next().expect("a template");
        assert_eq!(found.next(), None);
        template
    }

    /// How many templates there are.
    pub(crate) fn templates(&self) -> usize {
        let folder = self.path().join("templates");
        entries(&folder).into_iter().filter(|name| folder.join(name).is_dir()).count()
    }

    /// Asserts that nothing half-made is in it.
    pub(crate) fn has_no_leavings(&self) {
        let folder = self.path().join("templates");
        if folder.exists() {
            for name in entries(&folder) {
                let name = name.to_string_lossy().into_owned();
                assert!(name.len() == 64, "{name} was left");
            }
        }
    }
}

/// Puts everything into the folder that takes long to get. The kernel itself is linked to: derived files are known by
/// the name of the file that they were made of.
pub(crate) fn fill(folder: &Path) {
    fill_shelves(folder, &["vmlinux", "initramfs", "busybox", "images"]);
}

/// What any machine needs.
const KERNEL_SHELVES: [&str; 2] = ["vmlinux", "initramfs"];

fn fill_shelves(folder: &Path, shelves: &[&str]) {
    let shared = shared_cache();
    Vmette::run(["--quiet", "--", "true"]).exits(0);
    for shelf in shelves.iter().filter(|shelf| shared.join(shelf).exists()) {
        private_folder(&folder.join(shelf));
        for file in needed(&shared.join(shelf)) {
            let copied =
                Command::new("cp").args(["-a", "--reflink=auto"]).args([&file, &folder.join(shelf)]).status();
            assert!(copied.unwrap().success());
        }
    }
    private_folder(&folder.join("kernel"));
    if let Ok(kernels) = fs::read_dir(shared.join("kernel")) {
        for kernel in kernels.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
            symlink(&kernel, folder.join("kernel").join(kernel.file_name().unwrap_or(OsStr::new(""))))
                .unwrap();
        }
    }
}

/// What of a shelf is of use to a test's own cache: each build of the guest has left an initramfs in the shared one, and
/// other tests keep their images there.
fn needed(shelf: &Path) -> Vec<PathBuf> {
    let files = || entries(shelf).into_iter().map(|name| shelf.join(name));
    if shelf.ends_with("images") {
        return files().filter(|file| is_builtin(file)).collect();
    }
    if !shelf.ends_with("initramfs") {
        return files().collect();
    }
    let made = |file: &PathBuf| file.metadata().unwrap().modified().unwrap();
    let newest =
        files().filter(|file| file.extension().is_some_and(|e| e == "cpio")).max_by_key(made).unwrap();
    files()
        .filter(|file| file.file_stem() == newest.file_stem() || file.file_stem() == newest.file_name())
        .collect()
}
