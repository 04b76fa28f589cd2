//! Refuses a spec that no machine could be made from, before anything is started.

use vmette_vmm::{Error, MachineSpec, Network, Result};

use crate::plan;
use crate::version::Version;

/// A Linux kernel with the drivers of this project needs about this much to reach its first program, in MiB.
const MEMORY_MIN_MIB: u64 = 96;

/// Most processors of QEMU's boards without further devices.
const VCPUS_MAX: u32 = 255;

/// More virtual than real processors only make each other wait; some more are useful for tests.
const VCPUS_PER_CPU: u32 = 4;

/// Longest kernel command line, in bytes: `COMMAND_LINE_SIZE` of x86, without what the engine adds.
const CMDLINE_MAX: usize = 2048 - 64;

/// The reason for granting no network by address translation.
pub(crate) const NO_NAT: &str = "QEMU's user-mode network cannot be kept away from the host's loopback and private \
                                 addresses, so this engine grants none";

/// The first release of QEMU with network back ends of the kind `stream`.
const FRAMES_SINCE: (u32, u32) = (7, 2);

/// The reason why frames cannot go through a socket with this QEMU, if so.
pub(crate) fn no_frames(version: &Version) -> Option<String> {
    let (major, minor) = FRAMES_SINCE;
    ((version.major, version.minor) < FRAMES_SINCE).then(|| {
        format!("QEMU {version} cannot hand a guest's frames to a socket: {major}.{minor} or newer is needed")
    })
}

/// Most virtual CPUs on this host.
pub(crate) fn max_vcpus() -> u32 {
    let cpus =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(VCPUS_MAX));
    cpus.saturating_mul(VCPUS_PER_CPU).clamp(VCPUS_PER_CPU, VCPUS_MAX)
}

/// The checked spec with absolute paths: QEMU runs in another folder.
pub(crate) fn checked(spec: MachineSpec, version: &Version) -> Result<MachineSpec> {
    match &spec.network {
        Network::None => {}
        Network::Nat => return invalid(format!("network: {NO_NAT}")),
        Network::Frames(_) => {
            if let Some(reason) = no_frames(version) {
                return invalid(format!("network: {reason}"));
            }
        }
    }
    sizes(&spec)?;
    plan::ports(&spec)?;
    vmette_vmm::checks::checked(spec)
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidSpec(message))
}

fn sizes(spec: &MachineSpec) -> Result<()> {
    let most = max_vcpus();
    if !(1..=most).contains(&spec.vcpus) {
        return invalid(format!("{} virtual CPUs: 1 to {most} are possible on this host", spec.vcpus));
    }
    let most = host_memory_mib();
    if !(MEMORY_MIN_MIB..=most).contains(&spec.memory_mib) {
        return invalid(format!(
            "{} MiB of memory: {MEMORY_MIN_MIB} to {most} MiB are possible on this host",
            spec.memory_mib
        ));
    }
    if spec.cmdline.len() > CMDLINE_MAX {
        return invalid(format!("the kernel command line has more than {CMDLINE_MAX} bytes"));
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    // `totalram` has the machine's word size.
    #[allow(clippy::useless_conversion)]
    let total = u64::try_from(info.totalram).unwrap_or(u64::MAX);
    total.saturating_mul(u64::from(info.mem_unit.max(1))) >> 20
}

#[cfg(not(target_os = "linux"))]
fn host_memory_mib() -> u64 {
    1 << 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmette_vmm::Share;

    /// These come before anything that looks at files, of which there are none.
    fn refused(change: impl FnOnce(&mut MachineSpec), word: &str) {
        let mut spec = MachineSpec::new("/nonexistent/kernel", "/nonexistent/initramfs");
        change(&mut spec);
        let error = checked(spec, &version(7, 2)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor, text: format!("{major}.{minor}.0"), sha256: String::new() }
    }

    #[test]
    fn an_old_qemu_has_no_network_and_none_has_address_translation() {
        refused(|spec| spec.network = Network::Nat, NO_NAT);
        assert!(no_frames(&version(7, 1)).is_some_and(|reason| reason.contains("7.1.0")));
        assert!(no_frames(&version(7, 2)).is_none() && no_frames(&version(10, 0)).is_none());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        refused(|spec| spec.vcpus = 0, "0 virtual CPUs");
        refused(|spec| spec.vcpus = 100_000, "100000 virtual CPUs");
        refused(|spec| spec.memory_mib = 0, "0 MiB");
        refused(|spec| spec.memory_mib = u64::MAX, "MiB are possible");
        refused(|spec| spec.cmdline = "x".repeat(CMDLINE_MAX + 1), "more than");
    }

    #[test]
    fn there_are_only_so_many_places() {
        let many = |spec: &mut MachineSpec| {
            let share = |i| Share { tag: format!("t{i}"), path: "/s".into(), read_only: true, owner: None };
            spec.shares = (0..40).map(share).collect();
        };
        refused(many, "at most 32");
    }
}
