use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vmette_work::{Progress, Work};

use super::modules::tests::{built_in, kernel, module, put};
use super::*;

/// Work that has nothing to tell.
pub(super) fn idle() -> Work {
    Work::quiet().reporting(Arc::new(|told| panic!("nothing to do: {told:?}")))
}

/// Work, and its steps since they were last asked for.
pub(super) fn listening() -> (Work, impl Fn() -> Vec<String>) {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let heard = steps.clone();
    let work = Work::quiet().reporting(Arc::new(move |told| match told {
        Progress::Step(line) => heard.lock().unwrap().push((*line).to_owned()),
        other => panic!("{other:?}"),
    }));
    (work, move || std::mem::take(&mut *steps.lock().unwrap()))
}

fn options(folder: &Path) -> AssetOptions {
    AssetOptions::new(CacheRoot::at(folder.join("cache")))
}

#[test]
fn explicit_files_are_booted_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    let mut options = options(&root);
    fs::write(root.join("vmlinuz-1.2"), b"\x7fELF").unwrap();
    fs::write(root.join("initramfs"), "archive").unwrap();
    options.kernel = Some(root.join("vmlinuz-1.2"));
    options.initramfs = Some(root.join("initramfs"));
    let assets = boot_assets(&options, &idle()).unwrap();
    let expected = BootAssets {
        kernel: root.join("vmlinuz-1.2"),
        initramfs: root.join("initramfs"),
        version: "1.2".to_owned(),
        origin: Origin::Explicit,
    };
    assert_eq!(assets, expected);
    assert!(!root.join("cache").exists(), "explicit files need no cache");

    options.extra_modules = vec!["kvm".to_owned()];
    let error = boot_assets(&options, &Work::quiet()).unwrap_err().to_string();
    assert!(error.contains("kvm"), "{error}");
}

#[test]
fn a_wrong_explicit_initramfs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    fs::write(folder.path().join("empty"), "").unwrap();
    for name in ["gone", "empty", "."] {
        let path = folder.path().join(name);
        options.initramfs = Some(path.clone());
        let error = boot_assets(&options, &Work::quiet()).unwrap_err().to_string();
        assert!(error.starts_with("initramfs ") && error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_second_run_has_nothing_to_do() {
    if GUEST.is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    fs::write(&kernel.image, b"\x7fELF").unwrap();
    built_in(&kernel);
    put(&kernel, "kernel/vsock.ko", &module("depends=\n"));
    let mut options = options(folder.path());
    options.assets_dir = Some(folder.path().join("assets"));
    fs::create_dir(folder.path().join("assets")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("assets").join(ARCH)).unwrap();

    let (work, steps) = listening();
    let first = boot_assets(&options, &work).unwrap();
    assert_eq!(first.origin, Origin::AssetsDir);
    assert_eq!(steps(), ["assembling the initramfs", "unpacking the kernel"]);
    assert_eq!(boot_assets(&options, &work).unwrap(), first);
    assert_eq!(steps(), Vec::<String>::new());
}

#[test]
fn offline_nothing_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.offline = true;
    if Kernel::find(&options).unwrap().is_some() {
        return; // One is installed on this host, so there is nothing to fetch.
    }
    let error = boot_assets(&options, &idle()).unwrap_err().to_string();
    for word in ["offline mode", "or name one", "VMETTE_ASSETS_DIR", "apt-get install linux-image-cloud-"] {
        assert!(error.contains(word), "{word}: {error}");
    }
}
