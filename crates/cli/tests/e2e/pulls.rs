//! Images of a real registry, run while everything goes wrong: a run either has the image as it is, or says why not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use crate::cache::Cache;
use crate::layout::{Layout, TAG};
use crate::machine::{LIMIT, Vmette};
use crate::proxy::Proxy;
use crate::registry::{Access, Registry, run};
use crate::roots::folder;

/// Of a file that does not compress, in bytes. More than all other answers of a registry come to.
const NOISE: usize = 6 << 20;
const NAME: &str = "some/image:v1";

/// The built-in userland, and `/noise` in a layer of its own.
fn image() -> Layout {
    let (_dir, root) = folder();
    let layout = Layout::new();
    layout.insert(&root);
    let tree = layout.path("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("noise"), noise()).unwrap();
    layout.insert(&tree);
    layout
}

fn noise() -> Vec<u8> {
    let mut state = 7_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(NOISE).collect()
}

const READ: &str = "sha256sum < /noise; cat /etc/marker";

/// A run that reads all of the image's content that matters.
fn reading(reference: &str, options: &[&str], cache: &Path) -> Vmette {
    let command = ["--no-template", reference, "--", "sh", "-c", READ];
    Vmette::run([options, &command].concat()).cache(cache)
}

/// What that prints.
fn expected(layout: &Layout) -> String {
    let sum = run("sha256sum", [layout.path("tree/noise")]).stdout;
    let sum = String::from_utf8(sum).unwrap();
    format!("{}  -\nfrom the folder\n", sum.split_whitespace().next().unwrap())
}

/// Waits for what has no event: what another program does to its files.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect()
}

/// The image of the cache that was pulled.
fn pulled(reference: &str, cache: &Path) -> PathBuf {
    let records = files(&cache.join("images"), ".json");
    let found = records.iter().find(|path| fs::read_to_string(path).unwrap().contains(reference));
    found.unwrap_or_else(|| panic!("{reference} is not in {records:?}")).with_extension("sqfs")
}

#[test]
fn a_run_that_is_killed_while_it_downloads_is_gone_on_with() {
    let (registry, layout, cache) = (Registry::start(Access::Open), image(), Cache::without_images());
    registry.fill(&layout.folder(), TAG, NAME, &[]);
    // In the middle of the large layer.
    let proxy = Proxy::start(registry.host(), NOISE as u64 / 2);
    let reference = format!("{}/{NAME}", proxy.host());
    let running = reading(&reference, &[], cache.path()).start();
    until("nothing is downloaded", || proxy.is_held_up());
    let layers = cache.path().join("layers");
    until("nothing is kept", || {
        files(&layers, ".partial").iter().any(|path| path.metadata().unwrap().len() > 1 << 20)
    });
    running.signal(Signal::KILL);
    assert_eq!(running.wait().signal, Some(9));

    proxy.open();
    let expected = expected(&layout);
    reading(&reference, &["--quiet"], cache.path()).exits(0).printed(&expected);
    assert_eq!(files(&layers, ".partial"), [""; 0].map(PathBuf::from));
    assert_eq!(
        files(&cache.path().join("images"), "")
            .iter()
            .filter(|path| path.to_string_lossy().contains(".staging."))
            .count(),
        0
    );

    // Now it is here: nobody has to be asked, and who insists on it is told that nobody answers.
    drop(registry);
    reading(&reference, &["--offline"], cache.path()).exits(0).printed(&expected);
    let refused = reading(&reference, &["--pull=always"], cache.path()).exits(1);
    refused.said([proxy.host()]).printed("");
}

#[test]
fn a_damaged_image_is_made_again_or_refused_and_never_run() {
    let (registry, layout, cache) = (Registry::start(Access::Open), image(), Cache::without_images());
    let reference = registry.fill(&layout.folder(), TAG, NAME, &[]);
    let expected = expected(&layout);
    reading(&reference, &[], cache.path()).exits(0).printed(&expected);
    let path = pulled(&reference, cache.path());
    let damage = || {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        // Files of the cache are read-only, which stops nobody who means it, and no failing disk.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    damage();
    let again = reading(&reference, &[], cache.path()).exits(0);
    again.printed(&expected).said(["is damaged"]);

    damage();
    drop(registry);
    let refused = reading(&reference, &["--offline"], cache.path()).exits(1);
    refused.said([&reference]).printed("");
}

#[test]
fn an_image_that_a_machine_has_is_not_pruned() {
    let (registry, layout, cache) = (Registry::start(Access::Open), image(), Cache::without_images());
    let reference = registry.fill(&layout.folder(), TAG, NAME, &[]);
    let script = format!("echo ready; read line; {READ}");
    let (input, mut tell) = std::io::pipe().unwrap();
    let mut running = Vmette::run(["--no-template", &reference, "--", "sh", "-c", &script])
        .cache(cache.path())
        .stdin(input)
        .start();
    running.has_printed("ready\n");
    let path = pulled(&reference, cache.path());
    let prune = || {
        // As if it had last been asked for an hour ago.
        let record = File::open(path.with_extension("json")).unwrap();
        record.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        for layer in files(&cache.path().join("layers"), "") {
            File::open(layer).unwrap().set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        }
        // An image that is new to a cache which has room for none.
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("new.tar");
        run("tar", ["-cf", archive.to_str().unwrap(), "-C", "/etc", "hostname"]);
        let spec = format!("tar+file://{}", archive.display());
        let outcome =
            Vmette::run([&spec, "--", "/no-such"]).cache(cache.path()).env("VMETTE_CACHE_MAX_BYTES", "1");
        outcome.exits(127);
    };
    prune();
    assert!(path.exists(), "the machine's own image is gone");
    assert_eq!(
        files(&cache.path().join("layers"), "")
            .iter()
            .filter(|path| !path.to_string_lossy().contains("lock"))
            .count(),
        0
    );
    std::io::Write::write_all(&mut tell, b"go on\n").unwrap();
    running.has_printed(&expected(&layout));
    assert_eq!(running.wait().code, Some(0));
    prune();
    assert!(!path.exists(), "now nobody has it");
}

/// Three layers of zeros, each of which is let through by itself.
#[test]
fn an_image_that_swells_is_refused_with_the_limit() {
    let layout = Layout::new();
    for n in 0..3 {
        let tree = layout.path(&format!("tree{n}"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join(format!("zeros{n}")), vec![0; 2 << 20]).unwrap();
        layout.insert(&tree);
    }
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("oci-layout:{}", layout.folder().display());
    let with_limit = |limit: &str| {
        Vmette::run([&spec, "--", "/no-such"]).cache(dir.path()).env("VMETTE_OCI_MAX_BYTES", limit)
    };
    with_limit("5000000").exits(1).said(["5000000", "VMETTE_OCI_MAX_BYTES", "layer"]);
    assert_eq!(files(&dir.path().join("images"), ".sqfs"), [""; 0].map(PathBuf::from));
    with_limit("many").exits(1).said(["VMETTE_OCI_MAX_BYTES", "many"]);
}
