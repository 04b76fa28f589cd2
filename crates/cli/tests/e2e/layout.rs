//! Images made by `umoci`.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::registry::run;

/// The image's tag in its layout.
pub(crate) const TAG: &str = "it";

/// An OCI layout in the making, with one image.
pub(crate) struct Layout {
    dir: TempDir,
}

impl Layout {
    pub(crate) fn new() -> Self {
        let layout = Self { dir: tempfile::tempdir().unwrap() };
        run("umoci", ["init", "--layout", layout.folder().to_str().unwrap()]);
        run("umoci", ["new", "--image", &layout.image()]);
        layout
    }

    /// A place beside it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.path("layout")
    }

    fn image(&self) -> String {
        format!("{}:{TAG}", self.folder().display())
    }

    /// One layer more: an archive as it is.
    pub(crate) fn add(&self, archive: &Path) {
        run("umoci", ["raw", "add-layer", "--image", &self.image(), archive.to_str().unwrap()]);
    }

    /// One layer more: a tree.
    pub(crate) fn insert(&self, tree: &Path) {
        run("umoci", ["insert", "--image", &self.image(), tree.to_str().unwrap(), "/"]);
    }

    /// One layer more: what this changes.
    pub(crate) fn change(&self, change: impl FnOnce(&Path)) {
        let bundle = self.unpack();
        change(&bundle.join("rootfs"));
        run("umoci", ["repack", "--image", &self.image(), bundle.to_str().unwrap()]);
        fs::remove_dir_all(bundle).unwrap();
    }

    /// As a bundle, whose `rootfs` is the image's tree.
    pub(crate) fn unpack(&self) -> PathBuf {
        let bundle = self.path("bundle");
        run("umoci", ["unpack", "--image", &self.image(), bundle.to_str().unwrap()]);
        bundle
    }
}
