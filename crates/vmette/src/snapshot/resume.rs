//! Checks before a session starts from a snapshot: the caller's wishes and this host must match the saved machine.

use std::path::{Path, PathBuf};

use vmette_image::{Store, StoreHold};
use vmette_vmm::{AcceleratorChoice, Saved};
use vmette_wire::handshake::PROTOCOL_VERSION;

use super::manifest::MACHINE;
use super::{Digests, Manifest, Snapshot};
use crate::{Config, DEFAULT_CMDLINE, Error, Rootfs};

impl Snapshot {
    /// Returns the configuration with everything that the snapshot decides. A wish that contradicts the snapshot is refused.
    pub(crate) fn adopt(&self, config: &Config) -> Result<Config, Error> {
        let saved = &self.manifest;
        if saved.arch != std::env::consts::ARCH {
            return Err(self.refused(&format!(
                "it is of a guest for {}, and this host runs {}",
                saved.arch,
                std::env::consts::ARCH
            )));
        }
        if saved.protocol != PROTOCOL_VERSION {
            return Err(self.refused(&format!(
                "vmette {} made it, whose guest speaks version {} of the protocol, this one {PROTOCOL_VERSION}: make it anew",
                saved.vmette, saved.protocol
            )));
        }
        let mut adopted = config.clone();
        self.same("virtual CPUs", &saved.machine.vcpus, &config.vcpus)?;
        self.same("MiB of memory", &saved.machine.memory_mib, &config.mem_mib)?;
        if config.cmdline != DEFAULT_CMDLINE && config.cmdline != saved.machine.cmdline {
            return Err(self.refused(&format!(
                "its kernel was booted with the command line `{}`, wanted is `{}`",
                saved.machine.cmdline, config.cmdline
            )));
        }
        adopted.cmdline.clone_from(&saved.machine.cmdline);
        if config.scratch_mib.is_some() && config.scratch_mib != saved.scratch_mib {
            let has = saved.scratch_mib.map_or("none".to_owned(), |mib| format!("one of {mib} MiB"));
            return Err(self.refused(&format!(
                "wanted is a scratch disk of {} MiB, and it has {has}",
                config.scratch_mib.unwrap_or_default()
            )));
        }
        adopted.scratch_mib = saved.scratch_mib;
        let read_only = saved.root.is_read_only();
        if config.rootfs_read_only && !read_only {
            return Err(self.refused("wanted is a read-only root, and its root takes writes"));
        }
        adopted.rootfs_read_only = read_only;
        if config.switch_root && !saved.root.switch_root {
            return Err(self.refused("wanted is a command as PID 1, and it has a PID 1 already"));
        }
        // Its PID 1 runs, whoever that is: a command is one more.
        adopted.switch_root = false;
        adopted.accelerator = self.accelerator(config.accelerator)?;
        adopted.extra_modules.clone_from(&saved.extra_modules);
        for (named, known) in
            [(&mut adopted.kernel, &saved.kernel), (&mut adopted.initramfs, &saved.initramfs)]
        {
            if named.as_os_str().is_empty() {
                *named = known.path.clone().unwrap_or_default();
            }
        }
        adopted.image.clone_from(&saved.image);
        adopted.rootfs_name = Some(saved.rootfs.name.clone());
        Ok(adopted)
    }

    fn same<T: PartialEq + std::fmt::Display>(&self, what: &str, saved: &T, wanted: &T) -> Result<(), Error> {
        if saved == wanted {
            return Ok(());
        }
        Err(self.refused(&format!("it has {saved} {what}, and {wanted} are wanted")))
    }

    /// The accelerator that ran it has to run it again.
    fn accelerator(&self, choice: AcceleratorChoice) -> Result<AcceleratorChoice, Error> {
        let saved = self.manifest.engine.accelerator.as_str();
        match (choice, saved) {
            (AcceleratorChoice::Auto | AcceleratorChoice::Tcg, "tcg") => Ok(AcceleratorChoice::Tcg),
            (AcceleratorChoice::Auto | AcceleratorChoice::Kvm, "kvm") => Ok(AcceleratorChoice::Kvm),
            (AcceleratorChoice::Auto, _) => Ok(choice),
            (AcceleratorChoice::Hardware, saved) if saved != "tcg" => Ok(choice),
            (AcceleratorChoice::Hardware, _) => Err(self.refused(
                "it was saved under software emulation and runs under nothing else; hardware virtualisation is wanted",
            )),
            (choice, saved) => {
                Err(self.refused(&format!("it was saved under {saved}, and {choice} is wanted")))
            }
        }
    }

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
                return Err(self.refused(&format!(
                    "it was booted with another {what} than {} (vmette {} made it): name that {what}, or make the \
                     snapshot anew",
                    path.display(),
                    saved.vmette
                )));
            }
        }
        Ok(())
    }

    /// The image that its root is built on, held and known to be that one.
    pub(crate) fn base_image(
        &self,
        config: &Config,
        store: &Store,
        builtin: impl FnOnce() -> Result<PathBuf, Error>,
        digests: &Digests,
    ) -> Result<(PathBuf, StoreHold), Error> {
        let base = &self.manifest.rootfs;
        let kept = |key: &String| Some(store.find(&key.parse().ok()?)?.path);
        let path = match (&config.rootfs, &base.key) {
            (Some(Rootfs::Block(block)), _) => block.path.clone(),
            (Some(Rootfs::Share(share)), _) => {
                return Err(self.refused(&format!(
                    "its root is built on an image, not on the folder {}",
                    share.path.display()
                )));
            }
            (None, _) if base.kind == crate::RootfsKind::Builtin => builtin()?,
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
