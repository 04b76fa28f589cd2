//! The initramfs: the guest's `/init`, the kernel modules that it loads, and the order to load them in.

use std::io::{self, Write};
use std::path::PathBuf;

use cpio::newc::{Builder, ModeFileType, trailer};
use vmette_cache::{CacheRoot, FileStamp, Key, KeyBuilder};
use vmette_work::Work;

use super::kernel::Kernel;
use super::modules::{self, Module, Modules, NETWORK, WANTED};
use super::{AssetError, GUEST, GUEST_SHA256};

/// Part of every key: raised when the layout changes.
const FORMAT: &str = "initramfs 2";

/// Where the guest reads which modules to load: one absolute path a line, in load order.
const MODULES_LIST: &str = "modules.list";

/// The same for those that it loads when it is granted a network.
const NETWORK_LIST: &str = "network.list";

/// Folders of the archive, each after its parent, for the kernel unpacks in order.
const FOLDERS: [&str; 7] = ["dev", "proc", "sys", "run", "tmp", "lib", "lib/modules"];

/// Major and minor number of `/dev/console`, which the kernel opens for PID 1 before anything is mounted; without the
/// node PID 1 starts with no standard streams at all.
const CONSOLE: (u32, u32) = (5, 1);

/// The archive that boots the embedded guest on this kernel, with `extra_modules` loaded as well; made once and kept
/// in the cache, under a name that changes with guest, kernel and modules.
pub fn initramfs(
    kernel: &Kernel,
    extra_modules: &[&str],
    cache: &CacheRoot,
    work: &Work,
) -> Result<PathBuf, AssetError> {
    let guest = GUEST.ok_or(AssetError::NoGuest)?;
    let name = format!("{}.cpio", key(kernel, extra_modules)?);
    cache.shelf("initramfs")?.file(&name, work, |out| {
        match &kernel.modules {
            Some(_) => work.step("assembling the initramfs"),
            None => work.step("assembling an initramfs without modules: none were found beside the kernel"),
        }
        let modules = modules::resolve(kernel, extra_modules)?;
        write(out, guest, &modules).map_err(|e| AssetError::cache(cache.path())(e))
    })
}

/// Names the archive after everything that goes into it.
fn key(kernel: &Kernel, extra_modules: &[&str]) -> Result<Key, AssetError> {
    let image = FileStamp::of(&kernel.image).map_err(AssetError::file("kernel", &kernel.image))?;
    let mut key = KeyBuilder::new().text(FORMAT).text(GUEST_SHA256).content(&image);
    if let Some(tree) = &kernel.modules {
        key = key.content(&FileStamp::of(tree).map_err(AssetError::file("kernel modules", tree))?);
    }
    let wanted = WANTED.iter().chain(&NETWORK).map(|wanted| wanted.name);
    Ok(wanted.chain(extra_modules.iter().copied()).fold(key, KeyBuilder::text).finish())
}

/// Writes the archive. The same input gives the same bytes: no times, no owners, inodes counted from one.
fn write(out: impl Write, guest: &[u8], modules: &Modules) -> io::Result<()> {
    let mut archive = Archive { out, inode: 0 };
    for folder in FOLDERS {
        archive.add(folder, ModeFileType::Directory, 0o755, &[])?;
    }
    archive.console()?;
    archive.add("init", ModeFileType::Regular, 0o755, guest)?;
    for (name, modules) in [(MODULES_LIST, &modules.boot), (NETWORK_LIST, &modules.network)] {
        let list = archive.modules(modules)?;
        archive.add(name, ModeFileType::Regular, 0o644, list.as_bytes())?;
    }
    trailer(archive.out)?.flush()
}

/// A newc archive in the making.
struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    fn add(&mut self, path: &str, kind: ModeFileType, mode: u32, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} is too long for an initramfs"))
        })?;
        let entry = self.entry(path, kind, mode);
        let mut file = entry.write(&mut self.out, length);
        file.write_all(content)?;
        file.finish().map(drop)
    }

    /// The list of them: an absolute path a line.
    fn modules(&mut self, modules: &[Module]) -> io::Result<String> {
        let mut list = String::new();
        for module in modules {
            let path = format!("lib/modules/{}.ko", module.name);
            self.add(&path, ModeFileType::Regular, 0o644, &module.content)?;
            list.push('/');
            list.push_str(&path);
            list.push('\n');
        }
        Ok(list)
    }

    fn console(&mut self) -> io::Result<()> {
        let entry = self.entry("dev/console", ModeFileType::Char, 0o600);
        entry.rdev_major(CONSOLE.0).rdev_minor(CONSOLE.1).write(&mut self.out, 0).finish().map(drop)
    }

    fn entry(&mut self, path: &str, kind: ModeFileType, mode: u32) -> Builder {
        self.inode += 1;
        Builder::new(path).ino(self.inode).mode(mode).set_mode_file_type(kind)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::io::Read as _;

    use super::super::modules::tests::{built_in, kernel, module, put};
    use super::super::tests::listening;
    use super::*;

    type Entry = (String, u32, Vec<u8>);

    fn listing(mut archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(archive).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            entries.push((reader.entry().name().to_owned(), reader.entry().mode(), content));
            archive = reader.finish().unwrap();
        }
    }

    fn some_modules() -> Modules {
        let module = |name: &str| Module { name: name.to_owned(), content: name.as_bytes().to_vec() };
        Modules { boot: vec![module("b"), module("a")], network: vec![module("c")] }
    }

    #[test]
    fn the_archive_has_init_modules_and_their_order() {
        let mut archive = Vec::new();
        write(&mut archive, b"guest", &some_modules()).unwrap();
        let entries = listing(&archive);
        let names: Vec<_> = entries.iter().map(|entry| entry.0.as_str()).collect();
        assert_eq!(names[..FOLDERS.len()], FOLDERS);
        let find = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(find("init"), &("init".to_owned(), 0o100_755, b"guest".to_vec()));
        assert_eq!(find("dev/console").1, 0o020_600);
        assert_eq!(find("lib/modules/a.ko").2, b"a");
        assert_eq!(find("modules.list").2, b"/lib/modules/b.ko\n/lib/modules/a.ko\n");
        assert_eq!(find("network.list").2, b"/lib/modules/c.ko\n");
        assert!(archive.len().is_multiple_of(4));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        write(&mut one, b"guest", &some_modules()).unwrap();
        write(&mut two, b"guest", &some_modules()).unwrap();
        assert!(one == two);
    }

    #[test]
    fn the_archive_is_made_once_per_kernel_and_modules() {
        if GUEST.is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        fs::write(&kernel.image, "image").unwrap();
        built_in(&kernel);
        put(&kernel, "kernel/drivers/vsock.ko", &module("depends=\n"));
        put(&kernel, "kernel/drivers/kvm.ko", &module("depends=\n"));
        let cache = CacheRoot::at(folder.path().join("cache"));
        let (work, steps) = listening();
        let made = Cell::new(0);
        let make = |extra: &[&str]| {
            let path = initramfs(&kernel, extra, &cache, &work).unwrap();
            made.set(made.get() + steps().len());
            path
        };
        let list = |path: &PathBuf| {
            let entries = listing(&fs::read(path).unwrap());
            let list = entries.into_iter().find(|entry| entry.0 == MODULES_LIST).unwrap();
            String::from_utf8(list.2).unwrap()
        };

        let plain = make(&[]);
        assert_eq!(make(&[]), plain);
        assert_eq!(made.get(), 1);
        assert_eq!(list(&plain), "/lib/modules/vsock.ko\n");

        let nested = make(&["kvm"]);
        assert_ne!(nested, plain);
        assert_eq!(list(&nested), "/lib/modules/vsock.ko\n/lib/modules/kvm.ko\n");

        fs::write(&kernel.image, "another image").unwrap();
        assert_ne!(make(&[]), plain);
        assert_eq!(made.get(), 3);

        fs::write(&nested, "cut").unwrap();
        fs::write(&kernel.image, "image").unwrap();
        assert!(listing(&fs::read(make(&["kvm"])).unwrap()).len() > FOLDERS.len());
    }

    #[test]
    fn a_failed_assembly_names_the_module_and_leaves_no_archive() {
        if GUEST.is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        fs::write(&kernel.image, "image").unwrap();
        let cache = CacheRoot::at(folder.path().join("cache"));
        let error = initramfs(&kernel, &[], &cache, &Work::quiet()).unwrap_err();
        assert!(error.to_string().contains("`virtio_pci`"), "{error}");
        let left = fs::read_dir(cache.path().join("initramfs")).unwrap().count();
        assert_eq!(left, 0);
    }
}
