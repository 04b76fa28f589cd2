//! Requests about the roots in which workloads live. One machine can have several, told apart by their names; each has a
//! mount namespace and a PID namespace of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::devices::{self, DeviceError, ROOTFS_SERIAL, ROOTFS_TAG, Share};
use crate::path;

/// Most roots of one machine: each costs the guest a process and a mount namespace for as long as the machine lives.
pub const ROOTS_MAX: usize = 32;

/// Longest name of a root, in bytes: enough for a container's id, which is 32 bytes in hexadecimal digits.
pub const ROOT_NAME_MAX: usize = 64;

/// Most [`Root::volumes`]: real images declare one or two, and each may cost the guest a mount.
pub const VOLUMES_MAX: usize = 64;

/// Longest PEM bundle, in bytes.
pub const CA_BUNDLE_MAX: usize = 8 << 20;

/// File systems that a rootfs may have; each is a driver that reads what a stranger has made.
const ROOTFS_TYPES: [&str; 3] = ["squashfs", "erofs", "ext4"];

/// The beginning of a certificate in PEM.
const PEM_BEGIN: &[u8] = b"-----BEGIN ";

/// Name of a root: 1 to [`ROOT_NAME_MAX`] ASCII letters, digits, `-` and `_`. The guest has folders of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootName(String);

impl RootName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`RootError::Name`].
    pub fn new(name: impl Into<String>) -> Result<Self, RootError> {
        let name = name.into();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if (1..=ROOT_NAME_MAX).contains(&name.len()) && name.bytes().all(plain) {
            Ok(Self(name))
        } else {
            Err(RootError::Name(name))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RootName {
    /// The root of a machine that has one: `main`.
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl TryFrom<String> for RootName {
    type Error = RootError;

    fn try_from(name: String) -> Result<Self, RootError> {
        Self::new(name)
    }
}

impl From<RootName> for String {
    fn from(name: RootName) -> Self {
        name.0
    }
}

impl fmt::Display for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request about a root. Each has one answer, and the guest works on one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RootRequest {
    /// Makes a root. Payload: a PEM bundle when [`Root::ca_bundle`] is set.
    Make(Root),
    /// Mounts further shares in a root. Payload: a PEM bundle when [`Attach::ca_bundle`] is set. Unless it fails, the root
    /// is no longer awaited, and workloads run on once no root is.
    Attach(Attach),
    /// Freezes all workloads and unmounts shares of a root; it takes no certificates back. Workloads run on with the next
    /// `attach`, or at once when this fails.
    Detach(Detach),
}

/// How a root is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Its name, which no other root of the machine has.
    pub name: RootName,
    /// The lowest layer.
    pub base: Base,
    /// The layer that takes the writes.
    pub overlay: Overlay,
    /// In the order in which they are mounted.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Absolute folders that are made when they are missing, and take writes even if the root takes none; the image's
    /// files in them stay visible.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Absolute folder in which the image's commands start; made when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The payload is a PEM bundle that the workload is to trust.
    #[serde(default)]
    pub ca_bundle: bool,
    /// The first command, with [`Exec::init`](crate::streams::Exec::init), is PID 1 of the root's namespace.
    #[serde(default)]
    pub switch_root: bool,
}

/// The rootfs as the guest finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Base {
    /// A virtio block device; several roots may have the same one.
    Block {
        /// Its serial number.
        serial: String,
        /// A file system type of the guest's kernel: `squashfs`, `erofs`, `ext4`.
        fstype: String,
    },
    /// A virtio-fs share.
    Share {
        /// Its tag.
        tag: String,
    },
}

impl Base {
    /// The machine's rootfs device.
    pub fn rootfs_disk(fstype: impl Into<String>) -> Self {
        Self::Block { serial: ROOTFS_SERIAL.to_owned(), fstype: fstype.into() }
    }

    /// The machine's rootfs share.
    #[must_use]
    pub fn rootfs_share() -> Self {
        Self::Share { tag: ROOTFS_TAG.to_owned() }
    }
}

/// Destination of the workload's writes to its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// Memory, gone with the machine.
    Tmpfs,
    /// A folder of the ext4 file system on the disk [`SCRATCH_SERIAL`](crate::devices::SCRATCH_SERIAL).
    Scratch,
    /// Nowhere: the root is read-only.
    None,
}

/// Additions to a root that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The root.
    pub root: RootName,
    /// In the order in which they are mounted.
    pub shares: Vec<Share>,
    /// The payload is a PEM bundle that the workload is to trust from now on.
    #[serde(default)]
    pub ca_bundle: bool,
    /// The machine has got a vsock device, which is waited for.
    #[serde(default)]
    pub vsock: bool,
}

/// Shares that a root is to give up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// The root.
    pub root: RootName,
    /// In the order in which they were mounted; they are unmounted in the opposite one.
    pub shares: Vec<Share>,
}

/// A description of a root that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RootError {
    #[error("name of a root {0:?}: choose 1 to {ROOT_NAME_MAX} letters, digits, '-' or '_'")]
    Name(String),
    #[error("rootfs of type {0:?} (known: {known})", known = ROOTFS_TYPES.join(", "))]
    Type(String),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("{0} volumes (allowed: up to {VOLUMES_MAX})")]
    Volumes(usize),
    #[error("folder {0:?} of the image is not an absolute path below / without ..")]
    Folder(String),
    #[error("CA bundle of {0} bytes (allowed: up to {CA_BUNDLE_MAX})")]
    BundleSize(usize),
    #[error("the payload is a PEM bundle if, and only if, ca_bundle says so")]
    Bundle,
}

impl Root {
    /// The root of a machine that has one, with an overlay in memory, and nothing else.
    #[must_use]
    pub fn new(base: Base) -> Self {
        Self {
            name: RootName::default(),
            base,
            overlay: Overlay::Tmpfs,
            shares: Vec::new(),
            volumes: Vec::new(),
            working_dir: None,
            ca_bundle: false,
            switch_root: false,
        }
    }

    /// `true` if the workload cannot write to the root.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.overlay == Overlay::None
    }

    /// Checks the description and its payload.
    ///
    /// # Errors
    /// [`RootError`] names the field that is wrong.
    pub fn check(&self, payload: &[u8]) -> Result<(), RootError> {
        match &self.base {
            Base::Block { fstype, .. } if !ROOTFS_TYPES.contains(&fstype.as_str()) => {
                return Err(RootError::Type(fstype.clone()));
            }
            Base::Block { serial, .. } if serial == ROOTFS_SERIAL => {}
            Base::Block { serial, .. } => devices::check_serials([serial.as_str()])?,
            Base::Share { tag } => devices::check_tags([tag.as_str()])?,
        }
        devices::check_shares(&self.shares)?;
        if self.volumes.len() > VOLUMES_MAX {
            return Err(RootError::Volumes(self.volumes.len()));
        }
        let below = |folder: &&String| path::is_plain(folder) && *folder != "/";
        match self.volumes.iter().chain(&self.working_dir).find(|folder| !below(folder)) {
            Some(folder) => Err(RootError::Folder(folder.clone())),
            None => check_bundle(self.ca_bundle, payload),
        }
    }
}

impl Attach {
    /// Checks the request and its payload.
    ///
    /// # Errors
    /// [`RootError`] names the field that is wrong.
    pub fn check(&self, payload: &[u8]) -> Result<(), RootError> {
        devices::check_shares(&self.shares)?;
        check_bundle(self.ca_bundle, payload)
    }
}

impl Detach {
    /// Checks the request.
    ///
    /// # Errors
    /// [`DeviceError`] names the share that cannot be.
    pub fn check(&self) -> Result<(), DeviceError> {
        devices::check_shares(&self.shares)
    }
}

fn check_bundle(announced: bool, payload: &[u8]) -> Result<(), RootError> {
    if payload.len() > CA_BUNDLE_MAX {
        return Err(RootError::BundleSize(payload.len()));
    }
    let is_pem = payload.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN);
    if announced == is_pem { Ok(()) } else { Err(RootError::Bundle) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root::new(Base::rootfs_disk("squashfs"))
    }

    #[test]
    fn names_are_plain_and_bounded() {
        for name in ["main", "a", "0", "a-b_C", "-", &"f".repeat(ROOT_NAME_MAX)] {
            assert_eq!(RootName::new(name).unwrap().as_str(), name);
        }
        for name in ["", ".", "..", "a/b", "a.b", "a b", "ä", "a\0", &"f".repeat(ROOT_NAME_MAX + 1)] {
            assert_eq!(RootName::new(name), Err(RootError::Name(name.into())));
            assert!(serde_json::from_str::<RootName>(&serde_json::to_string(name).unwrap()).is_err());
        }
        assert_eq!(serde_json::from_str::<RootName>(r#""main""#).unwrap(), RootName::default());
    }

    #[test]
    fn a_base_is_of_a_known_type_and_its_device_can_be() {
        assert_eq!(root().check(b""), Ok(()));
        assert_eq!(Root::new(Base::rootfs_share()).check(b""), Ok(()));
        let second = |serial: &str| Base::Block { serial: serial.into(), fstype: "erofs".into() };
        assert_eq!(Root::new(second("disk3")).check(b""), Ok(()));
        assert!(matches!(Root::new(second("a/b")).check(b""), Err(RootError::Device(_))));
        let share = Base::Share { tag: "a/b".into() };
        assert!(matches!(Root::new(share).check(b""), Err(RootError::Device(_))));
        assert_eq!(Root::new(Base::rootfs_disk("ntfs")).check(b""), Err(RootError::Type("ntfs".into())));
    }

    #[test]
    fn shares_are_checked_wherever_they_come() {
        let shares = vec![Share { tag: "a".into(), target: "/".into(), read_only: false }];
        assert!(matches!(Root { shares: shares.clone(), ..root() }.check(b""), Err(RootError::Device(_))));
        assert!(matches!(Attach { shares, ..Attach::default() }.check(b""), Err(RootError::Device(_))));
    }

    #[test]
    fn folders_of_the_image_are_checked() {
        let with =
            |volumes: &[&str]| Root { volumes: volumes.iter().map(|v| (*v).into()).collect(), ..root() };
        assert_eq!(with(&["/data", "/var/lib/x:y,z"]).check(b""), Ok(()));
        for path in ["", "/", "data", "/a/../b", "/a\0"] {
            let refused = Err(RootError::Folder(path.into()));
            assert_eq!(with(&[path]).check(b""), refused);
            assert_eq!(Root { working_dir: Some(path.into()), ..root() }.check(b""), refused);
        }
        let many = ["/v"; VOLUMES_MAX + 1];
        assert_eq!(with(&many).check(b""), Err(RootError::Volumes(VOLUMES_MAX + 1)));
    }

    #[test]
    fn a_bundle_comes_exactly_when_it_is_announced() {
        let pem = b"-----BEGIN CERTIFICATE-----";
        let with = Root { ca_bundle: true, ..root() };
        assert_eq!(with.check(pem), Ok(()));
        for (root, payload) in [(&with, &b""[..]), (&with, b"\x30\x82"), (&root(), pem)] {
            assert_eq!(root.check(payload), Err(RootError::Bundle));
        }
        let attach = Attach { ca_bundle: true, ..Attach::default() };
        assert_eq!(attach.check(pem), Ok(()));
        assert_eq!(attach.check(&vec![0; CA_BUNDLE_MAX + 1]), Err(RootError::BundleSize(CA_BUNDLE_MAX + 1)));
    }
}
