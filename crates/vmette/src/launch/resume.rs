//! From a snapshot to a machine whose root is as it was saved.

use std::fs::File;

use vmette_cache::KeyBuilder;
use vmette_vmm::{Disk, MachineSpec, Origin};
use vmette_wire::devices::SCRATCH_SERIAL;
use vmette_wire::root::Attach;
use vmette_wire::{Root, RootRequest};

use super::bring_up::{RESTORE_TIMEOUT, ROOT_TIMEOUT, Ready};
use super::held::Held;
use super::image;
use super::launcher::Launcher;
use super::prepare::Prepared;
use super::scratch::Scratch;
use crate::assets::{self, AssetOptions};
use crate::ca;
use crate::error::{Error, StartError};
use crate::snapshot::{Digests, SCRATCH, Snapshot};

impl Launcher<'_> {
    /// Checks everything that a start from the snapshot depends on, and gets its own copy of what it will write to.
    pub(super) fn prepare_resume(&self, saved: &Snapshot, options: &AssetOptions) -> Result<Prepared, Error> {
        let config = self.config;
        let digests = Digests::in_cache(self.cache).until(self.shared.cancel());
        let store = vmette_image::Context::new(self.cache.path()).with_work(self.work.clone()).store()?;
        let builtin = || Ok(self.builtin(options)?.path);
        let (rootfs, in_use) = saved.base_image(config.root.rootfs.as_ref(), &store, builtin, &digests)?;
        let found = assets::boot_assets(options, self.work)?;
        let (kernel, initramfs) = (found.kernel, found.initramfs);
        saved.check_boot_files(&kernel, &initramfs, &digests)?;
        saved.verify_changed(&digests)?;
        let mut held = Held { rootfs: Some(in_use), ..Held::default() };
        let mut disks = Vec::new();
        if config.root.scratch_mib.is_some() {
            let source = File::open(saved.folder().join(SCRATCH))
                .map_err(|e| saved.refused(&format!("{SCRATCH}: {e}")))?;
            let scratch = Scratch::copy_of(self.cache, &source, self.shared.cancel())?;
            disks.push(Disk { serial: SCRATCH_SERIAL.into(), path: scratch.path(), read_only: false });
            held.scratch = Some(scratch);
        }
        let manifest = saved.manifest();
        let spec = MachineSpec {
            rootfs: Some(rootfs),
            disks,
            shares: config.shares().collect(),
            slots: manifest.machine.slots,
            origin: Origin::Saved(saved.saved()),
            ..self.spec(kernel, initramfs)
        };
        self.check_fingerprint(saved, &spec)?;
        let bundle = match &config.grants.ca_certs {
            Some(dir) => ca::bundle(dir)?,
            None => None,
        };
        let trusted = bundle.as_ref().map(|bundle| KeyBuilder::new().bytes(bundle).finish().to_string());
        // Certificates that it trusts already need not be brought again.
        let ca_bundle = bundle.filter(|_| trusted != manifest.ca_bundle).unwrap_or_default();
        Ok(Prepared {
            boot: manifest.boot.clone(),
            root: Root {
                shares: config.grants.shares.iter().map(Into::into).collect(),
                ..manifest.root.clone()
            },
            ca_digest: trusted.or_else(|| manifest.ca_bundle.clone()),
            ca_bundle,
            root_in_template: false,
            rootfs: image::rootfs_report(&config.root, &store),
            base: Some(manifest.rootfs.clone()),
            held,
            spec,
        })
    }

    /// The engine would refuse it as well; here the remedy is known.
    fn check_fingerprint(&self, saved: &Snapshot, spec: &MachineSpec) -> Result<(), Error> {
        let found = self.engine.fingerprint(spec)?;
        let fingerprint = &saved.manifest().state.fingerprint;
        if found == *fingerprint {
            return Ok(());
        }
        let bare = MachineSpec { shares: Vec::new(), vsock: false, ..spec.clone() };
        if self.engine.fingerprint(&bare)? == *fingerprint {
            let vsock = if spec.vsock { " and vsock" } else { "" };
            return Err(saved.refused(&format!(
                "it has no room for {} shares{vsock}: make it with as many shares, or name fewer",
                spec.shares.len()
            )));
        }
        Err(saved.refused(&format!(
            "it was saved by another engine or host, or is another kind of machine: saved as `{}`, here is `{found}`; make it \
             anew",
            fingerprint
        )))
    }

    /// Starts from the snapshot: there is no other way if that fails.
    pub(super) fn resume(&self, saved: &Snapshot, prepared: &Prepared) -> Result<Ready, Error> {
        let Root { name, shares, .. } = &prepared.root;
        let vsock = prepared.spec.vsock;
        let attaches = !shares.is_empty() || !prepared.ca_bundle.is_empty() || vsock;
        let awaited = attaches.then(|| name.clone()).into_iter().collect();
        let started = self.try_start_before(prepared.spec.clone(), RESTORE_TIMEOUT, awaited);
        let up = started.map_err(|e| match e {
            Error::StartFailed(reason) => saved.refused(&format!("its machine does not run: {reason}")),
            e => e,
        })?;
        let root = up.connection.root(name);
        if !attaches {
            return Ok(Ready { up, root });
        }
        let attach = Attach {
            root: name.clone(),
            shares: shares.clone(),
            ca_bundle: !prepared.ca_bundle.is_empty(),
            vsock,
        };
        let attached =
            up.connection.request(RootRequest::Attach(attach), &prepared.ca_bundle, ROOT_TIMEOUT)?;
        attached.map_err(|reason| StartError::Root { reason })?;
        Ok(Ready { up, root })
    }
}
