//! Whether a program runs without a loader and libraries, which the rootfs it goes into does not have.

const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const PT_INTERP: u32 = 3;
const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ElfError {
    #[error("is not a 64-bit little-endian ELF program")]
    NotElf,
    #[error("is a damaged ELF program")]
    Damaged,
    #[error("is not static: it needs the libraries of its system")]
    Dynamic,
    #[error("is larger than {max} bytes")]
    TooLarge { max: u64 },
}

/// A static program has no `PT_INTERP` segment.
pub(super) fn check_static(program: &[u8]) -> Result<(), ElfError> {
    let header = program.get(..HEADER_LEN).ok_or(ElfError::NotElf)?;
    if header[..4] != MAGIC || header[4] != CLASS_64 || header[5] != LITTLE_ENDIAN {
        return Err(ElfError::NotElf);
    }
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut offset = [0; 8];
    offset.copy_from_slice(&header[32..40]);
    let table = usize::try_from(u64::from_le_bytes(offset)).map_err(|_| ElfError::Damaged)?;
    let (entry_len, count) = (u16_at(54), u16_at(56));
    if entry_len != PROGRAM_HEADER_LEN || count == 0 {
        return Err(ElfError::Damaged);
    }
    let end = table.checked_add(entry_len * count).ok_or(ElfError::Damaged)?;
    let table = program.get(table..end).ok_or(ElfError::Damaged)?;
    let dynamic = table.chunks_exact(entry_len).any(|entry| entry[..4] == PT_INTERP.to_le_bytes());
    if dynamic { Err(ElfError::Dynamic) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(segment: u32) -> Vec<u8> {
        let mut program = vec![0; HEADER_LEN + PROGRAM_HEADER_LEN];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[32] = 64;
        program[54] = 56;
        program[56] = 1;
        program[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&segment.to_le_bytes());
        program
    }

    #[test]
    fn static_and_dynamic() {
        assert_eq!(check_static(&program(1)), Ok(()));
        assert_eq!(check_static(&program(PT_INTERP)), Err(ElfError::Dynamic));
    }

    #[test]
    fn a_script_and_damage() {
        assert_eq!(check_static(b"#!/bin/sh\n"), Err(ElfError::NotElf));
        assert_eq!(check_static(&program(1)[..100]), Err(ElfError::Damaged));
        for at in 0..HEADER_LEN {
            let mut damaged = program(1);
            damaged[at] = 0xff;
            let _ = check_static(&damaged);
        }
    }
}
