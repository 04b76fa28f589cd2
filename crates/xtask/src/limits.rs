//! The limits that the documentation names have the values that it says.
//!
//! Rows of a table whose last column is `constant` are checked. Each `NAME` in that column must be a constant of the
//! workspace with a value that the row gives. Where it is defined does not matter, so code can move. Two rows that say the
//! same of the same name need two definitions.

mod constants;
mod quantity;

use std::collections::HashMap;

use crate::sources::Source;
use crate::violation::Violation;
use constants::Constants;
use quantity::Quantity;

/// Constants of a document that are not there, or have another value.
pub(crate) fn check(files: &[Source], place: &str, document: &str) -> Vec<Violation> {
    let constants = Constants::of(files);
    let mut claimed: HashMap<(&str, Quantity), usize> = HashMap::new();
    let mut violations = Vec::new();
    for (line, row) in rows(document) {
        let mut said = quantity::all_in(&row.says);
        for name in row.names {
            let values = constants.values(name);
            let free = |value: &Quantity| {
                let defined = values.iter().filter(|defined| *defined == value).count();
                defined > claimed.get(&(name, *value)).copied().unwrap_or(0)
            };
            if let Some(position) = said.iter().position(free) {
                *claimed.entry((name, said.remove(position))).or_default() += 1;
                continue;
            }
            let what = if values.is_empty() {
                format!("there is no constant `{name}` with a value that can be read")
            } else {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                format!(
                    "`{name}` is {}, and not as the row says, or named more often than defined",
                    values.join(", ")
                )
            };
            violations.push(Violation {
                place: format!("{place}:{line}"),
                what,
                remedy: "give the limit and its constant as they are".to_owned(),
            });
        }
    }
    violations
}

struct Row<'a> {
    /// The text of all columns but the last.
    says: String,
    names: Vec<&'a str>,
}

fn rows(document: &str) -> Vec<(usize, Row<'_>)> {
    let mut rows = Vec::new();
    let mut in_table = false;
    for (i, line) in document.lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, says @ .., constants, _] = cells.as_slice() else {
            in_table = false;
            continue;
        };
        if *constants == "constant" {
            in_table = true;
        } else if in_table {
            // Between backticks is every second part. A type's name is no constant.
            let code = constants.split('`').skip(1).step_by(2);
            let names = code.filter(|code| !code.contains(|c: char| c.is_ascii_lowercase())).collect();
            rows.push((i + 1, Row { says: says.join(" "), names }));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rows: &[&str]) -> Vec<String> {
        let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file(
                "crates/a/src/lib.rs",
                "const LEN_MAX: u64 = 1 << 20; const TIME: Duration = Duration::from_secs(30);",
            ),
            file("crates/b/src/lib.rs", "const LEN_MAX: u64 = 64 << 10; const COUNT: u32 = 3;"),
            file("crates/b/src/x_tests.rs", "const LEN_MAX: u64 = 7; const ONLY_TESTS: u64 = 7;"),
        ];
        let document = format!("| limit | value | constant |\n|---|---|---|\n{}\n", rows.join("\n"));
        check(&files, "d.md", &document).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn right_values_pass_wherever_they_are_defined() {
        let rows = [
            "| a | 1 MiB | `LEN_MAX` |",
            "| b; c | 64 KiB; in 30 s | `LEN_MAX`, `TIME` |",
            "| d | 3, or 4; `COUNT` of them | `COUNT` |",
            "| e | 15 s | `Patience` |",
            "| f | none | |",
        ];
        assert_eq!(found(&rows), [""; 0]);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        for row in [
            "| a | 2 MiB | `LEN_MAX` |",
            "| a | 30 | `TIME` |",
            "| a | 7 | `LEN_MAX` |",
            "| a | 2 s | `COUNT` |",
        ] {
            let found = found(&[row]);
            assert!(found.len() == 1 && found[0].starts_with("d.md:3: "), "{row}: {found:?}");
        }
    }

    #[test]
    fn a_constant_that_is_gone_or_in_tests_only_is_named() {
        for row in ["| a | 7 | `GONE` |", "| a | 7 | `ONLY_TESTS` |"] {
            assert!(found(&[row])[0].contains("there is no constant"), "{row}");
        }
    }

    #[test]
    fn two_rows_about_one_name_need_two_definitions() {
        let row = "| a | 1 MiB | `LEN_MAX` |";
        assert_eq!(found(&[row, row]).len(), 1);
    }

    #[test]
    fn other_tables_and_text_are_left_alone() {
        assert_eq!(check(&[], "d.md", "| flag | what |\n|---|---|\n| `--a` | `GONE` |\n\n`GONE`"), []);
    }
}
