//! References: names of images in registries.
//!
//! The grammar is the distribution specification's. It is parsed here, because a refusal should say which part is wrong
//! and because every start of a cached image begins with it: the expression that `oci-spec` has for it takes 27 ms to
//! compile, more than all else of such a start, lets Unicode letters into a tag, and only says that it does not match.

use std::fmt;
use std::path::Path;

use vmette_cache::Digest;

/// Longest host and repository together; registries agree on it.
const NAME_MAX: usize = 255;
/// Longest tag.
const TAG_MAX: usize = 128;
/// Where a name without a host is looked up.
const DEFAULT_HOST: &str = "docker.io";
/// The same registry under an older name.
const DEFAULT_HOST_OLD: &str = "index.docker.io";
/// The owner of repositories of the default registry that have none in their name.
const DEFAULT_OWNER: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// The host of images that were made or imported here. Without a port it is no registry: one on this machine is reached
/// as `localhost:PORT`.
const LOCAL_HOST: &str = "localhost";
/// Prefix of a spec that can only be a reference.
pub const SCHEME: &str = "oci://";

/// An image's name, complete: host, repository, and a tag or a digest or both. Displayed in its canonical form, which
/// parses to the same reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    /// The repository as it was written, when no host was.
    short: Option<String>,
}

/// The name of a manifest in its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// A tag, whose manifest may change.
    Tag(String),
    /// The manifest's own digest.
    Digest(Digest),
}

/// A text that is no reference, with the reason, made fit for a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReference(String);

impl BadReference {
    pub(crate) fn new(reason: String) -> Self {
        Self(reason)
    }
}

/// A flaw of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Flaw {
    #[error("it names no repository")]
    Empty,
    #[error("host and repository have more than {NAME_MAX} bytes")]
    TooLong,
    #[error("the registry's host is not HOST, HOST:PORT or [IPV6]:PORT")]
    Host,
    #[error("repository names are written in lower case")]
    Uppercase,
    #[error(
        "a repository consists of parts between slashes, each of lower-case letters and digits with one `.`, one or two \
         `_`, or any number of `-` between them"
    )]
    Repository,
    #[error("a tag is 1 to {TAG_MAX} letters, digits, `_`, `.` and `-`, and does not begin with `.` or `-`")]
    Tag,
    #[error("the digest after @ is not sha256: and 64 lower-case hexadecimal digits")]
    Digest,
}

impl Reference {
    /// Parses `alpine`, `alpine:3.20`, `ghcr.io/owner/name:tag`, `host:5000/name@sha256:…`, `name:tag@sha256:…`, with or
    /// without `oci://` in front.
    ///
    /// # Errors
    /// [`BadReference`], which says what is wrong.
    pub fn parse(spec: &str) -> Result<Self, BadReference> {
        parse(spec.strip_prefix(SCHEME).unwrap_or(spec)).map_err(|flaw| invalid(spec, flaw))
    }

    /// The name of an image that is made or imported here: one without a host belongs to `localhost`.
    ///
    /// # Errors
    /// [`BadReference`], also for a digest: that of a new image is not known before.
    pub fn of_local(name: &str) -> Result<Self, BadReference> {
        let reference = Self::parse(name)?;
        if reference.digest.is_some() {
            return Err(BadReference(format!(
                "image name {name:?}: a new image cannot be named by digest; use NAME or NAME:TAG"
            )));
        }
        Ok(reference.local().unwrap_or(reference))
    }

    /// The same name among the images that were made here; `None` if it was written with a host or a digest.
    #[must_use]
    pub fn local(&self) -> Option<Self> {
        let repository = self.short.clone().filter(|_| self.digest.is_none())?;
        Some(Self {
            host: LOCAL_HOST.to_owned(),
            repository,
            tag: self.tag.clone(),
            digest: None,
            short: None,
        })
    }

    /// Returns whether it names an image that was made here, which no registry has.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host == LOCAL_HOST
    }

    /// `docker.io`, `host:5000`; in lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, which says exactly what is meant; a tag beside it is then only for people.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The name of its manifest in the repository.
    #[must_use]
    pub fn which(&self) -> Which {
        match (self.digest, &self.tag) {
            (Some(digest), _) => Which::Digest(digest),
            (None, tag) => Which::Tag(tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned())),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Characters of a spec that a message shows.
const SHOWN_MAX: usize = 300;

fn invalid(spec: &str, flaw: Flaw) -> BadReference {
    let shown: String = spec.chars().take(SHOWN_MAX).collect();
    let path = spec.strip_prefix(SCHEME).unwrap_or(spec);
    let hint = if Path::new(path).is_dir() {
        format!("; for the directory of that name write ./{shown}", shown = shown.trim_start_matches(SCHEME))
    } else {
        String::new()
    };
    BadReference(format!("{shown:?} is not an image's name: {flaw}{hint}"))
}

fn parse(text: &str) -> std::result::Result<Reference, Flaw> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| Flaw::Digest)?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let last_part = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last_part..].find(':') {
        Some(colon) => (&rest[..last_part + colon], Some(&rest[last_part + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(Flaw::Tag);
    }
    if name.is_empty() {
        return Err(Flaw::Empty);
    }
    let (host, repository) = match name.split_once('/') {
        Some((first, rest)) if is_host_like(first) => (Some(first), rest),
        _ => (None, name),
    };
    if host.is_some_and(|host| !is_host(host)) {
        return Err(Flaw::Host);
    }
    check_repository(repository)?;
    let mut reference = Reference {
        host: host.unwrap_or(DEFAULT_HOST).to_ascii_lowercase(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
        short: host.is_none().then(|| repository.to_owned()),
    };
    if reference.host == DEFAULT_HOST_OLD {
        DEFAULT_HOST.clone_into(&mut reference.host);
    }
    if reference.host == DEFAULT_HOST && !repository.contains('/') {
        reference.repository = format!("{DEFAULT_OWNER}/{repository}");
    }
    if reference.tag.is_none() && digest.is_none() {
        reference.tag = Some(DEFAULT_TAG.to_owned());
    }
    if reference.host.len() + 1 + reference.repository.len() > NAME_MAX {
        return Err(Flaw::TooLong);
    }
    Ok(reference)
}

/// Returns whether the part before the first slash is a host rather than an owner: the rule that Docker set.
fn is_host_like(part: &str) -> bool {
    part.contains(['.', ':', '[']) || part.eq_ignore_ascii_case(LOCAL_HOST)
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address are inside its brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok());
    let host_fits = match host.strip_prefix('[') {
        Some(rest) => {
            rest.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
        }
        None => host.split('.').all(is_label),
    };
    port_fits && host_fits
}

/// One part of a host's name.
fn is_label(label: &str) -> bool {
    /// The domain name system's limit.
    const LABEL_MAX: usize = 63;
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn check_repository(repository: &str) -> std::result::Result<(), Flaw> {
    if repository.is_empty() {
        return Err(Flaw::Empty);
    }
    if repository.len() > NAME_MAX {
        return Err(Flaw::TooLong);
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Flaw::Uppercase);
    }
    if repository.split('/').all(is_component) { Ok(()) } else { Err(Flaw::Repository) }
}

/// One part of a repository: runs of letters and digits, with separators between them.
fn is_component(part: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_word(first)
        && is_word(last)
        && bytes.split(is_word).filter(|separator| !separator.is_empty()).all(|separator| {
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn names_become_complete() {
        for (text, canonical) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("oci://alpine:3.20", "docker.io/library/alpine:3.20"),
            ("owner/name", "docker.io/owner/name:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("test.com:5000", "docker.io/library/test.com:5000"),
            ("test.com/repo:Tag", "test.com/repo:Tag"),
            ("host:5000/a", "host:5000/a:latest"),
            ("GHCR.io/a/b__c.d--e_f", "ghcr.io/a/b__c.d--e_f:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("[2001:db8::1]/x", "[2001:db8::1]/x:latest"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(Reference::parse(canonical).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn digests_say_what_is_meant() {
        let pinned = Reference::parse(&format!("alpine@{DIGEST}")).unwrap();
        assert_eq!(pinned.to_string(), format!("docker.io/library/alpine@{DIGEST}"));
        assert_eq!(pinned.which(), Which::Digest(DIGEST.parse().unwrap()));
        let both = Reference::parse(&format!("host:5000/a:3@{DIGEST}")).unwrap();
        assert_eq!(both.to_string(), format!("host:5000/a:3@{DIGEST}"));
        assert_eq!(both.which(), Which::Digest(DIGEST.parse().unwrap()));
        assert_eq!(Reference::parse("a").unwrap().which(), Which::Tag("latest".to_owned()));
    }

    #[test]
    fn only_names_without_a_host_can_be_local() {
        let local = |text: &str| Reference::parse(text).unwrap().local().map(|name| name.to_string());
        assert_eq!(local("mydeb").unwrap(), "localhost/mydeb:latest");
        assert_eq!(local("team/mydeb:2").unwrap(), "localhost/team/mydeb:2");
        assert_eq!(local("docker.io/library/mydeb"), None);
        assert_eq!(local(&format!("mydeb@{DIGEST}")), None);
        assert_eq!(Reference::of_local("mydeb").unwrap().to_string(), "localhost/mydeb:latest");
        assert_eq!(Reference::of_local("ghcr.io/a:1").unwrap().to_string(), "ghcr.io/a:1");
        assert!(Reference::of_local(&format!("a@{DIGEST}")).is_err());
        assert!(Reference::parse("localhost/x").unwrap().is_local());
        assert!(!Reference::parse("localhost:5000/x").unwrap().is_local());
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let flaw = |text: &str| parse(text).unwrap_err();
        for text in ["", ":tag", "host:5000/", "@", "ghcr.io/"] {
            assert!(matches!(flaw(text), Flaw::Empty | Flaw::Digest), "{text}");
        }
        for text in ["Alpine", "ghcr.io/Owner/x", "Owner/x"] {
            assert_eq!(flaw(text), Flaw::Uppercase, "{text}");
        }
        for text in [
            "a//b", "a/", "/a", "a..b", "a___b", "-a", "a-", "a b", "ä", "a/../b", "a._b", "a%2fb", "a\u{1b}",
        ] {
            assert_eq!(flaw(text), Flaw::Repository, "{text}");
        }
        for text in ["a:", "a:.x", "a:-x", "a:ä", "a:b:c", &format!("a:{}", "x".repeat(129))] {
            assert_eq!(flaw(text), Flaw::Tag, "{text}");
        }
        for text in [
            "-x.com/a",
            "x..com/a",
            "host:x/a",
            "host:0/a",
            "host:65536/a",
            "host:+1/a",
            "[::g]/a",
            "u@h.com:1/a",
        ] {
            assert!(matches!(flaw(text), Flaw::Host | Flaw::Digest), "{text}");
        }
        for text in
            ["a@sha512:00", "a@", &format!("a@{}", DIGEST.to_uppercase()), &format!("a@{DIGEST}@{DIGEST}")]
        {
            assert_eq!(flaw(text), Flaw::Digest, "{text}");
        }
        assert_eq!(flaw(&format!("host.com/{}", "a".repeat(250))), Flaw::TooLong);
        assert!(parse(&format!("host.com/{}", "a".repeat(246))).is_ok());
        assert!(Reference::parse("Cargo").unwrap_err().to_string().contains("lower case"));
    }

    #[test]
    fn a_directory_of_that_name_is_pointed_out() {
        let message = Reference::parse("oci://src/../src").unwrap_err().to_string();
        assert!(message.contains("write ./src/../src"), "{message}");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_taken_is_canonical(text in "\\PC{0,40}|[a-zA-Z0-9:/@._\\[\\]-]{0,60}") {
            if let Ok(reference) = parse(&text) {
                let canonical = reference.to_string();
                let again = parse(&canonical).unwrap();
                prop_assert_eq!(again.to_string(), canonical.clone());
                prop_assert_eq!(again.which(), reference.which());
                prop_assert!(canonical.is_ascii() && !canonical.contains(".."));
            }
        }
    }
}
