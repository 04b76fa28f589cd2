//! Which crate of the workspace may use which, as the table of crates in the architecture's document says.
//!
//! A crate may use only crates above it in that table, and those it names. A crate without a row is refused, so that a new
//! one gets its place by a decision and not by accident.

use cargo_metadata::{DependencyKind, Metadata};

use crate::violation::Violation;

/// The beginning of a crate's name, which the column of uses leaves out.
const PREFIX: &str = "vmette-";

/// The head of the table.
const HEAD: [&str; 3] = ["crate", "folder", "uses"];

/// The crates that the tests of any crate may use beside those of its row: the wire, the seam with its fake engine, the
/// agent that the fake engine serves, and the tests' own. Tests ship to nobody, and these depend on nothing that could
/// make a circle.
const TESTS_MAY_USE: &[&str] = &["vmette-wire", "vmette-vmm", "vmette-guest", "vmette-testing"];

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    line: usize,
    name: String,
    folder: String,
    uses: Uses,
}

#[derive(Debug, PartialEq, Eq)]
enum Uses {
    Only(Vec<String>),
    Anything,
}

/// A crate of the workspace, and the crates of the workspace it names.
#[derive(Debug, Clone)]
pub(crate) struct Edges {
    /// The package's name.
    pub(crate) name: String,
    /// From the workspace's root.
    pub(crate) folder: String,
    /// In-workspace dependencies of the crate itself and of its build script, on any platform.
    pub(crate) uses: Vec<String>,
    /// In-workspace dependencies of its tests, examples and benchmarks.
    pub(crate) tests_use: Vec<String>,
}

/// Reads the edges between the workspace's own crates, whatever platform or feature they are behind.
pub(crate) fn edges(metadata: &Metadata) -> Vec<Edges> {
    let members = metadata.workspace_packages();
    let is_member = |name: &str| members.iter().any(|package| package.name.as_str() == name);
    members
        .iter()
        .map(|package| {
            let of = |tests: bool| {
                package
                    .dependencies
                    .iter()
                    .filter(|dependency| (dependency.kind == DependencyKind::Development) == tests)
                    .map(|dependency| dependency.name.clone())
                    .filter(|name| is_member(name))
                    .collect()
            };
            let folder = package.manifest_path.parent().unwrap_or(&package.manifest_path);
            let folder = folder.strip_prefix(&metadata.workspace_root).unwrap_or(folder);
            Edges {
                name: package.name.to_string(),
                folder: folder.as_str().replace('\\', "/"),
                uses: of(false),
                tests_use: of(true),
            }
        })
        .collect()
}

/// Every edge that the table does not allow, and every way in which the table is not true.
pub(crate) fn check(edges: &[Edges], place: &str, document: &str) -> Vec<Violation> {
    let rows = rows(document);
    let mut violations = Vec::new();
    for crate_edges in edges {
        violations.extend(check_crate(crate_edges, &rows, place));
    }
    for (position, row) in rows.iter().enumerate() {
        let wrong = |what: String| Violation {
            place: format!("{place}:{}", row.line),
            what,
            remedy: "correct the table of crates".to_owned(),
        };
        if !edges.iter().any(|edges| edges.name == row.name) {
            violations.push(wrong(format!("there is no crate {}", row.name)));
        }
        let Uses::Only(uses) = &row.uses else { continue };
        for used in uses.iter().filter(|used| !rows[..position].iter().any(|above| above.name == **used)) {
            violations.push(wrong(format!("{} uses {used}, which is not above it", row.name)));
        }
    }
    violations
}

fn check_crate(edges: &Edges, rows: &[Row], place: &str) -> Vec<Violation> {
    let violation = |what: String, remedy: String| Violation { place: edges.name.clone(), what, remedy };
    let Some(row) = rows.iter().find(|row| row.name == edges.name) else {
        return vec![violation(
            "this crate has no place in the architecture".to_owned(),
            format!("decide which crates it may use and give it a row in {place}"),
        )];
    };
    let mut violations = Vec::new();
    if row.folder != edges.folder {
        violations.push(violation(
            format!("it is in {}, and in {} by {place}", edges.folder, row.folder),
            "correct the table of crates".to_owned(),
        ));
    }
    let Uses::Only(allowed) = &row.uses else { return violations };
    let in_tests = |name: &&String| !TESTS_MAY_USE.contains(&name.as_str()) && **name != edges.name;
    let refused = |name: &&String| !allowed.contains(name);
    let code = edges.uses.iter().filter(refused).map(|name| (name, "uses"));
    let tests = edges.tests_use.iter().filter(refused).filter(in_tests).map(|name| (name, "tests with"));
    violations.extend(code.chain(tests).map(|(name, verb)| {
        violation(
            format!("it {verb} {name}, which {place} does not allow"),
            if allowed.is_empty() {
                "it may use no crate of the workspace".to_owned()
            } else {
                format!("it may use only {}", allowed.join(", "))
            },
        )
    }));
    violations
}

/// The rows of the table of crates. Without one there are none, and no crate has a place.
fn rows(document: &str) -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> {
        line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let numbered = document.lines().enumerate().map(|(i, line)| (i + 1, cells(line)));
    let table = numbered.skip_while(|(_, cells)| !cells.iter().take(3).eq(HEAD));
    table
        .skip(2)
        .take_while(|(_, cells)| cells.len() > 3)
        .map(|(line, cells)| Row {
            line,
            name: cells[0].clone(),
            folder: cells[1].clone(),
            uses: uses(&cells[2]),
        })
        .collect()
}

/// `–`, `anything`, or short names with remarks in parentheses: `wire, qemu (Linux)`.
fn uses(cell: &str) -> Uses {
    match cell {
        "anything" => Uses::Anything,
        "–" => Uses::Only(Vec::new()),
        names => Uses::Only(
            names
                .split(',')
                .filter_map(|name| name.split_whitespace().next())
                .map(|name| if name == "vmette" { name.to_owned() } else { format!("{PREFIX}{name}") })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
| crate | folder | uses | what it is |
|---|---|---|---|
| `vmette-wire` | `crates/wire` | – | messages |
| `vmette-vmm` | `crates/vmm` | – | the seam |
| `vmette-qemu` | `crates/qemu` | vmm | an engine |
| `vmette` | `crates/vmette` | wire, vmm, qemu (Linux) | the library |
| `vmette-bench` | `crates/bench` | anything | figures |

| `vmette-later` | `crates/later` | – | another table |
";

    fn edges(name: &str, uses: &[&str], tests_use: &[&str]) -> Edges {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let folder = format!("crates/{}", name.strip_prefix(PREFIX).unwrap_or(name));
        Edges { name: name.to_owned(), folder, uses: owned(uses), tests_use: owned(tests_use) }
    }

    fn in_order() -> Vec<Edges> {
        vec![
            edges("vmette-wire", &[], &[]),
            edges("vmette-vmm", &[], &["vmette-wire", "vmette-guest"]),
            edges("vmette-qemu", &["vmette-vmm"], &[]),
            edges("vmette", &["vmette-wire", "vmette-vmm", "vmette-qemu"], &["vmette-guest"]),
            edges("vmette-bench", &["vmette"], &["vmette-qemu"]),
        ]
    }

    fn found(changed: Edges) -> Vec<String> {
        let mut all = in_order();
        all.retain(|edges| edges.name != changed.name);
        all.push(changed);
        check(&all, "d.md", DOCUMENT).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn edges_of_the_table_pass() {
        assert_eq!(check(&in_order(), "d.md", DOCUMENT), []);
    }

    #[test]
    fn an_edge_upwards_is_named_with_both_ends() {
        let found = found(edges("vmette-vmm", &["vmette-qemu"], &[]));
        assert!(found.len() == 1 && found[0].starts_with("vmette-vmm: it uses vmette-qemu"), "{found:?}");
    }

    #[test]
    fn tests_reach_the_agent_but_not_the_layers_above() {
        assert_eq!(found(edges("vmette-vmm", &[], &["vmette-wire", "vmette-guest"])), [""; 0]);
        assert_eq!(found(edges("vmette-vmm", &[], &["vmette"])).len(), 1);
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        for name in ["vmette-misc", "vmette-later"] {
            let found = found(edges(name, &[], &[]));
            assert!(found.len() == 1 && found[0].starts_with(name), "{found:?}");
        }
    }

    #[test]
    fn a_table_that_is_not_true_is_refused() {
        let moved = Edges { folder: "crates/other".to_owned(), ..edges("vmette-wire", &[], &[]) };
        assert_eq!(found(moved).len(), 1);
        let gone = check(&in_order()[1..], "d.md", DOCUMENT);
        assert!(gone.len() == 1 && gone[0].what.contains("no crate vmette-wire"), "{gone:?}");
    }

    #[test]
    fn the_table_only_points_upwards() {
        let turned =
            DOCUMENT.replace("| `vmette-vmm` | `crates/vmm` | – |", "| `vmette-vmm` | `crates/vmm` | qemu |");
        let found = check(&in_order(), "d.md", &turned);
        assert!(found.iter().any(|violation| violation.what.contains("not above it")), "{found:?}");
    }

    #[test]
    fn a_document_without_the_table_gives_no_crate_a_place() {
        assert_eq!(check(&in_order(), "d.md", "# Architecture").len(), in_order().len());
    }

    #[test]
    fn edges_are_what_cargo_says_of_a_workspace() {
        let root = tempfile::tempdir().expect("a temp folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"low\", \"high\"]\n");
        write("low/Cargo.toml", "[package]\nname = \"low\"\nedition = \"2024\"\n");
        write("low/src/lib.rs", "");
        write(
            "high/Cargo.toml",
            "[package]\nname = \"high\"\nedition = \"2024\"\n\
             [dependencies]\noutside = \"1\"\n\
             [target.'cfg(windows)'.build-dependencies]\nrenamed = { package = \"low\", path = \"../low\" }\n\
             [dev-dependencies]\nlow = { path = \"../low\" }\n",
        );
        write("high/src/lib.rs", "");
        let metadata = cargo_metadata::MetadataCommand::new()
            .manifest_path(root.path().join("Cargo.toml"))
            .no_deps()
            .exec()
            .expect("cargo describes it");

        let edges = super::edges(&metadata);

        let high = edges.iter().find(|edges| edges.name == "high").expect("it is a member");
        assert_eq!(
            (high.folder.as_str(), high.uses.as_slice(), high.tests_use.as_slice()),
            ("high", &["low".to_owned()][..], &["low".to_owned()][..])
        );
    }
}
