//! OCI image layouts: images as files, in a folder or in an archive of one.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::bounded::{self, object};
use super::error::{Error, FileError, ImageError, Result, listed, shown};
use super::manifest::{self, Descriptor, MANIFEST_MAX, Parsed};
use super::member::{LINKS_MAX, member_name};
use super::reference::Which;
use super::slice::Slice;
use super::source::{Blob, RawManifest, Source};
use vmette_cache::Digest;

/// The file that lists the images.
pub const INDEX: &str = "index.json";
/// The file that says that it is a layout, and of which version.
const MARKER: &str = "oci-layout";
/// Longest marker in bytes; it holds one version.
const MARKER_MAX: u64 = 4096;

/// The files of a layout.
pub trait Files: Send + Sync {
    /// The file of that name, which has slashes between its parts and was not chosen by an image; `None` if there is
    /// no such file.
    ///
    /// # Errors
    /// The file cannot be used.
    fn open(&self, name: &str) -> Result<Option<Slice>>;
}

/// One image of a layout.
pub struct Layout {
    /// The caller's name for it, for messages.
    name: String,
    files: Box<dyn Files>,
    tag: Option<String>,
}

#[derive(Default)]
struct Marker {
    image_layout_version: String,
}
object!(Marker { image_layout_version: "imageLayoutVersion" });

/// An index of several entries for one name.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    manifests: Vec<&'a Descriptor>,
}

impl Layout {
    /// The image of that tag, or the only one. `name` is for messages.
    #[must_use]
    pub fn new(name: &str, files: Box<dyn Files>, tag: Option<&str>) -> Self {
        Self { name: name.to_owned(), files, tag: tag.map(str::to_owned) }
    }

    /// The image's manifest or index.
    ///
    /// # Errors
    /// The layout is malformed, or does not say which image is meant.
    pub fn root(&self) -> Result<RawManifest> {
        if let Some(bytes) = self.small(MARKER, MARKER_MAX)? {
            let marker: Marker = bounded::parse(MARKER, &bytes).map_err(|e| self.error(e))?;
            if !marker.image_layout_version.starts_with("1.") {
                let problem =
                    format!("it is of version {}, and only 1 is known", shown(&marker.image_layout_version));
                return Err(self.error(ImageError::Malformed { what: "the layout".to_owned(), problem }));
            }
        }
        let bytes = self.small(INDEX, MANIFEST_MAX)?.ok_or_else(|| {
            let problem = "so this is no OCI layout".to_owned();
            self.error(ImageError::Missing { what: INDEX.to_owned(), problem })
        })?;
        let index = RawManifest { media_type: None, digest: Digest::of(&bytes), bytes };
        let Parsed::Index(entries) = manifest::parse(&index).map_err(|e| self.error(e))? else {
            let problem = "it is a manifest, and has to be an index".to_owned();
            return Err(self.error(ImageError::Malformed { what: INDEX.to_owned(), problem }));
        };
        let meant = self.choose(&entries).map_err(|e| self.error(e))?;
        match meant.as_slice() {
            [only] => {
                let blob = only.blob(INDEX).map_err(|e| self.error(e))?;
                let raw = self.manifest(&Which::Digest(blob.digest))?;
                Ok(RawManifest { media_type: Some(only.media_type.clone()), ..raw })
            }
            _ => {
                let index = Index { schema_version: 2, manifests: meant };
                let bytes = serde_json::to_vec(&index).map_err(|e| {
                    let problem = e.to_string();
                    self.error(ImageError::Malformed { what: INDEX.to_owned(), problem })
                })?;
                Ok(RawManifest { media_type: None, digest: Digest::of(&bytes), bytes })
            }
        }
    }

    /// The entries for the tag: several when the image exists for several platforms.
    fn choose<'a>(&self, entries: &'a [Descriptor]) -> std::result::Result<Vec<&'a Descriptor>, ImageError> {
        let names = |entry: &'a Descriptor| {
            let annotations = entry.annotations.as_ref();
            annotations
                .into_iter()
                .flat_map(|said| [said.ref_name.as_deref(), said.image_name.as_deref()])
                .flatten()
        };
        let images = || entries.iter().filter(|entry| !entry.is_attestation());
        let has = || listed(images().flat_map(|entry| names(entry).map(shown)));
        if let Some(tag) = &self.tag {
            let meant: Vec<_> = images().filter(|entry| names(entry).any(|name| name == tag)).collect();
            let problem = || format!("there is no image {} in it", shown(tag));
            return if meant.is_empty() {
                Err(ImageError::Choose { problem: problem(), has: has() })
            } else {
                Ok(meant)
            };
        }
        let mut named: Vec<_> = images().map(|entry| names(entry).next()).collect();
        named.sort_unstable();
        named.dedup();
        match named.len() {
            0 => Err(ImageError::Choose { problem: "there is no image in it".to_owned(), has: has() }),
            1 => Ok(images().collect()),
            _ => Err(ImageError::Choose {
                problem: "there are several images in it; name one by :TAG after the path".to_owned(),
                has: has(),
            }),
        }
    }

    fn small(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.files.open(name)? else { return Ok(None) };
        read_all(file, max, name).map(Some).map_err(|e| self.error(e))
    }

    fn error(&self, source: ImageError) -> Error {
        Error::Image { name: self.name.clone(), source }
    }
}

/// All of a small file.
pub(crate) fn read_all(mut file: Slice, max: u64, what: &str) -> std::result::Result<Vec<u8>, ImageError> {
    let what = what.to_owned();
    if file.len() > max {
        return Err(ImageError::TooLarge { what, size: file.len(), limit: max });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| ImageError::Read { what, source })?;
    Ok(bytes)
}

impl Source for Layout {
    fn manifest(&self, which: &Which) -> Result<RawManifest> {
        let Which::Digest(digest) = which else { return self.root() };
        let bytes = self.small(&blob_path(digest), MANIFEST_MAX)?.ok_or_else(|| self.missing(digest))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            let what = "its manifest".to_owned();
            return Err(self.error(ImageError::Digest { what, expected: *digest, actual }));
        }
        Ok(RawManifest { media_type: None, digest: *digest, bytes })
    }

    fn digest_of(&self, _tag: &str) -> Result<Digest> {
        self.root().map(|raw| raw.digest)
    }

    fn open(&self, blob: &Blob, offset: u64) -> Result<Box<dyn Read + Send>> {
        let file = self.files.open(&blob_path(&blob.digest))?.ok_or_else(|| self.missing(&blob.digest))?;
        Ok(Box::new(file.skip(offset)))
    }
}

impl Layout {
    fn missing(&self, digest: &Digest) -> Error {
        self.error(ImageError::Missing {
            what: format!("a part of it, {digest},"),
            problem: format!("there is no {}; the copy is incomplete", blob_path(digest)),
        })
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A layout in a folder.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder. Links in the path itself are the user's and are followed.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let root =
            rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| FileError::new("cannot open the folder", path)(e.into()))?;
        Ok(Self { root, path: path.to_owned() })
    }

    fn refused(&self, name: &str, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = self.path.join(name);
        move |e| FileError::new(what, path)(e).into()
    }

    /// Opens the file of that name, one part of it at a time and without following a link.
    fn step(&self, name: &str) -> Result<Step> {
        let mut at: Option<OwnedFd> = None;
        let mut done = 0;
        for part in name.split('/') {
            done += part.len();
            // Opening a FIFO would wait for its writer, who may never come.
            let kind = if done < name.len() { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | kind;
            let dir = at.as_ref().unwrap_or(&self.root);
            match rustix::fs::openat(dir, part, flags, Mode::empty()) {
                Ok(fd) => at = Some(fd),
                Err(Errno::NOENT) => return Ok(Step::Nothing),
                Err(e) => {
                    let Ok(target) = rustix::fs::readlinkat(dir, part, Vec::new()) else {
                        return Err(self.refused(name, "cannot open")(e.into()));
                    };
                    let inside = member_name(&name[..done], target.as_bytes()).ok_or_else(|| {
                        let problem = format!("it leads to {}", shown(&target.to_string_lossy()));
                        let what = "a link that does not stay in the image layout:";
                        self.refused(&name[..done], what)(io::Error::other(problem))
                    })?;
                    return Ok(Step::Link(inside + &name[done..]));
                }
            }
            // The slash.
            done += 1;
        }
        Ok(at.map_or(Step::Nothing, |fd| Step::File(fd.into())))
    }
}

/// The end of a name.
enum Step {
    File(File),
    Nothing,
    /// A name in the place of the one that was asked for.
    Link(String),
}

impl Files for Folder {
    /// Links are followed inside of the layout only: one from outside could have a link to any file of the user's.
    fn open(&self, name: &str) -> Result<Option<Slice>> {
        let mut at = name.to_owned();
        for _ in 0..=LINKS_MAX {
            match self.step(&at)? {
                Step::Nothing => return Ok(None),
                Step::Link(target) => at = target,
                Step::File(file) => {
                    let metadata = file.metadata().map_err(self.refused(name, "cannot examine"))?;
                    if !metadata.is_file() {
                        let e = io::Error::from(io::ErrorKind::InvalidInput);
                        return Err(self.refused(name, "not a regular file:")(e));
                    }
                    return Ok(Some(Slice::new(Arc::new(file), 0, metadata.len())));
                }
            }
        }
        let problem = format!("its links lead from one to the next more than {LINKS_MAX} times");
        Err(self.refused(name, "cannot open")(io::Error::other(problem)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_of_the_layout() {
        let place = tempfile::tempdir().unwrap();
        let (layout, outside) = (place.path().join("layout"), place.path().join("outside"));
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fs::create_dir(layout.join("store")).unwrap();
        fs::write(&outside, "secret").unwrap();
        fs::write(layout.join("blobs/part-x"), "content").unwrap();
        fs::write(layout.join("store/a"), "content").unwrap();
        let link = |target: &str, name: &str| symlink(target, layout.join(name)).unwrap();
        link("../part-x", "blobs/sha256/0");
        link("0", "blobs/sha256/1");
        link("../../store/a", "blobs/sha256/2");
        link("../blobs/../store", "blobs/dir");
        link("store", "folder");
        link("missing", "blobs/nothing");
        link("loop", "loop");
        link("../outside", "out");
        link("..", "up");
        link("blobs/../../layout/store/a", "back");
        link(outside.to_str().unwrap(), "absolute");
        link(layout.join("store/a").to_str().unwrap(), "absolute-inside");
        let folder = Folder::open(&layout).unwrap();
        let read =
            |name: &str| folder.open(name).map(|file| file.map(|file| io::read_to_string(file).unwrap()));
        for name in ["blobs/sha256/0", "blobs/sha256/1", "blobs/sha256/2", "blobs/dir/a", "folder/a"] {
            assert_eq!(read(name).unwrap().as_deref(), Some("content"), "{name}");
        }
        for name in ["blobs/nothing", "blobs/nothing/x", "missing", "missing/x"] {
            assert!(read(name).unwrap().is_none(), "{name}");
        }
        for name in ["out", "up/outside", "back", "absolute", "absolute-inside"] {
            let message = read(name).unwrap_err().to_string();
            assert!(message.contains("does not stay in the image layout"), "{message}");
        }
        assert!(read("loop").unwrap_err().to_string().contains("one to the next"));
        assert!(
            read("store/a/b").is_err() && read("store").unwrap_err().to_string().contains("not a regular")
        );
    }
}
