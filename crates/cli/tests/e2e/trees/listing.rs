//! Trees as lines of text: on the host, and in a machine.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use crate::cache::Cache;
use crate::machine::{Outcome, Vmette};
use crate::registry::{Registry, run};

/// Whether the workload may write to its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    ReadOnly,
    Writable,
}

/// Path to everything else that is known of it.
pub(super) type Listing = BTreeMap<String, String>;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/trees/list.c");

/// What the guest makes where the image has nothing, see `SKELETON_DIRS` there; and the folder of the lister.
const SKELETON: [&str; 14] = [
    "./proc",
    "./sys",
    "./dev",
    "./run",
    "./tmp",
    "./mnt",
    "./etc",
    "./etc/ssl",
    "./etc/ssl/certs",
    "./etc/ssl/certs/vmette-host-ca.pem",
    "./etc/hosts",
    "./etc/hostname",
    "./etc/machine-id",
    "./lister",
];

/// What the machine writes into a root that it can write to: its own name.
const IDENTITY: [&str; 3] = ["./etc/hosts", "./etc/hostname", "./etc/machine-id"];

/// The program that lists, in a folder of its own.
pub(super) struct Lister(TempDir);

impl Lister {
    pub(super) fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("list");
        run("cc", ["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program.to_str().unwrap(), SOURCE]);
        Self(dir)
    }

    /// Of a folder of the host.
    pub(super) fn folder(&self, folder: &Path) -> Listing {
        parse(&run(self.0.path().join("list"), [folder]).stdout)
    }

    /// Of the root that a machine with this image has.
    pub(super) fn machine(&self, image: &str, registry: &Registry, cache: &Cache, root: Root) -> Listing {
        let share = format!("{}:/lister:ro", self.0.path().display());
        let mut args = vec!["--no-template".to_owned(), "-v".to_owned(), share];
        if root == Root::ReadOnly {
            args.push("--rootfs-ro".to_owned());
        }
        if let Some(authority) = registry.authority() {
            args.extend(["--registry-ca".to_owned(), authority.display().to_string()]);
        }
        args.extend(["--entrypoint", "/lister/list", image, "--", "--below-mounts"].map(str::to_owned));
        let outcome: Outcome = registry.known_to(Vmette::run(args)).cache(cache.path()).exits(0);
        parse(&outcome.stdout)
    }
}

fn parse(text: &[u8]) -> Listing {
    let lines = std::str::from_utf8(text).unwrap().lines();
    let listing: Listing = lines
        .map(|line| line.split_once(' ').expect("a path and what is known of it"))
        .map(|(path, facts)| (path.to_owned(), facts.to_owned()))
        .collect();
    assert!(listing.contains_key("."), "a listing begins with the root: {listing:?}");
    listing
}

/// Asserts that the machine has what was extracted, and nothing else.
pub(super) fn assert_same(extracted: &Listing, mut machine: Listing, root: Root) {
    let mut extracted = extracted.clone();
    if root == Root::Writable {
        extracted.retain(|path, _| !IDENTITY.contains(&path.as_str()));
    }
    machine.retain(|path, _| extracted.contains_key(path) || !SKELETON.contains(&path.as_str()));
    let lines = |of: &Listing, other: &Listing| -> Vec<String> {
        let differing = of.iter().filter(|(path, facts)| other.get(*path) != Some(*facts));
        differing.map(|(path, facts)| format!("{path} {facts}")).collect()
    };
    let (missing, unexpected) = (lines(&extracted, &machine), lines(&machine, &extracted));
    assert!(
        missing.is_empty() && unexpected.is_empty(),
        "{root:?}; umoci extracted:\n{}\nthe machine has:\n{}",
        missing.join("\n"),
        unexpected.join("\n")
    );
}
