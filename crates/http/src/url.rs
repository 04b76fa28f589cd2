//! URLs that requests go to.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ureq::http::Uri;

/// Longest URL, in bytes. Signed URLs of object stores take one or two KiB; most servers refuse more than eight.
const URL_MAX: usize = 8 << 10;
/// Characters of a path that a message shows.
const SHOWN_MAX: usize = 256;

/// An `http` or `https` URL with a host and without credentials. As text: without its query, which may hold a
/// signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(Uri);

/// A text that is no URL for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It is longer than any server takes.
    #[error("holds more than 8 KiB")]
    Long,
    /// It is malformed.
    #[error("is not a URL")]
    Syntax,
    /// It is another scheme's.
    #[error("is neither http nor https")]
    Scheme,
    /// It has no host, or a malformed one.
    #[error("names no server")]
    Host,
    /// It holds credentials.
    #[error("holds a user name or password, which would end in logs and lists")]
    Credentials,
}

/// A server: credentials for one are not for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// See [`BadUrl`].
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        if text.len() > URL_MAX {
            return Err(BadUrl::Long);
        }
        let uri: Uri = text.parse().map_err(|_| BadUrl::Syntax)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(BadUrl::Scheme);
        }
        let authority = uri.authority().ok_or(BadUrl::Host)?;
        if authority.as_str().contains('@') {
            return Err(BadUrl::Credentials);
        }
        let host = authority.host();
        let port_is_right = authority.as_str().len() == host.len() || authority.port_u16().is_some();
        if !is_host(host) || !port_is_right {
            return Err(BadUrl::Host);
        }
        Ok(Self(uri))
    }

    /// The URL that a `Location` of this one leads to.
    ///
    /// # Errors
    /// See [`BadUrl`].
    pub fn join(&self, location: &str) -> Result<Self, BadUrl> {
        let scheme = self.0.scheme_str().unwrap_or("https");
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let has_scheme = location.split_once("://").is_some_and(|(scheme, _)| {
            scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        });
        let absolute = if has_scheme {
            location.to_owned()
        } else if let Some(rest) = location.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            let path = self.0.path();
            let kept = if location.starts_with('?') { path } else { &path[..=path.rfind('/').unwrap_or(0)] };
            format!("{scheme}://{authority}{kept}{location}")
        };
        Self::parse(&absolute)
    }

    /// Returns whether it is `https`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The host in lower case, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.0.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_ascii_lowercase()
    }

    /// The port, or the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// The server.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { tls: self.is_tls(), host: self.host(), port: self.port() }
    }

    /// `host` or `host:port`, as it is written in the URL.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// Returns whether it stays on this machine. `localhost` does: its addresses are checked when it is resolved.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host())
    }

    /// The whole URL, for a request.
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    /// The whole URL, which tells it from others. Not for messages.
    #[must_use]
    pub fn with_query(&self) -> String {
        self.0.to_string()
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !host.is_empty() && host.bytes().all(known)
}

/// Returns whether a host's name or address stands for this machine. A short form such as `127.1` does not: resolvers differ
/// on those.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = vmette_work::printable(self.0.path(), SHOWN_MAX);
        write!(f, "{}://{}{path}", self.0.scheme_str().unwrap_or_default(), self.authority())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_url_may_be() {
        for (text, error) in [
            ("https://u:p@host/x", BadUrl::Credentials),
            ("https://u@host/x", BadUrl::Credentials),
            ("ftp://host/x", BadUrl::Scheme),
            ("file:///etc/passwd", BadUrl::Syntax),
            ("/x", BadUrl::Scheme),
            ("https://", BadUrl::Syntax),
            ("https://h/a b", BadUrl::Syntax),
            ("https://h/\r\nX: y", BadUrl::Syntax),
            ("https://h:99999/", BadUrl::Host),
            ("https://h%2f/", BadUrl::Syntax),
            ("http://[]:80//", BadUrl::Host),
            ("http://[::1::]/", BadUrl::Host),
            ("http://[h]/", BadUrl::Host),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text}");
        }
        let long = format!("https://h/{}", "a".repeat(URL_MAX));
        assert_eq!(Url::parse(&long), Err(BadUrl::Long));
        let url = Url::parse("HTTPS://Host:5000/a?X-Signature=secret#part").unwrap();
        assert_eq!((url.host().as_str(), url.port(), url.is_tls()), ("host", 5000, true));
        assert_eq!(url.to_string(), "https://Host:5000/a");
        assert!(!format!("{url:?}").contains("secret"));
    }

    #[test]
    fn where_a_location_leads() {
        let base = Url::parse("https://h:1/a/b?q").unwrap();
        for (location, target) in [
            ("http://x/y", "http://x/y"),
            ("//x/y", "https://x/y"),
            ("/y?z", "https://h:1/y?z"),
            ("y", "https://h:1/a/y"),
            ("?z", "https://h:1/a/b?z"),
        ] {
            assert_eq!(base.join(location).unwrap().with_query(), target);
        }
        assert_eq!(base.join("ftp://x/"), Err(BadUrl::Scheme));
        assert_eq!(base.join("https://u:p@x/"), Err(BadUrl::Credentials));
    }

    #[test]
    fn what_is_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["127.1", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "2130706433", ""]
        {
            assert!(!is_loopback(host), "{host}");
        }
        assert!(Url::parse("http://[::1]:5000/").unwrap().is_loopback());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", location in "\\PC*") {
            let _ = Url::parse(&text);
            let _ = Url::parse(&format!("https://{text}"));
            let _ = Url::parse("https://h/a").unwrap().join(&location);
        }
    }
}
