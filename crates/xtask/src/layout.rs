//! One idea a file, and a name that says which.

use crate::sources::Source;
use crate::violation::Violation;

/// Past this a file holds a second idea; the habit is about 150 lines, so the limit only catches what slipped.
const MAX_LINES: usize = 600;

/// Flat tables, which are as long as what they list. Each entry must still be needed.
const LONG_TABLES: &[&str] = &[];

/// Names that say nothing about what is inside and so collect everything.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"];

/// Files that are too long or whose name is empty of meaning.
pub(crate) fn check(files: &[Source]) -> Vec<Violation> {
    check_with(files, LONG_TABLES)
}

fn check_with(files: &[Source], long_tables: &[&str]) -> Vec<Violation> {
    let mut violations: Vec<Violation> = files
        .iter()
        .flat_map(|file| too_long(file, long_tables).into_iter().chain(empty_name(file)))
        .collect();
    violations.extend(long_tables.iter().filter(|table| !files.iter().any(|file| is_long(file, table))).map(
        |table| Violation {
            place: (*table).to_owned(),
            what: "it may be long but is not, or is not there".to_owned(),
            remedy: "take it out of LONG_TABLES in crates/xtask/src/layout.rs".to_owned(),
        },
    ));
    violations
}

fn is_long(file: &Source, path: &str) -> bool {
    file.path == path && file.text.lines().count() > MAX_LINES
}

fn too_long(file: &Source, long_tables: &[&str]) -> Option<Violation> {
    // Only what ships: a suite of cases may be as long as its subject needs.
    let ships = file.path.split('/').nth(2) == Some("src");
    let lines = file.text.lines().count();
    (ships && lines > MAX_LINES && !long_tables.contains(&file.path.as_str())).then(|| Violation {
        place: file.path.clone(),
        what: format!("{lines} lines, more than {MAX_LINES}"),
        remedy: "find the second idea in it and give that its own file".to_owned(),
    })
}

fn empty_name(file: &Source) -> Option<Violation> {
    let modules = file.path.split('/').skip(2).map(|part| part.strip_suffix(".rs").unwrap_or(part));
    let name = modules.into_iter().find(|name| EMPTY_NAMES.contains(name))?;
    Some(Violation {
        place: file.path.clone(),
        what: format!("a module called `{name}`"),
        remedy: "name it after the one thing it does".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, lines: usize) -> Source {
        Source { path: path.to_owned(), text: "//\n".repeat(lines) }
    }

    #[test]
    fn the_limit_itself_passes_and_one_line_more_does_not() {
        assert_eq!(check_with(&[file("crates/a/src/x.rs", MAX_LINES)], &[]), []);
        let found = check_with(&[file("crates/a/src/x.rs", MAX_LINES + 1)], &[]);
        assert!(found[0].what.starts_with("601 lines"), "{found:?}");
    }

    #[test]
    fn suites_may_be_long() {
        assert_eq!(check_with(&[file("crates/a/tests/cases.rs", 5000)], &[]), []);
    }

    #[test]
    fn a_listed_table_may_be_long_and_a_stale_listing_may_not_stay() {
        let table = file("crates/a/src/syscalls.rs", 5000);
        assert_eq!(check_with(std::slice::from_ref(&table), &["crates/a/src/syscalls.rs"]), []);
        assert_eq!(check_with(&[table], &["crates/a/src/syscalls.rs", "crates/a/src/gone.rs"]).len(), 1);
    }

    #[test]
    fn empty_names_are_refused_for_files_and_folders() {
        let names = ["crates/a/src/utils.rs", "crates/a/src/helpers/net.rs", "crates/a/tests/common/mod.rs"];
        for name in names {
            assert_eq!(check_with(&[file(name, 1)], &[]).len(), 1, "{name}");
        }
        assert_eq!(check_with(&[file("crates/common/src/frame.rs", 1)], &[]), []);
    }
}
