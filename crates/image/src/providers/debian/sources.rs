//! Servers of packages, in apt's one-line form, `deb URI SUITE COMPONENT…`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::options::{BuildOptions, is_mirror, is_word};

/// Sources of this machine's apt.
const HOST_LIST: &str = "/etc/apt/sources.list";
const HOST_FOLDER: &str = "/etc/apt/sources.list.d";
const OS_RELEASE: &str = "/etc/os-release";
/// Longest of these files, in bytes: a list of some lines.
const LEN_MAX: u64 = 1 << 20;
/// Beside a suite: its fixes.
const COMPANIONS: [&str; 3] = ["", "-updates", "-security"];
/// Suites that are fixed by themselves, and have no companions.
const ROLLING: [&str; 3] = ["sid", "unstable", "experimental"];
/// The component that every Debian mirror has. A source without it is somebody else's.
const MAIN: &str = "main";

/// One source of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
}

/// The lines for these options. None at all leaves it to mmdebstrap, which takes Debian's own servers.
pub(super) fn lines(options: &BuildOptions) -> Vec<String> {
    let components =
        if options.components.is_empty() { MAIN.to_owned() } else { options.components.join(" ") };
    if !options.mirrors.is_empty() {
        let line = |mirror| format!("deb {mirror} {} {components}", options.suite);
        return options.mirrors.iter().map(line).collect();
    }
    host_lines(
        &host_sources(),
        host_suite(&read(Path::new(OS_RELEASE))).as_deref(),
        &options.suite,
        &components,
    )
}

/// This machine's mirrors of the suite; if it has none of it, the mirrors of its own suite, which have the others too.
fn host_lines(sources: &[Source], host: Option<&str>, suite: &str, components: &str) -> Vec<String> {
    let of = |from: &str| -> Vec<String> {
        let companions = if ROLLING.contains(&suite) { &COMPANIONS[..1] } else { &COMPANIONS[..] };
        companions
            .iter()
            .flat_map(|companion| {
                let theirs = format!("{from}{companion}");
                sources.iter().filter(move |source| source.suites.contains(&theirs)).flat_map(move |source| {
                    source.uris.iter().map(move |uri| format!("deb {uri} {suite}{companion} {components}"))
                })
            })
            .collect()
    };
    let has_suite = sources.iter().any(|source| source.suites.iter().any(|theirs| theirs == suite));
    match host {
        _ if has_suite => of(suite),
        Some(host) => of(host),
        None => Vec::new(),
    }
}

/// The suite of a host that is Debian.
fn host_suite(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        os_release.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches('"')))
    };
    (value("ID")? == "debian").then_some(())?;
    value("VERSION_CODENAME").filter(|suite| is_word(suite)).map(str::to_owned)
}

fn host_sources() -> Vec<Source> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(HOST_FOLDER).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, HOST_LIST.into());
    let has = |file: &Path, extension: &str| file.extension().is_some_and(|found| found == extension);
    files
        .iter()
        .flat_map(|file| match file {
            file if has(file, "list") => one_line(&read(file)),
            file if has(file, "sources") => stanzas(&read(file)),
            _ => Vec::new(),
        })
        .collect()
}

/// Empty if it cannot be read: these are preferences.
fn read(path: &Path) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LEN_MAX).read_to_string(&mut text));
    if read.is_ok() { text } else { String::new() }
}

/// Only what can be said again in a line of our own, and is Debian's: options, such as `trusted`, are not taken over.
fn usable(uris: Vec<&str>, suites: Vec<&str>, components: &[&str]) -> Option<Source> {
    let own = |words: Vec<&str>, is_fine: fn(&str) -> bool| -> Vec<String> {
        words.into_iter().filter(|word| is_fine(word)).map(str::to_owned).collect()
    };
    let (uris, suites) = (own(uris, is_mirror), own(suites, is_word));
    let components: Vec<_> = components.iter().map(|&component| component.to_owned()).collect();
    (components.iter().any(|component| component == MAIN)).then_some(Source { uris, suites, components })
}

/// `deb [OPTION…] URI SUITE COMPONENT…`
fn one_line(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let rest = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_whitespace();
            let (uri, suite) = (words.next()?, words.next()?);
            usable(vec![uri], vec![suite], &words.collect::<Vec<_>>())
        })
        .collect()
}

/// `Key: value` lines, a blank one between sources.
fn stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')).chain([""]) {
        if line.trim().is_empty() {
            sources.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            // Goes on with the value above.
            if let Some((_, value)) = fields.last_mut() {
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.to_ascii_lowercase(), value.to_owned()));
        }
    }
    sources
}

fn stanza(fields: &[(String, String)]) -> Option<Source> {
    let words = |key: &str| -> Vec<&str> {
        fields
            .iter()
            .filter(|(found, _)| found == key)
            .flat_map(|(_, value)| value.split_whitespace())
            .collect()
    };
    let is_off = words("enabled")
        .iter()
        .any(|word| matches!(*word, "no" | "false" | "0" | "off" | "without" | "disable"));
    (words("types").contains(&"deb") && !is_off)
        .then(|| usable(words("uris"), words("suites"), &words("components")))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: https://download.example/linux/debian
Suites: bookworm
Components: stable

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main
";

    const EXPECTED: [&str; 3] = [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-updates main",
        "deb http://mirror.example/debian-security bookworm-security main",
    ];

    #[test]
    fn the_host_s_own_mirrors_are_used_and_nobody_else_s() {
        assert_eq!(host_lines(&stanzas(STANZAS), Some("bookworm"), "bookworm", "main"), EXPECTED);
    }

    #[test]
    fn another_suite_comes_from_the_same_mirrors() {
        let other = host_lines(&stanzas(STANZAS), Some("bookworm"), "trixie", "main");
        assert_eq!(other, EXPECTED.map(|line| line.replace("bookworm", "trixie")));
        let rolling = host_lines(&stanzas(STANZAS), Some("bookworm"), "sid", "main contrib");
        assert_eq!(rolling, ["deb http://mirror.example/debian sid main contrib"]);
        assert!(host_lines(&stanzas(STANZAS), None, "trixie", "main").is_empty());
    }

    #[test]
    fn one_line_sources() {
        let text = "\
deb [arch=amd64 trusted=yes] http://a.example/debian bookworm main # mine
deb-src http://b.example/debian bookworm main
  deb http://c.example/debian bookworm-security main contrib
deb cdrom:[Debian]/ bookworm main
deb http://d.example/ ./
deb
";
        let lines = host_lines(&one_line(text), None, "bookworm", "main");
        assert_eq!(
            lines,
            [
                "deb http://a.example/debian bookworm main",
                "deb http://c.example/debian bookworm-security main"
            ]
        );
    }

    #[test]
    fn hosts() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(host_suite(debian).as_deref(), Some("bookworm"));
        assert_eq!(host_suite(&debian.replace("ID=debian", "ID=ubuntu")), None);
        assert_eq!(host_suite("ID=debian\nVERSION_CODENAME=\"a b\"\n"), None);
        assert_eq!(host_suite(""), None);
    }

    #[test]
    fn mirrors_that_were_named_are_all() {
        let options = BuildOptions {
            mirrors: vec!["http://x.example/debian".to_owned()],
            components: vec!["main".to_owned(), "contrib".to_owned()],
            ..BuildOptions::new("trixie", "x")
        };
        assert_eq!(lines(&options), ["deb http://x.example/debian trixie main contrib"]);
    }
}
