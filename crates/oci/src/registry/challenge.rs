//! Challenges of registries.

use http_auth::{ParamValue, parse_challenges};

/// Longest parameter that is believed: a realm is a URL of a hundred bytes.
const PARAMETER_MAX: usize = 4 << 10;

/// How to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a token, which `realm` gives.
    Bearer { realm: String, service: Option<String> },
    /// With name and password.
    Basic,
}

impl Challenge {
    /// The best of what the `WWW-Authenticate` headers offer: a token, because the password then goes out once and not
    /// with every request. Which `scope` the registry names does not matter: what is asked for is decided here.
    pub(super) fn of(headers: &[String]) -> Option<Self> {
        let mut found = None;
        for challenge in headers.iter().filter_map(|header| parse_challenges(header).ok()).flatten() {
            let parameter = |name: &str| {
                let (_, value): &(&str, ParamValue<'_>) =
                    challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                Some(value.to_unescaped()).filter(|value| value.len() <= PARAMETER_MAX)
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameter("realm") {
                    return Some(Self::Bearer { realm, service: parameter("service") });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Self::Basic);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(headers: &[&str]) -> Option<Challenge> {
        Challenge::of(&headers.iter().map(|header| (*header).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_registries_send() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let docker = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        assert_eq!(of(&[docker]), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(
            of(&[r#"Basic realm="x""#, docker]),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"))
        );
        assert_eq!(of(&[r#"Basic realm="x", bearer REALM="https://t/""#]), bearer("https://t/", None));
        assert_eq!(of(&[r#"BASIC realm="a b", charset="UTF-8""#]), Some(Challenge::Basic));
        assert_eq!(of(&[r#"Bearer service="x""#]), None);
        assert_eq!(of(&["Negotiate realm=x", "", "\"", "Bearer realm=\""]), None);
        assert_eq!(of(&[&format!("Bearer realm=\"https://t/{}\"", "x".repeat(PARAMETER_MAX))]), None);
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "\\PC*", rest in "[a-z=\",\\\\ ]*") {
            let _ = of(&[&header, &format!("Bearer {rest}")]);
        }
    }
}
