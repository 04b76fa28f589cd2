//! The store's promises, with images of a few hundred bytes.

use std::os::unix::fs::symlink;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

/// The smallest file that passes for an image.
fn fake_image(len: usize) -> Vec<u8> {
    let mut image = vec![0; len];
    image[..4].copy_from_slice(b"hsqs");
    image[12..16].copy_from_slice(&(1u32 << 17).to_le_bytes());
    image[22] = 17;
    image[28] = 4;
    for (at, value) in [(40, len as u64), (64, 96), (72, 96)] {
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    image
}

fn key(name: &str) -> Key {
    Key::of_parts([name.as_bytes()])
}

fn write(len: usize) -> impl FnOnce(&Path) -> Result<()> {
    move |staging| {
        assert!(!staging.exists());
        fs::write(staging, fake_image(len)).unwrap();
        Ok(())
    }
}

fn quiet(_: &str) {}

struct Cache {
    _root: tempfile::TempDir,
    store: Store,
}

fn cache() -> Cache {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("cache")).unwrap();
    Cache { _root: root, store }
}

fn age(image: &Path, seconds: u64) {
    File::open(image).unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

fn names(store: &Store) -> Vec<String> {
    store.names().unwrap()
}

#[test]
fn eight_callers_build_once() {
    let cache = cache();
    let (built, barrier) = (AtomicUsize::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let image = cache.store.obtain(&key("a"), &quiet, |staging| {
                    built.fetch_add(1, Ordering::SeqCst);
                    write(200)(staging)
                });
                assert!(image.unwrap().exists());
            });
        }
    });
    assert_eq!(built.load(Ordering::SeqCst), 1);
    assert_eq!(names(&cache.store), [format!("{}.sqfs", key("a"))], "only the image stays");
}

#[test]
fn a_failed_build_leaves_nothing_and_is_tried_again() {
    let cache = cache();
    let failed = cache.store.obtain(&key("a"), &quiet, |staging| {
        fs::write(staging, b"half").unwrap();
        Err(ProviderError::Other("no".to_owned()))
    });
    assert!(failed.is_err());
    let garbage = cache.store.obtain(&key("a"), &quiet, |staging| {
        fs::write(staging, b"garbage").unwrap();
        Ok(())
    });
    assert!(garbage.unwrap_err().to_string().contains("not a squashfs image"));
    assert!(names(&cache.store).is_empty());
    cache.store.obtain(&key("a"), &quiet, write(200)).unwrap();
}

#[test]
fn a_killed_build_is_swept_and_done_again() {
    let cache = cache();
    let stale = cache.store.dir().join(format!("{}{STAGING_INFIX}x", key("a")));
    fs::write(&stale, b"half").unwrap();
    // A dead process's lock file, without a lock.
    fs::write(cache.store.dir().join(format!("{}.{LOCK_SUFFIX}", key("a"))), b"").unwrap();
    cache.store.obtain(&key("a"), &quiet, write(200)).unwrap();
    assert_eq!(names(&cache.store).len(), 1);

    fs::write(cache.store.dir().join(format!("{}{STAGING_INFIX}x", key("b"))), b"half").unwrap();
    fs::write(cache.store.dir().join(format!("{}.{LOCK_SUFFIX}", key("c"))), b"").unwrap();
    cache.store.prune(u64::MAX, None).unwrap();
    assert_eq!(names(&cache.store).len(), 1, "{:?}", names(&cache.store));
}

#[test]
fn a_living_build_is_not_swept() {
    let cache = cache();
    let image = cache.store.obtain(&key("a"), &quiet, |staging| {
        fs::write(staging, fake_image(200)).unwrap();
        cache.store.prune(0, None).unwrap();
        Ok(())
    });
    assert!(image.unwrap().exists());
}

#[test]
fn a_damaged_image_is_made_again() {
    let cache = cache();
    let image = cache.store.obtain(&key("a"), &quiet, write(400)).unwrap();
    for damage in [&b""[..], b"hsqs", &fake_image(400)[..399]] {
        fs::remove_file(&image).unwrap();
        fs::write(&image, damage).unwrap();
        assert_eq!(cache.store.obtain(&key("a"), &quiet, write(400)).unwrap(), image);
        assert_eq!(fs::read(&image).unwrap(), fake_image(400));
    }
}

#[test]
fn pruning_takes_the_longest_unused_first() {
    let cache = cache();
    let images: Vec<_> = [("a", 300), ("b", 200), ("c", 100)]
        .map(|(name, seconds)| {
            let image = cache.store.obtain(&key(name), &quiet, write(1000)).unwrap();
            age(&image, seconds);
            image
        })
        .into();
    // A hit makes the oldest the newest.
    cache.store.obtain(&key("a"), &quiet, |_| unreachable!()).unwrap();
    age(&images[0], 70);
    assert_eq!(cache.store.prune(2000, None).unwrap(), Pruned { images: 1, bytes: 1000 });
    assert_eq!(images.iter().map(|image| image.exists()).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn pruning_never_takes_what_is_held_recent_or_kept() {
    let cache = cache();
    let make = |name: &str, seconds| {
        let image = cache.store.obtain(&key(name), &quiet, write(1000)).unwrap();
        age(&image, seconds);
        image
    };
    let (held, kept, recent, free) =
        (make("held", 900), make("kept", 800), make("recent", 5), make("free", 100));
    let guard = Store::hold(&held).unwrap();
    let second = Store::hold(&held).unwrap();
    assert_eq!(cache.store.prune(0, Some(&kept)).unwrap().images, 1);
    assert!(held.exists() && kept.exists() && recent.exists() && !free.exists());
    drop(guard);
    assert_eq!(cache.store.prune(0, Some(&kept)).unwrap().images, 0, "it is still held once");
    drop(second);
    assert_eq!(cache.store.prune(0, Some(&kept)).unwrap().images, 1);
    assert!(!held.exists());
    assert_eq!(Store::hold(&held).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let refused = |dir: &Path| Store::open(dir).unwrap_err().to_string();

    let open = root.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&open).contains("other users can write"));

    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let message = refused(&file);
    assert!(message.contains("not a directory") && message.contains("VMETTE_CACHE_DIR"), "{message}");
    assert!(refused(&file.join("below")).contains("cannot be created"));
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

#[test]
fn keys_tell_apart_what_differs() {
    assert_ne!(Key::of_parts([&b"ab"[..], b"c"]), Key::of_parts([&b"a"[..], b"bc"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    let before = Key::of_file("x", file.path(), &file.path().metadata().unwrap());
    assert_ne!(before, Key::of_file("y", file.path(), &file.path().metadata().unwrap()));
    fs::write(file.path(), b"1").unwrap();
    assert_ne!(before, Key::of_file("x", file.path(), &file.path().metadata().unwrap()));
}
