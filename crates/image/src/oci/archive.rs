//! Archives of images: what `docker save` writes, and image layouts in a tar archive.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;

use super::bounded::{self, List};
use super::config::{self, CONFIG_MAX, Configuration};
use super::error::{ImageError, listed, shown};
use super::layout::{Files, read_all};
use super::limits::MAX_BYTES_VARIABLE;
use super::manifest::{LAYERS_MAX, MANIFEST_MAX};
use super::outer::Outer;
use super::reference::Reference;
use super::slice::Slice;
use crate::context::Context;
use crate::digest::Digest;
use crate::error::{ProviderError, Result};
use crate::layers;
use crate::sniff::FileKind;
use crate::tar::ArchiveError;

/// The file that lists the images of a `docker save` archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// Most images of an archive, and most names of an image.
const IMAGES_MAX: usize = 4096;
/// Bytes that are decompressed at once.
const CHUNK: usize = 256 << 10;

/// Opens an archive to be read in place. One that is compressed is decompressed into a nameless file of the cache first.
/// `name` is for messages.
pub(super) fn open(mut file: File, path: &Path, name: &str, ctx: &Context, max_bytes: u64) -> Result<Outer> {
    let kind = FileKind::of(&mut file).map_err(ProviderError::io("cannot read", path))?;
    match kind {
        FileKind::Gzip | FileKind::Zstd | FileKind::Xz => {
            ctx.report(&format!("decompressing {}", path.display()));
            Outer::index(decompress(file, kind, path, name, ctx, max_bytes)?, name)
        }
        _ => Outer::index(file, name),
    }
}

fn decompress(
    file: File,
    kind: FileKind,
    path: &Path,
    name: &str,
    ctx: &Context,
    max_bytes: u64,
) -> Result<File> {
    let store = ctx.store()?;
    let spilled = |e| ProviderError::cache(store.dir(), "the archive cannot be decompressed into it")(e);
    let refused = |source| ProviderError::Archive { path: path.to_owned(), source };
    let mut spill = tempfile::tempfile_in(store.dir()).map_err(spilled)?;
    let mut decoder = layers::decoder(BufReader::with_capacity(CHUNK, file), kind).map_err(refused)?;
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    loop {
        ctx.check_cancelled()?;
        let read = decoder.read(&mut chunk).map_err(|e| refused(ArchiveError::Read(e)))?;
        size += read as u64;
        if size > max_bytes {
            let source = ImageError::LayersTooLarge { size, limit: max_bytes, variable: MAX_BYTES_VARIABLE };
            return Err(ProviderError::Image { name: name.to_owned(), source });
        }
        if read == 0 {
            return Ok(spill);
        }
        spill.write_all(&chunk[..read]).map_err(spilled)?;
    }
}

/// An image of a `docker save` archive.
pub(super) struct Saved {
    /// Its configuration's digest.
    pub(super) id: Digest,
    pub(super) configuration: Configuration,
    /// The lowest first. Plain tar archives, or compressed ones; only their diff ids are known.
    pub(super) layers: Vec<Slice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: List<String, IMAGES_MAX>,
    #[serde(default)]
    layers: List<String, LAYERS_MAX>,
}

/// Finds the image of that name, or the only one.
pub(super) fn saved(files: &dyn Files, manifest: Slice, tag: Option<&str>, name: &str) -> Result<Saved> {
    let error = |source| ProviderError::Image { name: name.to_owned(), source };
    let bytes = read_all(manifest, MANIFEST_MAX, MANIFEST).map_err(error)?;
    let images: List<Listed, IMAGES_MAX> = bounded::parse(MANIFEST, &bytes).map_err(error)?;
    let image = choose(&images.0, tag).map_err(error)?;

    let open = |path: &str| {
        let found = match super::outer::clean("", path.as_bytes()) {
            Some(path) => files.open(&path)?,
            None => None,
        };
        found.ok_or_else(|| {
            let problem = format!("there is no {} in the archive", shown(path));
            error(ImageError::Missing { what: "a part of it".to_owned(), problem })
        })
    };
    let bytes = read_all(open(&image.config)?, CONFIG_MAX, "its configuration").map_err(error)?;
    let id = Digest::of(&bytes);
    if let Some(expected) = declared(&image.config)
        && expected != id
    {
        let what = "its configuration".to_owned();
        return Err(error(ImageError::Digest { what, expected, actual: id }));
    }
    let configuration = config::parse(&bytes).map_err(error)?;
    let layers = image.layers.0.iter().map(|path| open(path)).collect::<Result<_>>()?;
    Ok(Saved { id, configuration, layers })
}

/// A configuration's file is named by its digest: `<digits>.json`, or the digits alone in a folder of blobs.
fn declared(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name)).parse().ok()
}

fn choose<'a>(images: &'a [Listed], tag: Option<&str>) -> std::result::Result<&'a Listed, ImageError> {
    let has = || {
        listed(images.iter().flat_map(|image| {
            let unnamed = image
                .repo_tags
                .0
                .is_empty()
                .then(|| format!("one without a name ({})", shown(&image.config)));
            image.repo_tags.0.iter().map(|name| shown(name)).chain(unnamed)
        }))
    };
    let problem = match (tag, images) {
        (None, [only]) => return Ok(only),
        (None, []) => "there is no image in it".to_owned(),
        (None, _) => "there are several images in it; name one by :NAME after the path".to_owned(),
        (Some(tag), _) => {
            // `alpine` and `docker.io/library/alpine:latest` are the same name.
            let canonical = |name: &str| Reference::parse(name).map(|reference| reference.to_string()).ok();
            let asked = canonical(tag);
            let is_meant = |name: &String| name == tag || (asked.is_some() && canonical(name) == asked);
            match images.iter().find(|image| image.repo_tags.0.iter().any(is_meant)) {
                Some(image) => return Ok(image),
                None => format!("there is no image {} in it", shown(tag)),
            }
        }
    };
    Err(ImageError::Choose { problem, has: has() })
}
