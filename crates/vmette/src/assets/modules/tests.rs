use std::io::Write as _;

use super::super::kernel::Origin;
use super::*;

/// A module that says these lines about itself.
pub(crate) fn module(info: &str) -> Vec<u8> {
    elf::tests::image(1, b"", info.replace('\n', "\0").as_bytes())
}

/// A kernel with an empty module tree.
pub(crate) fn kernel(folder: &Path) -> Kernel {
    let modules = folder.join("modules");
    fs::create_dir_all(modules.join("kernel/drivers")).unwrap();
    Kernel {
        image: folder.join("vmlinuz"),
        modules: Some(modules),
        version: "6.1.0-test".to_owned(),
        origin: Origin::Explicit,
        initramfs: None,
    }
}

pub(crate) fn put(kernel: &Kernel, path: &str, content: &[u8]) {
    let path = kernel.modules.as_ref().unwrap().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Everything that is required built in, so that a test names only what it is about.
pub(crate) fn built_in(kernel: &Kernel) {
    let list: String =
        WANTED.iter().filter(|w| w.required).map(|w| format!("kernel/x/{}.ko\n", w.name)).collect();
    put(kernel, "modules.builtin", list.as_bytes());
}

fn names(modules: Vec<Module>) -> Vec<String> {
    modules.into_iter().map(|module| module.name).collect()
}

fn booted(kernel: &Kernel, extra: &[&str]) -> Vec<String> {
    names(resolve(kernel, extra).unwrap().boot)
}

#[test]
fn dependencies_come_first_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    put(&kernel, "kernel/net/virtio_net.ko", &module("depends=virtio,net-failover\n"));
    put(&kernel, "kernel/net/net_failover.ko", &module("depends=failover\n"));
    put(&kernel, "kernel/net/failover.ko", &module("depends=\n"));
    put(&kernel, "kernel/v/virtio.ko", &module("depends=virtio_ring\n"));
    put(&kernel, "kernel/v/virtio_ring.ko", &module("depends=\n"));
    put(&kernel, "kernel/fs/virtiofs.ko", &module("depends=fuse,virtio_ring,virtio\n"));
    put(&kernel, "kernel/fs/fuse.ko", &module("depends=virtio_blk\n"));
    put(&kernel, "kernel/k/kvm-amd.ko", &module("depends=kvm\n"));
    put(&kernel, "kernel/k/kvm.ko", &module("depends=\n"));
    let expected = ["fuse", "virtio_ring", "virtio", "virtiofs"];
    assert_eq!(booted(&kernel, &[]), expected);
    assert_eq!(booted(&kernel, &["kvm-amd"])[expected.len()..], ["kvm", "kvm_amd"]);
    // Only a machine with a network loads them, and nothing twice.
    let network = ["failover", "net_failover", "virtio_net"];
    assert_eq!(names(resolve(&kernel, &[]).unwrap().network), network);
    assert_eq!(booted(&kernel, &["virtio_net"])[expected.len()..], network);
    assert!(resolve(&kernel, &["virtio_net"]).unwrap().network.is_empty());
}

#[test]
fn soft_dependencies_are_loaded_where_they_exist() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    put(&kernel, "kernel/erofs.ko", &module("depends=libcrc32c\n"));
    put(
        &kernel,
        "kernel/libcrc32c.ko",
        &module("softdep=pre: crc32c_generic crypto-gone post: late\ndepends=\n"),
    );
    put(&kernel, "kernel/crc32c_generic.ko", &module("depends=\n"));
    put(&kernel, "kernel/late.ko", &module("depends=\n"));
    assert_eq!(booted(&kernel, &[]), ["crc32c_generic", "libcrc32c", "erofs"]);
}

#[test]
fn a_missing_required_module_is_named_with_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    let error = resolve(&kernel, &[]).unwrap_err().to_string();
    assert!(error.contains("`virtio_pci`") && error.contains("6.1.0-test"), "{error}");

    put(&kernel, "kernel/virtio_pci.ko", &module("depends=virtio_gone\n"));
    let error = resolve(&kernel, &[]).unwrap_err().to_string();
    assert!(error.contains("`virtio_gone`"), "{error}");

    built_in(&kernel);
    let error = resolve(&kernel, &["kvm"]).unwrap_err().to_string();
    assert!(error.contains("`kvm`"), "{error}");
}

#[test]
fn an_optional_module_that_cannot_be_had_pulls_nothing_in() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    put(&kernel, "kernel/virtio_net.ko", &module("depends=failover,gone\n"));
    put(&kernel, "kernel/failover.ko", &module("depends=\n"));
    assert_eq!(resolve(&kernel, &[]).unwrap(), Modules::default());
}

#[test]
fn a_circle_ends() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    put(&kernel, "kernel/vsock.ko", &module("depends=a\n"));
    put(&kernel, "kernel/a.ko", &module("depends=vsock\n"));
    assert_eq!(booted(&kernel, &[]), ["a", "vsock"]);
}

#[test]
fn an_endless_chain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    put(&kernel, "kernel/vsock.ko", &module("depends=m0\n"));
    for n in 0..MAX_LOADED {
        put(&kernel, &format!("kernel/m{n}.ko"), &module(&format!("depends=m{}\n", n + 1)));
    }
    assert!(matches!(resolve(&kernel, &[]), Err(AssetError::Modules { .. })));
}

#[test]
fn updates_replace_and_links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    let new = module("depends=\nversion=new\n");
    put(&kernel, "kernel/vsock.ko", &module("depends=\n"));
    put(&kernel, "updates/dkms/vsock.ko", &new);
    std::os::unix::fs::symlink("/", kernel.modules.as_ref().unwrap().join("build")).unwrap();
    let modules = resolve(&kernel, &[]).unwrap().boot;
    assert_eq!(modules, [Module { name: "vsock".to_owned(), content: new }]);
}

#[test]
fn compressed_modules_are_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    let plain = module("depends=\n");
    let zst = zstd::encode_all(&plain[..], 1).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&plain).unwrap();
    put(&kernel, "kernel/vsock.ko.zst", &zst);
    put(&kernel, "kernel/erofs.ko.xz", &xz.finish().unwrap());
    let modules = resolve(&kernel, &[]).unwrap().boot;
    assert_eq!(modules.len(), 2);
    assert!(modules.iter().all(|module| module.content == plain));
}

#[test]
fn what_is_no_module_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path());
    built_in(&kernel);
    put(&kernel, "kernel/vsock.ko", b"not an ELF file");
    let error = resolve(&kernel, &[]).unwrap_err().to_string();
    assert!(error.contains("vsock.ko") && error.contains("not a kernel module"), "{error}");
}

#[test]
fn a_kernel_without_a_tree_has_everything_built_in() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = Kernel { modules: None, ..kernel(folder.path()) };
    assert_eq!(resolve(&kernel, &[]).unwrap(), Modules::default());
}
