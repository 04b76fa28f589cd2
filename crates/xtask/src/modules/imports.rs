//! The names that `use` brings into a module.

use syn::UseTree;

/// A path as it stands in the code, segment by segment.
pub(super) type Segments = Vec<String>;

/// One name that a `use` brings into a module.
#[derive(Debug)]
pub(super) struct Import {
    /// `None` for a glob.
    pub(super) name: Option<String>,
    pub(super) path: Segments,
    /// Others can name it through this module.
    pub(super) public: bool,
}

/// Adds every name of a `use` tree.
pub(super) fn flatten(tree: &UseTree, before: &mut Segments, public: bool, imports: &mut Vec<Import>) {
    let mut add = |name: Option<String>, path: Segments| imports.push(Import { name, path, public });
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, public, imports);
            before.pop();
        }
        UseTree::Name(name) if name.ident == "self" => add(before.last().cloned(), before.clone()),
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            add(Some(name.clone()), with(before, name));
        }
        UseTree::Rename(renamed) => {
            let name = Some(renamed.rename.to_string());
            let old = renamed.ident.to_string();
            add(name, if old == "self" { before.clone() } else { with(before, old) });
        }
        UseTree::Glob(_) => add(None, before.clone()),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, public, imports);
            }
        }
    }
}

fn with(before: &[String], name: String) -> Segments {
    before.iter().cloned().chain([name]).collect()
}
