//! Archives of images, read in place: the outer tar archive is a list of files at offsets, and nothing of it is
//! extracted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vmette_oci::{Error, Files, ImageError, Slice, member_name, shown};

const BLOCK: usize = 512;
/// Most entries: an archive of several images of many layers has a few thousand.
const ENTRIES_MAX: usize = 1 << 16;
/// Bytes of all names and link targets, which are kept: two hundred for each of the most entries.
const NAMES_MAX: usize = 13 << 20;
/// Longest extended header in bytes: two names and a few numbers.
const EXTENSION_MAX: u64 = 64 << 10;
/// Links from one file to the next. Docker writes one, for a layer that comes twice.
const LINKS_MAX: usize = 8;

type Parsed<T> = Result<T, ImageError>;

/// Which files an archive holds, and where.
pub(crate) struct Outer {
    /// For messages.
    image: String,
    file: Arc<File>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    File {
        at: u64,
        size: u64,
    },
    /// To another name of the archive.
    Link(String),
}

impl Outer {
    /// Reads the headers of a tar archive that is not compressed. `image` is for messages.
    pub(crate) fn index(file: File, image: &str) -> Result<Self, Error> {
        let entries = Headers::of(&file).and_then(Headers::all).map_err(Error::image(image))?;
        Ok(Self { image: image.to_owned(), file: Arc::new(file), entries })
    }
}

impl Files for Outer {
    fn open(&self, name: &str) -> Result<Option<Slice>, Error> {
        let mut name = name;
        for _ in 0..=LINKS_MAX {
            match self.entries.get(name) {
                None => return Ok(None),
                Some(&Entry::File { at, size }) => return Ok(Some(Slice::new(self.file.clone(), at, size))),
                Some(Entry::Link(target)) => name = target,
            }
        }
        let problem = format!("links lead from one to the next more than {LINKS_MAX} times");
        Err(Error::image(&self.image)(malformed(problem)))
    }
}

/// The headers of an archive, one after the other.
struct Headers<'a> {
    file: &'a File,
    /// The length of the file, in bytes.
    len: u64,
    at: u64,
    entries: BTreeMap<String, Entry>,
    /// Bytes of their names and link targets.
    names: usize,
}

/// The fields of extended headers about the entry that follows them.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<'a> Headers<'a> {
    fn of(file: &'a File) -> Parsed<Self> {
        let len = file.metadata().map_err(unreadable)?.len();
        Ok(Self { file, len, at: 0, entries: BTreeMap::new(), names: 0 })
    }

    fn all(mut self) -> Parsed<BTreeMap<String, Entry>> {
        let mut said = Said::default();
        for _ in 0..ENTRIES_MAX {
            let Some(header) = self.header()? else { return Ok(self.entries) };
            let kind = header.as_old().linkflag[0];
            let size = header.entry_size().map_err(|_| self.damaged("the size is not a number"))?;
            let size = said.size.filter(|_| matches!(kind, b'0' | 0 | b'7')).unwrap_or(size);
            let content = self.at;
            let end = content.checked_add(size).filter(|&end| end <= self.len);
            let end =
                end.ok_or_else(|| malformed("it is truncated: an entry goes on after its end".to_owned()))?;
            self.at = end.next_multiple_of(BLOCK as u64);
            match kind {
                b'x' => self.extended(content, size, &mut said)?,
                b'L' => said.name = Some(self.text(content, size)?),
                b'K' => said.target = Some(self.text(content, size)?),
                // Says something of all entries; nothing that matters here.
                b'g' => {}
                _ => self.entry(&header, kind, content, size, std::mem::take(&mut said))?,
            }
        }
        Err(malformed(format!("it holds more than {ENTRIES_MAX} entries, the most that is let through")))
    }

    /// None at the mark of the archive's end, which one that was cut off lacks.
    fn header(&mut self) -> Parsed<Option<tar::Header>> {
        let mut header = tar::Header::new_old();
        match self.file.read_exact_at(header.as_mut_bytes(), self.at) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(if self.at == 0 { not_tar() } else { truncated() });
            }
            other => other.map_err(unreadable)?,
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return if self.at == 0 { Err(not_tar()) } else { Ok(None) };
        }
        // The sum of all bytes, with its own counted as blanks.
        let bytes = header.as_bytes();
        let sum = bytes[..148].iter().chain(&bytes[156..]).map(|&byte| u32::from(byte)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(if self.at == 0 { not_tar() } else { self.damaged("a header's checksum is wrong") });
        }
        self.at += BLOCK as u64;
        Ok(Some(header))
    }

    fn entry(&mut self, header: &tar::Header, kind: u8, at: u64, size: u64, said: Said) -> Parsed<()> {
        let path = said.name.unwrap_or_else(|| header.path_bytes().into_owned());
        // A name that leads out of the archive is one that nothing here asks for.
        let Some(name) = member_name("", &path) else { return Ok(()) };
        let target =
            || said.target.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let entry = match kind {
            b'0' | 0 | b'7' => Entry::File { at, size },
            b'1' => match target().and_then(|target| member_name("", &target)) {
                Some(target) => Entry::Link(target),
                None => return Ok(()),
            },
            b'2' => match target().and_then(|target| member_name(&name, &target)) {
                Some(target) => Entry::Link(target),
                None => return Ok(()),
            },
            b'5' => return Ok(()),
            // Nothing that belongs to an image; a sparse file's offsets would be wrong.
            _ => return Err(malformed(format!("its entry {} is not a file", shown(&name)))),
        };
        let target = if let Entry::Link(target) = &entry { target.len() } else { 0 };
        self.names += name.len() + target;
        if self.names > NAMES_MAX {
            return Err(malformed(format!(
                "it holds more than {NAMES_MAX} bytes of names, the most that is let through"
            )));
        }
        // Which of two files a reader takes depends on the reader: one could be shown, and the other run.
        if self.entries.insert(name.clone(), entry).is_some() {
            return Err(malformed(format!("it holds {} twice", shown(&name))));
        }
        Ok(())
    }

    fn extended(&self, at: u64, size: u64, said: &mut Said) -> Parsed<()> {
        let bytes = self.small(at, size)?;
        for record in tar::PaxExtensions::new(&bytes) {
            let record = record.map_err(|_| self.damaged("an extended header is malformed"))?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => said.name = Some(value.to_vec()),
                b"linkpath" => said.target = Some(value.to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    said.size = Some(size.ok_or_else(|| self.damaged("the size is not a number"))?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A long name, which ends with a NUL.
    fn text(&self, at: u64, size: u64) -> Parsed<Vec<u8>> {
        let mut text = self.small(at, size)?;
        if let Some(end) = text.iter().position(|&byte| byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn small(&self, at: u64, size: u64) -> Parsed<Vec<u8>> {
        let len = usize::try_from(size).ok().filter(|_| size <= EXTENSION_MAX);
        let mut bytes = vec![0; len.ok_or_else(|| self.damaged("an extended header is longer than 64 KiB"))?];
        self.file.read_exact_at(&mut bytes, at).map_err(unreadable)?;
        Ok(bytes)
    }

    fn damaged(&self, what: &str) -> ImageError {
        malformed(format!("{what}, {} bytes in", self.at))
    }
}

fn malformed(problem: String) -> ImageError {
    ImageError::Malformed { what: "the archive".to_owned(), problem }
}

fn not_tar() -> ImageError {
    malformed("it is no tar archive".to_owned())
}

fn truncated() -> ImageError {
    malformed("it is truncated".to_owned())
}

fn unreadable(source: io::Error) -> ImageError {
    ImageError::Read { what: "the archive".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use proptest::prelude::*;

    use super::*;

    fn append(
        builder: &mut tar::Builder<Vec<u8>>,
        kind: tar::EntryType,
        name: &str,
        target: &str,
        content: &[u8],
    ) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if target.is_empty() {
            builder.append_data(&mut header, name, content).unwrap();
        } else {
            builder.append_link(&mut header, name, target).unwrap();
        }
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        append(builder, tar::EntryType::Regular, name, "", content);
    }

    fn sample() -> tar::Builder<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        file(&mut builder, "manifest.json", b"[]");
        append(&mut builder, tar::EntryType::Directory, "a/", "", b"");
        file(&mut builder, &format!("a/{}", "long".repeat(60)), &[7; 600]);
        append(&mut builder, tar::EntryType::Symlink, "b/layer.tar", "../manifest.json", b"");
        append(&mut builder, tar::EntryType::Link, "hard", &format!("a/{}", "long".repeat(60)), b"");
        file(&mut builder, "last", b"end");
        builder
    }

    fn index(bytes: &[u8]) -> Result<Outer, Error> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Outer::index(file, "x.tar")
    }

    fn read(outer: &Outer, name: &str) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        outer.open(name).unwrap()?.read_to_end(&mut content).unwrap();
        Some(content)
    }

    fn refusal(builder: tar::Builder<Vec<u8>>) -> String {
        index(&builder.into_inner().unwrap()).err().unwrap().to_string()
    }

    #[test]
    fn files_are_found_in_place() {
        let outer = index(&sample().into_inner().unwrap()).unwrap();
        assert_eq!(read(&outer, "manifest.json").unwrap(), b"[]");
        assert_eq!(read(&outer, "b/layer.tar").unwrap(), b"[]");
        assert_eq!(read(&outer, "hard").unwrap(), [7; 600]);
        assert_eq!(read(&outer, "last").unwrap(), b"end");
        assert_eq!(read(&outer, "a"), None);
    }

    #[test]
    fn names_have_a_limit_together() {
        let with = |longest: usize| {
            let mut builder = tar::Builder::new(Vec::new());
            for number in 0..NAMES_MAX / 4000 {
                let target = "t".repeat(longest - 1900);
                let name = format!("{number:04}{}", "n".repeat(1900 - 4));
                append(&mut builder, tar::EntryType::Symlink, &name, &target, b"");
            }
            builder
        };
        assert!(index(&with(4000).into_inner().unwrap()).is_ok());
        assert!(refusal(with(4010)).contains("bytes of names"));
    }

    #[test]
    fn names_stay_inside() {
        assert_eq!(member_name("", b"./a//b/."), Some("a/b".to_owned()));
        assert_eq!(member_name("x/y/link", b"../z"), Some("x/z".to_owned()));
        for outside in [&b"../a"[..], b"a/../../b", b"/etc/passwd", b"", b".", b"\xff", &[b'a'; 4097]] {
            assert_eq!(member_name("", outside), None);
        }
        assert_eq!(member_name("link", b"../etc/passwd"), None);
    }

    #[test]
    fn refusals() {
        assert!(index(b"").err().unwrap().to_string().contains("no tar archive"));
        assert!(index(&[b'x'; 4096]).err().unwrap().to_string().contains("no tar archive"));
        let mut twice = sample();
        file(&mut twice, "./manifest.json", b"{}");
        assert!(refusal(twice).contains("manifest.json twice"));
        let mut device = sample();
        append(&mut device, tar::EntryType::Char, "dev", "", b"");
        assert!(refusal(device).contains("dev is not a file"));

        let mut circle = sample();
        append(&mut circle, tar::EntryType::Symlink, "one", "two", b"");
        append(&mut circle, tar::EntryType::Symlink, "two", "one", b"");
        let outer = index(&circle.into_inner().unwrap()).unwrap();
        assert!(outer.open("one").err().unwrap().to_string().contains("links lead"));
    }

    #[test]
    fn every_cut_is_refused() {
        let whole = sample().into_inner().unwrap();
        for len in (512..=whole.len() - 1024).step_by(128) {
            assert!(index(&whole[..len]).err().unwrap().to_string().contains("truncated"), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_damage_panics(at in 0..4096usize, byte: u8) {
            let mut sample = sample().into_inner().unwrap();
            let at = at % sample.len();
            sample[at] = byte;
            let start = at / 512 * 512;
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&sample[start..start + 512]);
            header.set_cksum();
            sample[start..start + 512].copy_from_slice(header.as_bytes());
            if let Ok(outer) = index(&sample) {
                let _ = outer.open("manifest.json").map(|file| file.map(io::read_to_string));
            }
        }
    }
}
