//! No circles of modules: the modules of a folder can be put in an order in which each uses only earlier ones.
//!
//! The rule holds folder by folder. In the picture of one folder each of its modules is a box, with everything that is
//! nested in it, and the folder's own code (`mod.rs`, `lib.rs`, `main.rs`) is one more box. An arrow goes from a box to
//! another that something in it names by a path. A circle of arrows is refused: none of its boxes can be understood,
//! tested or moved without the others.
//!
//! - A name that a module re-exports leads to the module that defines it, so `use crate::Error` in a crate whose root has
//!   `pub use error::Error` is an arrow to `error`.
//! - A module that re-exports from the modules nested in it does not use them by that.
//! - A nested module that uses something its parent defines is in a circle only if the parent's own code uses it too.
//! - Code under `#[cfg(test)]` does not count.
//! - Only paths are seen. A method of another module's type is called without naming the module.

mod circles;
mod imports;
pub(crate) mod map;
mod paths;
mod resolve;
#[cfg(test)]
mod tests;
mod tree;

use std::path::Path;

use cargo_metadata::{Metadata, TargetKind};

use crate::sources::Source;
use crate::violation::Violation;
use circles::Circle;
use tree::Tree;

pub(crate) use tree::Unparsable;

/// Circles that are still there: the crate's root file, and every module that may be in the circle. A circle of some of
/// these modules is tolerated, and an entry has to go as soon as there is none.
const TOLERATED: &[(&str, &str)] = &[];

/// True if two of the tolerated modules are still in one circle, be it a larger one.
fn is_left((root, modules): &(&str, &str), circle: &Circle) -> bool {
    let left = circle.members.iter().filter(|member| modules.split(' ').any(|module| module == *member));
    *root == circle.root && left.count() > 1
}

fn covers((root, modules): &(&str, &str), circle: &Circle) -> bool {
    let members: Vec<&str> = modules.split(' ').collect();
    *root == circle.root && circle.members.iter().all(|member| members.contains(&member.as_str()))
}

/// Circles of modules in any crate, and tolerated ones that are gone.
///
/// # Errors
///
/// A file that is no Rust.
pub(crate) fn check(metadata: &Metadata, files: &[Source]) -> Result<Vec<Violation>, Unparsable> {
    let mut circles = Vec::new();
    for root in roots(metadata) {
        circles.extend(circles::find(&Tree::read(&root, files)?));
    }
    Ok(judge(&circles, TOLERATED))
}

/// The root files of all libraries and programs, from the workspace's root, those of one crate together.
fn roots(metadata: &Metadata) -> Vec<String> {
    let ships = |kind: &TargetKind| {
        !matches!(kind, TargetKind::Test | TargetKind::Bench | TargetKind::Example | TargetKind::CustomBuild)
    };
    let targets = metadata.workspace_packages().into_iter().flat_map(|package| &package.targets);
    targets
        .filter(|target| target.kind.iter().any(ships))
        .map(|target| {
            let path: &Path = target.src_path.as_std_path();
            let path = path.strip_prefix(metadata.workspace_root.as_std_path()).unwrap_or(path);
            path.to_string_lossy().replace('\\', "/")
        })
        .collect()
}

fn judge(circles: &[Circle], tolerated: &[(&str, &str)]) -> Vec<Violation> {
    let found = circles.iter().filter(|circle| !tolerated.iter().any(|entry| covers(entry, circle)));
    let found = found.map(|circle| Violation {
        place: circle.root.clone(),
        what: format!("a circle of the modules {}: {}", circle.members.join(" "), circle.way),
        remedy: "move what both sides need into a module below them".to_owned(),
    });
    let gone = tolerated.iter().filter(|entry| !circles.iter().any(|circle| is_left(entry, circle)));
    let gone = gone.map(|(root, modules)| Violation {
        place: (*root).to_owned(),
        what: format!("the tolerated circle of {modules} is not there any more"),
        remedy: "take it out of TOLERATED in crates/xtask/src/modules/mod.rs".to_owned(),
    });
    found.chain(gone).collect()
}
