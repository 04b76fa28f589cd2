//! Specs that are URLs.

use vmette_cache::Digest;
use vmette_http::{BadUrl, Url};

use crate::error::{ProviderError, Result};

/// Beginning of a fragment that pins the file.
const PIN: &str = "sha256=";

/// `SCHEME+http[s]://HOST/PATH[#sha256=HEX]`.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    scheme: &'static str,
    url: Url,
    pin: Option<Digest>,
}

/// Returns whether a spec is a URL of this scheme.
pub(in crate::providers) fn claims(scheme: &str, spec: &str) -> bool {
    let rest = spec.strip_prefix(scheme).and_then(|rest| rest.strip_prefix('+'));
    rest.is_some_and(|rest| rest.starts_with("http:") || rest.starts_with("https:"))
}

impl Remote {
    pub(super) fn parse(scheme: &'static str, spec: &str) -> Result<Self> {
        let rest = spec.strip_prefix(scheme).and_then(|rest| rest.strip_prefix('+')).unwrap_or(spec);
        let (address, fragment) = match rest.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (rest, None),
        };
        // The spec itself may hold a password: it is not repeated.
        let invalid = |problem: &str| {
            ProviderError::InvalidSpec(format!(
                "{scheme}+URL: {problem}; the form is {scheme}+https://HOST/PATH, with #{PIN}HEX at its end to name the file's SHA-256"
            ))
        };
        let url = Url::parse(address).map_err(|e| match e {
            BadUrl::Credentials => ProviderError::InvalidSpec(format!(
                "{scheme}+URL: the URL {e}; fetch the file with a program that can log in, and use {scheme}+file:///PATH"
            )),
            e => invalid(&format!("what follows {scheme}+ {e}")),
        })?;
        let pin = match fragment {
            None => None,
            Some(fragment) => {
                let digits = fragment.strip_prefix(PIN).ok_or_else(|| invalid("what follows # is no pin"))?;
                let digest = format!("sha256:{}", digits.to_ascii_lowercase()).parse();
                Some(digest.map_err(|_| invalid("the pin is not 64 hexadecimal digits"))?)
            }
        };
        Ok(Self { scheme, url, pin })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn pin(&self) -> Option<Digest> {
        self.pin
    }

    /// The spec again, in its one form: what the image is called in the store, and how a run can name it.
    pub(super) fn name(&self) -> String {
        let pin = self.pin.map_or_else(String::new, |pin| format!("#{PIN}{}", pin.hex()));
        format!("{}+{}{pin}", self.scheme, self.url.with_query())
    }

    /// The spec for messages and lists: without a query, which may hold a signature.
    pub(super) fn shown(&self) -> String {
        format!("{}+{}", self.scheme, self.url)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn forms() {
        for spec in ["tar+http:", "tar+https://h/x", "tar+http://h/x"] {
            assert!(claims("tar", spec), "{spec}");
        }
        for spec in ["tar+file:///x", "tar+ftp://h/x", "tar", "squashfs+http://h", "http://h/x", "tar+httpx"]
        {
            assert!(!claims("tar", spec), "{spec}");
        }
        let remote =
            Remote::parse("tar", &format!("tar+HTTPS://h/x?q=secret#sha256={}", HEX.to_uppercase())).unwrap();
        assert_eq!(remote.name(), format!("tar+https://h/x?q=secret#sha256={HEX}"));
        assert_eq!(remote.shown(), "tar+https://h/x");
        assert_eq!(remote.pin(), Some(Digest::of(b"abc")));
        assert_eq!(Remote::parse("tar", "tar+http://h").unwrap().name(), "tar+http://h/");
    }

    #[test]
    fn refusals() {
        for (spec, part) in [
            ("tar+https://user:hidden@h/x", "tar+file:///PATH"),
            ("tar+https:///x", "tar+https://HOST/PATH"),
            ("tar+https:", "tar+https://HOST/PATH"),
            ("tar+https://h/x#part", "is no pin"),
            ("tar+https://h/x#sha256=", "64 hexadecimal digits"),
            ("tar+https://h/x#sha256=0123", "64 hexadecimal digits"),
            ("tar+https://h/x#sha512=0123", "is no pin"),
        ] {
            let message = Remote::parse("tar", spec).unwrap_err().to_string();
            assert!(message.contains(part) && !message.contains("hidden"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_spec_panics_and_names_are_of_one_form(rest in "\\PC*") {
            if let Ok(remote) = Remote::parse("tar", &format!("tar+https://{rest}")) {
                prop_assert_eq!(Remote::parse("tar", &remote.name()).unwrap().name(), remote.name());
            }
        }
    }
}
