//! `unsafe` lives in the few modules that talk to a kernel, to Objective-C or to C.
//!
//! The workspace's lints deny `unsafe`, and refuse a block without its reason. Any file could allow it again for itself
//! with one attribute, and any crate by not taking the workspace's lints: this check makes both a decision.

use cargo_metadata::Metadata;
use proc_macro2::{TokenStream, TokenTree};

use crate::sources::{Source, Unreadable};
use crate::violation::Violation;

/// Files that may allow `unsafe`, for themselves and the modules that they declare.
const MAY: &[&str] = &[
    "crates/capi/src/lib.rs",
    // Its one use exports the symbol that the C start-up code calls in place of a Rust `main`.
    "crates/guest/src/main.rs",
    "crates/guest/src/sys/mod.rs",
    "crates/qemu/src/process.rs",
    "crates/spawn/src/child.rs",
    "crates/vz/src/lib.rs",
];

/// The lints that keep `unsafe` out, and its reasons beside it.
const LINTS: &[&str] = &["unsafe_code", "undocumented_unsafe_blocks", "missing_safety_doc"];

/// Attributes that weaken a lint.
const WEAKER: &[&str] = &["allow", "expect", "warn"];

/// Files that allow `unsafe` and may not, and those that may and do not.
pub(crate) fn check(files: &[Source]) -> Vec<Violation> {
    check_with(files, MAY)
}

fn check_with(files: &[Source], may: &[&str]) -> Vec<Violation> {
    let allows: Vec<&str> =
        files.iter().filter(|file| weakens(&file.text)).map(|file| file.path.as_str()).collect();
    let outside = allows.iter().filter(|path| !may.contains(path)).map(|path| Violation {
        place: (*path).to_owned(),
        what: "it allows `unsafe`, or `unsafe` without a reason".to_owned(),
        remedy: format!("use a safe wrapper, or move it to one of {}", may.join(", ")),
    });
    let stale = may.iter().filter(|path| !allows.contains(path)).map(|path| Violation {
        place: (*path).to_owned(),
        what: "it may allow `unsafe` but does not, or is not there".to_owned(),
        remedy: "take it out of MAY in crates/xtask/src/unsafety.rs".to_owned(),
    });
    outside.chain(stale).collect()
}

/// Text that is no Rust weakens nothing: the compiler refuses it.
fn weakens(text: &str) -> bool {
    text.contains("unsafe") && text.parse().is_ok_and(|tokens| in_tokens(tokens, false))
}

fn in_tokens(tokens: TokenStream, weaker: bool) -> bool {
    let mut after = false;
    for token in tokens {
        match token {
            TokenTree::Group(group) if in_tokens(group.stream(), weaker || after) => return true,
            TokenTree::Ident(word) => {
                let word = word.to_string();
                if weaker && LINTS.contains(&word.as_str()) {
                    return true;
                }
                after = WEAKER.contains(&word.as_str());
                continue;
            }
            _ => {}
        }
        after = false;
    }
    false
}

/// Crates that do not take the workspace's lints.
pub(crate) fn check_manifests(metadata: &Metadata) -> Result<Vec<Violation>, Unreadable> {
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        let path = package.manifest_path.as_std_path();
        let text = std::fs::read_to_string(path)
            .map_err(|source| Unreadable { path: path.to_path_buf(), source })?;
        if !takes_lints(&text) {
            violations.push(Violation {
                place: package.name.to_string(),
                what: "it does not take the workspace's lints".to_owned(),
                remedy: format!("say `[lints]` and `workspace = true` in {}", path.display()),
            });
        }
    }
    Ok(violations)
}

fn takes_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.next() == Some("workspace = true")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYS: &str = "crates/guest/src/sys/mod.rs";

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = Source { path: path.to_owned(), text: text.to_owned() };
        check_with(&[file], &[SYS]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_listed_file_may_allow_it_and_no_other() {
        let allows = "#![allow(unsafe_code)]\nfn f() {}";
        assert_eq!(found(SYS, allows), [""; 0]);
        let others = found("crates/wire/src/frame.rs", allows);
        assert!(others[0].starts_with("crates/wire/src/frame.rs: "), "{others:?}");
    }

    #[test]
    fn every_form_of_the_attribute_is_seen() {
        let forms = [
            "#[allow(\n    dead_code,\n    unsafe_code,\n    reason = \"x\"\n)]\nfn f() {}",
            "#[expect(unsafe_code)]\nfn f() {}",
            "#![warn(unsafe_code)]",
            "#[cfg_attr(unix, allow(unsafe_code))]\nfn f() {}",
            "macro_rules! m { () => { #[allow(unsafe_code)] fn f() {} } }",
            "#![allow(clippy::undocumented_unsafe_blocks)]",
        ];
        for form in forms {
            assert!(weakens(form), "{form}");
        }
        let fine = [
            "#![forbid(unsafe_code)]",
            "// #[allow(unsafe_code)]\nconst A: &str = \"allow(unsafe_code)\";",
            "#[allow(dead_code)]\n#[deny(unsafe_code)]\nfn f() {}",
        ];
        for text in fine {
            assert!(!weakens(text), "{text}");
        }
    }

    #[test]
    fn a_stale_listing_may_not_stay() {
        assert_eq!(found(SYS, "fn f() {}").len(), 1);
    }

    #[test]
    fn a_crate_takes_the_lints_or_is_named() {
        assert!(takes_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
        assert!(!takes_lints("[package]\nname = \"a\"\n[lints.rust]\nunsafe_code = \"allow\"\n"));
    }
}
