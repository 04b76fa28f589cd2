//! Which kernel the guest boots, and where it comes from.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use vmette_cache::Shelf;
use vmette_work::Work;

use super::apt::Apt;
use super::image::{Head, is_version};
use super::{ARCH, AssetError, AssetOptions};

/// The package whose dependency is the newest kernel for virtual machines: Debian's name for it.
pub(super) const PACKAGE: &str =
    if cfg!(target_arch = "aarch64") { "linux-image-cloud-arm64" } else { "linux-image-cloud-amd64" };
/// The same on distributions derived from Debian that do not build a cloud kernel.
const PACKAGE_ELSEWHERE: &str = "linux-image-virtual";

/// The packages that such a package needs for the kernel itself; the others are tools to install it.
const PARTS: [&str; 4] = ["linux-image-", "linux-modules-", "linux-binary-", "linux-base-"];
/// A kernel comes in one to six packages.
const MAX_PARTS: usize = 8;

/// Folders of module trees, each below the name of its version. Debian 14, Fedora and Arch keep the image there as well.
const MODULE_FOLDERS: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// File names of a kernel in `VMETTE_ASSETS_DIR`.
const IMAGE_NAMES: [&str; 2] = ["vmlinuz", "vmlinuz-virt"];
/// File name of an initramfs that goes with the kernel in `VMETTE_ASSETS_DIR`.
const INITRAMFS_NAME: &str = "initramfs-vmette";

/// Where a kernel was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The caller named it.
    Explicit,
    /// `VMETTE_ASSETS_DIR`.
    AssetsDir,
    /// An earlier run had put it into the cache.
    Cache,
    /// It is installed on the host.
    Installed,
}

/// A Linux kernel and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The image: `vmlinuz`, `vmlinux` or `Image`.
    pub image: PathBuf,
    /// The tree of its modules, as `/lib/modules/<version>` is one. None: everything that a guest needs is taken to be
    /// built in.
    pub modules: Option<PathBuf>,
    /// Its version as in `uname -r`, or `unknown`.
    pub version: String,
    /// Where it was found.
    pub origin: Origin,
    /// An initramfs that was found beside it.
    pub initramfs: Option<PathBuf>,
}

impl Kernel {
    /// The kernel to boot; when there is none, the distribution's is fetched into the cache. Of several the newest.
    pub fn locate(options: &AssetOptions, work: &Work) -> Result<Self, AssetError> {
        match Self::find(options)? {
            Some(kernel) => Ok(kernel),
            None => obtain(options, work),
        }
    }

    /// The kernel to boot if it is there already: the explicit one, else the first of `VMETTE_ASSETS_DIR`, the cache
    /// and those that are installed on the host.
    pub fn find(options: &AssetOptions) -> Result<Option<Self>, AssetError> {
        Self::find_on(options, Path::new("/"))
    }

    fn find_on(options: &AssetOptions, host: &Path) -> Result<Option<Self>, AssetError> {
        if let Some(image) = &options.kernel {
            return explicit(image, options, host).map(Some);
        }
        if let Some(kernel) = in_assets(options)? {
            return Ok(Some(kernel));
        }
        Ok(cached(options)?.or_else(|| installed(host)))
    }
}

fn explicit(image: &Path, options: &AssetOptions, host: &Path) -> Result<Kernel, AssetError> {
    let image = fs::canonicalize(image).map_err(AssetError::file("kernel", image))?;
    let version = version_of(&image)?;
    let beside = image.parent().unwrap_or(Path::new("/"));
    // `<folder>/modules`, or the tree that the image is in, or that of a `boot` folder's system, or one that has the same
    // version.
    let modules = [
        beside.join("modules"),
        beside.to_owned(),
        beside.join("../lib/modules").join(&version),
        options.cache.path().join("kernel").join(&version).join("modules"),
        host.join("lib/modules").join(&version),
    ]
    .into_iter()
    .find(|tree| is_tree(tree));
    Ok(Kernel { image, modules, version, origin: Origin::Explicit, initramfs: None })
}

fn in_assets(options: &AssetOptions) -> Result<Option<Kernel>, AssetError> {
    let Some(folder) = options.for_arch()? else { return Ok(None) };
    let Some(image) = IMAGE_NAMES.iter().map(|name| folder.join(name)).find(|path| path.exists()) else {
        return Ok(None);
    };
    let modules = Some(folder.join("modules")).filter(|tree| is_tree(tree));
    let initramfs = Some(folder.join(INITRAMFS_NAME)).filter(|path| path.is_file());
    Ok(Some(Kernel { version: version_of(&image)?, image, modules, origin: Origin::AssetsDir, initramfs }))
}

fn cached(options: &AssetOptions) -> Result<Option<Kernel>, AssetError> {
    let folder = options.cache.path().join("kernel");
    let names = Shelf::names(&folder)?;
    if names.is_empty() {
        return Ok(None);
    }
    // A folder that another user could fill must not supply a kernel.
    options.cache.ensure()?;
    let whole = names.into_iter().filter(|name| is_version(name)).filter_map(|version| {
        let path = folder.join(&version);
        let (image, modules) = (path.join("vmlinuz"), path.join("modules"));
        (Head::read(&image).is_ok() && is_tree(&modules)).then_some(Kernel {
            image,
            modules: Some(modules),
            version,
            origin: Origin::Cache,
            initramfs: None,
        })
    });
    Ok(whole.max_by(|a, b| by_version(&a.version, &b.version)))
}

/// A kernel for virtual machines that is installed on the host, and readable: some distributions make the images
/// root's own.
fn installed(host: &Path) -> Option<Kernel> {
    let debian = PACKAGE.rsplit_once('-').map_or(PACKAGE, |(_, arch)| arch);
    let ending = format!("-cloud-{debian}");
    let found = images(host).into_iter().filter_map(|(image, version)| {
        let tree = module_tree(host, &version).filter(|_| version.ends_with(&ending))?;
        Head::read(&image).is_ok().then_some(Kernel {
            image,
            modules: Some(tree),
            version,
            origin: Origin::Installed,
            initramfs: None,
        })
    });
    found.max_by(|a, b| by_version(&a.version, &b.version))
}

/// The images of a system, with their versions: `boot/vmlinuz-VERSION` and `usr/lib/modules/VERSION/vmlinuz`.
fn images(system: &Path) -> Vec<(PathBuf, String)> {
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let boot = system.join("boot");
    let in_boot = names(&boot).into_iter().filter_map(|name| {
        let version = name.strip_prefix("vmlinuz-")?.to_owned();
        Some((boot.join(name), version))
    });
    let beside_modules = MODULE_FOLDERS.iter().map(|folder| system.join(folder)).flat_map(|folder| {
        names(&folder).into_iter().map(move |version| (folder.join(&version).join("vmlinuz"), version))
    });
    in_boot.chain(beside_modules).filter(|(image, version)| is_version(version) && image.is_file()).collect()
}

/// The modules of that version in a system.
fn module_tree(system: &Path, version: &str) -> Option<PathBuf> {
    MODULE_FOLDERS.iter().map(|folder| system.join(folder).join(version)).find(|tree| is_tree(tree))
}

/// The version that the image's header gives, or else its name. An unreadable image, or a file that is no image, is an error.
fn version_of(image: &Path) -> Result<String, AssetError> {
    let head = Head::read(image).map_err(AssetError::file("kernel", image))?;
    let name = image.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
    Ok(head
        .version()
        .or_else(|| name.map(|(_, version)| version.to_owned()).filter(|version| is_version(version)))
        .unwrap_or_else(|| "unknown".to_owned()))
}

fn is_tree(path: &Path) -> bool {
    path.join("kernel").is_dir() || path.join("modules.builtin").is_file()
}

/// Compares versions part by part, numbers as numbers: 6.1.0-9 is older than 6.1.0-10.
fn by_version(a: &str, b: &str) -> Ordering {
    fn parts(version: &str) -> impl Iterator<Item = (u64, &str)> {
        version.split(['.', '-', '+', '~']).map(|part| (part.parse().unwrap_or(0), part))
    }
    parts(a).cmp(parts(b))
}

/// Fetches the distribution's kernel and unpacks it into the cache. It is not installed: that takes privileges, runs
/// hooks for half a minute and changes what the host boots.
fn obtain(options: &AssetOptions, work: &Work) -> Result<Kernel, AssetError> {
    if options.offline {
        let reason = "none is here, and offline mode rules out fetching one".to_owned();
        return Err(AssetError::NoKernel { reason, package: PACKAGE });
    }
    let shelf = options.cache.shelf("kernel")?;
    let lock = shelf.lock(work)?;
    // Another run may have done it while we waited.
    if let Some(kernel) = cached(options)? {
        return Ok(kernel);
    }
    let unavailable = |error: AssetError| match error.is_of_packages() {
        true => AssetError::NoKernel { reason: error.to_string(), package: PACKAGE },
        false => error,
    };
    let fetched = Apt::attempt(&options.cache, work, |apt| {
        let staging = lock.staging()?;
        for package in parts(apt)? {
            work.step(&format!("fetching {package}"));
            let deb = apt.download(&package, staging.path())?;
            work.step(&format!("unpacking {package}"));
            apt.unpack(&deb, &staging.path().join("root"))?;
        }
        Ok(staging)
    });
    let staging = fetched.map_err(unavailable)?;
    let version = arrange(staging.path()).map_err(unavailable)?;
    lock.publish(&staging.path().join("kernel"), &version)?;
    cached(options)?.ok_or_else(|| AssetError::NoKernel {
        reason: format!("the package's image {version} is no kernel for {ARCH}"),
        package: PACKAGE,
    })
}

/// The packages that make up the newest kernel.
fn parts(apt: &Apt<'_>) -> Result<Vec<String>, AssetError> {
    let is_part = |name: &String| PARTS.iter().any(|prefix| name.starts_with(prefix));
    let of = |package: &str| {
        let needed = apt.depends(package)?;
        Ok::<Vec<_>, AssetError>(needed.into_iter().filter(is_part).collect())
    };
    let mut parts = match of(PACKAGE) {
        Ok(parts) if !parts.is_empty() => parts,
        first => match of(PACKAGE_ELSEWHERE) {
            Ok(parts) if !parts.is_empty() => parts,
            // The first answer is about the package that the remedy names.
            _ => first?,
        },
    };
    if parts.is_empty() {
        return Err(AssetError::Package {
            package: PACKAGE.to_owned(),
            reason: "it needs no kernel image".to_owned(),
        });
    }
    let mut seen = 0;
    while seen < parts.len().min(MAX_PARTS) {
        for package in of(&parts[seen])? {
            if !parts.contains(&package) {
                parts.push(package);
            }
        }
        seen += 1;
    }
    parts.truncate(MAX_PARTS);
    Ok(parts)
}

/// Moves image, configuration and modules of an unpacked kernel from `root` to `kernel`; returns its version.
fn arrange(staging: &Path) -> Result<String, AssetError> {
    let (root, kernel) = (staging.join("root"), staging.join("kernel"));
    let lacks =
        |what: &str| AssetError::Package { package: PACKAGE.to_owned(), reason: format!("it has no {what}") };
    let mut found = images(&root).into_iter();
    let (image, version) = found.next().ok_or_else(|| lacks("vmlinuz below /boot or /usr/lib/modules"))?;
    let tree = module_tree(&root, &version).ok_or_else(|| lacks("modules of that kernel"))?;
    let rename = |from: &Path, name: &str| {
        let to = kernel.join(name);
        fs::rename(from, &to).map_err(AssetError::cache(&to))
    };
    fs::create_dir(&kernel).map_err(AssetError::cache(&kernel))?;
    rename(&image, "vmlinuz")?;
    let configs = [root.join(format!("boot/config-{version}")), tree.join("config")];
    if let Some(config) = configs.iter().find(|path| path.is_file()) {
        rename(config, "config")?;
    }
    // The last one: image and configuration may have been in it.
    rename(&tree, "modules")?;
    flush(&kernel).map_err(AssetError::cache(&kernel))?;
    Ok(version)
}

/// Brings a thousand files to the disk before they are visible under their name: a crash of the host must not leave
/// empty modules in a folder that counts as whole.
fn flush(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&folder)?;
    // Elsewhere there are no packages to unpack.
    folder.sync_all()
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
