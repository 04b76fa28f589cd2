//! Ends a test's child process at a named point, as a power cut or `SIGKILL` would; and what the next process then
//! finds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vmette_work::Work;

use super::tests::{description, fake_image, key};
use super::{Digest, Origin, PruneRules, Removal, Store, file_names};

/// Names the point at which the process ends.
pub(crate) const VARIABLE: &str = "VMETTE_STORE_TEST_CRASH";
/// Where its cache is.
const ROOT: &str = "VMETTE_STORE_TEST_ROOT";
/// What a child does.
const ROLE: &str = "VMETTE_STORE_TEST_ROLE";

pub(super) fn point(name: &str) {
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == name) {
        // Nothing is dropped, no handler runs.
        std::process::abort();
    }
}

fn open(root: &Path) -> Store {
    Store::open(&root.join("cache")).unwrap().with_budget(Some(0))
}

fn origin() -> Origin {
    Origin::Registry { manifest: Digest::of(b"") }
}

fn make(store: &Store) -> super::StoredImage {
    let made = store.obtain::<super::StoreError>(&key("a"), |staging| {
        fs::write(staging, fake_image(400)).unwrap();
        Ok(description())
    });
    made.unwrap()
}

#[test]
#[ignore = "the process of the tests below that ends at a point"]
fn child() {
    let (root, role) = (std::env::var(ROOT).unwrap(), std::env::var(ROLE).unwrap());
    let store = open(&PathBuf::from(root));
    match role.as_str() {
        "make" => drop(make(&store)),
        "name" => store.set_name("a", &key("a"), &origin()).unwrap(),
        "remove" => {
            let image = store.peek(&key("a")).unwrap();
            assert_eq!(store.remove_image(&image, false).unwrap(), Removal::Gone);
        }
        "publish layer" => {
            let (layers, digest) = (store.layers(), Digest::of(b"layer"));
            let _lock = layers.lock(&digest, &Work::quiet()).unwrap();
            let partial = layers.partial(&digest).unwrap();
            std::io::Write::write_all(&mut &partial, b"layer").unwrap();
            layers.publish(&digest, &partial).unwrap();
        }
        other => panic!("{other}"),
    }
}

fn crash(root: &Path, role: &str, point: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "store::crash::child", "--nocapture"])
        .env(ROOT, root)
        .env(ROLE, role)
        .env(VARIABLE, point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{role} reached {point}");
}

/// Files of the store but for its folder of names.
fn files(store: &Store) -> Vec<String> {
    file_names(store.dir()).unwrap().into_iter().filter(|name| name != "names").collect()
}

fn sweep(store: &Store) {
    store.prune(&PruneRules { max_bytes: u64::MAX, keep: None, recent_too: false }).unwrap();
}

fn ready() -> Vec<String> {
    ["json", "sqfs"].map(|suffix| format!("{}.{suffix}", key("a"))).to_vec()
}

#[test]
fn a_killed_conversion_is_made_again_wherever_it_ended() {
    for point in ["built", "synced", "renamed", "document staged"] {
        let root = tempfile::tempdir().unwrap();
        crash(root.path(), "make", point);
        let store = open(root.path());
        assert_eq!(store.find(&key("a")), None, "{point}: without its record it is not ready");
        assert!(!files(&store).is_empty(), "{point}: it left something");
        make(&store);
        assert_eq!(files(&store), ready(), "{point}: the next one leaves nothing else");

        crash(root.path(), "remove", "record removed");
        assert_eq!(store.find(&key("a")), None);
        crash(root.path(), "make", point);
        sweep(&store);
        assert_eq!(files(&store), [""; 0], "{point}: pruning alone cleans up as well");
    }
}

#[test]
fn a_killed_naming_leaves_the_name_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    make(&store);
    crash(root.path(), "name", "document staged");
    assert_eq!(store.name("a").unwrap(), None);
    store.set_name("a", &key("a"), &Origin::Local).unwrap();
    crash(root.path(), "name", "document staged");
    assert_eq!(store.name("a").unwrap().unwrap().origin, Origin::Local);
    sweep(&store);
    assert_eq!(file_names(&store.dir().join("names")).unwrap().len(), 1, "what was staged is gone");
    assert_eq!(files(&store), ready());
}

#[test]
fn a_killed_download_keeps_what_came() {
    let root = tempfile::tempdir().unwrap();
    crash(root.path(), "publish layer", "layer synced");
    let (layers, digest) = (open(root.path()).layers(), Digest::of(b"layer"));
    assert!(layers.open(&digest).is_none());
    let _lock = layers.lock(&digest, &Work::quiet()).unwrap();
    let partial = layers.partial(&digest).unwrap();
    assert_eq!(partial.metadata().unwrap().len(), 5);
    layers.publish(&digest, &partial).unwrap();
    assert!(layers.open(&digest).is_some());
}
