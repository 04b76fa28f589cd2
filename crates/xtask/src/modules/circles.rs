//! Circles among the modules of each folder.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::tree::{Id, Tree};

/// Modules that use each other, directly or through others of the circle.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Circle {
    /// The crate's root file.
    pub(super) root: String,
    /// The modules by their paths; the code of the folder itself is `PATH::self`, or `self` for the crate's root.
    pub(super) members: Vec<String>,
    /// A shortest way round, with a path of the code for each step.
    pub(super) way: String,
}

/// The modules of one folder and who uses whom: the arrow's two ends, and one path of the code that makes it.
type Arrows = BTreeMap<Id, BTreeMap<Id, String>>;

/// Every circle of the crate, at most one for each module and folder.
pub(super) fn find(tree: &Tree) -> Vec<Circle> {
    let mut folders: BTreeMap<Id, Arrows> = BTreeMap::new();
    for (user, module) in tree.modules.iter().enumerate() {
        let imports = module.imports.iter().map(|import| (&import.path, import.public));
        let others = module.paths.iter().map(|path| (path, false));
        for (path, re_export) in imports.chain(others) {
            let Some(used) = tree.resolve(user, path) else { continue };
            let (folder, from, to) = boxes(tree, user, used);
            if from != to && !(re_export && tree.way_to(used).contains(&user)) {
                let arrows = folders.entry(folder).or_default();
                arrows.entry(from).or_default().entry(to).or_insert_with(|| {
                    let by = if module.name.is_empty() { "the root" } else { &module.name };
                    format!("{by} names {}", path.join("::"))
                });
            }
        }
    }
    folders.iter().flat_map(|(&folder, arrows)| circles_of(tree, folder, arrows)).collect()
}

/// The folder in whose picture the two modules are in different boxes, and those boxes. The folder itself stands for its
/// own code.
fn boxes(tree: &Tree, user: Id, used: Id) -> (Id, Id, Id) {
    let (user, used) = (tree.way_to(user), tree.way_to(used));
    let common = user.iter().zip(&used).take_while(|(a, b)| a == b).count();
    let folder = user[common - 1];
    (folder, *user.get(common).unwrap_or(&folder), *used.get(common).unwrap_or(&folder))
}

fn circles_of(tree: &Tree, folder: Id, arrows: &Arrows) -> Vec<Circle> {
    let reached: BTreeMap<Id, BTreeSet<Id>> = arrows.keys().map(|&id| (id, reach(arrows, id))).collect();
    let reaches = |from: Id, to: Id| reached.get(&from).is_some_and(|ids| ids.contains(&to));
    let mut done: BTreeSet<Id> = BTreeSet::new();
    let mut circles = Vec::new();
    for &id in arrows.keys() {
        if !reaches(id, id) || done.contains(&id) {
            continue;
        }
        let members: Vec<Id> = reached[&id].iter().copied().filter(|&other| reaches(other, id)).collect();
        done.extend(&members);
        let name = |id: Id| match (id == folder, tree.modules[id].name.as_str()) {
            (true, "") => "self".to_owned(),
            (true, name) => format!("{name}::self"),
            (false, name) => name.to_owned(),
        };
        let mut names: Vec<String> = members.iter().map(|&id| name(id)).collect();
        names.sort();
        circles.push(Circle { root: tree.root.clone(), members: names, way: way_round(arrows, id) });
    }
    circles
}

/// Everything that `from` uses, itself only if it uses itself through others.
fn reach(arrows: &Arrows, from: Id) -> BTreeSet<Id> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![from];
    while let Some(id) = waiting.pop() {
        let next = arrows.get(&id).into_iter().flat_map(BTreeMap::keys);
        waiting.extend(next.filter(|&&id| found.insert(id)));
    }
    found
}

/// A shortest way from `start` back to it.
fn way_round(arrows: &Arrows, start: Id) -> String {
    let mut came_from: BTreeMap<Id, (Id, &str)> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(id) = waiting.pop_front() {
        for (&next, by) in arrows.get(&id).into_iter().flatten() {
            came_from.entry(next).or_insert_with(|| {
                waiting.push_back(next);
                (id, by)
            });
        }
    }
    let mut steps = Vec::new();
    let mut at = start;
    while let Some(&(before, by)) = came_from.get(&at) {
        steps.push(by);
        at = before;
        if at == start {
            break;
        }
    }
    steps.reverse();
    steps.join(", ")
}
