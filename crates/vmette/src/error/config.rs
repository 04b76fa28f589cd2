//! Mistakes in a configuration.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use vmette_wire::devices::{self, DeviceError};

/// A mistake in a configuration: the first that was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number is out of its range.
    #[error("{}: choose {min} to {max}", .what.of(*.value))]
    OutOfRange {
        /// The counted things.
        what: Quantity,
        /// How many were asked for.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// More things of a kind than a machine takes.
    #[error("{count} {what}: up to {max}")]
    TooMany {
        /// The things, in the plural: `shares`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are possible.
        max: usize,
    },
    /// A text is not what it has to be.
    #[error("{what} {value:?}: {problem}")]
    Malformed {
        /// Its purpose: `share tag`.
        what: &'static str,
        /// The text.
        value: String,
        /// The rule that it breaks.
        problem: String,
    },
    /// Two things have a name that only one can have.
    #[error("{what} {name} is named twice")]
    Twice {
        /// The kind of the thing that is named: `disk`, `vsock port`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A file or folder of the host cannot be used.
    #[error("{what} {path}: {source}", path = .path.display())]
    File {
        /// Its purpose: `share`, `disk`.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file or folder of the host is of another kind than is needed.
    #[error("{what} {path}: {problem}", path = .path.display())]
    WrongFile {
        /// Its purpose: `share`, `disk`.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// The kind of file that it should be and is not.
        problem: &'static str,
    },
    /// Two things that cannot be had together are asked for.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A network is asked for, and this machine cannot have one.
    #[error("network access: {reason}; leave the network out")]
    NoNetwork {
        /// Why not.
        reason: String,
    },
    /// A folder is to be shared, and this host cannot share any.
    #[error(
        "share: {reason}; runs without shared folders, and with an image instead of a folder as root, work"
    )]
    NoShares {
        /// Why not, and what would help.
        reason: String,
    },
    /// The session would never end: there is neither a command nor a time limit.
    #[error("nothing to run: name a command; the rootfs names none")]
    NothingToRun,
    /// A command cannot be passed to a guest.
    #[error("command: {0}")]
    Command(String),
}

impl ConfigError {
    /// For `map_err`: this file or folder cannot be used.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

impl From<DeviceError> for ConfigError {
    /// A name that breaks the contract with engine and guest.
    fn from(error: DeviceError) -> Self {
        let malformed =
            |what, value, problem: &str| Self::Malformed { what, value, problem: problem.to_owned() };
        match error {
            DeviceError::Serial(serial) => malformed("disk serial number", serial, "letters and digits only"),
            DeviceError::SerialTwice(name) => Self::Twice { what: "disk serial number", name },
            DeviceError::Disks(count) => Self::TooMany { what: "disks", count, max: devices::DISKS_MAX },
            DeviceError::Tag(tag) => {
                let form = "letters, digits, '-', '_' or '.', starting with a letter or digit";
                malformed("share tag", tag, &format!("1 to {} {form}", devices::TAG_MAX))
            }
            DeviceError::TagTwice(name) => Self::Twice { what: "share tag", name },
            DeviceError::Target(target) => {
                malformed("share target", target, "an absolute path in the guest, without . and ..")
            }
            DeviceError::TargetTaken(target) => {
                malformed("share target", target, "the guest needs that folder itself")
            }
            DeviceError::TargetTwice(name) => Self::Twice { what: "share target", name },
            DeviceError::Shares(count) => Self::TooMany { what: "shares", count, max: devices::SHARES_MAX },
            DeviceError::VsockPort(port) => Self::OutOfRange {
                what: Quantity::VsockPort,
                value: port.into(),
                min: 1,
                max: u64::from(u32::MAX) - 1,
            },
        }
    }
}

/// A number of a configuration that has a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantity {
    /// Virtual CPUs.
    VirtualCpus,
    /// Memory in MiB.
    Memory,
    /// Size of the scratch disk in MiB.
    Scratch,
    /// A vsock port.
    VsockPort,
}

impl Quantity {
    /// That much of it, in words.
    fn of(self, value: u64) -> impl fmt::Display {
        match self {
            Self::VirtualCpus => format!("{value} virtual CPUs"),
            Self::Memory => format!("{value} MiB of memory"),
            Self::Scratch => format!("a scratch disk of {value} MiB"),
            Self::VsockPort => format!("vsock port {value}"),
        }
    }
}
