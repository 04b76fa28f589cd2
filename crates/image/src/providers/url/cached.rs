//! From the cache, or from the server, or from the cache because the server is down.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use vmette_cache::Key;
use vmette_http::{Client, Download, Kind, NetworkError, Request, Response};

use super::body::Body;
use super::remote::Remote;
use crate::context::{Context, PullPolicy};
use crate::error::{ProviderError, Result};
use crate::store::{Description, NameRecord, Origin, Store, StoredImage, key_of};

/// A file that is to become an image.
pub(super) struct Fetch<'a> {
    pub(super) remote: &'a Remote,
    pub(super) client: &'a Client,
    pub(super) ctx: &'a Context,
    /// Part of every key.
    pub(super) converter: &'a str,
    /// Most bytes of the file, and the variable that raises it.
    pub(super) limit: (u64, &'static str),
    /// Makes the image at the path, and describes it.
    pub(super) build: &'a dyn Fn(Body, &Path) -> Result<Description>,
}

/// The image of a spec when its server was last asked.
struct Known {
    image: StoredImage,
    record: NameRecord,
}

impl Fetch<'_> {
    /// The image, by the context's [`PullPolicy`]. One caller at a time asks for a spec; the others wait, and find it.
    pub(super) fn obtain(&self) -> Result<StoredImage> {
        let (store, name) = (self.ctx.store()?, self.remote.name());
        let called = SystemTime::now();
        let policy = self.ctx.pull_policy();
        let known = self.known(&store, &name)?;
        if let Some(known) = &known
            && !self.must_ask(known, policy)
        {
            return Ok(known.image.clone());
        }
        if let Some(image) = self.pinned_key().and_then(|key| store.find(&key)) {
            // The same file is there under another name. A list is all that depends on this one.
            let _ = store.set_name(&name, &image.key, &Origin::Url { etag: None, last_modified: None });
            return Ok(image);
        }
        if policy == PullPolicy::Never {
            let shown = self.remote.shown();
            return Err(if self.ctx.is_offline() {
                ProviderError::OfflineCacheMiss(shown)
            } else {
                ProviderError::NotPulled(shown)
            });
        }
        let asked = self.ask(&store, &name, called);
        match (asked, known) {
            (Err(ProviderError::Network(e)), Some(known))
                if policy == PullPolicy::Stale && e.is_temporary() =>
            {
                self.ctx.work().warn(&format!(
                    "{}: using what was fetched before, as its server could not be asked for something newer: {e}",
                    self.remote.shown()
                ));
                Ok(known.image)
            }
            (Err(ProviderError::Network(e @ NetworkError::PlainHttp { .. })), _) => {
                Err(ProviderError::InvalidSpec(format!(
                    "{e}, or name the file's SHA-256 with #sha256=HEX at its end"
                )))
            }
            (asked, _) => asked,
        }
    }

    fn known(&self, store: &Store, name: &str) -> Result<Option<Known>> {
        let Some(record) = store.name(name)? else { return Ok(None) };
        if self.pinned_key().is_some_and(|key| key != record.key) {
            return Ok(None);
        }
        Ok(store.find(&record.key).map(|image| Known { image, record }))
    }

    /// Returns whether the server has to be asked though the image is there. A pinned file cannot become another one.
    fn must_ask(&self, known: &Known, policy: PullPolicy) -> bool {
        self.remote.pin().is_none() && policy.must_ask(known.record.checked)
    }

    fn ask(&self, store: &Store, name: &str, called: SystemTime) -> Result<StoredImage> {
        let _lock = store.lock_source(name)?;
        // The previous holder of the lock may have asked meanwhile; times of names are in whole seconds.
        let known = self.known(store, name)?;
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(known) = &known
            && seconds(known.record.checked) > seconds(called)
        {
            return Ok(known.image.clone());
        }
        // A condition is about what is there: an image that another version of the converter has made is no such thing.
        let known = known.filter(|known| match &known.record.origin {
            Origin::Url { etag, last_modified } => {
                self.version_key(name, etag.as_deref(), last_modified.as_deref()) == Some(known.record.key)
            }
            _ => false,
        });
        let request = Request::get(self.remote.url().clone()).pinned(self.remote.pin().is_some());
        let response = self.client.send(&match &known {
            Some(known) => conditional(request.clone(), &known.record.origin),
            None => request.clone(),
        })?;
        match (response.status(), known) {
            (304, Some(known)) => {
                // Not to be asked again for a while is a convenience: a cache that takes no writes serves without.
                let _ = store.touch_name(name);
                Ok(known.image)
            }
            (200, _) => self.fetch(store, name, request, response),
            _ => Err(self.client.refusal(response).into()),
        }
    }

    fn fetch(&self, store: &Store, name: &str, request: Request, response: Response) -> Result<StoredImage> {
        let client = self.client.clone();
        let kind = if self.remote.pin().is_some() { Kind::Immutable } else { Kind::Mutable };
        let shown = self.remote.shown();
        let download = Download::of(self.client, shown.clone(), response, kind, move |from, validator| {
            client.send(&request.clone().starting_at(from, validator))
        })?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (etag, last_modified) = (owned(download.etag()), owned(download.last_modified()));
        let key = self
            .pinned_key()
            .or_else(|| self.version_key(name, etag.as_deref(), last_modified.as_deref()))
            .unwrap_or_else(|| self.unique_key(name));
        let body = Body::new(download, shown.clone(), self.remote.pin(), self.limit, self.ctx.work())?;
        let image = store.obtain::<ProviderError>(&key, |staging| (self.build)(body, staging))?;
        store.set_name(name, &key, &Origin::Url { etag, last_modified })?;
        Ok(image)
    }

    /// The key of the file that the pin stands for, whatever URL it comes from.
    fn pinned_key(&self) -> Option<Key> {
        let pin = self.remote.pin()?;
        Some(key_of([self.converter, "sha256", &pin.hex()].map(str::as_bytes)))
    }

    /// The key of what the server calls this version of the file, when it calls it anything.
    fn version_key(&self, name: &str, etag: Option<&str>, last_modified: Option<&str>) -> Option<Key> {
        (etag.is_some() || last_modified.is_some()).then(|| {
            let parts = [self.converter, "version", name, etag.unwrap_or(""), last_modified.unwrap_or("")];
            key_of(parts.map(str::as_bytes))
        })
    }

    /// A key that nothing else has: two downloads of which nothing is known are two files. Only one process at a time
    /// asks for a name, so that the time tells them apart.
    fn unique_key(&self, name: &str) -> Key {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
        key_of([self.converter, "moment", name, &now].map(str::as_bytes))
    }
}

/// The file, unless it is still the one that `origin` speaks of.
fn conditional(request: Request, origin: &Origin) -> Request {
    match origin {
        Origin::Url { etag: Some(etag), .. } => request.header("if-none-match", etag.clone()),
        Origin::Url { last_modified: Some(date), .. } => request.header("if-modified-since", date.clone()),
        _ => request,
    }
}
