use vmette_cache::CacheRoot;

use super::*;

/// An ELF kernel passes for one on every architecture.
const ELF: &[u8] = b"\x7fELF";

struct Host {
    folder: tempfile::TempDir,
    options: AssetOptions,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = AssetOptions::new(CacheRoot::at(folder.path().join("cache")));
        options.cache.ensure().unwrap();
        Self { folder, options }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn find(&self) -> Result<Option<Kernel>, AssetError> {
        Kernel::find_on(&self.options, self.folder.path())
    }

    fn found(&self) -> Kernel {
        self.find().unwrap().unwrap()
    }
}

fn cloud(version: &str) -> String {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!("{version}-cloud-{arch}")
}

#[test]
fn nothing_is_found_on_an_empty_host() {
    assert_eq!(Host::new().find().unwrap(), None);
}

#[test]
fn the_order_is_explicit_assets_cache_installed() {
    let mut host = Host::new();
    let version = cloud("6.1.0-2");
    let image = host.put(&format!("boot/vmlinuz-{version}"), ELF);
    assert_eq!(host.find().unwrap(), None, "without its modules it is of no use");
    host.put(&format!("lib/modules/{version}/modules.builtin"), b"");
    let kernel = host.found();
    assert_eq!((&kernel.image, &kernel.version, kernel.origin), (&image, &version, Origin::Installed));

    let image = host.put("cache/kernel/6.1.0-1/vmlinuz", ELF);
    host.put("cache/kernel/6.1.0-1/modules/modules.builtin", b"");
    let kernel = host.found();
    assert_eq!((&kernel.image, kernel.version.as_str(), kernel.origin), (&image, "6.1.0-1", Origin::Cache));

    host.options.assets_dir = Some(host.path("assets"));
    host.put(&format!("assets/{ARCH}/modules/kernel/x.ko"), b"");
    assert_eq!(host.found().origin, Origin::Cache, "assets without a kernel are passed over");
    let image = host.put(&format!("assets/{ARCH}/vmlinuz"), ELF);
    let kernel = host.found();
    assert_eq!((&kernel.image, kernel.origin), (&image, Origin::AssetsDir));
    assert_eq!(kernel.modules, Some(host.path("assets").join(ARCH).join("modules")));

    let image = host.put("mine/vmlinux-5.4.1", ELF);
    host.options.kernel = Some(image.clone());
    let kernel = host.found();
    assert_eq!((&kernel.version, kernel.origin), (&"5.4.1".to_owned(), Origin::Explicit));
    assert_eq!((kernel.image, kernel.modules), (fs::canonicalize(image).unwrap(), None));
}

#[test]
fn the_names_of_older_releases_are_known() {
    let mut host = Host::new();
    host.options.assets_dir = Some(host.path("assets"));
    let image = host.put(&format!("assets/{ARCH}/vmlinuz-virt"), ELF);
    let initramfs = host.put(&format!("assets/{ARCH}/initramfs-vmette"), b"x");
    let kernel = host.found();
    assert_eq!((kernel.image, kernel.initramfs), (image, Some(initramfs)));
}

#[test]
fn the_newest_whole_one_of_the_cache_is_taken() {
    let host = Host::new();
    for version in ["6.1.0-9", "6.1.0-10", "5.19.0-99"] {
        host.put(&format!("cache/kernel/{version}/vmlinuz"), ELF);
        host.put(&format!("cache/kernel/{version}/modules/modules.builtin"), b"");
    }
    host.put("cache/kernel/7.0.0-1/vmlinuz", ELF);
    host.put("cache/kernel/7.0.0-2/vmlinuz", b"cut");
    host.put("cache/kernel/7.0.0-2/modules/modules.builtin", b"");
    host.put("cache/kernel/.staging-x/vmlinuz", ELF);
    assert_eq!(host.found().version, "6.1.0-10");
}

#[test]
fn a_cache_that_others_can_write_to_supplies_no_kernel() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Host::new();
    host.put("cache/kernel/6.1.0-9/vmlinuz", ELF);
    host.put("cache/kernel/6.1.0-9/modules/modules.builtin", b"");
    fs::set_permissions(host.path("cache"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(host.find(), Err(AssetError::Cache(vmette_cache::Error::Writable { .. }))));
}

#[test]
fn modules_of_an_explicit_kernel_are_beside_it() {
    for tree in
        ["sys/boot/modules", "sys/lib/modules/5.4.1", "cache/kernel/5.4.1/modules", "lib/modules/5.4.1"]
    {
        let mut host = Host::new();
        host.options.kernel = Some(host.put("sys/boot/vmlinuz-5.4.1", ELF));
        host.put(&format!("{tree}/modules.builtin"), b"");
        let modules = host.found().modules.unwrap();
        assert_eq!(fs::canonicalize(modules).unwrap(), fs::canonicalize(host.path(tree)).unwrap());
    }
}

#[test]
fn a_wrong_explicit_kernel_is_named() {
    let mut host = Host::new();
    let text = host.put("text", b"#!/bin/sh");
    for (path, why) in [
        (host.path("gone"), "No such file"),
        (host.folder.path().to_owned(), "not a file"),
        (text, "not a Linux kernel image"),
    ] {
        host.options.kernel = Some(path.clone());
        let error = host.find().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains(why), "{error}");
    }
}

#[test]
fn a_wrong_assets_folder_is_named() {
    let mut host = Host::new();
    host.options.assets_dir = Some(host.path("gone"));
    let error = host.find().unwrap_err().to_string();
    assert!(error.contains("VMETTE_ASSETS_DIR") && error.contains("gone"), "{error}");
    host.options.assets_dir = Some("assets".into());
    assert!(matches!(host.find(), Err(AssetError::Cache(vmette_cache::Error::Relative { .. }))));
}

#[test]
fn an_unpacked_package_becomes_image_configuration_and_modules() {
    for modules in ["lib/modules", "usr/lib/modules"] {
        let host = Host::new();
        host.put("root/boot/vmlinuz-6.1.0-9", ELF);
        host.put("root/boot/System.map-6.1.0-9", b"");
        host.put("root/boot/config-6.1.0-9", b"");
        host.put(&format!("root/{modules}/6.1.0-9/modules.builtin"), b"");
        assert_eq!(arrange(host.folder.path()).unwrap(), "6.1.0-9");
        let mut names: Vec<_> =
            fs::read_dir(host.path("kernel")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config", "modules", "vmlinuz"]);
    }
    let host = Host::new();
    host.put("root/boot/vmlinuz-6.1.0-9", ELF);
    let error = arrange(host.folder.path()).unwrap_err().to_string();
    assert!(error.contains("no modules"), "{error}");
    fs::remove_dir_all(host.path("root/boot")).unwrap();
    let error = arrange(host.folder.path()).unwrap_err().to_string();
    assert!(error.contains("no vmlinuz"), "{error}");
}

/// The packages of Debian 14 and newer fill no `/boot`.
#[test]
fn an_image_may_be_in_the_tree_of_its_modules() {
    let version = cloud("7.2.13+deb14");
    let mut host = Host::new();
    for file in ["vmlinuz", "config", "modules.builtin", "kernel/fs/x.ko"] {
        host.put(&format!("root/usr/lib/modules/{version}/{file}"), ELF);
    }
    assert_eq!(arrange(host.folder.path()).unwrap(), version);
    for file in ["vmlinuz", "config", "modules/modules.builtin", "modules/kernel/fs/x.ko"] {
        assert!(host.path("kernel").join(file).is_file(), "{file}");
    }

    let tree = format!("usr/lib/modules/{version}");
    let image = host.put(&format!("{tree}/vmlinuz"), ELF);
    assert_eq!(host.find().unwrap(), None, "without its modules it is of no use");
    host.put(&format!("{tree}/modules.builtin"), b"");
    let kernel = host.found();
    assert_eq!((&kernel.image, &kernel.version, kernel.origin), (&image, &version, Origin::Installed));
    assert_eq!(kernel.modules, Some(host.path(&tree)));

    host.options.kernel = Some(image);
    let modules = host.found().modules.unwrap();
    assert_eq!(modules, fs::canonicalize(host.path(&tree)).unwrap());
}

#[test]
fn versions_are_compared_as_numbers() {
    for (older, newer) in [
        ("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"),
        ("6.1.0-56", "6.12.3+deb13"),
        ("5.10", "6.1"),
        ("6.1", "6.1.1"),
    ] {
        assert_eq!(by_version(older, newer), Ordering::Less, "{older} {newer}");
    }
}
