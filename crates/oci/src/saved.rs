//! Images as `docker save` writes them.

use super::bounded::{self, List, object};
use super::config::{self, CONFIG_MAX, Configuration};
use super::error::{Error, ImageError, Result, listed, shown};
use super::layout::{Files, read_all};
use super::manifest::{LAYERS_MAX, MANIFEST_MAX};
use super::member::member_name;
use super::reference::Reference;
use super::slice::Slice;
use vmette_cache::Digest;

/// The file that lists the images of a `docker save` archive.
pub const MANIFEST: &str = "manifest.json";
/// Most images of an archive, and most names of an image.
const IMAGES_MAX: usize = 4096;

/// An image of a `docker save` archive.
pub struct Saved {
    /// The image's identity: its configuration's digest.
    pub id: Digest,
    /// The configuration.
    pub configuration: Configuration,
    /// The layers, the lowest first: tar archives, plain or compressed. Only their diff ids are known.
    pub layers: Vec<Slice>,
}

#[derive(Default)]
struct Listed {
    config: String,
    repo_tags: List<String, IMAGES_MAX>,
    layers: List<String, LAYERS_MAX>,
}
object!(Listed { config: "Config", repo_tags: "RepoTags", layers: "Layers" });

/// Finds the image of that name, or the only one. `manifest` is the archive's list of images, `name` is for messages.
///
/// # Errors
/// The archive is malformed, or does not say which image is meant.
pub fn saved(files: &dyn Files, manifest: Slice, tag: Option<&str>, name: &str) -> Result<Saved> {
    let error = |source| Error::Image { name: name.to_owned(), source };
    let bytes = read_all(manifest, MANIFEST_MAX, MANIFEST).map_err(error)?;
    let images: List<Listed, IMAGES_MAX> = bounded::parse(MANIFEST, &bytes).map_err(error)?;
    let image = choose(&images.0, tag).map_err(error)?;

    let open = |path: &str| {
        let found = match member_name("", path.as_bytes()) {
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
