//! The static busybox that the built-in root is made of.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use vmette_cache::Shelf;
use vmette_work::Work;

use super::apt::Apt;
use super::image::is_version;
use super::{AssetError, AssetOptions, elf};

const PACKAGE: &str = "busybox-static";
/// Where a package of the distribution puts it.
const PLACES: [&str; 2] = ["bin/busybox", "usr/bin/busybox"];
/// A static busybox has 2 MiB.
const MAX_SIZE: u64 = 64 << 20;

/// A static busybox for the guest: of `VMETTE_ASSETS_DIR`, of the cache, of the host; when there is none, the
/// distribution's is fetched into the cache.
pub fn busybox(options: &AssetOptions, work: &Work) -> Result<PathBuf, AssetError> {
    match find_on(options, Path::new("/"))? {
        Some(path) => Ok(path),
        None => obtain(options, work),
    }
}

fn find_on(options: &AssetOptions, host: &Path) -> Result<Option<PathBuf>, AssetError> {
    if let Some(folder) = options.for_arch()? {
        let path = folder.join("busybox");
        if path.exists() {
            // It was put there for this purpose: a wrong one is an error, not a reason to look further.
            check(&path).map_err(AssetError::file("busybox", &path))?;
            return Ok(Some(path));
        }
    }
    if let Some(path) = cached(options)? {
        return Ok(Some(path));
    }
    Ok(PLACES.iter().map(|place| host.join(place)).find(|path| check(path).is_ok()))
}

fn cached(options: &AssetOptions) -> Result<Option<PathBuf>, AssetError> {
    let folder = options.cache.path().join("busybox");
    let names = Shelf::names(&folder)?;
    if names.is_empty() {
        return Ok(None);
    }
    // A folder that another user could fill must not supply the guest's shell.
    options.cache.ensure()?;
    let versions = names.iter().filter(|name| is_version(name));
    let files = versions.map(|version| folder.join(version).join("busybox"));
    Ok(files.filter(|path| check(path).is_ok()).max())
}

/// Refuses what would not run as the only file of a root.
fn check(path: &Path) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    if !meta.is_file() || meta.len() > MAX_SIZE {
        return refuse("not a program");
    }
    if elf::is_static_program(&fs::read(path)?) {
        Ok(())
    } else {
        refuse("not a static program for the guest's architecture; Debian's package busybox-static has one")
    }
}

fn obtain(options: &AssetOptions, work: &Work) -> Result<PathBuf, AssetError> {
    if options.offline {
        return Err(AssetError::NoBusybox {
            reason: "none is here, and offline mode rules out fetching one".to_owned(),
        });
    }
    let shelf = options.cache.shelf("busybox")?;
    let lock = shelf.lock(work)?;
    if let Some(path) = cached(options)? {
        return Ok(path);
    }
    let fetched = Apt::attempt(&options.cache, work, |apt| {
        let staging = lock.staging()?;
        work.step(&format!("fetching {PACKAGE}"));
        let deb = apt.download(PACKAGE, staging.path())?;
        apt.unpack(&deb, &staging.path().join("root"))?;
        let version = apt.version(&deb)?;
        Ok((staging, version))
    });
    let (staging, version) = fetched
        .and_then(|(staging, version)| {
            arrange(staging.path(), &version)?;
            Ok((staging, version))
        })
        .map_err(|error| match error.is_of_packages() {
            true => AssetError::NoBusybox { reason: error.to_string() },
            false => error,
        })?;
    Ok(lock.publish(&staging.path().join("busybox"), &version)?.join("busybox"))
}

/// Moves the program of the unpacked package from `root` to a folder of its own.
fn arrange(staging: &Path, version: &str) -> Result<(), AssetError> {
    let lacks = |reason: &str| AssetError::Package { package: PACKAGE.to_owned(), reason: reason.to_owned() };
    if !is_version(version) {
        return Err(lacks("its version is no version"));
    }
    let program =
        PLACES.iter().map(|place| staging.join("root").join(place)).find(|path| check(path).is_ok());
    let program = program.ok_or_else(|| lacks("it has no static /bin/busybox"))?;
    let folder = staging.join("busybox");
    let target = folder.join("busybox");
    fs::create_dir(&folder)
        .and_then(|()| fs::rename(&program, &target))
        .and_then(|()| fs::set_permissions(&target, fs::Permissions::from_mode(0o755)))
        .map_err(AssetError::cache(&target))
}

#[cfg(test)]
mod tests {
    use super::super::{ARCH, elf};
    use super::*;
    use vmette_cache::CacheRoot;

    fn put(path: &Path, content: &[u8]) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        path.to_owned()
    }

    fn program() -> Vec<u8> {
        elf::tests::image(1, b"code", b"")
    }

    #[test]
    fn the_given_one_comes_before_the_cached_before_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut options = AssetOptions::new(CacheRoot::at(root.join("cache")));
        options.cache.ensure().unwrap();
        options.assets_dir = Some(root.join("assets"));
        fs::create_dir(root.join("assets")).unwrap();
        assert_eq!(find_on(&options, root).unwrap(), None);

        let expected = put(&root.join("usr/bin/busybox"), &program());
        assert_eq!(find_on(&options, root).unwrap(), Some(expected));
        let expected = put(&root.join("cache/busybox/1:1.35.0-4+b1/busybox"), &program());
        assert_eq!(find_on(&options, root).unwrap(), Some(expected));
        let expected = put(&root.join("assets").join(ARCH).join("busybox"), &program());
        assert_eq!(find_on(&options, root).unwrap(), Some(expected));
    }

    #[test]
    fn one_that_needs_a_loader_is_passed_over_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut options = AssetOptions::new(CacheRoot::at(root.join("cache")));
        let dynamic = elf::tests::image(3, b"/lib64/ld.so\0", b"");
        put(&root.join("bin/busybox"), &dynamic);
        assert_eq!(find_on(&options, root).unwrap(), None);

        options.assets_dir = Some(root.join("assets"));
        put(&root.join("assets").join(ARCH).join("busybox"), &dynamic);
        let error = find_on(&options, root).unwrap_err().to_string();
        assert!(error.contains("not a static program"), "{error}");
    }

    #[test]
    fn a_package_without_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = arrange(folder.path(), "1.0").unwrap_err().to_string();
        assert!(error.contains("busybox-static"), "{error}");
        assert!(arrange(folder.path(), "../up").is_err());

        put(&folder.path().join("root/bin/busybox"), &program());
        arrange(folder.path(), "1.0").unwrap();
        assert!(folder.path().join("busybox/busybox").is_file());
    }
}
