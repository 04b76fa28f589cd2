//! Images in folders and archives of this machine.

use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};

use vmette_cache::Key;
use vmette_oci::{
    Blob, Files, Folder, INDEX, Layout, Platform, SAVED_MANIFEST, Saved, Source, Verified, check, resolve,
    saved,
};

use super::archive;
use super::image::{CONVERTER, Image, ImageLayer, is_current};
use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::outer::Outer;
use crate::providers::{limits, spec};
use crate::read_error::ReadError;
use crate::store::{LayerInfo, Origin, Store, StoredImage, key_of_file};

/// Forms in which images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// An OCI image layout in a folder.
    Layout,
    /// An OCI image layout in a tar archive.
    OciArchive,
    /// An archive of `docker save`.
    DockerArchive,
}

impl Form {
    /// Prefix of specs of this form.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Layout => "oci-layout",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
        }
    }

    /// The rest of a spec that is of this form.
    pub(super) fn strip(self, spec: &str) -> Option<&str> {
        spec.strip_prefix(self.name())?.strip_prefix(':')
    }

    /// An archive of either form often holds the files of both: the form says which count.
    fn prefers_docker(self) -> bool {
        self == Self::DockerArchive
    }
}

/// `PATH[:TAG]`. Both may hold colons: the path is the longest one that is there.
pub(super) fn split(spec: &str, rest: &str) -> Result<(PathBuf, Option<String>)> {
    let colons = rest.rmatch_indices(':').map(|(at, _)| at);
    for at in std::iter::once(rest.len()).chain(colons) {
        let path = Path::new(&rest[..at]);
        if !path.as_os_str().is_empty() && path.exists() {
            let tag = rest.get(at + 1..).filter(|tag| !tag.is_empty());
            return Ok((path.to_owned(), tag.map(str::to_owned)));
        }
    }
    let shown = if rest.is_empty() { "no path is given" } else { "there is no such file or folder" };
    Err(ProviderError::InvalidSpec(format!(
        "rootfs {spec:?}: {shown}; the form is FORM:PATH or FORM:PATH:TAG"
    )))
}

/// The image at that path; the one of that tag, or the only one. `name` is what the caller calls it, for messages.
///
/// # Errors
/// [`ProviderError::Image`] says what is wrong with it.
pub(crate) fn obtain(
    form: Form,
    path: &Path,
    tag: Option<&str>,
    name: &str,
    ctx: &Context,
) -> Result<StoredImage> {
    let max_bytes = limits::oci_max()?;
    let path = path.canonicalize().map_err(ProviderError::io("cannot resolve", path))?;
    let place = Place { form, path: &path, tag, name, ctx, max_bytes };
    match form {
        Form::Layout => place.folder(),
        Form::OciArchive | Form::DockerArchive => place.archive(),
    }
}

struct Place<'a> {
    form: Form,
    path: &'a Path,
    tag: Option<&'a str>,
    name: &'a str,
    ctx: &'a Context,
    max_bytes: u64,
}

impl Place<'_> {
    fn folder(&self) -> Result<StoredImage> {
        let folder = Folder::open(self.path)?;
        // Its list of images changes with every change of a layout; all other files are named by their content.
        let index = self.path.join(INDEX);
        let stamp = index.symlink_metadata().ok().map(|metadata| self.stamp(&index, &metadata));
        self.remembered(stamp, |store| {
            self.layout(store, &Layout::new(self.name, Box::new(folder), self.tag))
        })
    }

    fn archive(&self) -> Result<StoredImage> {
        let file = spec::open_regular(self.path)?;
        let metadata = file.metadata().map_err(ProviderError::io("cannot examine", self.path))?;
        self.remembered(Some(self.stamp(self.path, &metadata)), |store| {
            let outer = archive::open(file, self.path, self.name, self.ctx, self.max_bytes)?;
            let manifest = outer.open(SAVED_MANIFEST)?;
            let has_layout = outer.open(INDEX)?.is_some();
            match manifest {
                Some(manifest) if self.form.prefers_docker() || !has_layout => {
                    self.saved(store, saved(&outer, manifest, self.tag, self.name)?)
                }
                _ => self.layout(store, &Layout::new(self.name, Box::<Outer>::new(outer), self.tag)),
            }
        })
    }

    /// The image that this place had when it was last looked at, if nothing has changed; else the one that `make` makes.
    fn remembered(
        &self,
        stamp: Option<Key>,
        make: impl FnOnce(&Store) -> Result<StoredImage>,
    ) -> Result<StoredImage> {
        let store = self.ctx.store()?;
        let canonical = self.canonical();
        if let Some(stamp) = stamp
            && let Some(record) = store.name(&canonical)?
            && record.origin == (Origin::File { stamp })
            && let Some(image) = store.find(&record.key).filter(is_current)
        {
            return Ok(image);
        }
        let image = make(&store)?;
        if let Some(stamp) = stamp {
            store.set_name(&canonical, &image.key, &Origin::File { stamp })?;
        }
        Ok(image)
    }

    fn stamp(&self, path: &Path, metadata: &Metadata) -> Key {
        key_of_file(CONVERTER, path, metadata)
    }

    /// The spec that names the same from everywhere.
    fn canonical(&self) -> String {
        let tag = self.tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        format!("{}:{}{tag}", self.form.name(), self.path.display())
    }

    fn layout(&self, store: &Store, layout: &Layout) -> Result<StoredImage> {
        let resolved = resolve(layout, layout.root()?, &Platform::of_guest(), self.name)?;
        let layers = resolved.layers.into_iter().enumerate().map(|(index, blob)| ImageLayer {
            info: LayerInfo { digest: blob.digest, size: blob.size },
            open: Box::new(move |_| self.open(layout, &blob, index)),
        });
        let image = Image {
            name: self.name,
            source: self.canonical(),
            id: resolved.id,
            configuration: resolved.configuration,
            layers: layers.collect(),
        };
        image.obtain(store, &self.ctx.work().child(), self.max_bytes, &|_| Ok(None))
    }

    fn open<'r>(
        &self,
        layout: &Layout,
        blob: &Blob,
        index: usize,
    ) -> std::result::Result<Box<dyn Read + Send + 'r>, ReadError> {
        let what = format!("its layer {}", index + 1);
        Ok(Box::new(Verified::new(layout.open(blob, 0)?, self.name, &what, blob.clone())))
    }

    fn saved(&self, store: &Store, saved: Saved) -> Result<StoredImage> {
        let Saved { id, configuration, layers } = saved;
        check(&configuration, &Platform::of_guest(), layers.len())
            .map_err(vmette_oci::Error::image(self.name))?;
        let layers = layers.into_iter().zip(&configuration.diff_ids).map(|(slice, diff_id)| ImageLayer {
            // The only digest that such an archive has of a layer.
            info: LayerInfo { digest: *diff_id, size: slice.len() },
            open: Box::new(move |_| Ok(Box::new(slice.clone()))),
        });
        let layers = layers.collect();
        let image = Image { name: self.name, source: self.canonical(), id, configuration, layers };
        image.obtain(store, &self.ctx.work().child(), self.max_bytes, &|_| Ok(None))
    }
}
