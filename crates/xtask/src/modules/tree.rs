//! The modules of one crate, as its `mod` items declare them.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Item, Meta, Visibility};

use super::imports::{Import, Segments, flatten};
use super::paths;
use crate::attributes::{self, is_for_tests};
use crate::sources::Source;

/// A module's place in [`Tree::modules`].
pub(super) type Id = usize;

/// The root of the tree.
pub(super) const ROOT: Id = 0;

/// How deep modules may nest before two files are declaring each other.
const DEPTH_MAX: usize = 32;

/// One module.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Its path in the crate, such as `serve::out`; empty for the root.
    pub(super) name: String,
    /// The first sentence of its documentation, without its full stop and without links.
    pub(super) subject: String,
    /// The module that declares it; the root is its own.
    pub(super) parent: Id,
    pub(super) children: BTreeMap<String, Id>,
    /// Names of the items that it defines.
    pub(super) defines: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    /// Every other path in its code.
    pub(super) paths: Vec<Segments>,
}

/// A file that could not be parsed.
#[derive(Debug)]
pub(crate) struct Unparsable {
    /// From the workspace's root.
    pub(crate) path: String,
    /// The parser's error.
    pub(crate) source: syn::Error,
}

/// All modules of a crate.
#[derive(Debug)]
pub(super) struct Tree {
    /// The crate's root file.
    pub(super) root: String,
    pub(super) modules: Vec<Module>,
}

impl Tree {
    pub(super) fn read(root: &str, files: &[Source]) -> Result<Self, Unparsable> {
        let mut reader = Reader {
            files: files.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect(),
            modules: vec![Module::default()],
        };
        let (folder, _) = root.rsplit_once('/').unwrap_or(("", root));
        reader.file(ROOT, root, folder, 0)?;
        Ok(Self { root: root.to_owned(), modules: reader.modules })
    }

    /// The module's ancestors from the root down, itself included.
    pub(super) fn way_to(&self, id: Id) -> Vec<Id> {
        let mut way = vec![id];
        let mut at = id;
        while at != ROOT {
            at = self.modules[at].parent;
            way.push(at);
        }
        way.reverse();
        way
    }
}

struct Reader<'a> {
    files: BTreeMap<&'a str, &'a str>,
    modules: Vec<Module>,
}

impl Reader<'_> {
    /// A file that is not there is code that a build script makes or another platform has: it names nothing here.
    fn file(&mut self, id: Id, path: &str, folder: &str, depth: usize) -> Result<(), Unparsable> {
        let Some(text) = self.files.get(path).copied() else { return Ok(()) };
        let file = syn::parse_file(text).map_err(|source| Unparsable { path: path.to_owned(), source })?;
        if file.attrs.iter().any(is_for_tests) {
            return Ok(());
        }
        if self.modules[id].subject.is_empty() {
            self.modules[id].subject = subject(&file.attrs);
        }
        let here = path.rsplit_once('/').map_or("", |(here, _)| here);
        self.items(id, file.items, Place { here, folder, depth })
    }

    fn items(&mut self, id: Id, items: Vec<Item>, place: Place<'_>) -> Result<(), Unparsable> {
        for item in items {
            if attributes::of(&item).iter().any(is_for_tests) {
                continue;
            }
            match item {
                Item::Mod(module) => self.module(id, module, place)?,
                Item::Use(item) => {
                    let public = !matches!(item.vis, Visibility::Inherited);
                    flatten(&item.tree, &mut Vec::new(), public, &mut self.modules[id].imports);
                }
                item => {
                    self.modules[id].defines.extend(name_of(&item));
                    let found = paths::of_item(&item);
                    self.modules[id].paths.extend(found.paths);
                    self.modules[id].imports.extend(found.imports);
                }
            }
        }
        Ok(())
    }

    fn module(&mut self, parent: Id, module: syn::ItemMod, place: Place<'_>) -> Result<(), Unparsable> {
        if place.depth == DEPTH_MAX {
            return Ok(());
        }
        let name = module.ident.to_string();
        let id = self.child(parent, &name);
        self.modules[id].subject = subject(&module.attrs);
        let folder = format!("{}/{name}", place.folder);
        let depth = place.depth + 1;
        match (module.content, given_path(&module.attrs)) {
            (Some((_, items)), _) => {
                self.items(id, items, Place { here: place.here, folder: &folder, depth })
            }
            (None, Some(path)) => {
                let path = format!("{}/{path}", place.here);
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
                self.file(id, &path, &folder, depth)
            }
            (None, None) => {
                let file = format!("{folder}.rs");
                let path =
                    if self.files.contains_key(file.as_str()) { file } else { format!("{folder}/mod.rs") };
                self.file(id, &path, &folder, depth)
            }
        }
    }

    /// The same module twice is one for each of two platforms.
    fn child(&mut self, parent: Id, name: &str) -> Id {
        if let Some(&id) = self.modules[parent].children.get(name) {
            return id;
        }
        let id = self.modules.len();
        let above = &self.modules[parent].name;
        let full = if above.is_empty() { name.to_owned() } else { format!("{above}::{name}") };
        self.modules.push(Module { name: full, parent, ..Module::default() });
        self.modules[parent].children.insert(name.to_owned(), id);
        id
    }
}

/// Where a module's text stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The folder of the file, which `#[path]` starts from.
    here: &'a str,
    /// The folder of the module's own modules.
    folder: &'a str,
    depth: usize,
}

/// The first sentence of a module's documentation.
fn subject(attributes: &[syn::Attribute]) -> String {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc"));
    let lines = lines.filter_map(|attribute| text_of(&attribute.meta));
    let lines: Vec<String> =
        lines.map(|line| line.trim().to_owned()).take_while(|line| !line.is_empty()).collect();
    let text = lines.join(" ");
    let sentence = text.split_once(". ").map_or(text.as_str(), |(sentence, _)| sentence);
    sentence.trim_end_matches('.').replace("[`", "`").replace("`]", "`")
}

/// The text of `name = "text"`.
fn text_of(meta: &Meta) -> Option<String> {
    match meta {
        Meta::NameValue(syn::MetaNameValue {
            value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

fn given_path(attributes: &[syn::Attribute]) -> Option<String> {
    let given = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    text_of(&given.meta)
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
