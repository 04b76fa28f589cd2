//! From a manifest or index to an image's configuration and layers.

use super::config::{self, CONFIG_MAX, Configuration};
use super::error::ImageError;
use super::error::{Error, Result};
use super::manifest::{self, Descriptor, MANIFEST_MAX, Manifest, Parsed};
use super::reference::Which;
use super::select;
use super::source::{Blob, RawManifest, Source};
use super::verify;
use crate::image_config::Platform;
use vmette_cache::Digest;

/// How deep indexes may lie in indexes. Layout folders need one more than registries, nobody needs a third.
const DEPTH_MAX: usize = 3;
/// Manifests and indexes that are read for one image. Each may name thousands.
const DOCUMENTS_MAX: usize = 16;

/// An image, as far as its small documents tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The image's identity: its configuration's digest. It is the same wherever the image lies.
    pub id: Digest,
    /// The configuration.
    pub configuration: Configuration,
    /// The layers, the lowest first; as many as there are diff ids.
    pub layers: Vec<Blob>,
}

/// Finds the image that `root` describes for this guest. `name` is for messages.
///
/// # Errors
/// Nothing fits, or a document is malformed; the source's.
pub fn resolve(source: &dyn Source, root: RawManifest, guest: &Platform, name: &str) -> Result<Resolved> {
    let mut walk = IndexWalk { source, guest, name, left: DOCUMENTS_MAX };
    let manifest = walk.find(root, DEPTH_MAX)?;
    let bytes = verify::read_small(source, &manifest.config, CONFIG_MAX, name, "its configuration")?;
    let configuration = config::parse(&bytes).map_err(|e| walk.error(e))?;
    check(&configuration, guest, manifest.layers.len()).map_err(|e| walk.error(e))?;
    Ok(Resolved { id: manifest.config.digest, configuration, layers: manifest.layers })
}

/// Checks that a configuration is for this guest, and fits its layers. An index may have promised something else.
///
/// # Errors
/// [`ImageError::Platform`], [`ImageError::Malformed`].
pub fn check(
    configuration: &Configuration,
    guest: &Platform,
    layers: usize,
) -> std::result::Result<(), ImageError> {
    let image = &configuration.platform;
    if (&image.os, &image.architecture) != (&guest.os, &guest.architecture) {
        return Err(ImageError::Platform { image: image.clone().into(), guest: guest.clone().into() });
    }
    let diff_ids = configuration.diff_ids.len();
    if diff_ids != layers {
        return Err(ImageError::Malformed {
            what: "its configuration".to_owned(),
            problem: format!("it has {diff_ids} diff ids for {layers} layers, so they cannot be verified"),
        });
    }
    Ok(())
}

struct IndexWalk<'a> {
    source: &'a dyn Source,
    guest: &'a Platform,
    name: &'a str,
    /// Documents that may still be read.
    left: usize,
}

impl IndexWalk<'_> {
    fn find(&mut self, raw: RawManifest, depth: usize) -> Result<Manifest> {
        let actual = Digest::of(&raw.bytes);
        if actual != raw.digest {
            let what = "its manifest".to_owned();
            return Err(self.error(ImageError::Digest { what, expected: raw.digest, actual }));
        }
        let entries = match manifest::parse(&raw).map_err(|e| self.error(e))? {
            Parsed::Manifest(manifest) => return Ok(manifest),
            Parsed::Index(entries) => entries,
        };
        if depth == 0 {
            return Err(self.malformed(format!("it holds indexes nested deeper than {DEPTH_MAX}")));
        }
        let mut nothing = None;
        for entry in select::candidates(&entries, self.guest).map_err(|e| self.error(e))? {
            let raw = self.fetch(entry)?;
            match self.find(raw, depth - 1) {
                Err(Error::Image { source: e @ ImageError::NothingFits { .. }, .. }) => nothing = Some(e),
                found => return found,
            }
        }
        let guest = self.guest.clone();
        Err(self.error(nothing.unwrap_or(ImageError::NothingFits { guest, has: "none".to_owned() })))
    }

    fn fetch(&mut self, entry: &Descriptor) -> Result<RawManifest> {
        const WHAT: &str = "an entry of its index";
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            self.malformed(format!("it takes more than {DOCUMENTS_MAX} documents to find an image"))
        })?;
        let Blob { digest, size } = entry.blob(WHAT).map_err(|e| self.error(e))?;
        if size > MANIFEST_MAX {
            let what = WHAT.to_owned();
            return Err(self.error(ImageError::TooLarge { what, size, limit: MANIFEST_MAX }));
        }
        let raw = self.source.manifest(&Which::Digest(digest))?;
        if raw.digest != digest {
            let (what, actual) = (WHAT.to_owned(), raw.digest);
            return Err(self.error(ImageError::Digest { what, expected: digest, actual }));
        }
        if raw.bytes.len() as u64 != size {
            let (what, actual) = (WHAT.to_owned(), raw.bytes.len() as u64);
            return Err(self.error(ImageError::Size { what, expected: size, actual }));
        }
        Ok(RawManifest { media_type: raw.media_type.or_else(|| Some(entry.media_type.clone())), ..raw })
    }

    fn malformed(&self, problem: String) -> Error {
        self.error(ImageError::Malformed { what: "its index".to_owned(), problem })
    }

    fn error(&self, source: ImageError) -> Error {
        Error::Image { name: self.name.to_owned(), source }
    }
}
