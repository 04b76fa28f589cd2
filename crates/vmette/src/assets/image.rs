//! The header of a kernel image, and the uncompressed kernel inside of an x86 one.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use vmette_cache::{CacheRoot, FileStamp, KeyBuilder};
use vmette_work::Work;

use super::{AssetError, decompress, elf};

/// Offsets in the x86 boot header (`Documentation/arch/x86/boot.rst`).
const SETUP_SECTORS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PROTOCOL_VERSION: usize = 0x206;
const VERSION_POINTER: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first protocol whose header names the payload.
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;
const SECTOR: usize = 512;

/// Offset and value of the arm64 image's magic (`Documentation/arch/arm64/booting.rst`).
const ARM64_MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// The header and the version text lie within the setup code, which is at most 64 sectors long.
const HEAD: u64 = 64 * 512 + 512;
/// The longest version that is believed.
const MAX_VERSION: usize = 128;
/// No compressed kernel is larger; what is read into memory is bounded by it.
const MAX_IMAGE: u64 = 512 << 20;
/// No uncompressed kernel is larger; a distribution's has 50 to 90 MiB.
const MAX_VMLINUX: usize = 1 << 30;

/// Part of every key: raised when the way of extraction changes.
const FORMAT: &str = "vmlinux 1";

/// The first part of a kernel image.
pub(super) struct Head(Vec<u8>);

impl Head {
    /// Reads it, and refuses what is no kernel for this architecture: a hypervisor would only show a blank screen.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a file; a Linux kernel image is needed",
            ));
        }
        let mut head = Vec::new();
        file.take(HEAD).read_to_end(&mut head)?;
        let head = Self(head);
        if head.is_kernel() {
            Ok(head)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("not a Linux kernel image for {} (vmlinuz, vmlinux or Image)", super::ARCH),
            ))
        }
    }

    fn is_kernel(&self) -> bool {
        let head = &self.0;
        let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|tail| tail.starts_with(magic));
        let native = if cfg!(target_arch = "aarch64") {
            has(ARM64_MAGIC.0, ARM64_MAGIC.1) || has(0, b"MZ") || has(0, &[0x1f, 0x8b])
        } else {
            self.is_bzimage()
        };
        native || has(0, b"\x7fELF")
    }

    fn is_bzimage(&self) -> bool {
        self.0.get(HEADER_MAGIC..).is_some_and(|tail| tail.starts_with(b"HdrS"))
    }

    /// The version that an x86 image carries: the first word of its version text, `6.1.0-56-cloud-amd64`.
    pub(super) fn version(&self) -> Option<String> {
        if !self.is_bzimage() {
            return None;
        }
        let pointer = usize::from(self.u16(VERSION_POINTER)?);
        let text = self.0.get(pointer + SECTOR..)?;
        let word = text.iter().take(MAX_VERSION).position(|byte| matches!(byte, b' ' | 0))?;
        let version = std::str::from_utf8(&text[..word]).ok()?;
        is_version(version).then(|| version.to_owned())
    }

    /// Where the compressed kernel lies in the image: offset and length.
    fn payload(&self) -> Option<(usize, usize)> {
        if !self.is_bzimage() || self.u16(PROTOCOL_VERSION)? < PROTOCOL_WITH_PAYLOAD {
            return None;
        }
        let setup = match self.0.get(SETUP_SECTORS)? {
            0 => 4,
            sectors => usize::from(*sectors),
        };
        let offset = (setup + 1) * SECTOR + self.u32(PAYLOAD_OFFSET)?;
        Some((offset, self.u32(PAYLOAD_LENGTH)?))
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn u32(&self, at: usize) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(*self.0.get(at..)?.first_chunk()?)).ok()
    }
}

/// True if the text can be a kernel's or a package's version, and so a folder's name: it comes out of a file.
pub(super) fn is_version(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_VERSION
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-~:".contains(&byte))
}

/// The uncompressed kernel inside of a `vmlinuz`, kept in the cache: started at its PVH entry it is up half a second
/// earlier under emulation, because neither firmware nor the kernel's own unpacker run. `None` when the image holds no
/// ELF file with such an entry, or packs it in a way that is not known; then the image itself is to be booted.
pub fn vmlinux_of(vmlinuz: &Path, cache: &CacheRoot, work: &Work) -> Result<Option<PathBuf>, AssetError> {
    let stamp = FileStamp::of(vmlinuz).map_err(AssetError::file("kernel", vmlinuz))?;
    let name = format!("{}.elf", KeyBuilder::new().text(FORMAT).content(&stamp).finish());
    let path = cache.shelf("vmlinux")?.file(&name, work, |out| {
        work.step("unpacking the kernel");
        let elf = extract(vmlinuz).map_err(AssetError::file("kernel", vmlinuz))?;
        // "There is none" is remembered as an empty file.
        out.write_all(&elf.unwrap_or_default()).map_err(|e| AssetError::cache(cache.path())(e))
    })?;
    let length = path.metadata().map_err(AssetError::cache(&path))?.len();
    Ok((length > 0).then_some(path))
}

/// The PVH kernel in the image. Only reading can fail; `None` if no such kernel can be unpacked.
fn extract(vmlinuz: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some((offset, length)) = Head::read(vmlinuz)?.payload() else { return Ok(None) };
    let mut image = Vec::new();
    File::open(vmlinuz)?.take(MAX_IMAGE).read_to_end(&mut image)?;
    let payload = offset.checked_add(length).and_then(|end| image.get(offset..end));
    Ok(payload
        .and_then(|payload| decompress::decompress(payload, MAX_VMLINUX).ok())
        .filter(|kernel| elf::has_pvh_entry(kernel)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    /// An x86 image of that version with that payload.
    pub(crate) fn bzimage(version: &str, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PROTOCOL_VERSION..PROTOCOL_VERSION + 2].copy_from_slice(&0x020fu16.to_le_bytes());
        image[VERSION_POINTER..VERSION_POINTER + 2].copy_from_slice(&0x100u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        let text = format!("{version} (builder@host) #1 SMP");
        image[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    #[test]
    fn versions_are_fit_for_a_folder() {
        for good in ["6.1.0-56-cloud-amd64", "1:1.35.0-4+deb12u1+b1", "6.12~rc1"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "..", "../x", "a/b", "-x", ".lock", "a b", &"1".repeat(129)] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        for content in [&b""[..], b"#!/bin/sh\n", &[0; 100_000]] {
            fs::write(&file, content).unwrap();
            let error = Head::read(&file).err().unwrap();
            assert!(error.to_string().contains("not a Linux kernel image"), "{error}");
        }
        assert!(Head::read(folder.path()).err().unwrap().to_string().contains("not a file"));
        assert_eq!(Head::read(&folder.path().join("gone")).err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use super::super::super::tests::{idle, listening};
        use super::*;

        #[test]
        fn the_version_is_read_from_the_image() {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("vmlinuz");
            fs::write(&file, bzimage("6.1.0-9-cloud-amd64", b"")).unwrap();
            assert_eq!(Head::read(&file).unwrap().version().as_deref(), Some("6.1.0-9-cloud-amd64"));
            fs::write(&file, bzimage("../../etc", b"")).unwrap();
            assert_eq!(Head::read(&file).unwrap().version(), None);
        }

        #[test]
        fn the_kernel_inside_is_unpacked_once() {
            let folder = tempfile::tempdir().unwrap();
            let cache = CacheRoot::at(folder.path().join("cache"));
            let file = folder.path().join("vmlinuz");
            let kernel = elf::tests::image(4, &elf::tests::pvh_note(b"Xen\0", 18), b"");
            let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
            let block = lz4_flex::block::compress(&kernel);
            payload.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            payload.extend(block);
            payload.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
            fs::write(&file, bzimage("1", &payload)).unwrap();

            let (work, steps) = listening();
            let path = vmlinux_of(&file, &cache, &work).unwrap().unwrap();
            assert_eq!(fs::read(&path).unwrap(), kernel);
            assert_eq!(vmlinux_of(&file, &cache, &work).unwrap(), Some(path));
            assert_eq!(steps(), ["unpacking the kernel"]);
        }

        #[test]
        fn an_image_without_a_pvh_kernel_is_booted_as_it_is() {
            let folder = tempfile::tempdir().unwrap();
            let cache = CacheRoot::at(folder.path().join("cache"));
            let file = folder.path().join("vmlinuz");
            let mut beyond = bzimage("1", b"");
            beyond[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 8].fill(0xff);
            for image in [bzimage("1", b"\x7fELF"), bzimage("1", &[0x1f, 0x8b, 9]), bzimage("1", b""), beyond]
            {
                fs::write(&file, image).unwrap();
                assert_eq!(vmlinux_of(&file, &cache, &Work::quiet()).unwrap(), None);
                assert_eq!(vmlinux_of(&file, &cache, &idle()).unwrap(), None);
                fs::remove_dir_all(cache.path()).unwrap();
            }
        }
    }
}
