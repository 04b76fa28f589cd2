//! A Debian system as a caller asks for it.

use std::fmt;
use std::str::FromStr;

use crate::error::{ProviderError, Result};

/// Longest name of a suite, a component or a package, in bytes. None of Debian's has half of that.
const WORD_MAX: usize = 128;
/// Longest mirror in bytes.
const MIRROR_MAX: usize = 1024;
/// Most packages that are named, and most mirrors and components: a command line has room for them.
const WORDS_MAX: usize = 1000;

/// A set of packages besides those that are named, from few to many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DebianVariant {
    /// Those without which nothing works.
    Essential,
    /// And apt.
    Apt,
    /// And those of priority `required`, with apt. The default.
    #[default]
    Minbase,
    /// And compilers.
    Buildd,
    /// And those of priority `important`: what debootstrap makes.
    Important,
    /// And those of priority `standard`.
    Standard,
}

impl DebianVariant {
    /// All, in order.
    pub const ALL: [Self; 6] =
        [Self::Essential, Self::Apt, Self::Minbase, Self::Buildd, Self::Important, Self::Standard];

    /// The name by which mmdebstrap knows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Essential => "essential",
            Self::Apt => "apt",
            Self::Minbase => "minbase",
            Self::Buildd => "buildd",
            Self::Important => "important",
            Self::Standard => "standard",
        }
    }
}

impl fmt::Display for DebianVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DebianVariant {
    type Err = ProviderError;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|variant| variant.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            ProviderError::InvalidSpec(format!("{text:?} is no variant of a Debian system; there are {all}"))
        })
    }
}

/// A Debian system to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    /// `bookworm`, `stable`, `sid`.
    pub suite: String,
    /// Packages besides the variant's: `python3`, `gcc:arm64`, `git=1:2.39.5-0+deb12u2`.
    pub include: Vec<String>,
    /// The name of the image.
    pub name: String,
    /// Servers of packages: `http://deb.debian.org/debian`. Without any those of this machine, or Debian's own.
    pub mirrors: Vec<String>,
    /// The set of packages besides.
    pub variant: DebianVariant,
    /// `main`, `contrib`; without any `main`.
    pub components: Vec<String>,
}

impl BuildOptions {
    /// A small system of this suite, under this name.
    #[must_use]
    pub fn new(suite: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            suite: suite.into(),
            include: Vec::new(),
            name: name.into(),
            mirrors: Vec::new(),
            variant: DebianVariant::default(),
            components: Vec::new(),
        }
    }

    /// Everything in it becomes part of a command line or of apt's list of sources, where blanks, brackets and leading
    /// dashes have meanings: `[trusted=yes]` would let in packages that nobody signed.
    pub(crate) fn check(&self) -> Result<()> {
        let all = |what, words: &[String], is_fine: fn(&str) -> bool| {
            if words.len() > WORDS_MAX {
                return Err(ProviderError::InvalidSpec(format!("more than {WORDS_MAX} of: {what}")));
            }
            match words.iter().find(|word| !is_fine(word)) {
                Some(word) => Err(ProviderError::InvalidSpec(format!("{word:?} is no {what}"))),
                None => Ok(()),
            }
        };
        all("Debian suite, such as bookworm", std::slice::from_ref(&self.suite), is_word)?;
        all("component of a suite, such as main", &self.components, is_word)?;
        all("name of a Debian package, such as python3", &self.include, is_package)?;
        all("mirror, such as http://deb.debian.org/debian", &self.mirrors, is_mirror)
    }

    /// The image's source, for people.
    pub(super) fn source(&self) -> String {
        let include = if self.include.is_empty() {
            String::new()
        } else {
            format!(" with {}", self.include.join(", "))
        };
        format!("Debian {}, {}{include}", self.suite, self.variant)
    }
}

/// Lower-case letters and digits, and some others in between.
pub(super) fn is_word(word: &str) -> bool {
    word.len() <= WORD_MAX
        && word.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
        // To apt this asks for the removal of what stands before.
        && !word.ends_with('-')
}

/// A name, and perhaps an architecture or a version.
fn is_package(package: &str) -> bool {
    let (name, version) = package.split_once('=').unwrap_or((package, "1"));
    let (name, architecture) = name.split_once(':').unwrap_or((name, "any"));
    let of_version = |byte: u8| byte.is_ascii_alphanumeric() || b".+~:-".contains(&byte);
    is_word(name)
        && is_word(architecture)
        && (1..=WORD_MAX).contains(&version.len())
        && version.bytes().all(of_version)
}

pub(super) fn is_mirror(mirror: &str) -> bool {
    let schemes = ["http://", "https://", "file:///"];
    mirror.len() <= MIRROR_MAX
        && schemes.iter().any(|scheme| mirror.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
        && mirror.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/:._~%+=,-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BuildOptions {
        BuildOptions::new("bookworm", "mydeb")
    }

    #[test]
    fn what_apt_would_obey_is_refused() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let fine = BuildOptions {
            include: words(&["python3", "g++", "libc6:arm64", "git=1:2.39.5-0+deb12u2", "0ad"]),
            mirrors: words(&["http://deb.debian.org/debian", "file:///srv/mirror"]),
            components: words(&["main", "non-free-firmware"]),
            ..options()
        };
        fine.check().unwrap();
        for suite in ["", "-x", "a b", "Bookworm", "a/b", "a\nb", "a\0", &"a".repeat(200), "--help"] {
            assert!(BuildOptions { suite: suite.into(), ..options() }.check().is_err(), "{suite}");
        }
        for package in [
            "",
            "-x",
            "a,b",
            "./x.deb",
            "/x.deb",
            "?essential",
            "~x",
            "a-",
            "A",
            "a=",
            "a=1 2",
            "a:b:c",
            "a\n",
        ] {
            assert!(BuildOptions { include: words(&[package]), ..options() }.check().is_err(), "{package}");
        }
        for mirror in [
            "",
            "http://",
            "deb [trusted=yes] http://x y z",
            "http://x [trusted=yes]",
            "http://x\ndeb http://y",
            "ftp://x",
            "copy:/x",
            "-",
            "/etc/apt/sources.list",
            "http://user@host/",
        ] {
            assert!(BuildOptions { mirrors: words(&[mirror]), ..options() }.check().is_err(), "{mirror}");
        }
        assert!(BuildOptions { components: words(&["main contrib"]), ..options() }.check().is_err());
        assert!(BuildOptions { include: vec!["a".to_owned(); 1001], ..options() }.check().is_err());
    }

    #[test]
    fn variants_have_names() {
        for variant in DebianVariant::ALL {
            assert_eq!(variant.to_string().parse::<DebianVariant>().unwrap(), variant);
        }
        assert!("custom".parse::<DebianVariant>().unwrap_err().to_string().contains("minbase"));
    }
}
