//! Images in a registry, over the distribution specification's HTTP interface.

mod challenge;
mod credentials;
mod scheme;
mod session;
#[cfg(test)]
mod tests;
mod token;

use std::io::Read;
use std::sync::Arc;

use crate::error::ImageError;
use crate::error::{Error, Result};
use crate::reference::BadReference;
use crate::reference::Which;
use crate::source::{Blob, RawManifest, Source};
pub use credentials::Credentials;
use scheme::Base;
use session::Session;
use vmette_cache::Digest;
use vmette_http::{Client, Download, Kind, NetworkError, Request, Response, SmallResponse, Url};
use vmette_work::Work;

/// Bytes of a manifest or index; registries accept no larger ones.
const MANIFEST_MAX: usize = 4 << 20;
/// Longest path of one repository in a registry; the specification's limit for host and path together.
const REPOSITORY_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// The registry that `docker.io` stands for.
const DOCKER_HOST: &str = "docker.io";
const DOCKER_API: &str = "registry-1.docker.io";
/// The status of what a registry does not have.
const NOT_FOUND: u16 = 404;
/// Kinds of manifest that are understood.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";

/// One repository of a registry. Its credentials never go anywhere but to that registry and its token server; other
/// places that a manifest names for a layer are not asked at all.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    /// The host's name in references.
    host: String,
    repository: String,
    client: Client,
    base: Base,
    session: Session,
}

impl Registry {
    /// A repository, as a reference has it (`docker.io`, `library/alpine`), reached by this client. Asks nobody yet. Credentials are looked up, when they are
    /// asked for, in `known`, then in the environment and in files; `work` hears of credentials that are not sent.
    ///
    /// # Errors
    /// The names cannot be part of a URL.
    pub fn new(
        host: &str,
        repository: &str,
        client: &Client,
        known: &Credentials,
        work: &Work,
    ) -> Result<Self> {
        let env = Box::new(|name: &str| std::env::var(name).ok());
        let session = Session::new(client.clone(), host, repository, known.clone(), env, work.clone());
        Self::with(host, repository, client.clone(), session)
    }

    fn with(host: &str, repository: &str, client: Client, session: Session) -> Result<Self> {
        let api = if host == DOCKER_HOST { DOCKER_API } else { host };
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
        let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
        let fits = repository.len() <= REPOSITORY_MAX
            && repository.bytes().all(known)
            && repository.split('/').all(is_part);
        if !fits {
            return Err(BadReference::new(format!("{repository:?} is no repository of a registry")).into());
        }
        let base =
            Base::new(api).map_err(|e| BadReference::new(format!("registry {host:?}: its address {e}")))?;
        Ok(Self(Arc::new(Inner {
            host: host.to_owned(),
            repository: repository.to_owned(),
            client,
            base,
            session,
        })))
    }
}

impl Inner {
    fn url(&self, kind: &str, name: &str) -> Result<Url> {
        let base = self.base.find(&self.client)?;
        let joined = base.join(&format!("/v2/{}/{kind}/{name}", self.repository));
        joined
            .map_err(|e| BadReference::new(format!("{}/{}: its URL {e}", self.host, self.repository)).into())
    }

    fn manifest_request(&self, which: &Which, head: bool) -> Result<Request> {
        let name = match which {
            Which::Digest(digest) => digest.to_string(),
            Which::Tag(tag) => {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                if tag.is_empty() || tag.len() > TAG_MAX || tag.starts_with('.') || !tag.bytes().all(known) {
                    return Err(BadReference::new(format!("{tag:?} is no tag of an image")).into());
                }
                tag.clone()
            }
        };
        let url = self.url("manifests", &name)?;
        let request = if head { Request::head(url) } else { Request::get(url) };
        Ok(request.header("accept", ACCEPT.to_owned()))
    }

    /// A defect of one of the repository's images.
    fn error(&self, which: &Which, source: ImageError) -> Error {
        let Self { host, repository, .. } = self;
        let name = match which {
            Which::Tag(tag) => format!("{host}/{repository}:{tag}"),
            Which::Digest(digest) => format!("{host}/{repository}@{digest}"),
        };
        Error::Image { name, source }
    }

    fn small(&self, request: &Request) -> vmette_http::Result<SmallResponse> {
        self.session.send(
            request,
            |request| self.client.send_small(request, MANIFEST_MAX),
            |small| small,
            |small| small.refusal(),
        )
    }

    fn open(&self, request: &Request) -> vmette_http::Result<Response> {
        self.session.send(
            request,
            |request| self.client.send(request),
            |response| response,
            |response| self.client.refusal(response),
        )
    }
}

impl Source for Registry {
    fn manifest(&self, which: &Which) -> Result<RawManifest> {
        let answer = self.0.small(&self.0.manifest_request(which, false)?)?;
        if answer.status() == NOT_FOUND {
            let problem = format!(
                "its registry answers {NOT_FOUND}{}; check the image's name and tag",
                answer.message()
            );
            return Err(self
                .0
                .error(which, ImageError::Missing { what: "its manifest".to_owned(), problem }));
        }
        // A part of a manifest, or none, is no success that can be used.
        if answer.status() != 200 {
            return Err(answer.refusal().into());
        }
        let media_type = answer.header("content-type").map(|value| {
            let (media_type, _) = value.split_once(';').unwrap_or((value, ""));
            media_type.trim().to_ascii_lowercase()
        });
        let bytes = answer.into_bytes();
        let digest = Digest::of(&bytes);
        if let Which::Digest(expected) = which
            && *expected != digest
        {
            let what = "its manifest".to_owned();
            return Err(self
                .0
                .error(which, ImageError::Digest { what, expected: *expected, actual: digest }));
        }
        Ok(RawManifest { media_type, digest, bytes })
    }

    /// Asks without a body. What the registry says is only compared with what it said before: a lie costs a download, or
    /// keeps the image that is there, both of which it can have in other ways.
    fn digest_of(&self, tag: &str) -> Result<Digest> {
        let which = Which::Tag(tag.to_owned());
        let answer = match self.0.small(&self.0.manifest_request(&which, true)?) {
            Ok(answer) => answer,
            // Some registries let nobody ask in this way; the other one tells what is really wrong.
            Err(vmette_http::Error::Network(NetworkError::Denied { .. })) => {
                return Ok(self.manifest(&which)?.digest);
            }
            Err(e) => return Err(e.into()),
        };
        let named = answer.header("docker-content-digest").filter(|_| answer.status() == 200);
        match named.and_then(|digest| digest.parse().ok()) {
            Some(digest) => Ok(digest),
            None => Ok(self.manifest(&which)?.digest),
        }
    }

    fn open(&self, blob: &Blob, offset: u64) -> Result<Box<dyn Read + Send>> {
        let inner = Arc::clone(&self.0);
        let url = inner.url("blobs", &blob.digest.to_string())?;
        let shown = url.to_string();
        let download = Download::start(
            &self.0.client,
            shown,
            Kind::Immutable,
            offset,
            Some(blob.size),
            move |from, validator| inner.open(&Request::get(url.clone()).starting_at(from, validator)),
        )?;
        Ok(Box::new(download))
    }
}
