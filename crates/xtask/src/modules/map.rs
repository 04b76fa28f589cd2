//! The map of crates and modules in the architecture's document, made of the modules' own first sentences.

use std::collections::BTreeMap;

use cargo_metadata::Metadata;

use super::tree::{ROOT, Tree};
use super::{Unparsable, roots};
use crate::sources::Source;

/// The lines between which the map stands.
const BEGIN: &str = "<!-- the map: cargo run -p xtask -- map -->";
const END: &str = "<!-- end of the map -->";

/// The document with the map as it has to be; `None` if it has no place for one.
///
/// # Errors
///
/// A file that is no Rust.
pub(crate) fn renew(
    metadata: &Metadata,
    files: &[Source],
    document: &str,
) -> Result<Option<String>, Unparsable> {
    let Some((before, rest)) = document.split_once(BEGIN) else { return Ok(None) };
    let Some((_, after)) = rest.split_once(END) else { return Ok(None) };
    let mut crates: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for root in roots(metadata) {
        let tree = Tree::read(&root, files)?;
        let name = root.split('/').nth(1).unwrap_or(&root).to_owned();
        let modules = tree.modules.iter().skip(ROOT + 1).filter(|module| module.parent == ROOT);
        let modules = modules.map(|module| (module.name.clone(), module.subject.clone()));
        crates.entry(name).or_default().extend(modules);
    }
    Ok(Some(format!("{before}{BEGIN}\n\n{}\n{END}{after}", table(&crates))))
}

fn table(crates: &BTreeMap<String, BTreeMap<String, String>>) -> String {
    let mut table = String::from("| crate | module | what it is |\n|---|---|---|\n");
    for (name, modules) in crates {
        let mut shown = format!("`{name}`");
        for (module, subject) in modules {
            // A bar would end the cell.
            table += &format!("| {shown} | `{module}` | {} |\n", subject.replace('|', "\\|"));
            shown.clear();
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_what_the_modules_say() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let metadata = cargo_metadata::MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .no_deps()
            .exec()
            .expect("cargo describes the workspace");
        let files = crate::sources::read(&root).expect("the sources are readable");
        let there =
            std::fs::read_to_string(root.join(crate::LAYERS_DOCUMENT)).expect("the document is there");
        let made =
            renew(&metadata, &files, &there).expect("it is Rust").expect("there is a place for the map");
        assert!(there == made, "the map is out of date: run `cargo run -p xtask -- map`");
    }

    #[test]
    fn a_crate_is_named_once_and_bars_are_kept() {
        let modules = [("a", "One"), ("b", "Two | three")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let crates = BTreeMap::from([("x".to_owned(), BTreeMap::from(modules))]);
        let table = table(&crates);
        assert!(table.ends_with("| `x` | `a` | One |\n|  | `b` | Two \\| three |\n"), "{table}");
    }
}
