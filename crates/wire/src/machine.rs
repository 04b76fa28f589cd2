//! Requests about the machine as a whole. Each has one answer.

use serde::{Deserialize, Serialize};

use crate::devices::{self, DeviceError};

/// A request about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MachineRequest {
    /// Sets up what all roots share. Once per machine, before its first root.
    Boot(Boot),
    /// Answered at once, also to a host that has not said hello.
    Ping,
    /// Writes everything that is dirty in the guest to its disks and shares, then answers.
    Sync,
    /// Freezes all workloads and sends what is under way, then an answer, and then nothing until `release` or `hello`.
    Hold,
    /// Sets the clock, which stood still with the machine, and sends again, beginning with an answer. Thaws the workloads
    /// unless a root lacks its shares.
    Release {
        /// The host's clock: nanoseconds since 1970, UTC.
        realtime_ns: u64,
    },
}

/// Devices and abilities of the machine that all of its roots share. The answer comes when the devices are there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Serial numbers of block devices that every root is to see, beside its own.
    #[serde(default)]
    pub disks: Vec<String>,
    /// A vsock device; every root gets its programs.
    #[serde(default)]
    pub vsock: bool,
    /// A network device; its address is leased from the DHCP server behind it, and renewed.
    #[serde(default)]
    pub network: bool,
    /// Copies of the machine may be made: commands are members of control groups, which can be frozen, and every root has
    /// the programs for devices that only a copy gets.
    #[serde(default)]
    pub savable: bool,
}

impl Boot {
    /// Checks the names of the devices.
    ///
    /// # Errors
    /// [`DeviceError`] names the one that cannot be.
    pub fn check(&self) -> Result<(), DeviceError> {
        devices::check_serials(self.disks.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_devices_are() {
        let boot = |serial: &str| Boot { disks: vec![serial.into()], ..Boot::default() };
        assert_eq!(boot("scratch").check(), Ok(()));
        for bad in ["", "rootfs", "a/b"] {
            assert!(boot(bad).check().is_err(), "{bad:?}");
        }
    }
}
