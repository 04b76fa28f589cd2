//! The identity that makes a clone a machine of its own.

use std::time::{SystemTime, UNIX_EPOCH};

use vmette_wire::Hello;
use vmette_wire::handshake::{ENTROPY_LEN, PROTOCOL_VERSION};

use crate::Error;

/// A `hello` with fresh randomness, the time, and a name; and its payload.
pub(crate) fn hello() -> Result<(Hello, [u8; ENTROPY_LEN]), Error> {
    let entropy = random()?;
    let id: [u8; 16] = random()?;
    let machine_id: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        realtime_ns: now_ns(),
        hostname: format!("vmette-{}", &machine_id[..8]),
        machine_id,
        awaited: Vec::new(),
    };
    Ok((hello, entropy))
}

/// Nanoseconds since 1970, UTC.
pub(crate) fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::Io(e.into()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike() {
        let ((a, entropy_a), (b, entropy_b)) = (hello().unwrap(), hello().unwrap());
        assert_ne!(a.machine_id, b.machine_id);
        assert_ne!(entropy_a, entropy_b);
        assert_eq!(a.machine_id.len(), 32);
        assert!(a.machine_id.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()));
    }
}
