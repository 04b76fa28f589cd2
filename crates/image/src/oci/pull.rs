//! A reference becomes an image of the store: from the cache, or from its registry.

use std::time::SystemTime;

use super::download::{Downloads, publishing};
use super::error::ImageError;
use super::image::{Image, ImageLayer, is_current};
use super::reference::Reference;
use super::resolve::{Resolved, resolve};
use super::source::{Source, Which};
use crate::context::{Attempt, Context, PullPolicy};
use crate::error::{ProviderError, Result};
use crate::image_config::Platform;
use crate::store::{LayerInfo, Origin, Store, StoredImage};

/// What reaches a reference's registry, within this context. Called only when it has to be asked.
pub(super) type Connect<'a> = &'a dyn Fn(&Reference, &Context) -> Result<Box<dyn Source>>;

/// An image that a name stands for.
struct Known {
    image: StoredImage,
    origin: Origin,
    checked: SystemTime,
}

/// The image that a spec names. One that was made or imported here comes before a registry's of the same short name.
pub(super) fn obtain(spec: &str, ctx: &Context, max_bytes: u64, connect: Connect<'_>) -> Result<StoredImage> {
    let (reference, ctx) = (Reference::parse(spec)?, &Attempt::of(ctx));
    let store = ctx.store()?;
    if let Some(local) = reference.local()
        && let Some(known) = known(&store, &local)?
    {
        return Ok(known.image);
    }
    let known = known(&store, &reference)?;
    if reference.is_local() && known.is_none() {
        return Err(ProviderError::InvalidSpec(format!(
            "there is no image {reference} here; build or import one of that name, or name a registry on this machine as \
             localhost:PORT"
        )));
    }
    let pull = Pull { spec, reference: &reference, store: &store, ctx, max_bytes, connect };
    match (known, ctx.pull_policy()) {
        (Some(known), policy) if !pull.must_ask(&known, policy) => Ok(known.image),
        (None, PullPolicy::Never) if ctx.is_offline() => {
            Err(ProviderError::OfflineCacheMiss(reference.to_string()))
        }
        (None, PullPolicy::Never) => Err(ProviderError::NotPulled(reference.to_string())),
        (known, policy) => pull.ask(known, policy),
    }
}

/// What the name stands for, if that is in the store and as this version makes it.
fn known(store: &Store, reference: &Reference) -> Result<Option<Known>> {
    let Some(record) = store.name(&reference.to_string())? else { return Ok(None) };
    let Some(image) = store.find(&record.key) else { return Ok(None) };
    let usable = record.origin == Origin::Local || is_current(&image);
    Ok(usable.then_some(Known { image, origin: record.origin, checked: record.checked }))
}

struct Pull<'a> {
    spec: &'a str,
    reference: &'a Reference,
    store: &'a Store,
    ctx: &'a Attempt,
    max_bytes: u64,
    connect: Connect<'a>,
}

impl Pull<'_> {
    /// Whether the registry has to be asked though the image is there.
    fn must_ask(&self, known: &Known, policy: PullPolicy) -> bool {
        // What is made here has nobody to ask, and a digest always means the same.
        let settled = known.origin == Origin::Local || self.reference.digest().is_some();
        !settled && policy.must_ask(known.checked)
    }

    /// Asks the registry. One that is down leaves what is there in use, unless the caller wants to know.
    fn ask(&self, known: Option<Known>, policy: PullPolicy) -> Result<StoredImage> {
        let Some(known) = known else { return self.pull(&*(self.connect)(self.reference, self.ctx)?) };
        match self.refresh(&known) {
            Err(ProviderError::Network(e)) if policy == PullPolicy::Stale && e.is_temporary() => {
                self.ctx.warn(&format!(
                    "image {}: using what was pulled before, as its registry could not be asked for something newer: {e}",
                    self.spec
                ));
                Ok(known.image)
            }
            Err(e) => Err(e),
            Ok(Some(newer)) => Ok(newer),
            Ok(None) => Ok(known.image),
        }
    }

    /// What the name stands for now; None if that is what it stood for before.
    fn refresh(&self, known: &Known) -> Result<Option<StoredImage>> {
        let source = (self.connect)(self.reference, self.ctx)?;
        if let (Which::Tag(tag), Origin::Registry { manifest }) = (self.reference.which(), &known.origin)
            && source.digest_of(&tag)? == *manifest
        {
            // Not to be asked again for a while is a convenience: a cache that takes no writes serves without.
            let _ = self.store.touch_name(&self.reference.to_string());
            return Ok(None);
        }
        self.pull(&*source).map(Some)
    }

    fn pull(&self, source: &dyn Source) -> Result<StoredImage> {
        let which = self.reference.which();
        let root = source.manifest(&which)?;
        let manifest = root.digest;
        if let Which::Digest(expected) = which
            && manifest != expected
        {
            let source = ImageError::Digest { what: "its manifest".to_owned(), expected, actual: manifest };
            return Err(ProviderError::Image { name: self.spec.to_owned(), source });
        }
        let Resolved { id, configuration, layers } = resolve(source, root, &Platform::of_guest(), self.spec)?;
        let cache = self.store.layers();
        let stored = publishing(&cache, |completed| {
            let downloads =
                Downloads::new(source, cache.clone(), self.ctx, self.spec, layers.len(), completed);
            let downloads = &downloads;
            let layers = layers.into_iter().enumerate().map(|(index, blob)| ImageLayer {
                info: LayerInfo { digest: blob.digest, size: blob.size },
                open: Box::new(move || downloads.open(&blob, index)),
            });
            let image = Image {
                name: self.spec,
                source: self.reference.to_string(),
                id,
                configuration,
                layers: layers.collect(),
            };
            image.obtain(self.store, self.ctx, self.max_bytes, &|e| downloads.forget_doubtful(e))
        })?;
        self.store.set_name(&self.reference.to_string(), &stored.key, &Origin::Registry { manifest })?;
        Ok(stored)
    }
}
