//! The tree that a program in the machine sees is the tree that `umoci unpack` extracts from the same image, name by
//! name. Images come from a real registry, by the real program.
//!
//! Only root can extract owners and devices, so only root can tell: as another user these tests say that they skip.

mod layers;
mod listing;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::layout::{Layout, TAG};
use crate::registry::{Access, Registry, run};
use listing::{Lister, Root, assert_same};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

/// Both kinds of root: the first is of the registry, the second of the cache.
const BOTH: [Root; 2] = [Root::ReadOnly, Root::Writable];

/// Pushes the image, lists what umoci extracts and what a machine has, and compares.
fn is_the_same_in_a_machine(layout: &Layout, access: Access, options: &[&str], roots: &[Root]) {
    let (registry, lister, cache) = (Registry::start(access), Lister::build(), Cache::without_images());
    let image = registry.fill(&layout.folder(), TAG, "some/image:v1", options);
    let extracted = lister.folder(&layout.unpack().join("rootfs"));
    for &root in roots {
        assert_same(&extracted, lister.machine(&image, &registry, &cache, root), root);
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can extract owners and devices");
    }
    root
}

#[test]
fn everything_that_layers_can_hold() {
    if !is_root() {
        return;
    }
    let layout = Layout::new();
    for layer in layers::stack() {
        let archive = layout.path("layer.tar");
        fs::write(&archive, layer).unwrap();
        layout.add(&archive);
    }
    is_the_same_in_a_machine(&layout, Access::TlsAndPasswords, &[], &BOTH);
}

/// Layers as umoci writes them, which the registry stores with another compression.
#[test]
fn an_image_that_umoci_made() {
    if !is_root() {
        return;
    }
    let layout = Layout::new();
    layout.change(|root| {
        fs::create_dir_all(root.join("srv/data/old")).unwrap();
        for n in 0..50 {
            fs::write(root.join(format!("srv/data/old/{n}")), vec![n; 4096]).unwrap();
        }
        fs::write(root.join("srv/tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("srv/tool"), fs::Permissions::from_mode(0o4750)).unwrap();
        std::os::unix::fs::chown(root.join("srv/tool"), Some(1000), Some(1001)).unwrap();
        setxattr(root.join("srv/tool"), "user.note", b"of the tool", XattrFlags::empty()).unwrap();
        fs::hard_link(root.join("srv/tool"), root.join("srv/alias")).unwrap();
        symlink("tool", root.join("srv/link")).unwrap();
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, root.join("srv/disk"), FileType::BlockDevice, mode, makedev(7, 3)).unwrap();
        mknodat(CWD, root.join("srv/fifo"), FileType::Fifo, mode, 0).unwrap();
    });
    layout.change(|root| {
        fs::remove_dir_all(root.join("srv/data/old")).unwrap();
        fs::create_dir(root.join("srv/data/old")).unwrap();
        fs::write(root.join("srv/data/old/new"), "after").unwrap();
        fs::remove_file(root.join("srv/fifo")).unwrap();
        fs::remove_file(root.join("srv/link")).unwrap();
        fs::create_dir(root.join("srv/link")).unwrap();
        fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o2711)).unwrap();
    });
    is_the_same_in_a_machine(&layout, Access::Open, &["--dest-compress-format", "zstd"], &BOTH);
}

/// Thousands of files of a real distribution, as its own tool extracts them.
#[test]
fn an_image_that_mmdebstrap_made() {
    if !is_root() {
        return;
    }
    let layout = Layout::new();
    layout.add(&debian());
    is_the_same_in_a_machine(&layout, Access::Passwords, &[], &[Root::ReadOnly]);
}

/// Packages of this machine's own release, from its own mirrors; kept, as the guest's kernel is.
fn debian() -> PathBuf {
    const PACKAGES: &str = "base-files,base-passwd,login,passwd,mount,perl-base,tzdata";
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.expect("the release of this Debian");
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{suite}-packages.tar"));
    if kept.exists() {
        return kept;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let made = dir.path().join("made.tar");
    let include = format!("--include={PACKAGES}");
    let mut args =
        vec!["--quiet", "--mode=root", "--variant=extract", &include, suite, made.to_str().unwrap()];
    let sources = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
    args.extend(sources.iter().filter(|path| Path::new(path).metadata().is_ok_and(|found| found.size() > 0)));
    run("mmdebstrap", args);
    fs::rename(made, &kept).unwrap();
    kept
}
