//! Preparations for saving a session, made while everything about it is known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use vmette_vmm::{Capabilities, SavedState};
use vmette_wire::handshake::PROTOCOL_VERSION;

use super::bring_up::Up;
use super::launcher::Launcher;
use super::prepare::Prepared;
use super::scratch::Scratch;
use crate::config::Rootfs;
use crate::identity;
use crate::resolved::Resolved;
use crate::snapshot::{
    BaseImage, BootFile, Content, Digests, Engine, FORMAT, Manifest, Outside, Saver, Shape,
};

const NS_PER_S: u64 = 1_000_000_000;

impl Launcher<'_> {
    /// Returns a saver for the machine, or the reason why it cannot be saved.
    pub(super) fn saver(
        &self,
        up: &Up,
        prepared: &Prepared,
        capabilities: &Capabilities,
    ) -> Result<Saver, String> {
        possible(self.config, capabilities)?;
        if !prepared.spec.savable {
            return Err(
                "the session was not started so that it may be saved: allow snapshots when it starts".into(),
            );
        }
        let scratch = prepared.held.scratch.as_ref().map(Scratch::file);
        let manifest = self.manifest(prepared, capabilities);
        Ok(Saver {
            machine: up.machine.clone(),
            connection: up.connection.clone(),
            manifest,
            outside: Outside {
                kernel: prepared.spec.kernel.clone(),
                initramfs: prepared.spec.initramfs.clone(),
                rootfs: prepared.spec.rootfs.clone().unwrap_or_default(),
            },
            scratch: scratch.transpose().map_err(|e| e.to_string())?,
            shares: prepared.root.shares.clone(),
            devices: prepared.spec.shares.clone(),
            root: prepared.root.name.clone(),
            digests: Digests::in_cache(self.cache),
            turn: Mutex::new(()),
        })
    }

    fn manifest(&self, prepared: &Prepared, capabilities: &Capabilities) -> Manifest {
        let (config, spec) = (self.config, &prepared.spec);
        let unknown = || Content { size: 0, digest: String::new() };
        let boot_file = |named: Option<&PathBuf>| BootFile {
            digest: String::new(),
            path: named.map(|path| absolute(path)),
        };
        let path = spec.rootfs.clone().unwrap_or_default();
        let rootfs = prepared.base.clone().unwrap_or_else(|| BaseImage {
            kind: prepared.rootfs.kind,
            name: prepared.rootfs.name.clone(),
            key: key_in(&self.cache.path().join("images"), &path),
            fstype: match &config.root.rootfs {
                Some(Rootfs::Block(block)) => block.fstype.as_str().to_owned(),
                _ => vmette_image::BlockFs::Squashfs.as_str().to_owned(),
            },
            path: absolute(&path),
            content: unknown(),
        });
        Manifest {
            format: FORMAT,
            vmette: env!("CARGO_PKG_VERSION").into(),
            made: identity::now_ns() / NS_PER_S,
            arch: std::env::consts::ARCH.into(),
            engine: Engine {
                name: capabilities.engine.clone(),
                accelerator: capabilities.accelerator.to_string(),
            },
            state: SavedState::default(),
            protocol: PROTOCOL_VERSION,
            machine: Shape {
                vcpus: config.machine.vcpus,
                memory_mib: spec.memory_mib,
                slots: spec.slots,
                cmdline: spec.cmdline.clone(),
            },
            kernel: boot_file(config.machine.kernel.as_ref()),
            initramfs: boot_file(config.machine.initramfs.as_ref()),
            extra_modules: config.machine.extra_modules.clone(),
            rootfs,
            boot: prepared.boot.clone(),
            root: prepared.root.clone(),
            ca_bundle: prepared.ca_digest.clone(),
            scratch_mib: config.root.scratch_mib,
            image: config.root.image.clone(),
            files: BTreeMap::new(),
        }
    }
}

/// Checks that a session of this configuration can be saved, or returns the reason why not.
pub(crate) fn possible(config: &Resolved, capabilities: &Capabilities) -> Result<(), String> {
    if let Some(reason) = capabilities.snapshots.refusal() {
        return Err(format!("{} cannot save this machine: {reason}", capabilities.engine));
    }
    if let Some(Rootfs::Share(share)) = &config.root.rootfs {
        return Err(format!(
            "the root is the host folder {}, which a snapshot cannot hold: use an image, or an archive of the folder",
            share.path.display()
        ));
    }
    if config.grants.net {
        return Err("it has a network, and every machine that were started from the snapshot would claim the one address \
                    that was leased to it: leave the network out"
            .into());
    }
    if config.vsock.is_some() {
        return Err("the engine cannot save a vsock device: leave vsock out, and ask for it when the snapshot is started from".into());
    }
    if let Some(disk) = config.grants.disks.first() {
        return Err(format!(
            "the disk {} goes on changing outside of the snapshot: use a scratch disk, which is saved with it",
            disk.display()
        ));
    }
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The image's key, if it is one of the store in that folder.
fn key_in(store: &Path, image: &Path) -> Option<String> {
    let key: vmette_image::Key = image.file_stem()?.to_str()?.parse().ok()?;
    (image.parent() == Some(store)).then(|| key.to_string())
}
