//! The engine itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmette_vmm::{
    Accelerator, Capabilities, Error, Framing, Hypervisor, Machine, MachineSpec, Network, Origin, Result,
    Support, checks,
};

use crate::ENGINE;
use crate::host::{self, Host};
use crate::machine::{Prepared, VzMachine};
use crate::placeholder;
use crate::snapshot::Snapshot;

/// Changes whenever the devices of a machine change in a way that a saved state would notice.
const LAYOUT: &str = "layout=1";

/// Longest kernel command line, in bytes: `COMMAND_LINE_SIZE`, without what the engine adds.
const CMDLINE_MAX: usize = 2048 - 96;

/// Most disks and shares: VZ has a slot of one PCI bus for each.
const DEVICES_MAX: usize = 16;

/// Apple's Virtualization.framework.
#[derive(Debug, Clone)]
pub struct Vz {
    cache_dir: PathBuf,
}

impl Vz {
    /// An engine that keeps what all machines share in `cache_dir`, which is the user's and nobody else's.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self { cache_dir: cache_dir.into() }
    }
}

impl Hypervisor for Vz {
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities> {
        let host = Host::look();
        host.check(spec.accelerator)?;
        let reasons = vec![format!("{ENGINE} runs guests on the Mac's own virtualisation")];
        Ok(Capabilities {
            engine: format!("{ENGINE} (macOS {})", host.version),
            accelerator: Accelerator::Hvf,
            reasons,
            remedy: None,
            boots_elf: false,
            snapshots: Support::unless(host.no_snapshots().or_else(|| no_snapshots_of(spec))),
            vsock: Support::Yes,
            nat: Support::Yes,
            frames: Support::Yes,
            framing: Framing::Datagrams,
            max_vcpus: host::max_vcpus(),
        })
    }

    fn try_shares(&self) -> Support {
        Support::Yes
    }

    fn fingerprint(&self, spec: &MachineSpec) -> Result<String> {
        let host = Host::look();
        host.check(spec.accelerator)?;
        Ok(fingerprint(&host, spec))
    }

    fn boot_failed(&self, _spec: &MachineSpec, _reason: &str) -> Result<()> {
        // There is one accelerator: nothing to choose the next time.
        Ok(())
    }

    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>> {
        let host = Host::look();
        host.check(spec.accelerator)?;
        let spec = checks::checked(spec)?;
        sizes(&spec)?;
        let fingerprint = fingerprint(&host, &spec);
        let no_snapshots = host.no_snapshots().or_else(|| no_snapshots_of(&spec));
        let snapshot = match (&spec.origin, &no_snapshots) {
            (Origin::Cold, _) => None,
            (Origin::Saved(_), Some(reason)) => {
                let reason = reason.clone();
                return Err(Error::Unsupported { engine: ENGINE, operation: "restore", reason });
            }
            (Origin::Saved(saved), None) => Some(Snapshot::open(saved, &fingerprint)?),
        };
        let rootfs = self.rootfs(spec.rootfs.as_deref())?;
        let prepared = Prepared { spec, rootfs, snapshot, fingerprint, no_snapshots };
        Ok(Arc::new(VzMachine::new(prepared)?))
    }
}

impl Vz {
    fn rootfs(&self, image: Option<&Path>) -> Result<PathBuf> {
        image.map_or_else(|| placeholder::file(&self.cache_dir), |image| Ok(image.to_owned()))
    }
}

/// A restored machine has the devices that it was saved with: nothing can be plugged in, and a share's state cannot be
/// saved. Neither can a network's: the address is leased to one machine.
fn no_snapshots_of(spec: &MachineSpec) -> Option<String> {
    if !matches!(spec.network, Network::None) {
        return Some("the machine has a network, whose address is leased to it alone".into());
    }
    let devices = spec.slots.max(spec.disks.len() + spec.shares.len());
    (devices > 0)
        .then(|| "the machine has shares or disks, which cannot be plugged into a restored one".into())
}

fn fingerprint(host: &Host, spec: &MachineSpec) -> String {
    let MachineSpec { vcpus, memory_mib, .. } = spec;
    let arch = std::env::consts::ARCH;
    format!("VZ macOS {} {arch} {LAYOUT} vcpus={vcpus} memory={memory_mib}M", host.version)
}

fn sizes(spec: &MachineSpec) -> Result<()> {
    let most = host::max_vcpus();
    if !(1..=most).contains(&spec.vcpus) {
        let vcpus = spec.vcpus;
        return Err(Error::InvalidSpec(format!(
            "{vcpus} virtual CPUs: 1 to {most} are possible on this host"
        )));
    }
    let (least, most) = host::memory_mib();
    if !(least..=most).contains(&spec.memory_mib) {
        return Err(Error::InvalidSpec(format!(
            "{} MiB of memory: {least} to {most} MiB are possible on this host",
            spec.memory_mib
        )));
    }
    if spec.cmdline.len() > CMDLINE_MAX {
        return Err(Error::InvalidSpec(format!("the kernel command line has more than {CMDLINE_MAX} bytes")));
    }
    let devices = spec.disks.len() + spec.shares.len();
    if devices > DEVICES_MAX {
        return Err(Error::InvalidSpec(format!(
            "a machine takes at most {DEVICES_MAX} shares and disks together, not {devices}"
        )));
    }
    Ok(())
}
