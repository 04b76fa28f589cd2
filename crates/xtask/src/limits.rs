//! The limits that the documentation names are there, in the module that it says.
//!
//! `docs/SECURITY.md` gives each as `` `crate::module::CONSTANT` ``. Only that the constant exists is checked: its value
//! stands in words.

use crate::sources::Source;
use crate::violation::Violation;

/// Names of a document that point at nothing.
pub(crate) fn check(files: &[Source], place: &str, document: &str) -> Vec<Violation> {
    let mut folders: Vec<&str> = files.iter().filter_map(|file| file.path.split('/').nth(1)).collect();
    folders.sort_unstable();
    folders.dedup();
    let named = document.lines().enumerate().flat_map(|(i, line)| {
        // Between backticks is every second part.
        line.split('`').skip(1).step_by(2).map(move |code| (i + 1, code))
    });
    named
        .filter_map(|(line, code)| Some((line, code, Named::parse(code, &folders)?)))
        .filter(|(_, _, named)| !named.is_in(files))
        .map(|(line, code, _)| Violation {
            place: format!("{place}:{line}"),
            what: format!("`{code}` is not there"),
            remedy: "name the constant that the limit is now, with its module".to_owned(),
        })
        .collect()
}

/// `crate::module::NAME`.
struct Named<'a> {
    folder: &'a str,
    modules: Vec<&'a str>,
    name: &'a str,
}

impl<'a> Named<'a> {
    /// None of what is something else: a path of another crate, a function, a flag.
    fn parse(code: &'a str, folders: &[&str]) -> Option<Self> {
        let mut parts: Vec<&str> = code.split("::").collect();
        let name = parts.pop()?;
        let constant = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let folder = *parts.first()?;
        (folders.contains(&folder) && name.chars().all(constant)).then(|| Self {
            folder,
            modules: parts.split_off(1),
            name,
        })
    }

    /// What a crate shows at its root may stand in any of its files.
    fn is_in(&self, files: &[Source]) -> bool {
        let module = format!("crates/{}/src/{}", self.folder, self.modules.join("/"));
        let holds = |file: &Source| {
            let path = file.path.strip_suffix("/mod.rs").or_else(|| file.path.strip_suffix(".rs"));
            path == Some(&module) || (self.modules.is_empty() && file.path.starts_with(&module))
        };
        let definition = format!("const {}:", self.name);
        files.iter().any(|file| holds(file) && file.text.contains(&definition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: &str) -> Vec<String> {
        let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("crates/image/src/tar/pax.rs", "const LEN_MAX: u64 = 1;"),
            file("crates/image/src/oci/mod.rs", "pub(crate) const DEPTH_MAX: usize = 3;"),
        ];
        check(&files, "d.md", document).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn constants_that_are_there_pass() {
        let text = "| a | `image::tar::pax::LEN_MAX` |\n`image::oci::DEPTH_MAX`, `image::LEN_MAX`";
        assert_eq!(found(text), Vec::<String>::new());
        // Something else.
        assert_eq!(found("`std::u64::MAX` `image::tar::parse` `LEN_MAX` `--flag`"), Vec::<String>::new());
    }

    #[test]
    fn those_that_moved_or_went_are_named_with_their_line() {
        for gone in ["image::tar::LEN_MAX", "image::tar::pax::DEPTH_MAX", "image::NONE"] {
            let found = found(&format!("text\n`{gone}`"));
            assert!(found.len() == 1 && found[0].contains("d.md:2") && found[0].contains(gone), "{found:?}");
        }
    }
}
