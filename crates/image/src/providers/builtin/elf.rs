//! Programs that run without a loader and libraries, which the rootfs they go into does not have.

use object::Endianness;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// Programs of the guest's architecture, which is the host's.
const MACHINE: elf::Machine = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ElfError {
    #[error("is not a 64-bit ELF program")]
    NotElf,
    #[error("is a program of another architecture")]
    Foreign,
    #[error("is a damaged ELF program")]
    Damaged,
    #[error("is not static: it needs the libraries of its system")]
    Dynamic,
    #[error("is larger than {max} bytes")]
    TooLarge { max: u64 },
}

/// Returns whether this is a program of the guest's architecture that needs no dynamic loader.
#[must_use]
pub fn is_static_program(program: &[u8]) -> bool {
    check_static(program).is_ok()
}

/// A static program has something to load, and no `PT_INTERP` segment. The beginning of a file is enough, as far as the
/// program headers are in it.
pub(super) fn check_static(program: &[u8]) -> Result<(), ElfError> {
    let header = FileHeader64::<Endianness>::parse(program).map_err(|_| ElfError::NotElf)?;
    let endian = header.endian().map_err(|_| ElfError::NotElf)?;
    if header.e_machine(endian) != MACHINE {
        return Err(ElfError::Foreign);
    }
    if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
        return Err(ElfError::NotElf);
    }
    let segments = header.program_headers(endian, program).map_err(|_| ElfError::Damaged)?;
    let has = |wanted| segments.iter().any(|segment| segment.p_type(endian) == wanted);
    if has(elf::PT_INTERP) {
        return Err(ElfError::Dynamic);
    }
    if has(elf::PT_LOAD) { Ok(()) } else { Err(ElfError::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header and one program header.
    fn program(segment: elf::ProgramType) -> Vec<u8> {
        let mut program = vec![0; 64 + 56];
        program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        program[16..18].copy_from_slice(&elf::ET_EXEC.0.to_le_bytes());
        program[18..20].copy_from_slice(&MACHINE.0.to_le_bytes());
        (program[32], program[52], program[54], program[56]) = (64, 64, 56, 1);
        program[64..68].copy_from_slice(&segment.0.to_le_bytes());
        program
    }

    #[test]
    fn static_and_dynamic() {
        assert_eq!(check_static(&program(elf::PT_LOAD)), Ok(()));
        assert_eq!(check_static(&program(elf::PT_INTERP)), Err(ElfError::Dynamic));
        let mut foreign = program(elf::PT_LOAD);
        foreign[18] = 0xff;
        assert_eq!(check_static(&foreign), Err(ElfError::Foreign));
    }

    #[test]
    fn a_script_and_damage() {
        assert_eq!(check_static(b"#!/bin/sh\n"), Err(ElfError::NotElf));
        assert_eq!(check_static(&program(elf::PT_LOAD)[..100]), Err(ElfError::Damaged));
        for at in 0..64 {
            let mut damaged = program(elf::PT_LOAD);
            damaged[at] = 0xff;
            let _ = check_static(&damaged);
        }
    }
}
