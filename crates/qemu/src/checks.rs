//! Refuses a spec that no machine could be made from, before anything is started.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use vmette_vmm::{Error, MachineSpec, Result};

use crate::plan;

/// A Linux kernel with the drivers of this project needs about this much to reach its first program, in MiB.
const MEMORY_MIN_MIB: u64 = 96;

/// Most processors of QEMU's boards without further devices.
const VCPUS_MAX: u32 = 255;

/// More virtual than real processors only make each other wait; some more are useful for tests.
const VCPUS_PER_CPU: u32 = 4;

/// Longest kernel command line, in bytes: `COMMAND_LINE_SIZE` of x86, without what the engine adds.
const CMDLINE_MAX: usize = 2048 - 64;

/// Longest serial number of a virtio-blk device.
const SERIAL_MAX: usize = 20;

/// Longest tag of a virtio-fs device.
const TAG_MAX: usize = 36;

/// The serial number that the rootfs has.
const ROOTFS_SERIAL: &str = "rootfs";

/// Most virtual CPUs on this host.
pub(crate) fn max_vcpus() -> u32 {
    let cpus =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(VCPUS_MAX));
    cpus.saturating_mul(VCPUS_PER_CPU).clamp(VCPUS_PER_CPU, VCPUS_MAX)
}

/// The checked spec with absolute paths: QEMU runs in another folder.
pub(crate) fn checked(mut spec: MachineSpec) -> Result<MachineSpec> {
    sizes(&spec)?;
    plan::ports(&spec)?;
    absolute(&mut spec.kernel)?;
    absolute(&mut spec.initramfs)?;
    file("kernel", &spec.kernel, true)?;
    file("initramfs", &spec.initramfs, true)?;
    if let Some(rootfs) = &mut spec.rootfs {
        absolute(rootfs)?;
        file("rootfs image", rootfs, true)?;
    }
    let mut serials = BTreeSet::from([ROOTFS_SERIAL.to_owned()]);
    for disk in &mut spec.disks {
        serial(&disk.serial)?;
        if !serials.insert(disk.serial.clone()) {
            return invalid(format!("two disks have the serial number {:?}", disk.serial));
        }
        absolute(&mut disk.path)?;
        file("disk image", &disk.path, disk.read_only)?;
    }
    let mut tags = BTreeSet::new();
    for share in &mut spec.shares {
        tag(&share.tag)?;
        if !tags.insert(share.tag.clone()) {
            return invalid(format!("two shares have the tag {:?}", share.tag));
        }
        absolute(&mut share.path)?;
        folder(&share.path)?;
    }
    Ok(spec)
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
    if spec.cmdline.contains(char::is_control) {
        return invalid("the kernel command line has a control character".into());
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

fn absolute(path: &mut PathBuf) -> Result<()> {
    *path = std::path::absolute(&*path).map_err(Error::io("make a path absolute"))?;
    if path.to_str().is_none() {
        return invalid(format!("the path {} is not valid UTF-8", path.display()));
    }
    Ok(())
}

/// Opens it as QEMU will, so that the error names the file and its purpose.
fn file(what: &'static str, path: &Path, read_only: bool) -> Result<()> {
    let error = |source| Error::File { what, path: path.to_owned(), source };
    // A named pipe would block in `open`, so its kind is looked at first.
    let kind = fs::metadata(path).map_err(error)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(error(io::Error::other("is neither a file nor a block device")));
    }
    OpenOptions::new().read(true).write(!read_only).open(path).map_err(error)?;
    Ok(())
}

fn folder(path: &Path) -> Result<()> {
    let error = |source| Error::File { what: "shared folder", path: path.to_owned(), source };
    fs::read_dir(path).map_err(error)?;
    Ok(())
}

fn serial(serial: &str) -> Result<()> {
    let valid = (1..=SERIAL_MAX).contains(&serial.len()) && serial.bytes().all(|b| b.is_ascii_alphanumeric());
    if valid {
        return Ok(());
    }
    invalid(format!("disk serial number {serial:?}: 1 to {SERIAL_MAX} ASCII letters and digits are possible"))
}

fn tag(tag: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let valid = (1..=TAG_MAX).contains(&tag.len()) && tag.bytes().all(allowed) && !tag.starts_with('.');
    if valid {
        return Ok(());
    }
    invalid(format!(
        "share tag {tag:?}: 1 to {TAG_MAX} ASCII letters, digits, `-`, `_` and `.` are possible, not starting with a dot"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmette_vmm::{AcceleratorChoice, Console, Disk, Origin, Share};

    fn spec(dir: &Path) -> MachineSpec {
        let file = dir.join("file");
        fs::write(&file, "x").unwrap();
        MachineSpec {
            kernel: file.clone(),
            initramfs: file.clone(),
            cmdline: "quiet".into(),
            vcpus: 1,
            memory_mib: 256,
            rootfs: Some(file.clone()),
            slots: 0,
            disks: vec![Disk { serial: "scratch".into(), path: file, read_only: false }],
            shares: vec![Share { tag: "work.1".into(), path: dir.into(), read_only: true }],
            vsock: false,
            console: Console::Discard,
            accelerator: AcceleratorChoice::Auto,
            savable: false,
            origin: Origin::Cold,
        }
    }

    fn refused(change: impl FnOnce(&mut MachineSpec), word: &str) {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(dir.path());
        change(&mut spec);
        let error = checked(spec).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn a_good_spec_passes_and_its_paths_become_absolute() {
        let dir = tempfile::tempdir().unwrap();
        checked(spec(dir.path())).unwrap();
        let mut relative = PathBuf::from("some/file");
        absolute(&mut relative).unwrap();
        assert!(relative.is_absolute());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        refused(|spec| spec.vcpus = 0, "0 virtual CPUs");
        refused(|spec| spec.vcpus = 100_000, "100000 virtual CPUs");
        refused(|spec| spec.memory_mib = 0, "0 MiB");
        refused(|spec| spec.memory_mib = u64::MAX, "MiB are possible");
        refused(|spec| spec.cmdline = "x".repeat(CMDLINE_MAX + 1), "more than");
        refused(|spec| spec.cmdline = "a\nb".into(), "control character");
    }

    #[test]
    fn files_must_be_there_and_be_files() {
        refused(|spec| spec.kernel = "/nonexistent/kernel".into(), "kernel /nonexistent/kernel");
        refused(|spec| spec.initramfs = "/".into(), "initramfs /: is neither");
        refused(|spec| spec.rootfs = Some("/nonexistent/image".into()), "rootfs image /nonexistent/image");
        refused(|spec| spec.disks[0].path = "/dev/null".into(), "disk image /dev/null");
        refused(|spec| spec.shares[0].path = spec.kernel.clone(), "shared folder");
    }

    #[test]
    fn names_are_what_the_devices_can_carry() {
        for bad in ["", "a/b", "..", ".a", "a b", "a\"b", "a,b", "ä", &"x".repeat(TAG_MAX + 1)] {
            refused(|spec| spec.shares[0].tag = bad.into(), "share tag");
        }
        for bad in ["", "a-b", "a,b", &"x".repeat(SERIAL_MAX + 1)] {
            refused(|spec| spec.disks[0].serial = bad.into(), "serial number");
        }
        refused(|spec| spec.shares.push(spec.shares[0].clone()), "two shares");
        refused(|spec| spec.disks[0].serial = ROOTFS_SERIAL.into(), "two disks");
    }

    #[test]
    fn there_are_only_so_many_places() {
        let many = |spec: &mut MachineSpec| {
            let share = spec.shares[0].clone();
            spec.shares = (0..40).map(|i| Share { tag: format!("t{i}"), ..share.clone() }).collect();
        };
        refused(many, "at most 32");
    }
}
