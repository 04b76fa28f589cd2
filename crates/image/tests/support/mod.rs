//! Archives made block by block, so that they can be as wrong as a stranger's; and what an image holds, as another
//! implementation reads it.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmette_image::{Context, ProviderError, RootfsArtifact, RootfsProvider, TarLimits, TarProvider};

pub mod oci;

pub const LIMITS: TarLimits = TarLimits { max_bytes: 64 << 20 };

/// An archive in the making.
#[derive(Clone, Default)]
pub struct Archive(pub Vec<u8>);

/// One header's fields.
pub struct Fields<'a> {
    pub kind: u8,
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub size: u64,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub device: (u32, u32),
}

impl Default for Fields<'_> {
    fn default() -> Self {
        Self {
            kind: b'0',
            name: b"f",
            link: b"",
            size: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            device: (0, 0),
        }
    }
}

impl Fields<'_> {
    pub fn header(&self) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..self.name.len()].copy_from_slice(self.name);
        header.as_old_mut().linkname[..self.link.len()].copy_from_slice(self.link);
        header.as_old_mut().linkflag = [self.kind];
        header.set_size(self.size);
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header.set_device_major(self.device.0).unwrap();
        header.set_device_minor(self.device.1).unwrap();
        header.set_cksum();
        header
    }
}

impl Archive {
    pub fn raw(mut self, header: &tar::Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn entry(self, fields: &Fields<'_>, content: &[u8]) -> Self {
        let fields = Fields { size: fields.size.max(content.len() as u64), ..*fields };
        self.raw(&fields.header(), content)
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(&Fields { name: name.as_bytes(), ..Fields::default() }, content)
    }

    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(&Fields { kind: b'5', name: name.as_bytes(), mode, ..Fields::default() }, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        let link = target.as_bytes();
        self.entry(&Fields { kind: b'2', name: name.as_bytes(), link, mode: 0o777, ..Fields::default() }, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        let link = target.as_bytes();
        self.entry(&Fields { kind: b'1', name: name.as_bytes(), link, ..Fields::default() }, b"")
    }

    /// An extended header with these records.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extension(b'x', records)
    }

    pub fn extension(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| {
                let rest = key.len() + value.len() + 3;
                let len = (rest + 1..rest + 9).find(|len| len - rest == len.to_string().len()).unwrap();
                [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
            })
            .collect();
        self.entry(&Fields { kind, name: b"pax", ..Fields::default() }, &content)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A directory with a cache and an archive, and nothing else.
pub struct Place {
    pub root: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    pub fn context(&self) -> Context {
        Context::new(self.cache())
    }

    pub fn archive(&self) -> PathBuf {
        self.root.path().join("archive")
    }

    pub fn convert(&self, bytes: &[u8]) -> Result<PathBuf, ProviderError> {
        self.convert_with(bytes, LIMITS)
    }

    pub fn convert_with(&self, bytes: &[u8], limits: TarLimits) -> Result<PathBuf, ProviderError> {
        fs::write(self.archive(), bytes).unwrap();
        let spec = format!("tar+file://{}", self.archive().display());
        TarProvider::with_limits(limits).provide(&spec, &self.context()).map(|artifact| image(&artifact))
    }

    /// Names below the root, except images.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut dirs = vec![self.root.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in dir.read_dir().unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                } else {
                    names.push(entry.path().strip_prefix(self.root.path()).unwrap().display().to_string());
                }
            }
        }
        names.sort();
        names
    }
}

pub fn image(artifact: &RootfsArtifact) -> PathBuf {
    match artifact {
        RootfsArtifact::BlockImage { path, .. } => path.clone(),
        RootfsArtifact::Directory { .. } => panic!("not an image"),
    }
}

/// `unsquashfs -lln`: path to mode string, owners, size or device, and time. The root is "".
pub fn listing(image: &Path) -> BTreeMap<String, String> {
    let output = Command::new("unsquashfs").env("TZ", "UTC").arg("-lln").arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let (facts, path) = line.split_once("squashfs-root")?;
            let facts: Vec<_> = facts.split_whitespace().collect();
            Some((path.trim_start_matches('/').to_owned(), facts.join(" ")))
        })
        .collect()
}

pub fn content(image: &Path, path: &str) -> Vec<u8> {
    let output = Command::new("unsquashfs").arg("-cat").arg(image).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Unpacks into a fresh directory.
pub fn unpack(image: &Path, into: &Path) {
    let output = Command::new("unsquashfs")
        .args(["-quiet", "-no-progress", "-d"])
        .arg(into)
        .arg(image)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
