//! A reference becomes an image of the store: from the cache, or from its registry.

use std::sync::Arc;
use std::time::SystemTime;

use vmette_oci::{ImageError, Platform, Reference, Resolved, Source, Which, resolve};
use vmette_work::Work;

use super::download::{self, Downloads, publishing};
use super::image::{Image, ImageLayer, is_current};
use crate::context::{Context, PullPolicy};
use crate::error::{ProviderError, Result};
use crate::store::{LayerInfo, Origin, Store, StoredImage};

/// Reaches a reference's registry, for this work. Called only if it has to be asked.
pub(super) type Connect<'a> = &'a dyn Fn(&Reference, &Work) -> Result<Box<dyn Source>>;

/// An image that a name stands for.
struct Known {
    image: StoredImage,
    origin: Origin,
    checked: SystemTime,
}

/// The image that a spec names. One that was made or imported here comes before a registry's of the same short name.
pub(super) fn obtain(spec: &str, ctx: &Context, max_bytes: u64, connect: Connect<'_>) -> Result<StoredImage> {
    let reference = Reference::parse(spec)?;
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

/// The image of the name, if it is in the store and this version would make the same.
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
    ctx: &'a Context,
    max_bytes: u64,
    connect: Connect<'a>,
}

impl Pull<'_> {
    /// Returns whether the registry has to be asked though the image is there.
    fn must_ask(&self, known: &Known, policy: PullPolicy) -> bool {
        // An image that was made here has no registry, and a digest always means the same.
        let settled = known.origin == Origin::Local || self.reference.digest().is_some();
        !settled && policy.must_ask(known.checked)
    }

    /// Asks the registry. If it is down the cached image stays in use, unless the caller wants an error.
    fn ask(&self, known: Option<Known>, policy: PullPolicy) -> Result<StoredImage> {
        let attempt = self.ctx.work().child();
        let source = self.connect(&attempt)?;
        let Some(known) = known else { return self.pull(source, &attempt) };
        match self.refresh(&known, source, &attempt) {
            Err(ProviderError::Network(e)) if policy == PullPolicy::Stale && e.is_temporary() => {
                self.ctx.work().warn(&format!(
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

    fn connect(&self, attempt: &Work) -> Result<Arc<dyn Source>> {
        (self.connect)(self.reference, attempt).map(Arc::from)
    }

    /// The image that the name stands for now; `None` if it is the same as before.
    fn refresh(&self, known: &Known, source: Arc<dyn Source>, attempt: &Work) -> Result<Option<StoredImage>> {
        if let (Which::Tag(tag), Origin::Registry { manifest }) = (self.reference.which(), &known.origin)
            && source.digest_of(&tag)? == *manifest
        {
            // Not to be asked again for a while is a convenience: a cache that takes no writes serves without.
            let _ = self.store.touch_name(&self.reference.to_string());
            return Ok(None);
        }
        self.pull(source, attempt).map(Some)
    }

    fn pull(&self, source: Arc<dyn Source>, attempt: &Work) -> Result<StoredImage> {
        let which = self.reference.which();
        let root = source.manifest(&which)?;
        let manifest = root.digest;
        if let Which::Digest(expected) = which
            && manifest != expected
        {
            let source = ImageError::Digest { what: "its manifest".to_owned(), expected, actual: manifest };
            return Err(ProviderError::Image { name: self.spec.to_owned(), source });
        }
        let Resolved { id, configuration, layers } =
            resolve(&*source, root, &Platform::of_guest(), self.spec)?;
        let cache = self.store.layers();
        let stored = publishing(&cache, |completed| {
            let image = download::Image { cache: cache.clone(), name: self.spec, count: layers.len() };
            let downloads = &Downloads::new(source, image, completed);
            let again = |e: &ProviderError| {
                if !downloads.forget_doubtful(e)? {
                    return Ok(None);
                }
                let attempt = self.ctx.work().child();
                downloads.reconnect(self.connect(&attempt)?);
                Ok(Some(attempt))
            };
            let layers = layers.into_iter().enumerate().map(|(index, blob)| ImageLayer {
                info: LayerInfo { digest: blob.digest, size: blob.size },
                open: Box::new(move |attempt| downloads.open(&blob, index, attempt)),
            });
            let image = Image {
                name: self.spec,
                source: self.reference.to_string(),
                id,
                configuration,
                layers: layers.collect(),
            };
            image.obtain(self.store, attempt, self.max_bytes, &again)
        })?;
        self.store.set_name(&self.reference.to_string(), &stored.key, &Origin::Registry { manifest })?;
        Ok(stored)
    }
}
