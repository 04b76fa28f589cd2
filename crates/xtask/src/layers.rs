//! Which crate of the workspace may use which.
//!
//! The table is the architecture: a crate that is not in it is refused, so that a new crate gets its place by a
//! decision and not by accident.

use cargo_metadata::{DependencyKind, Metadata};

use crate::violation::Violation;

/// What one crate may use.
struct Layer {
    name: &'static str,
    uses: Uses,
}

enum Uses {
    Only(&'static [&'static str]),
    Anything,
}

/// From the bottom up.
const LAYERS: &[Layer] = &[
    Layer { name: "vmette-wire", uses: Uses::Only(&[]) },
    Layer { name: "vmette-work", uses: Uses::Only(&[]) },
    Layer { name: "vmette-cache", uses: Uses::Only(&["vmette-work"]) },
    Layer { name: "vmette-spawn", uses: Uses::Only(&["vmette-work"]) },
    Layer { name: "vmette-vmm", uses: Uses::Only(&["vmette-wire", "vmette-work"]) },
    Layer { name: "vmette-backend", uses: Uses::Only(&[]) },
    Layer { name: "vmette-virtiofsd", uses: Uses::Only(&["vmette-backend"]) },
    Layer { name: "vmette-vsockd", uses: Uses::Only(&["vmette-backend"]) },
    Layer {
        name: "vmette-qemu",
        uses: Uses::Only(&["vmette-work", "vmette-cache", "vmette-spawn", "vmette-vmm", "vmette-backend"]),
    },
    Layer { name: "vmette-vz", uses: Uses::Only(&["vmette-work", "vmette-cache", "vmette-vmm"]) },
    Layer { name: "vmette-image", uses: Uses::Only(&["vmette-work", "vmette-cache", "vmette-spawn"]) },
    Layer { name: "vmette-guest", uses: Uses::Only(&["vmette-wire"]) },
    Layer {
        name: "vmette",
        uses: Uses::Only(&[
            "vmette-wire",
            "vmette-work",
            "vmette-cache",
            "vmette-spawn",
            "vmette-vmm",
            "vmette-image",
            "vmette-qemu",
            "vmette-vz",
        ]),
    },
    Layer { name: "vmette-capi", uses: Uses::Only(&["vmette"]) },
    Layer { name: "vmette-daemon", uses: Uses::Only(&["vmette", "vmette-wire"]) },
    Layer { name: "vmette-mcp", uses: Uses::Only(&["vmette-daemon", "vmette"]) },
    Layer {
        name: "vmette-cli",
        uses: Uses::Only(&[
            "vmette-wire",
            "vmette-vmm",
            "vmette-qemu",
            "vmette-vz",
            "vmette-image",
            "vmette-guest",
            "vmette",
            "vmette-capi",
            "vmette-daemon",
            "vmette-mcp",
        ]),
    },
    Layer { name: "vmette-bench", uses: Uses::Anything },
    Layer { name: "xtask", uses: Uses::Anything },
];

/// What any crate's tests may use besides its own layer: the wire, the seam with its fake engine, and the agent the
/// fake engine serves. Tests ship to nobody, and these three depend on nothing that could make a cycle.
const TESTS_MAY_USE: &[&str] = &["vmette-wire", "vmette-vmm", "vmette-guest"];

/// A crate of the workspace, and the crates of the workspace it names.
#[derive(Debug, Clone)]
pub(crate) struct Edges {
    /// The package's name.
    pub(crate) name: String,
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
            Edges { name: package.name.to_string(), uses: of(false), tests_use: of(true) }
        })
        .collect()
}

/// Every edge that the table does not allow, and every crate that it does not know.
pub(crate) fn check(edges: &[Edges]) -> Vec<Violation> {
    edges.iter().flat_map(check_crate).collect()
}

fn check_crate(edges: &Edges) -> Vec<Violation> {
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == edges.name) else {
        return vec![Violation {
            place: edges.name.clone(),
            what: "this crate has no place in the architecture".to_owned(),
            remedy: "decide which crates it may use and add it to LAYERS in crates/xtask/src/layers.rs"
                .to_owned(),
        }];
    };
    let Uses::Only(allowed) = layer.uses else {
        return Vec::new();
    };
    let refused = |name: &&String| !allowed.contains(&name.as_str());
    let in_tests = |name: &&String| !TESTS_MAY_USE.contains(&name.as_str()) && **name != edges.name;
    let code = edges.uses.iter().filter(refused).map(|name| (name, "uses"));
    let tests = edges.tests_use.iter().filter(refused).filter(in_tests).map(|name| (name, "tests with"));
    code.chain(tests)
        .map(|(name, verb)| Violation {
            place: edges.name.clone(),
            what: format!("it {verb} {name}, which is not below it"),
            remedy: if allowed.is_empty() {
                "it may use no crate of the workspace".to_owned()
            } else {
                format!("it may use only {}", allowed.join(", "))
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(name: &str, uses: &[&str], tests_use: &[&str]) -> Edges {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Edges { name: name.to_owned(), uses: owned(uses), tests_use: owned(tests_use) }
    }

    fn places_and_whats(edges: &[Edges]) -> Vec<(String, String)> {
        check(edges).into_iter().map(|violation| (violation.place, violation.what)).collect()
    }

    #[test]
    fn edges_of_the_table_pass() {
        let found = places_and_whats(&[
            edges("vmette-wire", &[], &[]),
            edges("vmette-qemu", &["vmette-vmm"], &[]),
            edges("vmette", &["vmette-wire", "vmette-qemu", "vmette-image"], &["vmette-guest"]),
            edges("vmette-cli", &["vmette", "vmette-daemon"], &[]),
            edges("xtask", &["vmette-cli"], &[]),
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn an_edge_upwards_is_named_with_both_ends() {
        let found = places_and_whats(&[edges("vmette-vmm", &["vmette-qemu"], &[])]);
        let [(place, what)] = found.as_slice() else { panic!("one violation, not {found:?}") };
        assert_eq!(place, "vmette-vmm");
        assert!(what.contains("uses vmette-qemu"), "{what}");
    }

    #[test]
    fn the_guest_does_not_reach_the_host_library() {
        assert_eq!(places_and_whats(&[edges("vmette-guest", &["vmette-wire", "vmette"], &[])]).len(), 1);
    }

    #[test]
    fn tests_reach_the_agent_but_not_the_layers_above() {
        assert_eq!(places_and_whats(&[edges("vmette-vmm", &[], &["vmette-wire", "vmette-guest"])]), []);
        assert_eq!(places_and_whats(&[edges("vmette-vmm", &[], &["vmette"])]).len(), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_refused() {
        let found = places_and_whats(&[edges("vmette-misc", &[], &[])]);
        assert!(matches!(found.as_slice(), [(place, _)] if place == "vmette-misc"));
    }

    #[test]
    fn the_table_only_points_downwards() {
        for (position, layer) in LAYERS.iter().enumerate() {
            let Uses::Only(allowed) = layer.uses else { continue };
            for used in allowed {
                let below = LAYERS[..position].iter().any(|lower| lower.name == *used);
                assert!(below, "{} uses {used}, which is not above it in the table", layer.name);
            }
        }
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
            (high.uses.as_slice(), high.tests_use.as_slice()),
            (&["low".to_owned()][..], &["low".to_owned()][..])
        );
    }
}
