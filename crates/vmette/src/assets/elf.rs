//! Facts about ELF files: a loader that they need, a PVH entry point, a kernel module's description of itself.

use std::str;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, LittleEndian};

/// Note type of the 32-bit physical entry point that a hypervisor may start a kernel at (Xen's `elfnote.h`).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

pub(super) use vmette_image::is_static_program;

/// Returns whether this is an x86-64 kernel with a PVH entry point.
pub(super) fn has_pvh_entry(data: &[u8]) -> bool {
    let Ok(header) = FileHeader64::<LittleEndian>::parse(data) else { return false };
    let Ok(segments) = header.program_headers(LittleEndian, data) else { return false };
    header.e_machine(LittleEndian) == elf::EM_X86_64
        && segments.iter().any(|segment| {
            let Ok(Some(mut notes)) = segment.notes(LittleEndian, data) else { return false };
            while let Ok(Some(note)) = notes.next() {
                if note.name() == b"Xen" && note.n_type(LittleEndian).0 == XEN_ELFNOTE_PHYS32_ENTRY {
                    return true;
                }
            }
            false
        })
}

/// The `key=value` lines of a kernel module's `.modinfo` section; None when it has no such section.
pub(super) fn modinfo(data: &[u8]) -> Option<Vec<(&str, &str)>> {
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let (_, section) = sections.section_by_name(endian, b".modinfo")?;
    let content = section.data(endian, data).ok()?;
    Some(
        content
            .split(|byte| *byte == 0)
            .filter_map(|line| str::from_utf8(line).ok()?.split_once('='))
            .collect(),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Programs of the guest's architecture, which is the host's.
    const MACHINE: elf::Machine =
        if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };

    /// An ELF file of the host's architecture with one segment and one section `.modinfo`, laid out by hand: header,
    /// program header, segment content, section content, section names, section headers.
    pub(crate) fn image(segment_type: u32, segment: &[u8], modinfo: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let u = |n: usize| u64::try_from(n).unwrap();
        let (segment_at, info_at) = (64 + 56, 64 + 56 + segment.len());
        let names_at = info_at + modinfo.len();
        let sections_at = names_at + NAMES.len();
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend(2u16.to_le_bytes());
        out.extend(MACHINE.0.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        for value in [0, 64, u(sections_at)] {
            out.extend(value.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 64, 3, 2] {
            out.extend(half.to_le_bytes());
        }
        out.extend(segment_type.to_le_bytes());
        out.extend(4u32.to_le_bytes());
        for value in [u(segment_at), 0, 0, u(segment.len()), u(segment.len()), 4] {
            out.extend(value.to_le_bytes());
        }
        out.extend(segment);
        out.extend(modinfo);
        out.extend(NAMES);
        for (name, kind, at, size) in
            [(0u32, 0u32, 0, 0), (1, 1, info_at, modinfo.len()), (10, 3, names_at, NAMES.len())]
        {
            out.extend(name.to_le_bytes());
            out.extend(kind.to_le_bytes());
            for value in [0, 0, u(at), u(size)] {
                out.extend(value.to_le_bytes());
            }
            out.extend([0; 8]);
            for value in [1u64, 0] {
                out.extend(value.to_le_bytes());
            }
        }
        out
    }

    pub(crate) fn pvh_note(name: &[u8; 4], kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4u32, 4, kind] {
            note.extend(word.to_le_bytes());
        }
        note.extend(name);
        note.extend(0x0100_0000u32.to_le_bytes());
        note
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        assert!(is_static_program(&image(elf::PT_LOAD.0, b"code", b"")));
        assert!(!is_static_program(&image(elf::PT_INTERP.0, b"/lib/ld.so\0", b"")));
        assert!(!is_static_program(b"#!/bin/sh\n"));
        let mut foreign = image(elf::PT_LOAD.0, b"code", b"");
        foreign[18] = 0xff;
        assert!(!is_static_program(&foreign));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn only_the_xen_note_makes_a_pvh_kernel() {
        assert!(has_pvh_entry(&image(elf::PT_NOTE.0, &pvh_note(b"Xen\0", 18), b"")));
        assert!(!has_pvh_entry(&image(elf::PT_NOTE.0, &pvh_note(b"Xen\0", 17), b"")));
        assert!(!has_pvh_entry(&image(elf::PT_NOTE.0, &pvh_note(b"GNU\0", 18), b"")));
        assert!(!has_pvh_entry(&image(elf::PT_LOAD.0, &pvh_note(b"Xen\0", 18), b"")));
        assert!(!has_pvh_entry(b"MZ"));
    }

    #[test]
    fn a_module_tells_its_dependencies() {
        let module =
            image(elf::PT_LOAD.0, b"", b"license=GPL\0depends=a,b\0\0softdep=pre: c\0name=m\0junk\0");
        let info = modinfo(&module).unwrap();
        assert_eq!(info, [("license", "GPL"), ("depends", "a,b"), ("softdep", "pre: c"), ("name", "m")]);
        assert_eq!(modinfo(b"\x7fELF"), None);
    }

    #[test]
    fn cut_files_are_refused_without_a_panic() {
        let whole = image(elf::PT_NOTE.0, &pvh_note(b"Xen\0", 18), b"depends=a\0");
        for cut in 0..whole.len() {
            let part = &whole[..cut];
            let _ = (is_static_program(part), has_pvh_entry(part), modinfo(part));
        }
    }
}
