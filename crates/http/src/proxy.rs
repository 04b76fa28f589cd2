//! The environment's proxies.

use ureq::Proxy;

use super::error::NetworkError;
use super::url::{Url, is_loopback};

/// Reads a variable of the environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The proxies of an environment: `https_proxy` or `http_proxy`, by what the URL is, else `all_proxy`; in capitals as
/// well. Hosts in `no_proxy`, and those on this machine, are talked to directly.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    https: Option<(&'static str, String)>,
    http: Option<(&'static str, String)>,
    no_proxy: Vec<String>,
}

impl Proxies {
    pub(super) fn from_env(env: Lookup<'_>) -> Self {
        let first = |names: [&'static str; 4]| {
            names
                .into_iter()
                .find_map(|name| Some((name, env(name).filter(|value| !value.trim().is_empty())?)))
        };
        let no_proxy = env("no_proxy").or_else(|| env("NO_PROXY")).unwrap_or_default();
        let no_proxy = no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        Self {
            https: first(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            http: first(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            no_proxy: no_proxy.filter(|entry| !entry.is_empty()).collect(),
        }
    }

    pub(super) fn of(&self, url: &Url) -> Result<Option<Proxy>, NetworkError> {
        let Some((variable, value)) = (if url.is_tls() { &self.https } else { &self.http }) else {
            return Ok(None);
        };
        let host = url.host();
        if is_loopback(&host) || self.no_proxy.iter().any(|entry| excludes(entry, &host, url.port())) {
            return Ok(None);
        }
        let refuse = |problem: &str| NetworkError::Proxy { variable, problem: problem.to_owned() };
        if value.trim().to_ascii_lowercase().starts_with("socks") {
            return Err(refuse("SOCKS is not supported; name an HTTP proxy"));
        }
        // The value may hold a password: no part of it is shown.
        Proxy::new(value.trim()).map(Some).map_err(|_| refuse("it is not the URL of an HTTP proxy"))
    }
}

/// `*`, `host`, `.domain` or `*.domain`; `domain` means its subdomains as well, as curl and Go have it. With a port, that
/// one only.
fn excludes(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (entry, wanted) = match entry.rsplit_once(':') {
        Some((name, text)) if is_port(text) && (!name.contains(':') || name.ends_with(']')) => {
            (name, text.parse().ok())
        }
        _ => (entry, None),
    };
    let entry = entry.trim_start_matches('*').trim_start_matches('.').trim_matches(['[', ']']);
    let below = || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'));
    !entry.is_empty() && wanted.is_none_or(|wanted: u16| wanted == port) && (host == entry || below())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(env: &[(&str, &str)], url: &str) -> Result<Option<String>, String> {
        let lookup =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let proxy = Proxies::from_env(&lookup).of(&Url::parse(url).unwrap()).map_err(|e| e.to_string())?;
        Ok(proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())))
    }

    #[test]
    fn the_environment_chooses() {
        let env = [
            ("https_proxy", "http://secure:1"),
            ("HTTP_PROXY", "plain:2"),
            ("no_proxy", "in.example, .dot.example,*.star.example,one.example:8443,10.0.0.1"),
        ];
        for (url, proxy) in [
            ("https://x.example/", Some("secure:1")),
            ("http://x.example/", Some("plain:2")),
            ("https://in.example/", None),
            ("https://a.in.example/", None),
            ("https://inin.example/", Some("secure:1")),
            ("https://a.dot.example/", None),
            ("https://a.star.example/", None),
            ("https://one.example:8443/", None),
            ("https://one.example/", Some("secure:1")),
            ("https://10.0.0.1/", None),
            ("http://127.0.0.1:5000/", None),
            ("http://localhost/", None),
        ] {
            assert_eq!(chosen(&env, url), Ok(proxy.map(str::to_owned)), "{url}");
        }
        assert_eq!(chosen(&[("ALL_PROXY", "http://all:3")], "https://x/").unwrap().unwrap(), "all:3");
        assert_eq!(chosen(&[("ALL_PROXY", "http://all:3"), ("NO_PROXY", "*")], "https://x/"), Ok(None));
        assert_eq!(chosen(&[], "https://x/"), Ok(None));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_without_its_password() {
        for value in ["socks5://u:hidden@h:1", "ftp://u:hidden@h:1", "http://u:hidden@ h"] {
            let message = chosen(&[("https_proxy", value)], "https://x/").unwrap_err();
            assert!(message.contains("https_proxy") && !message.contains("hidden"), "{message}");
        }
    }
}
