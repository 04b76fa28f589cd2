//! Stores in places that refuse or lack something.

use super::*;

/// Where a test's other half finds its directory.
const INSIDE: &str = "VMETTE_STORE_TEST_INSIDE";

/// Runs the other half of a test in a mount namespace of its own, in which `mount` has been run in `dir`. Only root may
/// mount, so that for an ordinary user nothing is tested.
fn as_root_in(dir: &Path, mount: &str, test: &str) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let script = format!("{mount} && exec \"$0\" --ignored --exact store::tests::places::{test} --nocapture");
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(program)
        .env(INSIDE, dir)
        .current_dir(dir)
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn inside() -> std::path::PathBuf {
    std::env::var_os(INSIDE).unwrap().into()
}

#[test]
fn a_read_only_cache_serves() {
    let cache = cache();
    let image = cache.make("a", 400, 100);
    cache.store.set_name("a", &image.key, &Origin::Local).unwrap();
    // A copy, whose files are not the recorded ones.
    fs::remove_file(&image.path).unwrap();
    fs::write(&image.path, fake_image(400)).unwrap();
    as_root_in(cache.root.path(), "mount --bind . . && mount -o remount,ro,bind .", "on_a_read_only_disk");
}

#[test]
#[ignore = "the other half of the test above"]
fn on_a_read_only_disk() {
    let dir = inside();
    assert!(fs::write(dir.join("x"), b"").is_err(), "it is not read-only");
    let store = Store::open(&dir.join("cache")).unwrap();
    assert!(store.find(&key("a")).is_some());
    store.obtain(&key("a"), never).unwrap();
    store.obtain_of_file("file", &key("a"), never).unwrap();
    assert!(store.name("a").unwrap().is_some());
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(Store::hold(&store.image_path(&key("a"))).is_ok());
    let refused = store.obtain(&key("b"), never).unwrap_err().to_string();
    assert!(refused.contains("VMETTE_CACHE_DIR"), "{refused}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    as_root_in(root.path(), "mount -t tmpfs -o size=64k,mode=0700 none . && cd .", "on_a_full_disk");
}

#[test]
#[ignore = "the other half of the test above"]
fn on_a_full_disk() {
    let dir = inside();
    let store = Store::open(&dir.join("cache")).unwrap().with_budget(Some(0));
    // So long that the image itself fits, and its record does not.
    for description_len in [1000, 60_000] {
        let made = store.obtain::<StoreError>(&key("a"), |staging| {
            fs::write(staging, fake_image(16 << 10)).unwrap();
            let source = "x".repeat(description_len);
            Ok(Description { source, ..description() })
        });
        match made {
            Ok(_) => assert_eq!(description_len, 1000),
            Err(e) => assert!(e.to_string().contains("no space is left") && description_len == 60_000, "{e}"),
        }
        store.prune(&PruneRules { max_bytes: 0, keep: None, recent_too: true }).unwrap();
        assert!(store.file_names().unwrap().is_empty(), "{:?}", store.file_names());
    }
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let refused = |dir: &Path| Store::open(dir).unwrap_err().to_string();

    let open = root.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&open).contains("writable by others"));

    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let message = refused(&file);
    assert!(message.contains("not a folder") && message.contains("VMETTE_CACHE_DIR"), "{message}");
    assert!(refused(&file.join("below")).contains("cannot be made"));
    assert!(refused(Path::new("relative")).contains("not absolute"));

    let own = root.path().join("own");
    symlink(root.path().join("target"), &own).unwrap();
    assert!(Store::open(&own).is_err(), "a dangling link");
    fs::create_dir(root.path().join("target")).unwrap();
    Store::open(&own).unwrap();
}

#[test]
fn new_directories_are_private() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("a/b")).unwrap();
    for dir in [store.dir(), &root.path().join("a"), &root.path().join("a/b")] {
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}
