//! Everything of a run that is there before its machine: kernel, rootfs, disks, and what the guest is told of them.

use std::io;
use std::path::{Path, PathBuf};

use vmette_cache::{CacheRoot, KeyBuilder};
use vmette_image::RootfsArtifact;
use vmette_vmm::{Capabilities, Console, Disk, MachineSpec, Network, Origin, Share};
use vmette_wire::devices::{self, ROOTFS_TAG, SCRATCH_SERIAL};
use vmette_wire::root::{Base, Overlay};
use vmette_wire::{Boot, Root};

use super::held::Held;
use super::image;
use super::launcher::Launcher;
use super::scratch::Scratch;
use crate::assets::{self, AssetOptions};
use crate::ca;
use crate::config::{Machine, Rootfs, RootfsBlock};
use crate::error::{ConfigError, Error, StartError};
use crate::report::RootfsReport;
use crate::resolved::Resolved;
use crate::snapshot::BaseImage;

/// The image of a root was there when the configuration was checked.
const GONE: &str = "it was removed meanwhile: run again to get it anew";

/// Everything that was resolved before the first machine is made.
pub(super) struct Prepared {
    pub(super) spec: MachineSpec,
    pub(super) boot: Boot,
    pub(super) root: Root,
    pub(super) ca_bundle: Vec<u8>,
    /// Of all certificates that the root trusts beside its own.
    pub(super) ca_digest: Option<String>,
    /// Whether a template may have the root of this run built already.
    pub(super) root_in_template: bool,
    pub(super) rootfs: RootfsReport,
    /// The image of a snapshot's root, as the snapshot names it.
    pub(super) base: Option<BaseImage>,
    pub(super) held: Held,
}

impl Launcher<'_> {
    pub(super) fn prepare(&self, capabilities: &Capabilities) -> Result<Prepared, Error> {
        let options = AssetOptions { elf: capabilities.boots_elf, ..asset_options(self.config, self.cache) };
        if let Some(saved) = &self.config.snapshot {
            return self.prepare_resume(saved, &options);
        }
        let config = self.config;
        let mut held = Held::default();
        if let Some(Rootfs::Block(block)) = &config.root.rootfs {
            // Before anything that takes time: from here on nobody prunes it.
            held.rootfs = Some(hold(&block.path)?);
        }
        let ca_bundle = match &config.grants.ca_certs {
            Some(dir) => ca::bundle(dir)?,
            None => None,
        };
        let found = assets::boot_assets(&options, self.work)?;
        let (kernel, initramfs) = (found.kernel, found.initramfs);
        let mut shares = Vec::new();
        let block = match &config.root.rootfs {
            Some(Rootfs::Block(block)) => Some(block.clone()),
            Some(Rootfs::Share(share)) => {
                shares.push(Share {
                    tag: ROOTFS_TAG.into(),
                    path: share.path.clone(),
                    // Writes go to the overlay; the folder itself is never written to.
                    read_only: true,
                    owner: None,
                });
                None
            }
            None => Some(self.builtin(&options)?),
        };
        let base = match &block {
            Some(block) => {
                if held.rootfs.is_none() {
                    held.rootfs = Some(hold(&block.path)?);
                }
                Base::rootfs_disk(block.fstype.as_str())
            }
            None => Base::rootfs_share(),
        };
        let rootfs = block.map(|block| block.path);
        let mut disks = Vec::new();
        let mut overlay = if config.root.read_only { Overlay::None } else { Overlay::Tmpfs };
        if let Some(mib) = config.root.scratch_mib {
            let scratch = Scratch::make(self.cache, mib, self.work)?;
            disks.push(Disk { serial: SCRATCH_SERIAL.into(), path: scratch.path(), read_only: false });
            held.scratch = Some(scratch);
            overlay = Overlay::Scratch;
        }
        for (i, path) in config.grants.disks.iter().enumerate() {
            disks.push(Disk { serial: devices::disk_serial(i), path: path.clone(), read_only: false });
        }
        shares.extend(config.shares());
        let boot = Boot {
            disks: disks.iter().map(|disk| disk.serial.clone()).collect(),
            vsock: config.vsock.is_some(),
            network: config.grants.net,
            savable: config.savable,
        };
        let root = Root {
            overlay,
            shares: config.grants.shares.iter().map(Into::into).collect(),
            volumes: image::volumes(&config.root.image, &config.grants.shares),
            working_dir: image::working_dir(&config.root.image),
            ca_bundle: ca_bundle.is_some(),
            switch_root: config.command.switch_root,
            ..Root::new(base)
        };
        let spec = MachineSpec { rootfs, disks, shares, ..self.spec(kernel, initramfs) };
        let store = vmette_image::Context::new(self.cache.path()).with_work(self.work.clone()).store()?;
        let rootfs = image::rootfs_report(&config.root, &store);
        // Nothing of this one run is in the boot of an image that cannot change: it can be part of the template.
        let root_in_template = spec.rootfs.as_ref().is_some_and(|path| path.parent() == Some(store.dir()))
            && spec.disks.is_empty()
            && spec.shares.is_empty()
            && ca_bundle.is_none()
            && !boot.vsock
            && !boot.savable
            && !config.command.switch_root;
        let ca_digest = ca_bundle.as_ref().map(|bundle| KeyBuilder::new().bytes(bundle).finish().to_string());
        let ca_bundle = ca_bundle.unwrap_or_default();
        Ok(Prepared { spec, boot, root, ca_bundle, ca_digest, root_in_template, rootfs, base: None, held })
    }

    /// The machine of this run, without its disks and shares.
    pub(super) fn spec(&self, kernel: PathBuf, initramfs: PathBuf) -> MachineSpec {
        MachineSpec { kernel, initramfs, console: self.console.clone(), ..bare_spec(self.config) }
    }

    pub(super) fn builtin(&self, options: &AssetOptions) -> Result<RootfsBlock, Error> {
        let busybox = assets::busybox(options, self.work)?;
        let store = vmette_image::Context::new(self.cache.path()).with_work(self.work.clone()).store()?;
        match vmette_image::builtin_rootfs(&store, &busybox)? {
            RootfsArtifact::BlockImage { path, fstype, .. } => Ok(RootfsBlock { path, fstype }),
            RootfsArtifact::Directory { path, .. } => {
                Err(StartError::Internal(format!("the built-in rootfs is a folder: {}", path.display()))
                    .into())
            }
        }
    }
}

fn hold(image: &Path) -> Result<vmette_image::StoreHold, Error> {
    vmette_image::Store::hold(image).map_err(|source| {
        let path = image.to_owned();
        Error::from(match source.kind() {
            io::ErrorKind::NotFound => ConfigError::WrongFile { what: "rootfs", path, problem: GONE },
            _ => ConfigError::File { what: "rootfs", path, source },
        })
    })
}

/// Where a configuration's kernel and initramfs come from.
pub(crate) fn asset_options(config: &Resolved, cache: &CacheRoot) -> AssetOptions {
    AssetOptions {
        kernel: config.machine.kernel.clone(),
        initramfs: config.machine.initramfs.clone(),
        offline: config.host.offline,
        extra_modules: config.machine.extra_modules.clone(),
        ..AssetOptions::from_env(cache.clone())
    }
}

/// How many disks, shares and vsock devices the machine will have.
fn slots_of(config: &Resolved) -> usize {
    let rootfs = usize::from(matches!(config.root.rootfs, Some(Rootfs::Share(_))));
    rootfs
        + usize::from(config.root.scratch_mib.is_some())
        + config.grants.disks.len()
        + config.grants.shares.len()
        + usize::from(config.vsock.is_some())
}

/// The bare machine of a configuration, for asking the engine what it offers.
pub(crate) fn bare_spec(config: &Resolved) -> MachineSpec {
    let (kernel, initramfs) = named_boot(config);
    MachineSpec {
        cmdline: config.machine.cmdline.clone(),
        vcpus: u32::from(config.machine.vcpus),
        memory_mib: config.machine.mem_mib,
        slots: slots_of(config),
        vsock: config.vsock.is_some(),
        network: if config.grants.net { Network::Nat } else { Network::None },
        accelerator: config.machine.accelerator,
        savable: config.savable,
        ..MachineSpec::new(kernel, initramfs)
    }
}

/// Kernel and initramfs as the caller names them. Empty where they are vmette's own: an engine that boots nothing, and one
/// that is only asked what it offers, does not read them.
pub(super) fn named_boot(config: &Resolved) -> (PathBuf, PathBuf) {
    let Machine { kernel, initramfs, .. } = &config.machine;
    (kernel.clone().unwrap_or_default(), initramfs.clone().unwrap_or_default())
}

/// The machine that a template is made of: the shape, without anything of this one run.
pub(crate) fn base_spec(spec: &MachineSpec) -> MachineSpec {
    MachineSpec {
        rootfs: None,
        disks: Vec::new(),
        shares: Vec::new(),
        vsock: false,
        console: Console::Discard,
        savable: false,
        origin: Origin::Cold,
        ..spec.clone()
    }
}
