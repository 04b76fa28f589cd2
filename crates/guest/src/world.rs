//! What differs between an agent in a machine and one in a thread of the test suite.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use vmette_wire::agent::{
    Attach, Boot, CA_BUNDLE_MAX, DISKS_MAX, ENTROPY_LEN, FailureKind, Hello, PROTOCOL_VERSION, SERIAL_MAX,
    SHARES_MAX, Share, VOLUMES_MAX,
};

use crate::tree;

/// File systems a rootfs may have; each is a driver that reads what a stranger has made.
const ROOT_FSTYPES: [&str; 3] = ["squashfs", "erofs", "ext4"];

/// Longest virtio-fs tag, as the device's configuration space has it.
const TAG_MAX: usize = 36;

/// Length of `/etc/machine-id` in hexadecimal digits.
const MACHINE_ID_LEN: usize = 32;

/// Longest DNS label.
const HOSTNAME_MAX: usize = 63;

/// Where the agent lives: a machine of its own ([`crate::Vm`]), or a thread of the host ([`crate::Hosted`]).
pub trait World {
    /// Makes the machine the one that `hello` describes; both arguments have been checked.
    ///
    /// # Errors
    /// [`WorldError`] names what could not be set.
    fn hello(&mut self, hello: &Hello, entropy: &[u8; ENTROPY_LEN]) -> Result<(), WorldError>;

    /// Sets the machine's clock to that many nanoseconds since 1970, UTC.
    ///
    /// # Errors
    /// The kernel's.
    fn set_clock(&mut self, realtime_ns: u64) -> Result<(), WorldError>;

    /// Stops the workload's processes, as they are, until [`World::thaw`].
    ///
    /// # Errors
    /// The kernel's, or it cannot.
    fn freeze(&mut self) -> Result<(), WorldError>;

    /// Lets the workload's processes go on; nothing happens when they run.
    ///
    /// # Errors
    /// The kernel's.
    fn thaw(&mut self) -> Result<(), WorldError>;

    /// Begins to build the workload's root; both arguments have been checked.
    ///
    /// # Errors
    /// [`WorldError`]: built before, or no process for it.
    fn boot(&mut self, boot: &Boot, ca_bundle: &[u8]) -> Result<Booting, WorldError>;

    /// Begins to mount shares in the workload's root, to wait for vsock, and to make it trust certificates unless there are
    /// none; both arguments have been checked.
    ///
    /// # Errors
    /// [`WorldError`]: no process for it, or nothing to mount in.
    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Booting, WorldError>;

    /// Begins to unmount shares of the workload's root, the last one first; they have been checked.
    ///
    /// # Errors
    /// As [`World::attach`].
    fn detach(&mut self, shares: &[Share]) -> Result<Booting, WorldError>;

    /// Takes the report of what was [`Booting::Pending`], once it is readable.
    ///
    /// # Errors
    /// [`WorldError`] with the builder's own words.
    fn boot_finished(&mut self, report: OwnedFd) -> Result<(), WorldError>;

    /// Where commands run and files lie.
    ///
    /// # Errors
    /// [`WorldError`]: there is no such place (yet, or any more).
    fn place(&self, purpose: Purpose) -> Result<Place<'_>, WorldError>;

    /// The command that was to be the workload's PID 1 runs, under that process id of the agent's namespace.
    fn init_started(&mut self, pid: u32);

    /// The workload's PID 1 has ended, and everything in its namespace with it.
    fn init_ended(&mut self);

    /// Begins to write dirty data out. The descriptor is a pidfd of a child to reap; `None`: it is done.
    ///
    /// # Errors
    /// No process for it.
    fn sync(&mut self) -> io::Result<Option<OwnedFd>>;

    /// Whether a host that goes away may come back on the same stream.
    fn reconnects(&self) -> bool;

    /// What becomes readable when another host is there, if one may come that way. It takes the place of the last one.
    fn listener(&self) -> Option<BorrowedFd<'_>>;

    /// The host that has come through [`World::listener`], if it is one.
    ///
    /// # Errors
    /// The kernel's.
    fn accept(&mut self) -> io::Result<Option<OwnedFd>>;
}

/// How far a boot is.
#[derive(Debug)]
pub enum Booting {
    /// The root is there.
    Done,
    /// A child works on it; the descriptor becomes readable when it has finished.
    Pending(OwnedFd),
}

/// What a [`Place`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Reading and writing files.
    Files,
    /// An ordinary command.
    Command,
    /// The command that becomes the workload's PID 1.
    Init,
}

/// Where commands run and files lie.
#[derive(Debug)]
pub struct Place<'a> {
    /// The workload's root directory.
    pub root: BorrowedFd<'a>,
    /// The mount namespace commands enter; `None`: the agent's own.
    pub mount_ns: Option<BorrowedFd<'a>>,
    /// The control group that commands join, by its `cgroup.procs`; `None`: they stay in the agent's.
    pub group: Option<BorrowedFd<'a>>,
    /// Directory for commands too long for an argument, as seen from `root`.
    pub scripts: &'a str,
    /// The same directory as commands see it.
    pub scripts_seen: &'a str,
    /// Environment every command starts with, `KEY=VALUE`.
    pub env: &'a [String],
    /// Soft limit of open descriptors that commands get; `None`: the agent's.
    pub descriptor_limit: Option<u64>,
    /// Whether the agent is protected from the out-of-memory killer, which commands must not inherit.
    pub oom_protected: bool,
}

/// Why the world does not do what a request asks.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// Host and guest were not built together.
    #[error(
        "the host speaks protocol {host}, this guest {PROTOCOL_VERSION}: a stale template or a foreign initramfs; \
         remove the template and use the initramfs of this version"
    )]
    Protocol {
        /// The host's version.
        host: u32,
    },
    /// A field of the request is not what it has to be.
    #[error("{0}")]
    Invalid(String),
    /// A request came before the one it builds on, or twice.
    #[error("{0}")]
    Order(&'static str),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The builder of the root has failed.
    #[error("{0}")]
    Boot(String),
}

impl WorldError {
    /// For `map_err`: wraps an I/O error with what was tried.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }

    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Protocol { .. } | Self::Invalid(_) | Self::Order(_) => FailureKind::Invalid,
            Self::Io { .. } | Self::Boot(_) => FailureKind::Other,
        }
    }
}

/// Checks a `hello` before a world sees it.
pub(crate) fn check_hello<'a>(hello: &Hello, payload: &'a [u8]) -> Result<&'a [u8; ENTROPY_LEN], WorldError> {
    if hello.protocol != PROTOCOL_VERSION {
        return Err(WorldError::Protocol { host: hello.protocol });
    }
    let label = hello.hostname.as_bytes();
    let label_ok = (1..=HOSTNAME_MAX).contains(&label.len())
        && label.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && !hello.hostname.starts_with('-')
        && !hello.hostname.ends_with('-');
    if !label_ok {
        return Err(WorldError::Invalid(format!("host name {:?} is not a DNS label", hello.hostname)));
    }
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hello.machine_id.len() != MACHINE_ID_LEN || !hello.machine_id.bytes().all(hex) {
        return Err(WorldError::Invalid(format!(
            "machine id {:?} is not {MACHINE_ID_LEN} lower-case hexadecimal digits",
            hello.machine_id
        )));
    }
    payload.try_into().map_err(|_| {
        WorldError::Invalid(format!("hello carries {} random bytes, {ENTROPY_LEN} are needed", payload.len()))
    })
}

/// Checks a `boot` before a world sees it.
pub(crate) fn check_boot(boot: &Boot, payload: &[u8]) -> Result<(), WorldError> {
    let invalid = |message: String| Err(WorldError::Invalid(message));
    if let vmette_wire::agent::Root::Block { fstype } = &boot.root
        && !ROOT_FSTYPES.contains(&fstype.as_str())
    {
        return invalid(format!("rootfs of type {fstype:?} (known: {})", ROOT_FSTYPES.join(", ")));
    }
    check_shares(&boot.shares)?;
    if boot.disks.len() > DISKS_MAX || !boot.disks.iter().all(|serial| is_serial(serial)) {
        return invalid(format!(
            "up to {DISKS_MAX} disks, by serial numbers of 1 to {SERIAL_MAX} letters and digits"
        ));
    }
    if boot.volumes.len() > VOLUMES_MAX {
        return invalid(format!("{} volumes (allowed: up to {VOLUMES_MAX})", boot.volumes.len()));
    }
    if let Some(path) = boot
        .volumes
        .iter()
        .chain(&boot.working_dir)
        .find(|path| !tree::is_plain_absolute(path) || *path == "/")
    {
        return invalid(format!("folder {path:?} of the image is not an absolute path below / without .."));
    }
    check_bundle(boot.ca_bundle, payload)
}

/// Checks an `attach` before a world sees it.
pub(crate) fn check_attach(attach: &Attach, payload: &[u8]) -> Result<(), WorldError> {
    check_shares(&attach.shares)?;
    check_bundle(attach.ca_bundle, payload)
}

fn check_bundle(announced: bool, payload: &[u8]) -> Result<(), WorldError> {
    let invalid = |message: String| Err(WorldError::Invalid(message));
    if payload.len() > CA_BUNDLE_MAX {
        return invalid(format!("CA bundle of {} bytes (allowed: up to {CA_BUNDLE_MAX})", payload.len()));
    }
    let pem = payload.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN);
    if announced != pem {
        return invalid("the payload is a PEM bundle if, and only if, ca_bundle says so".to_owned());
    }
    Ok(())
}

/// Checks shares that are to be mounted or unmounted.
pub(crate) fn check_shares(shares: &[Share]) -> Result<(), WorldError> {
    let invalid = |message: String| Err(WorldError::Invalid(message));
    if shares.len() > SHARES_MAX {
        return invalid(format!("{} shares (allowed: up to {SHARES_MAX})", shares.len()));
    }
    for (i, share) in shares.iter().enumerate() {
        let tag_ok = (1..=TAG_MAX).contains(&share.tag.len())
            && share.tag.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !tag_ok {
            return invalid(format!("share tag {:?} (1 to {TAG_MAX} printable characters, no /)", share.tag));
        }
        let target_ok =
            tree::is_plain_absolute(&share.target) && share.target.bytes().any(|b| b != b'/' && b != b'.');
        if !target_ok {
            return invalid(format!(
                "share {}: target {:?} is not an absolute path below / without ..",
                share.tag, share.target
            ));
        }
        if shares[..i].iter().any(|other| other.tag == share.tag || other.target == share.target) {
            return invalid(format!("share {} at {} appears twice", share.tag, share.target));
        }
    }
    Ok(())
}

/// How a certificate in PEM begins.
const PEM_BEGIN: &[u8] = b"-----BEGIN ";

fn is_serial(serial: &str) -> bool {
    (1..=SERIAL_MAX).contains(&serial.len()) && serial.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmette_wire::agent::{Root, Share};

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            realtime_ns: 1,
            hostname: "vm-1".into(),
            machine_id: "0123456789abcdef".repeat(2),
            attach_follows: false,
            payload_len: 0,
        }
    }

    fn boot(shares: &[(&str, &str)]) -> Boot {
        let share = |(tag, target): &(&str, &str)| Share {
            tag: (*tag).into(),
            target: (*target).into(),
            read_only: false,
        };
        Boot {
            shares: shares.iter().map(share).collect(),
            ..Boot::new(Root::Block { fstype: "squashfs".into() })
        }
    }

    #[test]
    fn a_foreign_protocol_is_refused_naming_both() {
        let error =
            check_hello(&Hello { protocol: 99, ..hello() }, &[0; ENTROPY_LEN]).unwrap_err().to_string();
        assert!(error.contains("99") && error.contains(&PROTOCOL_VERSION.to_string()), "{error}");
    }

    #[test]
    fn names_and_entropy_are_checked() {
        assert!(check_hello(&hello(), &[0; ENTROPY_LEN]).is_ok());
        assert!(check_hello(&hello(), &[0; ENTROPY_LEN - 1]).is_err());
        for name in ["", "-a", "a-", "a.b", "a b", "ü", &"a".repeat(64)] {
            assert!(
                check_hello(&Hello { hostname: name.into(), ..hello() }, &[0; ENTROPY_LEN]).is_err(),
                "{name}"
            );
        }
        for id in ["", "0123", &"G".repeat(32), &"A".repeat(32)] {
            assert!(
                check_hello(&Hello { machine_id: id.into(), ..hello() }, &[0; ENTROPY_LEN]).is_err(),
                "{id}"
            );
        }
    }

    #[test]
    fn targets_tags_and_types_are_checked() {
        assert!(check_boot(&boot(&[("a", "/mnt/a"), ("b", "/mnt/b")]), b"").is_ok());
        for target in ["", "/", "//", "/.", "mnt", "/mnt/../etc", "/a\0"] {
            assert!(check_boot(&boot(&[("a", target)]), b"").is_err(), "{target:?}");
        }
        for tag in ["", "a/b", "a b", &"t".repeat(TAG_MAX + 1)] {
            assert!(check_boot(&boot(&[(tag, "/mnt/a")]), b"").is_err(), "{tag:?}");
        }
        assert!(check_boot(&boot(&[("a", "/x"), ("a", "/y")]), b"").is_err());
        assert!(check_boot(&boot(&[("a", "/x"), ("b", "/x")]), b"").is_err());
        let ntfs = Boot { root: Root::Block { fstype: "ntfs".into() }, ..boot(&[]) };
        assert!(check_boot(&ntfs, b"").is_err());
    }

    #[test]
    fn folders_of_the_image_are_checked() {
        let with = |volumes: &[&str]| Boot {
            volumes: volumes.iter().map(|v| (*v).to_owned()).collect(),
            ..boot(&[])
        };
        assert!(check_boot(&with(&["/data", "/var/lib/x:y,z"]), b"").is_ok());
        for path in ["", "/", "data", "/a/../b", "/a\0"] {
            assert!(check_boot(&with(&[path]), b"").is_err(), "{path:?}");
            let wd = Boot { working_dir: Some(path.into()), ..boot(&[]) };
            assert!(check_boot(&wd, b"").is_err(), "{path:?}");
        }
        assert!(check_boot(&with(&["/v"; VOLUMES_MAX + 1]), b"").is_err());
    }

    #[test]
    fn a_bundle_comes_exactly_when_it_is_announced() {
        let with = Boot { ca_bundle: true, ..boot(&[]) };
        assert!(check_boot(&with, b"-----BEGIN CERTIFICATE-----").is_ok());
        assert!(check_boot(&with, b"").is_err());
        assert!(check_boot(&with, b"\x30\x82").is_err());
        assert!(check_boot(&boot(&[]), b"-----BEGIN CERTIFICATE-----").is_err());
    }
}
