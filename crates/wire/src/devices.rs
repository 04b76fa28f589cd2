//! The contract about a machine's devices: how the host's engines name them, and how the guest finds them by that name.
//!
//! Engines, library and guest check names with the functions of this module, and with nothing else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::path;

/// Name of the `virtio-serial` port that carries the frames, on engines that have such ports.
pub const AGENT_PORT_NAME: &str = "vmette.agent";

/// Word of the kernel's command line before the host's vsock port, on engines without `virtio-serial` ports.
pub const AGENT_VSOCK_WORD: &str = "vmette.agent=vsock:";

/// Serial number of the block device that every machine has for a rootfs.
pub const ROOTFS_SERIAL: &str = "rootfs";

/// Serial number of the scratch disk.
pub const SCRATCH_SERIAL: &str = "scratch";

/// virtio-fs tag of a rootfs that is a folder.
pub const ROOTFS_TAG: &str = "rootfs";

/// Folder of the workload's root in which shares appear that name no place: `/mnt/<tag>`.
pub const SHARE_DIR: &str = "/mnt";

/// Longest serial number of a virtio block device, in bytes: the size of its field in the device.
pub const SERIAL_MAX: usize = 20;

/// Longest virtio-fs tag, in bytes: the size of its field in the device.
pub const TAG_MAX: usize = 36;

/// Most disks of one machine, beside the rootfs: there are no more places to plug one in.
pub const DISKS_MAX: usize = 32;

/// Most shares of one root: each costs the guest a mount, and the host a process.
pub const SHARES_MAX: usize = 64;

/// Folders that the guest mounts itself; no share can be in their place.
const TAKEN: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// A host folder in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its virtio-fs tag.
    pub tag: String,
    /// Absolute path in the workload's root; made when missing.
    pub target: String,
    /// Mounted read-only as well; the host enforces it in any case.
    #[serde(default)]
    pub read_only: bool,
}

/// A name that breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DeviceError {
    #[error("disk serial number {0:?}: choose 1 to {SERIAL_MAX} ASCII letters and digits")]
    Serial(String),
    #[error("two disks have the serial number {0:?}")]
    SerialTwice(String),
    #[error("{0} disks: up to {DISKS_MAX} are possible")]
    Disks(usize),
    #[error(
        "share tag {0:?}: choose 1 to {TAG_MAX} letters, digits, '-', '_' or '.', starting with a letter or digit"
    )]
    Tag(String),
    #[error("two shares have the tag {0:?}")]
    TagTwice(String),
    #[error("share target {0:?}: name an absolute path below / in the guest, without . and ..")]
    Target(String),
    #[error("share target {0:?}: the guest needs that folder itself")]
    TargetTaken(String),
    #[error("two shares at {0} in the guest")]
    TargetTwice(String),
    #[error("{0} shares: up to {SHARES_MAX} are possible")]
    Shares(usize),
    #[error("vsock port {0}: choose 1 to {last}", last = u32::MAX - 1)]
    VsockPort(u32),
}

/// Serial number of the `index`th of the caller's disks, from 0.
#[must_use]
pub fn disk_serial(index: usize) -> String {
    format!("disk{index}")
}

/// Checks the serial numbers of all disks of one machine but the rootfs.
///
/// # Errors
/// There are too many, one does not fit its device, or two are alike.
pub fn check_serials<'a>(serials: impl IntoIterator<Item = &'a str>) -> Result<(), DeviceError> {
    let mut known = BTreeSet::from([ROOTFS_SERIAL]);
    for serial in serials {
        let fits = (1..=SERIAL_MAX).contains(&serial.len());
        if !fits || !serial.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(DeviceError::Serial(serial.to_owned()));
        }
        if !known.insert(serial) {
            return Err(DeviceError::SerialTwice(serial.to_owned()));
        }
    }
    match known.len() - 1 {
        disks if disks > DISKS_MAX => Err(DeviceError::Disks(disks)),
        _ => Ok(()),
    }
}

/// Checks the virtio-fs tags of one machine. A tag becomes the name of a folder in the guest, and is part of an option on
/// the way there: so it is a plain name.
///
/// # Errors
/// One is no plain name or does not fit its device, or two are alike.
pub fn check_tags<'a>(tags: impl IntoIterator<Item = &'a str>) -> Result<(), DeviceError> {
    let mut known = BTreeSet::new();
    for tag in tags {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..=TAG_MAX).contains(&tag.len());
        if !fits || !tag.bytes().all(plain) || tag.starts_with(['.', '-']) {
            return Err(DeviceError::Tag(tag.to_owned()));
        }
        if !known.insert(tag) {
            return Err(DeviceError::TagTwice(tag.to_owned()));
        }
    }
    Ok(())
}

/// Checks the shares of one root: their number, tags and targets.
///
/// # Errors
/// There are too many, a name cannot be, or two are alike.
pub fn check_shares(shares: &[Share]) -> Result<(), DeviceError> {
    if shares.len() > SHARES_MAX {
        return Err(DeviceError::Shares(shares.len()));
    }
    check_tags(shares.iter().map(|share| share.tag.as_str()))?;
    let mut known = BTreeSet::new();
    for Share { target, .. } in shares {
        if !path::is_below_root(target) {
            return Err(DeviceError::Target(target.clone()));
        }
        if TAKEN.contains(&target.trim_end_matches('/')) {
            return Err(DeviceError::TargetTaken(target.clone()));
        }
        if !known.insert(target.trim_end_matches('/')) {
            return Err(DeviceError::TargetTwice(target.clone()));
        }
    }
    Ok(())
}

/// Checks a vsock port: 0 is nobody's, and the highest stands for any.
///
/// # Errors
/// [`DeviceError::VsockPort`].
pub fn check_vsock_port(port: u32) -> Result<(), DeviceError> {
    match port {
        0 | u32::MAX => Err(DeviceError::VsockPort(port)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(all: &[(&str, &str)]) -> Result<(), DeviceError> {
        let share = |(tag, target): &(&str, &str)| Share {
            tag: (*tag).into(),
            target: (*target).into(),
            read_only: false,
        };
        check_shares(&all.iter().map(share).collect::<Vec<_>>())
    }

    #[test]
    fn serial_numbers_fit_their_devices_and_are_told_apart() {
        let longest = "x".repeat(SERIAL_MAX);
        assert_eq!(check_serials([SCRATCH_SERIAL, &disk_serial(0), &disk_serial(31), &longest]), Ok(()));
        for bad in ["", "a-b", "a,b", "ä", &"x".repeat(SERIAL_MAX + 1)] {
            assert_eq!(check_serials([bad]), Err(DeviceError::Serial(bad.into())));
        }
        for twice in [ROOTFS_SERIAL, "disk0"] {
            assert_eq!(check_serials(["disk0", twice]), Err(DeviceError::SerialTwice(twice.into())));
        }
        let serials: Vec<String> = (0..=DISKS_MAX).map(disk_serial).collect();
        assert_eq!(check_serials(serials[1..].iter().map(String::as_str)), Ok(()));
        assert_eq!(check_serials(serials.iter().map(String::as_str)), Err(DeviceError::Disks(DISKS_MAX + 1)));
    }

    #[test]
    fn tags_are_plain_names_and_told_apart() {
        assert_eq!(check_tags(["work", "a-b_c.d", "0", ROOTFS_TAG, &"x".repeat(TAG_MAX)]), Ok(()));
        for bad in
            ["", "a/b", "..", ".a", "-rf", "a b", "a'b", "a\"b", "a,b", "a\n", "ä", &"x".repeat(TAG_MAX + 1)]
        {
            assert_eq!(check_tags([bad]), Err(DeviceError::Tag(bad.into())));
        }
        assert_eq!(check_tags(["a", "b", "a"]), Err(DeviceError::TagTwice("a".into())));
    }

    #[test]
    fn targets_are_below_the_root_and_apart() {
        assert_eq!(shares(&[("a", "/mnt/a"), ("b", "/mnt/b"), ("c", "/processes")]), Ok(()));
        for bad in ["", "/", "//", "/.", "mnt", "/mnt/../etc", "/./a", "/a\0"] {
            assert_eq!(shares(&[("a", bad)]), Err(DeviceError::Target(bad.into())));
        }
        for taken in ["/proc", "/dev/", "/run"] {
            assert_eq!(shares(&[("a", taken)]), Err(DeviceError::TargetTaken(taken.into())));
        }
        assert_eq!(shares(&[("a", "/x"), ("b", "/x")]), Err(DeviceError::TargetTwice("/x".into())));
        assert_eq!(shares(&[("a", "/x"), ("a", "/y")]), Err(DeviceError::TagTwice("a".into())));
        let many: Vec<String> = (0..=SHARES_MAX).map(|i| format!("/s{i}")).collect();
        let all: Vec<(&str, &str)> = many.iter().map(|target| (&target[1..], target.as_str())).collect();
        assert_eq!(shares(&all[1..]), Ok(()));
        assert_eq!(shares(&all), Err(DeviceError::Shares(SHARES_MAX + 1)));
    }

    #[test]
    fn the_first_and_the_last_port_are_nobodys() {
        for port in [1, u32::MAX - 1] {
            assert_eq!(check_vsock_port(port), Ok(()));
        }
        for port in [0, u32::MAX] {
            let message = check_vsock_port(port).unwrap_err().to_string();
            assert!(message.contains("choose 1 to 4294967294"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn a_tag_that_passes_is_a_safe_file_name(tag in "\\PC{0,40}") {
            if check_tags([tag.as_str()]).is_ok() {
                prop_assert!(!tag.contains(['/', '\'', '"', ' ', ',', '=']) && tag != "." && tag != "..");
            }
        }
    }
}
