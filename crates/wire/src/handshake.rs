//! The first request of a connection: which host speaks, and what makes the machine one of its own.

use serde::{Deserialize, Serialize};

use crate::root::{ROOTS_MAX, RootName};

/// Version of all messages. Host and guest are built together; a difference means a stale template or a foreign
/// initramfs.
pub const PROTOCOL_VERSION: u32 = 6;

/// Bytes of fresh randomness in the payload of a [`Hello`].
pub const ENTROPY_LEN: usize = 64;

/// Length of a machine id, in hexadecimal digits.
const MACHINE_ID_LEN: usize = 32;

/// Longest DNS label, in bytes.
const HOSTNAME_MAX: usize = 63;

/// Names, clock and randomness that make this machine different from every other clone of its template. Payload: [`ENTROPY_LEN`] random bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the host.
    pub protocol: u32,
    /// The host's clock: nanoseconds since 1970, UTC.
    pub realtime_ns: u64,
    /// Host name of the guest, a valid DNS label.
    pub hostname: String,
    /// Contents of `/etc/machine-id`: 32 lower-case hexadecimal digits.
    pub machine_id: String,
    /// Roots of a machine that was saved whose shares are to come: no workload runs on until each of them has had its
    /// [`Attach`](crate::root::Attach).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaited: Vec<RootName>,
}

/// A greeting that the guest does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HelloError {
    #[error(
        "the host speaks protocol {0}, this guest {PROTOCOL_VERSION}: a stale template or a foreign initramfs; remove \
         the template and use the initramfs of this version"
    )]
    Protocol(u32),
    #[error("host name {0:?} is not a DNS label")]
    Hostname(String),
    #[error("machine id {0:?} is not {MACHINE_ID_LEN} lower-case hexadecimal digits")]
    MachineId(String),
    #[error("hello carries {0} random bytes, {ENTROPY_LEN} are needed")]
    Entropy(usize),
    #[error("hello names {0} roots that shares are to come for (allowed: up to {ROOTS_MAX})")]
    Awaited(usize),
}

impl Hello {
    /// Checks the greeting, and returns the randomness of its payload.
    ///
    /// # Errors
    /// [`HelloError`] names what is wrong.
    pub fn check<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8; ENTROPY_LEN], HelloError> {
        if self.protocol != PROTOCOL_VERSION {
            return Err(HelloError::Protocol(self.protocol));
        }
        let name = &self.hostname;
        let label = (1..=HOSTNAME_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !label {
            return Err(HelloError::Hostname(name.clone()));
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.machine_id.len() != MACHINE_ID_LEN || !self.machine_id.bytes().all(hex) {
            return Err(HelloError::MachineId(self.machine_id.clone()));
        }
        if self.awaited.len() > ROOTS_MAX {
            return Err(HelloError::Awaited(self.awaited.len()));
        }
        payload.try_into().map_err(|_| HelloError::Entropy(payload.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            realtime_ns: 1,
            hostname: "vm-1".into(),
            machine_id: "0123456789abcdef".repeat(2),
            awaited: Vec::new(),
        }
    }

    #[test]
    fn a_foreign_protocol_is_refused_naming_both() {
        let error = Hello { protocol: 99, ..hello() }.check(&[0; ENTROPY_LEN]).unwrap_err().to_string();
        assert!(error.contains("99") && error.contains(&PROTOCOL_VERSION.to_string()), "{error}");
    }

    #[test]
    fn names_and_entropy_are_checked() {
        assert!(hello().check(&[0; ENTROPY_LEN]).is_ok());
        assert_eq!(hello().check(&[0; ENTROPY_LEN - 1]), Err(HelloError::Entropy(ENTROPY_LEN - 1)));
        for name in ["", "-a", "a-", "a.b", "a b", "ü", &"a".repeat(64)] {
            let checked = Hello { hostname: name.into(), ..hello() }.check(&[0; ENTROPY_LEN]).map(drop);
            assert_eq!(checked, Err(HelloError::Hostname(name.into())));
        }
        for id in ["", "0123", &"G".repeat(32), &"A".repeat(32)] {
            let checked = Hello { machine_id: id.into(), ..hello() }.check(&[0; ENTROPY_LEN]).map(drop);
            assert_eq!(checked, Err(HelloError::MachineId(id.into())));
        }
        let awaited = vec![RootName::default(); ROOTS_MAX + 1];
        let checked = Hello { awaited, ..hello() }.check(&[0; ENTROPY_LEN]).map(drop);
        assert_eq!(checked, Err(HelloError::Awaited(ROOTS_MAX + 1)));
    }
}
