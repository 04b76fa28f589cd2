//! The guest's `/init`, embedded.

/// The embedded file; empty where the library was built on a host that cannot build for Linux.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vmette-guest"));

/// The static Linux binary that becomes `/init` of every guest, for the architecture of this library. None when the
/// library was built elsewhere than on Linux without a prebuilt one.
pub const GUEST: Option<&[u8]> = if EMBEDDED.is_empty() { None } else { Some(EMBEDDED) };

/// SHA-256 of the embedded binary, in hexadecimal: part of every key that depends on the guest.
pub const GUEST_SHA256: &str = env!("VMETTE_GUEST_SHA256");

#[cfg(test)]
mod tests {
    use super::super::elf;
    use super::*;

    #[test]
    fn the_embedded_guest_needs_no_loader() {
        if let Some(guest) = GUEST {
            assert!(elf::is_static_program(guest), "an /init that asks for ld.so panics the kernel");
        }
    }

    #[test]
    fn the_digest_is_of_the_embedded_bytes() {
        use sha2::{Digest as _, Sha256};
        assert_eq!(GUEST_SHA256, format!("{:x}", Sha256::digest(EMBEDDED)));
    }
}
