//! What the choice of an accelerator depends on, gathered from the host.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmette_cache::replace;

const KVM: &str = "/dev/kvm";

/// File of the cache folder that remembers a failed boot on KVM.
const FAILURE_FILE: &str = "kvm-failure.json";

/// Longest remembered reason, in bytes: it may hold console lines of a guest.
const REASON_MAX: usize = 512;

/// Longest of the small files that are read here.
const SMALL_FILE_MAX: u64 = 1 << 20;

/// Everything that counts.
#[derive(Debug, Clone)]
pub(crate) struct HostFacts {
    pub(crate) os: Os,
    pub(crate) arch: &'static str,
    pub(crate) kvm: KvmDevice,
    pub(crate) modules: Modules,
    /// Whether the processor lists VT-x or AMD-V.
    pub(crate) virtualisation_flag: bool,
    pub(crate) hypervisor_framework: bool,
    /// Why a boot on KVM failed since the host was booted.
    pub(crate) remembered_failure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Os {
    Linux,
    MacOs,
}

/// `/dev/kvm`, from this process's point of view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvmDevice {
    Missing,
    Denied { group: Option<String> },
    Unusable(String),
    Ready,
}

/// Which of KVM's modules the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Modules {
    pub(crate) intel: bool,
    pub(crate) amd: bool,
    pub(crate) pvm: bool,
}

impl Modules {
    /// Whether nothing but the kind that needs a kernel made for it is behind the device.
    pub(crate) fn is_pvm_alone(self) -> bool {
        self.pvm && !self.intel && !self.amd
    }
}

impl HostFacts {
    /// Asks this host. `cache_dir` is where a failure would be remembered.
    pub(crate) fn gather(cache_dir: Option<&Path>) -> Self {
        let module = |name: &str| Path::new("/sys/module").join(name).exists();
        Self {
            os: if cfg!(target_os = "macos") { Os::MacOs } else { Os::Linux },
            arch: std::env::consts::ARCH,
            kvm: kvm_device(Path::new(KVM)),
            modules: Modules { intel: module("kvm_intel"), amd: module("kvm_amd"), pvm: module("kvm_pvm") },
            virtualisation_flag: virtualisation_flag(),
            hypervisor_framework: hypervisor_framework(),
            remembered_failure: cache_dir.and_then(remembered_kvm_failure),
        }
    }
}

fn kvm_device(path: &Path) -> KvmDevice {
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => KvmDevice::Ready,
        Err(e) if e.kind() == io::ErrorKind::NotFound => KvmDevice::Missing,
        Err(e)
            if e.kind() == io::ErrorKind::PermissionDenied
                && Errno::from_io_error(&e) == Some(Errno::ACCESS) =>
        {
            let gid = fs::metadata(path).ok().map(|meta| meta.gid());
            KvmDevice::Denied { group: gid.and_then(group_name) }
        }
        Err(e) => KvmDevice::Unusable(e.to_string()),
    }
}

/// Only the local file: a name service is not worth a dependency for a hint.
fn group_name(gid: u32) -> Option<String> {
    let groups = read_small(Path::new("/etc/group"))?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

fn virtualisation_flag() -> bool {
    let cpuinfo = read_small(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(target_os = "macos")]
fn hypervisor_framework() -> bool {
    let asked = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "kern.hv_support"]).output();
    asked.is_ok_and(|output| output.stdout.starts_with(b"1"))
}

#[cfg(not(target_os = "macos"))]
fn hypervisor_framework() -> bool {
    false
}

/// What the processor is, as far as a saved state depends on it.
pub(crate) fn processor() -> String {
    const FIELDS: [&str; 6] = ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"];
    let cpuinfo = read_small(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let fields: Vec<&str> = first
        .lines()
        .filter(|line| line.split(':').next().is_some_and(|name| FIELDS.contains(&name.trim())))
        .collect();
    fields.join("\n")
}

/// The running kernel's version, as KVM's state depends on it.
pub(crate) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

#[derive(Serialize, Deserialize)]
struct Failure {
    boot_id: String,
    reason: String,
}

/// Remembers until the host reboots that KVM does not work here. Losing the note costs only time.
pub(crate) fn remember_kvm_failure(cache_dir: &Path, reason: &str) -> io::Result<()> {
    let reason: String = reason.chars().take(REASON_MAX / 4).collect();
    let failure = Failure { boot_id: boot_id(), reason };
    fs::create_dir_all(cache_dir)?;
    replace(&cache_dir.join(FAILURE_FILE), &serde_json::to_vec(&failure)?)
}

fn remembered_kvm_failure(cache_dir: &Path) -> Option<String> {
    let text = read_small(&cache_dir.join(FAILURE_FILE))?;
    let failure: Failure = serde_json::from_str(&text).ok()?;
    (failure.boot_id == boot_id()).then_some(failure.reason)
}

fn boot_id() -> String {
    read_small(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default().trim().to_owned()
}

/// Reads a small text file. `None` if it is not there, or not small.
pub(crate) fn read_small(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    let read = io::Read::read_to_string(&mut io::Read::take(file, SMALL_FILE_MAX + 1), &mut text).ok()?;
    (read as u64 <= SMALL_FILE_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_remembered_until_the_next_boot() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(remembered_kvm_failure(cache.path()), None);
        remember_kvm_failure(cache.path(), "the agent did not answer").unwrap();
        assert_eq!(remembered_kvm_failure(cache.path()).unwrap(), "the agent did not answer");
        let other = Failure { boot_id: "another".into(), reason: "old".into() };
        fs::write(cache.path().join(FAILURE_FILE), serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(remembered_kvm_failure(cache.path()), None);
        fs::write(cache.path().join(FAILURE_FILE), b"\xff{").unwrap();
        assert_eq!(remembered_kvm_failure(cache.path()), None);
    }

    #[test]
    fn a_device_is_missing_or_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvm");
        assert_eq!(kvm_device(&path), KvmDevice::Missing);
        fs::write(&path, "").unwrap();
        assert_eq!(kvm_device(&path), KvmDevice::Ready);
        assert!(matches!(kvm_device(dir.path()), KvmDevice::Unusable(_)));
    }

    #[test]
    fn a_file_that_is_not_small_is_not_read_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let full = "x".repeat(usize::try_from(SMALL_FILE_MAX).unwrap());
        fs::write(&path, &full).unwrap();
        assert_eq!(read_small(&path), Some(full.clone()));
        fs::write(&path, full + "x").unwrap();
        assert_eq!(read_small(&path), None);
    }

    #[test]
    fn groups_are_named_from_the_local_file() {
        assert_eq!(group_name(0).as_deref(), Some("root"));
    }
}
