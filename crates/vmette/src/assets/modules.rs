//! Which kernel modules the guest loads, in which order: dependencies first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use super::{AssetError, decompress, elf};

/// A module that the guest wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: &'static str,
    /// Without it there is no guest at all; without the others a feature is missing, and its use says so.
    pub(super) required: bool,
}

const fn required(name: &'static str) -> Wanted {
    Wanted { name, required: true }
}

const fn optional(name: &'static str) -> Wanted {
    Wanted { name, required: false }
}

/// Drivers for the machines' devices, and the file systems of roots.
pub(super) const WANTED: [Wanted; 11] = [
    required("virtio_pci"),
    optional("virtio_mmio"),
    required("virtio_console"),
    required("virtio_blk"),
    optional("virtiofs"),
    required("overlay"),
    required("squashfs"),
    optional("erofs"),
    optional("ext4"),
    optional("vsock"),
    optional("vmw_vsock_virtio_transport"),
];

/// Further modules for a machine with a network; the others boot without.
pub(super) const NETWORK: [Wanted; 2] = [optional("virtio_net"), optional("af_packet")];

/// A distribution's whole tree has 5,000 modules; one with more files is no module tree.
const MAX_FILES: usize = 100_000;
/// Folders inside folders of a module tree.
const MAX_DEPTH: usize = 16;
/// The guest loads 30; a tree whose dependencies pull in more is not a tree of modules.
const MAX_LOADED: usize = 256;
/// The largest module of a distribution, a graphics driver, has 20 MiB with its symbols.
const MAX_MODULE: usize = 128 << 20;

/// A module to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name as the kernel shows it, with underscores.
    pub(super) name: String,
    /// The ELF file, uncompressed; a signature at its end stays with it.
    pub(super) content: Vec<u8>,
}

/// The modules that a guest loads, in load order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Modules {
    /// When it boots.
    pub(super) boot: Vec<Module>,
    /// Once it is granted a network.
    pub(super) network: Vec<Module>,
}

/// All modules that `WANTED`, `extra` and `NETWORK` ask for, which are not built into the kernel. The order depends on
/// nothing but the tree's content.
pub(super) fn resolve(kernel: &Kernel, extra: &[&str]) -> Result<Modules, AssetError> {
    let Some(root) = &kernel.modules else { return Ok(Modules::default()) };
    let tree = Tree::read(root)?;
    let mut order = Order { tree: &tree, kernel, done: BTreeSet::new(), loaded: Vec::new() };
    WANTED.into_iter().try_for_each(|wanted| order.want(wanted))?;
    extra.iter().try_for_each(|name| order.add(name))?;
    let booted = order.loaded.len();
    NETWORK.into_iter().try_for_each(|wanted| order.want(wanted))?;
    let network = order.loaded.split_off(booted);
    Ok(Modules { boot: order.loaded, network })
}

/// File names use dashes and underscores as they please; the kernel knows only underscores.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's name when the file is one: `kvm-amd.ko.xz` is `kvm_amd`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|ending| name.strip_suffix(ending))?;
    Some(canonical(stem))
}

/// A `/lib/modules/<version>` folder.
struct Tree {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self, AssetError> {
        let mut tree = Self { root: root.to_owned(), files: BTreeMap::new(), builtin: BTreeSet::new() };
        let mut found = Vec::new();
        walk(root, 0, &mut found).map_err(AssetError::file("kernel modules", root))?;
        // A module in `updates` replaces one of the same name, as it does for modprobe.
        let updates = root.join("updates");
        found.sort_by_key(|path| (!path.starts_with(&updates), path.clone()));
        for path in found {
            if let Some(name) = module_name(&path) {
                tree.files.entry(name).or_insert(path);
            }
        }
        let builtin = root.join("modules.builtin");
        match fs::read_to_string(&builtin) {
            Ok(list) => tree.builtin.extend(list.lines().filter_map(|line| module_name(Path::new(line)))),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(AssetError::file("kernel modules", &builtin)(source)),
        }
        Ok(tree)
    }
}

/// All files below. Links are not followed: `build` and `source` lead out of the tree.
fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < MAX_DEPTH {
            walk(&entry.path(), depth + 1, found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
        if found.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files: not a module tree")));
        }
    }
    Ok(())
}

/// The load order in the making.
struct Order<'a> {
    tree: &'a Tree,
    kernel: &'a Kernel,
    /// Loaded, built in, or being looked at: a circle of dependencies ends here.
    done: BTreeSet<String>,
    loaded: Vec<Module>,
}

impl Order<'_> {
    fn want(&mut self, wanted: Wanted) -> Result<(), AssetError> {
        match self.add(wanted.name) {
            Err(AssetError::NoModule { .. }) if !wanted.required => Ok(()),
            result => result,
        }
    }

    /// Adds a module behind all that it needs; adds nothing if one of those is missing.
    fn add(&mut self, name: &str) -> Result<(), AssetError> {
        let before = (self.done.clone(), self.loaded.len());
        let result = self.visit(&canonical(name));
        if result.is_err() {
            self.done = before.0;
            self.loaded.truncate(before.1);
        }
        result
    }

    fn visit(&mut self, name: &str) -> Result<(), AssetError> {
        if self.tree.builtin.contains(name) || !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        if self.done.len() > MAX_LOADED {
            return Err(AssetError::Modules {
                tree: self.tree.root.clone(),
                reason: format!("`{name}` would be module number {MAX_LOADED}"),
            });
        }
        let path = self.tree.files.get(name).ok_or_else(|| AssetError::NoModule {
            module: name.to_owned(),
            version: self.kernel.version.clone(),
            tree: self.tree.root.clone(),
        })?;
        let content = read(path).map_err(AssetError::file("kernel module", path))?;
        for dependency in dependencies(&content).map_err(AssetError::file("kernel module", path))? {
            match dependency {
                Dependency::Hard(name) => self.visit(&name)?,
                // modprobe, too, goes on without a soft one; it may name an alias that no file bears.
                Dependency::Soft(name) => match self.add(&name) {
                    Err(AssetError::NoModule { .. }) => {}
                    result => result?,
                },
            }
        }
        self.loaded.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// A module to be loaded before another one.
#[derive(Debug, PartialEq, Eq)]
enum Dependency {
    /// It has symbols that the module uses.
    Hard(String),
    /// The module asks for it while it starts, and there is no modprobe in the guest.
    Soft(String),
}

fn dependencies(module: &[u8]) -> io::Result<Vec<Dependency>> {
    let info = elf::modinfo(module)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no `.modinfo`: not a kernel module"))?;
    let mut list = Vec::new();
    for (key, value) in info {
        match key {
            "depends" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                list.extend(names.map(|name| Dependency::Hard(canonical(name))));
            }
            "softdep" => {
                let words = value.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                let names = words.take_while(|word| !word.ends_with(':'));
                list.extend(names.map(|name| Dependency::Soft(canonical(name))));
            }
            _ => {}
        }
    }
    Ok(list)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    File::open(path)?.take(MAX_MODULE as u64 + 1).read_to_end(&mut packed)?;
    decompress::decompress(&packed, MAX_MODULE)
}

#[cfg(test)]
pub(super) mod tests;
