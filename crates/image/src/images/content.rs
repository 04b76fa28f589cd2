//! Kinds of files and folders that become images, told by their content.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::{ProviderError, Result};
use crate::layers::decoder;
use crate::notes::Notes;
use crate::providers::spec;
use crate::sniff::FileKind;
use crate::tar::{ArchiveError, Budget, Kind, Source, next};

/// Most decompressed bytes that are looked at. Only archives of images are read beyond their first entry, and these
/// hold layers.
const LOOK_MAX: u64 = 64 << 30;

/// Kinds that become images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Squashfs,
    /// A root file system, compressed or not.
    Tar,
    OciLayout,
    OciArchive,
    DockerArchive,
}

impl Content {
    pub(super) fn of(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return if path.join("oci-layout").is_file() {
                Ok(Self::OciLayout)
            } else {
                Err(ProviderError::InvalidSpec(format!(
                    "{} is a directory without an OCI layout: run it as it is, or pack it with tar to import it",
                    path.display()
                )))
            };
        }
        let mut file = spec::open_regular(path)?;
        match FileKind::of(&mut file).map_err(ProviderError::io("cannot read", path))? {
            FileKind::Squashfs => Ok(Self::Squashfs),
            kind @ (FileKind::Tar | FileKind::Gzip | FileKind::Zstd | FileKind::Xz) => of_archive(file, kind)
                .map_err(|source| ProviderError::Archive { path: path.to_owned(), source }),
            kind => {
                Err(ProviderError::InvalidSpec(format!("{} is {}", path.display(), spec::advice(kind, path))))
            }
        }
    }
}

/// By the names of its entries: an archive of an image has no others than these, and one of a root file system has
/// another one soon.
fn of_archive(file: File, kind: FileKind) -> std::result::Result<Content, ArchiveError> {
    let file = BufReader::with_capacity(1 << 20, file);
    let plain = BufReader::with_capacity(1 << 20, decoder(file, kind)?);
    let budget = Budget::new(LOOK_MAX, "no variable");
    of_entries(&mut Source::new(plain, &budget, &Notes::default()))
}

fn of_entries<R: BufRead>(source: &mut Source<'_, R>) -> std::result::Result<Content, ArchiveError> {
    let (mut index, mut manifest) = (false, false);
    while let Some(entry) = next(source)? {
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        match part(path) {
            Part::Index => index = true,
            Part::Manifest => manifest = true,
            Part::Other => {}
            Part::None => return Ok(Content::Tar),
        }
        match entry.kind {
            Kind::File(size) => source.skip(size)?,
            Kind::Dir | Kind::HardLink(_) | Kind::Symlink(_) => {}
            _ => return Ok(Content::Tar),
        }
    }
    Ok(match (index, manifest) {
        (true, _) => Content::OciArchive,
        (false, true) => Content::DockerArchive,
        (false, false) => Content::Tar,
    })
}

enum Part {
    Index,
    Manifest,
    /// A blob, a layer, a configuration, a list that is not needed.
    Other,
    None,
}

fn part(path: &[u8]) -> Part {
    let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
    let stem = first.strip_suffix(b".json").or_else(|| first.strip_suffix(b".tar")).unwrap_or(first);
    let is_id = stem.len() == 64 && stem.iter().all(u8::is_ascii_hexdigit);
    match path {
        b"index.json" => Part::Index,
        b"manifest.json" => Part::Manifest,
        b"" | b"." | b"oci-layout" | b"repositories" => Part::Other,
        _ if first == b"blobs" || is_id => Part::Other,
        _ => Part::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Content {
        let mut archive = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            archive.append_data(&mut header, name, &b"abc"[..]).unwrap();
        }
        let bytes = archive.into_inner().unwrap();
        let budget = Budget::new(LOOK_MAX, "none");
        of_entries(&mut Source::new(&bytes[..], &budget, &Notes::default())).unwrap()
    }

    #[test]
    fn archives_are_told_apart_by_their_names() {
        let id = "a".repeat(64);
        let (config, layer) = (format!("{id}.json"), format!("{id}/layer.tar"));
        for (names, content) in [
            (&["etc/passwd", "index.json"][..], Content::Tar),
            (&["manifest.json", "etc/passwd"], Content::Tar),
            (&["blobs/x", "index.json", "oci-layout"], Content::OciArchive),
            (&["blobs/sha256/x", "index.json", "manifest.json", "oci-layout"], Content::OciArchive),
            (&[&config, &layer, "manifest.json", "repositories"], Content::DockerArchive),
            (&["./manifest.json", &config], Content::DockerArchive),
            (&[&config], Content::Tar),
        ] {
            assert_eq!(of(names), content, "{names:?}");
        }
    }
}
