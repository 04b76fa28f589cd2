//! A cache on a disk that is too small: the error says so, and nothing is left on it. As root only, who can make such a
//! disk: this test program starts itself in a mount namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::env;
use std::fs;
use std::process::Command;

use support::{Archive, LIMITS, Place};
use vmette_image::{Context, RootfsProvider, TarProvider};

const ROOT: &str = "VMETTE_IMAGE_TEST_ROOT";
/// Size of the disk in MiB.
const DISK: usize = 4;

#[test]
#[ignore = "the process of the test below that has the small disk"]
fn role() {
    let root = env::var(ROOT).unwrap();
    let cache = format!("{root}/cache");
    let size = format!("size={DISK}m,mode=0700");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs", &cache]).status().unwrap();
    assert!(mounted.success());
    let used = || {
        let disk = rustix::fs::statvfs(cache.as_str()).unwrap();
        (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    };
    for name in ["content-does-not-fit", "image-does-not-fit"] {
        let spec = format!("tar+file://{root}/{name}");
        let message = TarProvider::with_limits(LIMITS)
            .provide(&spec, &Context::new(&cache))
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(message.contains("no space is left on its disk") && message.contains(&cache), "{message}");
        assert!(used() < 128 << 10, "{} bytes are left after {name}", used());
    }
    println!("- refused");
}

#[test]
fn a_full_disk() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let place = Place::new();
    fs::create_dir(place.cache()).unwrap();
    // Cannot be compressed.
    let noise = |bytes: usize| {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33).to_le_bytes()[0]
        };
        Archive::default().file("f", &(0..bytes).map(|_| next()).collect::<Vec<_>>()).end()
    };
    fs::write(place.root.path().join("content-does-not-fit"), noise((DISK + 1) << 20)).unwrap();
    // The spill file may be removed before the image is complete: the content alone has just enough room, and the
    // image, which has tables beside it, has not.
    let page = 4096;
    fs::write(place.root.path().join("image-does-not-fit"), noise((DISK << 20) - page)).unwrap();
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "role", "--nocapture"])
        .env(ROOT, place.root.path())
        .output()
        .unwrap();
    let printed =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if printed.contains("unshare failed") {
        eprintln!("skipped: {printed}");
        return;
    }
    assert!(output.status.success() && printed.contains("- refused"), "{printed}");
}
