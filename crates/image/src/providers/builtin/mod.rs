//! The default rootfs: a busybox userland, made on the spot from the distribution's static busybox.

mod elf;
mod files;
mod layout;

pub use elf::is_static_program;

use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};

use vmette_cache::Key;
use vmette_work::Work;

use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::meta::{Meta, Node};
use crate::pack::{Compression, Duplicates, Input, Packer};
use crate::providers::spec;
use crate::providers::{RootfsArtifact, RootfsProvider};
use crate::store::{Description, ImageKind, Store, key_of_file};
use vmette_oci::Platform;

/// The spec that names it.
pub const BUILTIN_SPEC: &str = "builtin";

const BUSYBOX: &str = "busybox";
const PACKAGE: &str = "busybox-static";
/// Largest busybox, in bytes; Debian's has 2 MB.
const BUSYBOX_MAX: u64 = 32 << 20;
/// Where a linker puts program headers: a look at a program need not read all of it.
const PROGRAM_HEADERS_MAX: u64 = 4096;
/// Part of the key. Counts up whenever the same parts would become another image.
const CONVERTER: &str = "builtin 1";

/// Makes the built-in rootfs.
#[derive(Debug, Clone, Default)]
pub struct BuiltinProvider {
    busybox: Option<PathBuf>,
}

impl BuiltinProvider {
    /// Makes it of this static busybox, for the guest's architecture.
    #[must_use]
    pub fn new(busybox: PathBuf) -> Self {
        Self { busybox: Some(busybox) }
    }

    /// Refuses with the package to install.
    #[must_use]
    pub fn without_busybox() -> Self {
        Self::default()
    }
}

impl RootfsProvider for BuiltinProvider {
    fn name(&self) -> &'static str {
        "builtin"
    }

    fn form(&self) -> &'static str {
        BUILTIN_SPEC
    }

    fn matches(&self, spec: &str) -> bool {
        spec == BUILTIN_SPEC
    }

    fn provide(&self, _spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        let busybox =
            self.busybox.as_deref().ok_or(ProviderError::MissingTool { tool: BUSYBOX, package: PACKAGE })?;
        let file = busybox_identity(busybox)?;
        obtain(&ctx.store()?, ctx.work(), &file.0, &file.1)
    }
}

/// The first static busybox among the system's programs.
#[must_use]
pub fn find_busybox() -> Option<PathBuf> {
    vmette_spawn::find(BUSYBOX).filter(|path| {
        read_start(path, PROGRAM_HEADERS_MAX).is_ok_and(|start| elf::check_static(&start).is_ok())
    })
}

/// The built-in rootfs made of `busybox`, from the store or newly made.
///
/// # Errors
/// `busybox` is missing or not static, or the store cannot be used.
pub fn builtin_rootfs(store: &Store, busybox: &Path) -> Result<RootfsArtifact> {
    let (path, metadata) = busybox_identity(busybox)?;
    obtain(store, store.work(), &path, &metadata)
}

fn obtain(store: &Store, work: &Work, busybox: &Path, metadata: &Metadata) -> Result<RootfsArtifact> {
    let made = store.obtain_of_file(BUILTIN_SPEC, &key(busybox, metadata), |staging| {
        work.step("making the built-in rootfs");
        make(busybox, work, staging)
    })?;
    Ok(RootfsArtifact::stored(made))
}

fn busybox_identity(busybox: &Path) -> Result<(PathBuf, Metadata)> {
    let failed = |what| ProviderError::io(what, busybox);
    let path = busybox.canonicalize().map_err(failed("no busybox-static at"))?;
    let metadata = path.metadata().map_err(failed("cannot examine"))?;
    Ok((path, metadata))
}

fn key(busybox: &Path, metadata: &Metadata) -> Key {
    let layout = layout::digest().to_string();
    key_of_file(&format!("{CONVERTER} {layout}"), busybox, metadata)
}

fn read_start(path: &Path, len: u64) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    let file = spec::open_regular(path)?;
    file.take(len).read_to_end(&mut start).map_err(ProviderError::io("cannot read", path))?;
    Ok(start)
}

fn read_busybox(path: &Path) -> Result<Vec<u8>> {
    let program = read_start(path, BUSYBOX_MAX + 1)?;
    let checked = if program.len() as u64 > BUSYBOX_MAX {
        Err(elf::ElfError::TooLarge { max: BUSYBOX_MAX })
    } else {
        elf::check_static(&program)
    };
    match checked {
        Ok(()) => Ok(program),
        Err(e) => Err(ProviderError::Other(format!("busybox {} {e}: install {PACKAGE}", path.display()))),
    }
}

fn make(busybox: &Path, work: &Work, staging: &Path) -> Result<Description> {
    let program = read_busybox(busybox)?;
    let mut packer = Packer::start(staging, Compression::None, Duplicates::Find, BUSYBOX_MAX, work)?;
    packer.write(|tar| write(tar, &program))?;
    packer.finish()?;
    let files = files::FILES.iter().map(|(.., content)| content.len() as u64);
    let unpacked = program.len() as u64 + files.sum::<u64>();
    let described = Description::of_rootfs(ImageKind::Builtin, BUILTIN_SPEC.to_owned(), unpacked);
    Ok(Description { platform: Some(Platform::of_guest()), ..described })
}

fn write(tar: &mut Input, program: &[u8]) -> std::io::Result<()> {
    for &(path, mode) in layout::DIRS {
        tar.dir(path.as_bytes(), &Meta::root_owned(mode))?;
    }
    tar.file(layout::BUSYBOX_PATH.as_bytes(), &Meta::root_owned(0o755), program)?;
    for &(path, mode, content) in files::FILES {
        tar.file(path.as_bytes(), &Meta::root_owned(mode), content.as_bytes())?;
    }
    for (path, target) in layout::links() {
        tar.node(path.as_bytes(), &Meta::root_owned(0o777), Node::Symlink(target.as_bytes()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_is_there_once_and_below_a_directory() {
        let dirs: HashSet<_> = layout::DIRS.iter().map(|&(path, _)| path.to_owned()).collect();
        let mut names: HashSet<String> = HashSet::new();
        let links = layout::links().map(|(path, _)| path);
        let files = files::FILES.iter().map(|&(path, ..)| path.to_owned());
        for path in links.chain(files).chain([layout::BUSYBOX_PATH.to_owned()]) {
            let parent = path.rsplit_once('/').unwrap().0;
            assert!(dirs.contains(parent), "{path}");
            assert!(!dirs.contains(&path) && names.insert(path.clone()), "{path} is there twice");
        }
        assert_eq!(dirs.len(), layout::DIRS.len());
    }

    #[test]
    fn links_lead_to_busybox() {
        for (path, target) in layout::links() {
            let dir = Path::new(&path).parent().unwrap();
            let mut resolved = dir.to_path_buf();
            for part in Path::new(&target).components() {
                match part {
                    std::path::Component::ParentDir => assert!(resolved.pop()),
                    part => resolved.push(part),
                }
            }
            let path_is_applet = path.starts_with("bin/") || path.contains("bin/");
            assert!(!path_is_applet || resolved == Path::new(layout::BUSYBOX_PATH), "{path} -> {target}");
        }
    }
}
