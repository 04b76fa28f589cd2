//! Checks before a session starts from a snapshot: the kernel, the initramfs and the image of this host must be the saved
//! ones.

use std::path::{Path, PathBuf};

use vmette_image::{Store, StoreHold};
use vmette_vmm::Saved;

use super::manifest::MACHINE;
use super::{Digests, Manifest, Snapshot};
use crate::config::Rootfs;
use crate::error::{Error, RestoreError};
use crate::report::RootfsKind;

impl Snapshot {
    /// Checks that the kernel and the initramfs are those that it was booted with.
    pub(crate) fn check_boot_files(
        &self,
        kernel: &Path,
        initramfs: &Path,
        digests: &Digests,
    ) -> Result<(), Error> {
        let saved = &self.manifest;
        for (what, path, known) in
            [("kernel", kernel, &saved.kernel), ("initramfs", initramfs, &saved.initramfs)]
        {
            let found =
                digests.of(path).map_err(|e| self.refused(&format!("{what} {}: {e}", path.display())))?;
            if found != known.digest {
                let (folder, path) = (self.folder.clone(), path.to_owned());
                let maker = saved.vmette.clone();
                return Err(RestoreError::OtherBootFile { folder, what, path, maker }.into());
            }
        }
        Ok(())
    }

    /// The image that its root is built on, held and known to be that one.
    pub(crate) fn base_image(
        &self,
        named: Option<&Rootfs>,
        store: &Store,
        builtin: impl FnOnce() -> Result<PathBuf, Error>,
        digests: &Digests,
    ) -> Result<(PathBuf, StoreHold), Error> {
        let base = &self.manifest.rootfs;
        let kept = |key: &String| Some(store.find(&key.parse().ok()?)?.path);
        let path = match (named, &base.key) {
            (Some(Rootfs::Block(block)), _) => block.path.clone(),
            (Some(Rootfs::Share(share)), _) => {
                return Err(self.refused(&format!(
                    "its root is built on an image, not on the folder {}",
                    share.path.display()
                )));
            }
            (None, _) if base.kind == RootfsKind::Builtin => builtin()?,
            (None, Some(key)) => match kept(key) {
                Some(path) => path,
                None => return Err(self.refused(&self.missing("is no longer in the cache"))),
            },
            (None, None) => base.path.clone(),
        };
        let held = Store::hold(&path).map_err(|e| {
            self.refused(&self.missing(&format!("cannot be opened at {}: {e}", path.display())))
        })?;
        let size = held.file().metadata()?.len();
        if size != base.content.size || digests.of(&path)? != base.content.digest {
            return Err(self.refused(&self.missing(&format!("is not what is at {} now", path.display()))));
        }
        Ok((path, held))
    }

    fn missing(&self, what: &str) -> String {
        let base = &self.manifest.rootfs;
        let id: String = base.content.digest.chars().take(12).collect();
        let remedy = match base.key {
            Some(_) => {
                format!("get {} again and name it beside the snapshot, or make the snapshot anew", base.name)
            }
            None => "name the place where it is beside the snapshot, or make the snapshot anew".to_owned(),
        };
        format!("the image that its root is built on, {} ({id}), {what}: {remedy}", base.name)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The machine, for the engine.
    pub(crate) fn saved(&self) -> Saved {
        Saved { folder: self.folder.join(MACHINE), state: self.manifest.state.clone() }
    }
}
