//! The choice between TLS and plain HTTP.
//!
//! Always, except one on this machine or one that the user has named for it: such a registry may have TLS or not, and
//! says so when it is asked. It is asked without TLS first, and without credentials: a server with TLS refuses that at
//! once, whereas one without TLS may wait for the rest of what looks like the beginning of a request.

use std::sync::{Mutex, PoisonError};

use vmette_http::{BadUrl, Client, Error, NetworkError, Request, Result, Url};

/// Bytes of the answer that says that a registry is there; it is `{}`.
const ANSWER_MAX: usize = 64 << 10;
/// How servers with TLS answer a request without.
const WANTS_TLS: [u16; 2] = [400, 426];

/// Where a registry's interface is.
pub(super) struct Base {
    secure: Url,
    plain: Url,
    chosen: Mutex<Option<Url>>,
}

impl Base {
    pub(super) fn new(host: &str) -> std::result::Result<Self, BadUrl> {
        let at = |scheme: &str| {
            let url = Url::parse(&format!("{scheme}://{host}/v2/"))?;
            // A host with a slash or a question mark in it would make another URL of it.
            if url.authority().eq_ignore_ascii_case(host) { Ok(url) } else { Err(BadUrl::Host) }
        };
        Ok(Self { secure: at("https")?, plain: at("http")?, chosen: Mutex::default() })
    }

    /// Asks the server at most once, and only when both are possible.
    pub(super) fn find(&self, client: &Client) -> Result<Url> {
        if !client.may_be_plain(&self.plain) {
            return Ok(self.secure.clone());
        }
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(url) = &*chosen {
            return Ok(url.clone());
        }
        let ask = |url: &Url| client.send_once(&Request::get(url.clone()), ANSWER_MAX);
        let url = match ask(&self.plain) {
            Ok(answer) if answer.url().is_tls() => self.secure.clone(),
            Ok(answer) if !WANTS_TLS.contains(&answer.status()) => self.plain.clone(),
            Ok(_) | Err(Error::Network(_)) => match ask(&self.secure) {
                Ok(_) => self.secure.clone(),
                // It has TLS, and what is wrong with it is told by the request that matters.
                Err(Error::Network(NetworkError::Certificate { .. } | NetworkError::TrustStore { .. })) => {
                    self.secure.clone()
                }
                // Neither: not remembered, and the request that matters tells why.
                Err(Error::Network(_)) => return Ok(self.plain.clone()),
                Err(e) => return Err(e),
            },
            Err(e) => return Err(e),
        };
        *chosen = Some(url.clone());
        Ok(url)
    }
}
