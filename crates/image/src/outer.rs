//! Archives of images, read in place: the outer tar archive is a list of files at offsets, and nothing of it is
//! extracted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::sync::Arc;

use vmette_oci::{Error, Files, ImageError, MEMBER_LINKS_MAX, Slice, member_name, shown};

use crate::notes::Notes;
use crate::tar::{self, ArchiveError, Budget, Kind, Source};

/// Most entries: an archive of several images of many layers has a few thousand.
const ENTRIES_MAX: usize = 1 << 16;
/// Bytes of all names and link targets, which are kept: two hundred for each of the most entries.
const NAMES_MAX: usize = 13 << 20;
/// Bytes that are read at once: a header, and those after small files.
const BUFFER: usize = 8 << 10;

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
        let entries = entries(&file).map_err(Error::image(image))?;
        Ok(Self { image: image.to_owned(), file: Arc::new(file), entries })
    }
}

impl Files for Outer {
    fn open(&self, name: &str) -> Result<Option<Slice>, Error> {
        let mut name = name.to_owned();
        for _ in 0..=MEMBER_LINKS_MAX {
            name = match self.entries.get(&name) {
                Some(&Entry::File { at, size }) => return Ok(Some(Slice::new(self.file.clone(), at, size))),
                Some(Entry::Link(target)) => target.clone(),
                None => match self.below_link(&name) {
                    Some(linked) => linked,
                    None => return Ok(None),
                },
            };
        }
        let problem = format!("links lead from one to the next more than {MEMBER_LINKS_MAX} times");
        Err(Error::image(&self.image)(malformed(problem)))
    }
}

impl Outer {
    /// The name that one has whose folder is a link.
    fn below_link(&self, name: &str) -> Option<String> {
        name.match_indices('/').find_map(|(at, _)| match self.entries.get(&name[..at]) {
            Some(Entry::Link(target)) => Some(format!("{target}{}", &name[at..])),
            _ => None,
        })
    }
}

/// The entries of an archive, without a look at their content.
fn entries(file: &File) -> Parsed<BTreeMap<String, Entry>> {
    let len = file.metadata().map_err(unreadable)?.len();
    let mut from_start = file;
    from_start.rewind().map_err(unreadable)?;
    let (budget, notes) = (Budget::new(u64::MAX, "no variable"), Notes::default());
    let mut source = Source::new(BufReader::with_capacity(BUFFER, from_start), &budget, &notes);
    let (mut entries, mut names) = (BTreeMap::new(), 0);
    let mut count = 0;
    while let Some(tar::Entry { path, kind, .. }) = tar::next(&mut source).map_err(defect)? {
        count += 1;
        if count > ENTRIES_MAX {
            let problem = format!("it holds more than {ENTRIES_MAX} entries, the most that is let through");
            return Err(malformed(problem));
        }
        let at = source.offset();
        if let Kind::File(size) = kind {
            if at.checked_add(size).is_none_or(|end| end > len) {
                return Err(malformed("it is truncated: an entry goes on after its end".to_owned()));
            }
            source.jump(size).map_err(defect)?;
        }
        // A name that leads out of the archive is one that nothing here asks for.
        let Some(name) = member_name("", &path) else { continue };
        let entry = match kind {
            Kind::File(size) => Some(Entry::File { at, size }),
            Kind::HardLink(target) => member_name("", &target).map(Entry::Link),
            Kind::Symlink(target) => member_name(&name, &target).map(Entry::Link),
            Kind::Dir => None,
            // Nothing that belongs to an image; a sparse file's offsets would be wrong.
            _ => return Err(malformed(format!("its entry {} is not a file", shown(&name)))),
        };
        let Some(entry) = entry else { continue };
        names += name.len() + if let Entry::Link(target) = &entry { target.len() } else { 0 };
        if names > NAMES_MAX {
            let problem =
                format!("it holds more than {NAMES_MAX} bytes of names, the most that is let through");
            return Err(malformed(problem));
        }
        // Which of two files a reader takes depends on the reader: one could be shown, and the other run.
        if entries.insert(name.clone(), entry).is_some() {
            return Err(malformed(format!("it holds {} twice", shown(&name))));
        }
    }
    if count == 0 {
        return Err(malformed("it is no tar archive".to_owned()));
    }
    Ok(entries)
}

fn defect(error: ArchiveError) -> ImageError {
    match error {
        ArchiveError::Read(e) => unreadable(e),
        ArchiveError::NotTar => malformed("it is no tar archive".to_owned()),
        e @ ArchiveError::Entry { .. } => malformed(e.to_string()),
        e => malformed(format!("it {e}")),
    }
}

fn malformed(problem: String) -> ImageError {
    ImageError::Malformed { what: "the archive".to_owned(), problem }
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
        builder: &mut ::tar::Builder<Vec<u8>>,
        kind: ::tar::EntryType,
        name: &str,
        target: &str,
        content: &[u8],
    ) {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if target.is_empty() {
            builder.append_data(&mut header, name, content).unwrap();
        } else {
            builder.append_link(&mut header, name, target).unwrap();
        }
    }

    fn file(builder: &mut ::tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        append(builder, ::tar::EntryType::Regular, name, "", content);
    }

    fn sample() -> ::tar::Builder<Vec<u8>> {
        let mut builder = ::tar::Builder::new(Vec::new());
        file(&mut builder, "manifest.json", b"[]");
        append(&mut builder, ::tar::EntryType::Directory, "a/", "", b"");
        file(&mut builder, &format!("a/{}", "long".repeat(60)), &[7; 600]);
        append(&mut builder, ::tar::EntryType::Symlink, "b/layer.tar", "../manifest.json", b"");
        append(&mut builder, ::tar::EntryType::Link, "hard", &format!("a/{}", "long".repeat(60)), b"");
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

    fn refusal(builder: ::tar::Builder<Vec<u8>>) -> String {
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
            let mut builder = ::tar::Builder::new(Vec::new());
            for number in 0..NAMES_MAX / 4000 {
                let target = "t".repeat(longest - 1900);
                let name = format!("{number:04}{}", "n".repeat(1900 - 4));
                append(&mut builder, ::tar::EntryType::Symlink, &name, &target, b"");
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
        append(&mut device, ::tar::EntryType::Char, "dev", "", b"");
        assert!(refusal(device).contains("dev is not a file"));

        let mut circle = sample();
        append(&mut circle, ::tar::EntryType::Symlink, "one", "two", b"");
        append(&mut circle, ::tar::EntryType::Symlink, "two", "one", b"");
        let outer = index(&circle.into_inner().unwrap()).unwrap();
        assert!(outer.open("one").err().unwrap().to_string().contains("links lead"));
    }

    /// One that ends after an entry may be whole: what is missing is missed when it is asked for.
    #[test]
    fn every_cut_in_an_entry_is_refused() {
        let whole = sample().into_inner().unwrap();
        let mut cuts = 0;
        for len in (512..=whole.len() - 1024).step_by(128) {
            match index(&whole[..len]) {
                Err(e) => {
                    assert!(e.to_string().contains("truncated"), "{len}: {e}");
                    cuts += 1;
                }
                Ok(outer) => assert_eq!(read(&outer, "manifest.json").unwrap(), b"[]", "{len}"),
            }
        }
        assert!(cuts > 20, "{cuts}");
    }

    /// As layers are, whose reader it is: without owner and time, of the oldest form, with a label.
    #[test]
    fn archives_of_any_dialect() {
        let mut sample = sample().into_inner().unwrap();
        for at in [0, 1024] {
            let mut header = ::tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&sample[at..at + 512]);
            header.as_mut_bytes()[108..124].fill(0);
            header.as_mut_bytes()[136..148].fill(b' ');
            header.as_mut_bytes()[257..].fill(0);
            header.set_cksum();
            sample[at..at + 512].copy_from_slice(header.as_bytes());
        }
        let mut label = ::tar::Header::new_old();
        label.as_old_mut().linkflag = [b'V'];
        label.as_old_mut().name[0] = b'x';
        label.set_cksum();
        let outer = index(&[label.as_bytes(), &sample[..]].concat()).unwrap();
        assert_eq!(read(&outer, "manifest.json").unwrap(), b"[]");
        assert_eq!(read(&outer, "last").unwrap(), b"end");
    }

    #[test]
    fn links_may_be_folders() {
        let mut builder = sample();
        append(&mut builder, ::tar::EntryType::Symlink, "blobs/sha256", "../store", b"");
        file(&mut builder, "store/a", b"content");
        append(&mut builder, ::tar::EntryType::Symlink, "store/b", "a", b"");
        let outer = index(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(read(&outer, "blobs/sha256/a").unwrap(), b"content");
        assert_eq!(read(&outer, "blobs/sha256/b").unwrap(), b"content");
        assert_eq!(read(&outer, "blobs/sha256/c"), None);
    }

    proptest! {
        #[test]
        fn no_damage_panics(at in 0..4096usize, byte: u8) {
            let mut sample = sample().into_inner().unwrap();
            let at = at % sample.len();
            sample[at] = byte;
            let start = at / 512 * 512;
            let mut header = ::tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&sample[start..start + 512]);
            header.set_cksum();
            sample[start..start + 512].copy_from_slice(header.as_bytes());
            if let Ok(outer) = index(&sample) {
                let _ = outer.open("manifest.json").map(|file| file.map(io::read_to_string));
            }
        }
    }
}
