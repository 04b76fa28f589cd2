//! The module that a path leads to.

use super::imports::Import;
use super::tree::{Id, ROOT, Tree};

/// How many re-exports may stand one behind another; more are re-exports of each other.
const RE_EXPORTS_MAX: usize = 16;

impl Tree {
    /// The module in which the thing is defined that `path` names in the code of `from`. `None` for a path that leads out
    /// of the crate, or starts at something local.
    pub(super) fn resolve(&self, from: Id, path: &[String]) -> Option<Id> {
        self.walk(from, path, 0)
    }

    fn walk(&self, from: Id, path: &[String], depth: usize) -> Option<Id> {
        if depth == RE_EXPORTS_MAX {
            return None;
        }
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => ROOT,
            "self" => from,
            "super" => self.modules[from].parent,
            name => match self.modules[from].children.get(name) {
                Some(&child) => child,
                None => {
                    let import = self.import(from, name)?;
                    // `use name::…` and `use other::name` with a crate called `name`: nothing of this crate.
                    if import.path.first() == Some(first) {
                        return None;
                    }
                    return self.through(from, import, rest, depth);
                }
            },
        };
        while let Some((name, after)) = rest.split_first() {
            let module = &self.modules[at];
            if name == "super" {
                at = module.parent;
            } else if let Some(&child) = module.children.get(name) {
                at = child;
            } else if module.defines.contains(name) {
                return Some(at);
            } else if let Some(import) = self.import(at, name) {
                // A re-export of another crate's item is this module's own.
                return self.through(at, import, after, depth).or(Some(at));
            } else {
                return self.by_glob(at, name, depth).or(Some(at));
            }
            rest = after;
        }
        Some(at)
    }

    fn import(&self, id: Id, name: &str) -> Option<&Import> {
        self.modules[id].imports.iter().find(|import| import.name.as_deref() == Some(name))
    }

    fn through(&self, id: Id, import: &Import, rest: &[String], depth: usize) -> Option<Id> {
        let path: Vec<String> = import.path.iter().chain(rest).cloned().collect();
        self.walk(id, &path, depth + 1)
    }

    /// The module behind a `pub use module::*` that has the name.
    fn by_glob(&self, id: Id, name: &String, depth: usize) -> Option<Id> {
        let globs = self.modules[id].imports.iter().filter(|import| import.name.is_none());
        globs.filter_map(|import| self.walk(id, &import.path, depth + 1)).find_map(|module| {
            let holds = self.modules[module].defines.contains(name)
                || self.modules[module].children.contains_key(name)
                || self.import(module, name).is_some();
            if holds && module != id {
                self.walk(module, &["self".to_owned(), name.clone()], depth + 1)
            } else {
                None
            }
        })
    }
}
