//! The store's promises, with images of a few hundred bytes.

mod names;
mod places;

use std::os::unix::fs::symlink;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use vmette_oci::{ImageConfig, Platform};
use vmette_work::Progress;

/// The smallest file that passes for an image.
pub(super) fn fake_image(len: usize) -> Vec<u8> {
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

pub(super) fn key(name: &str) -> Key {
    key_of([name.as_bytes()])
}

pub(super) fn description() -> Description {
    Description::of_rootfs(ImageKind::Tar, "test".to_owned(), 0)
}

fn write(len: usize) -> impl FnOnce(&Path) -> Result<Description> {
    move |staging| {
        assert!(!staging.exists());
        fs::write(staging, fake_image(len)).unwrap();
        Ok(description())
    }
}

fn never(_: &Path) -> Result<Description> {
    unreachable!("it is there")
}

struct Cache {
    root: tempfile::TempDir,
    store: Store,
}

impl Cache {
    fn obtain(&self, name: &str, build: impl FnOnce(&Path) -> Result<Description>) -> Result<StoredImage> {
        self.store.obtain(&key(name), build)
    }

    fn within(&self, work: &Work) -> Store {
        self.store.clone().within(work)
    }

    fn make(&self, name: &str, len: usize, seconds: u64) -> StoredImage {
        let image = self.obtain(name, write(len)).unwrap();
        self.age(&image, seconds);
        image
    }

    /// Last used so long ago.
    fn age(&self, image: &StoredImage, seconds: u64) {
        age(&Record::path(&self.store.dir, &image.key), seconds);
    }

    fn names(&self) -> Vec<String> {
        self.store.file_names().unwrap()
    }

    fn prune(&self, max_bytes: u64, keep: Option<Key>) -> Vec<String> {
        self.store.prune(&PruneRules { max_bytes, keep, recent_too: false }).unwrap().images
    }
}

fn cache() -> Cache {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("cache")).unwrap();
    Cache { root, store }
}

fn age(file: &Path, seconds: u64) {
    File::open(file).unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn eight_callers_build_once() {
    let cache = cache();
    let (built, barrier) = (AtomicUsize::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let image = cache.obtain("a", |staging| {
                    built.fetch_add(1, Ordering::SeqCst);
                    write(200)(staging)
                });
                assert!(image.unwrap().path.exists());
            });
        }
    });
    assert_eq!(built.load(Ordering::SeqCst), 1);
    assert_eq!(
        cache.names(),
        [format!("{}.json", key("a")), format!("{}.sqfs", key("a"))],
        "only these stay"
    );
}

#[test]
fn what_was_said_of_an_image_is_kept() {
    let cache = cache();
    let described = Description {
        kind: ImageKind::Oci,
        id: Some(Digest::of(b"config")),
        platform: Some(Platform::of_guest()),
        config: ImageConfig {
            cmd: vec!["sh".to_owned()],
            user: Some("1:2".to_owned()),
            ..Default::default()
        },
        layers: vec![LayerInfo { digest: Digest::of(b"layer"), size: 5 }],
        unpacked: 77,
        ..description()
    };
    let made = cache.obtain("a", |staging| write(200)(staging).map(|_| described.clone())).unwrap();
    let found = cache.store.find(&key("a")).unwrap();
    assert_eq!((&found.description, found.bytes, &found.path), (&described, 200, &made.path));
    assert_eq!(found.id(), Digest::of(b"config").hex());
    assert_eq!(cache.store.list().unwrap(), [found]);
}

#[test]
fn a_failed_build_leaves_nothing_and_is_tried_again() {
    let cache = cache();
    let failed = cache.obtain("a", |staging| {
        fs::write(staging, b"half").unwrap();
        Err(vmette_work::Cancelled.into())
    });
    assert!(failed.is_err());
    let garbage = cache.obtain("a", |staging| {
        fs::write(staging, b"garbage").unwrap();
        Ok(description())
    });
    assert!(garbage.unwrap_err().to_string().contains("not a squashfs image"));
    let endless = cache.obtain("a", |staging| {
        let config = ImageConfig { cmd: vec!["x".repeat(17 << 20)], ..Default::default() };
        write(200)(staging).map(|described| Description { config, ..described })
    });
    assert!(endless.unwrap_err().to_string().contains("larger than 16 MiB"));
    assert!(cache.names().is_empty(), "{:?}", cache.names());
    cache.obtain("a", write(200)).unwrap();
}

#[test]
fn a_living_build_is_not_swept() {
    let cache = cache();
    let image = cache.obtain("a", |staging| {
        fs::write(staging, fake_image(200)).unwrap();
        cache.prune(0, None);
        Ok(description())
    });
    assert!(image.unwrap().path.exists());
}

#[test]
fn a_damaged_image_is_made_again() {
    let cache = cache();
    let image = cache.obtain("a", write(400)).unwrap();
    let mut one_bit = fake_image(400);
    one_bit[300] ^= 1;
    for damage in [&b""[..], b"hsqs", &fake_image(400)[..399], &one_bit] {
        fs::remove_file(&image.path).unwrap();
        fs::write(&image.path, damage).unwrap();
        assert_eq!(cache.store.find(&image.key), None);
        let warned = AtomicUsize::new(0);
        let warned = std::sync::Arc::new(warned);
        let work = Work::quiet().reporting({
            let warned = warned.clone();
            std::sync::Arc::new(move |progress| {
                assert!(matches!(progress, Progress::Warning(_)), "{progress:?}");
                warned.fetch_add(1, Ordering::SeqCst);
            })
        });
        assert_eq!(cache.within(&work).obtain(&image.key, write(400)).unwrap().path, image.path);
        assert_eq!(warned.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read(&image.path).unwrap(), fake_image(400));
    }
}

#[test]
fn an_image_that_is_a_link_or_a_fifo_is_none() {
    let cache = cache();
    let image = cache.obtain("a", write(400)).unwrap();
    let other = cache.root.path().join("other");
    fs::rename(&image.path, &other).unwrap();
    symlink(&other, &image.path).unwrap();
    assert_eq!(cache.store.find(&image.key), None);
    fs::remove_file(&image.path).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &image.path, fifo, 0o600.into(), 0).unwrap();
    assert_eq!(cache.store.find(&image.key), None);
    cache.obtain("a", write(400)).unwrap();
    assert_eq!(fs::read(&other).unwrap(), fake_image(400), "what the link led to is as it was");
}

#[test]
fn a_copied_cache_serves_after_one_reading() {
    let cache = cache();
    let image = cache.obtain("a", write(400)).unwrap();
    let copy = cache.root.path().join("copy");
    let other = Store::open(&copy).unwrap();
    for name in cache.names() {
        fs::copy(cache.store.dir.join(&name), other.dir.join(&name)).unwrap();
    }
    let stamp = |store: &Store| Record::read(&store.dir, &image.key).unwrap().0.stamp;
    let copied = fs::metadata(other.image_path(&image.key)).unwrap();
    assert_ne!(stamp(&other), Stamp::of(&copied));
    assert!(other.find(&image.key).is_some());
    assert_eq!(stamp(&other), Stamp::of(&copied), "the next one need not read it");
    assert_eq!(file_names(&other.dir).unwrap().len(), 2, "nothing else is left");
}

#[test]
fn a_record_that_cannot_be_used_is_as_none() {
    let cache = cache();
    let image = cache.obtain("a", write(400)).unwrap();
    let record = Record::path(&cache.store.dir, &image.key);
    let good = fs::read_to_string(&record).unwrap();
    let other = cache.obtain("b", write(300)).unwrap();
    let of_other = fs::read_to_string(Record::path(&cache.store.dir, &other.key)).unwrap();
    for bad in [
        "",
        "{}",
        "null",
        &good[..good.len() - 1],
        &good.replace("\"version\":1", "\"version\":2"),
        &of_other,
    ] {
        fs::write(&record, bad).unwrap();
        assert_eq!(cache.store.find(&image.key), None, "{bad}");
        cache.obtain("a", write(400)).unwrap();
        assert!(cache.store.find(&image.key).is_some());
    }
    let elsewhere = cache.root.path().join("elsewhere");
    fs::rename(&record, &elsewhere).unwrap();
    symlink(&elsewhere, &record).unwrap();
    assert_eq!(cache.store.find(&image.key), None, "a link");
}

#[test]
fn pruning_takes_the_longest_unused_first() {
    let cache = cache();
    let images = [("a", 300), ("b", 200), ("c", 100)].map(|(name, seconds)| cache.make(name, 1000, seconds));
    // A hit makes the oldest the newest.
    cache.obtain("a", never).unwrap();
    cache.age(&images[0], 70);
    let pruned = cache.store.prune(&PruneRules { max_bytes: 2000, keep: None, recent_too: false }).unwrap();
    assert_eq!(pruned, Pruned { images: vec![images[1].id()], layers: 0, bytes: 1000, left: 2000 });
    assert_eq!(images.map(|image| image.path.exists()), [true, false, true]);
    assert_eq!(cache.names().len(), 4, "{:?}", cache.names());
}

#[test]
fn pruning_never_takes_what_is_held_recent_kept_or_local() {
    let cache = cache();
    let [held, kept, recent, local, free] =
        [("held", 900), ("kept", 800), ("recent", 5), ("local", 900), ("free", 100)]
            .map(|(name, seconds)| cache.make(name, 1000, seconds));
    for (name, image, origin) in [
        ("localhost/mine:latest", &local, Origin::Local),
        ("alpine", &local, Origin::Registry { manifest: Digest::of(b"") }),
        ("busybox", &free, Origin::Registry { manifest: Digest::of(b"") }),
    ] {
        cache.store.set_name(name, &image.key, &origin).unwrap();
    }
    let guard = Store::hold(&held.path).unwrap();
    let second = Store::hold(&held.path).unwrap();
    assert_eq!(cache.prune(0, Some(kept.key)), [free.id()]);
    assert!([&held, &kept, &recent, &local].iter().all(|image| image.path.exists()));
    assert_eq!(cache.store.all_names().unwrap().len(), 2, "the name went with its image");
    drop(guard);
    assert_eq!(cache.prune(0, Some(kept.key)).len(), 0, "it is still held once");
    drop(second);
    assert_eq!(cache.prune(0, Some(kept.key)), [held.id()]);
    assert_eq!(Store::hold(&held.path).unwrap_err().kind(), io::ErrorKind::NotFound);
    let all = PruneRules { max_bytes: 0, keep: None, recent_too: true };
    assert_eq!(cache.store.prune(&all).unwrap().images.len(), 2);
    assert_eq!(cache.store.list().unwrap().len(), 1, "the local one stays");
}

#[test]
fn the_budget_follows_a_new_image() {
    let cache = cache();
    let old = cache.make("old", 1000, 100);
    let small = cache.store.clone().with_budget(Some(1500));
    let new = small.obtain(&key("new"), write(1000)).unwrap();
    assert!(!old.path.exists() && new.path.exists());
    let third = small.obtain(&key("third"), write(1000)).unwrap();
    assert!(new.path.exists() && third.path.exists(), "used within a minute");
}

#[test]
fn leavings_are_swept() {
    let cache = cache();
    let [a, b, c] = ["a", "b", "c"].map(|name| cache.make(name, 1000, 100));
    fs::remove_file(Record::path(&cache.store.dir, &a.key)).unwrap();
    fs::remove_file(&b.path).unwrap();
    cache.store.set_name("b", &b.key, &Origin::Local).unwrap();
    for name in [
        format!("{}{STAGING_INFIX}x", key("d")),
        format!("{}.json.staging-x", key("d")),
        format!("{}.{LOCK_SUFFIX}", key("e")),
        format!("names/{}{STAGING_INFIX}y", key("f")),
        format!("names/{}.json.staging-y", key("f")),
    ] {
        fs::write(cache.store.dir.join(name), b"half").unwrap();
    }
    cache.prune(u64::MAX, None);
    let expected = ["json", "sqfs"].map(|suffix| format!("{}.{suffix}", c.key)).to_vec();
    assert_eq!(cache.names(), [expected, vec!["names".to_owned()]].concat());
    assert!(file_names(&cache.store.names_dir()).unwrap().is_empty());
}

#[test]
fn an_image_of_an_earlier_version_stays_while_it_is_held() {
    let cache = cache();
    let image = cache.make("a", 1000, 100);
    fs::remove_file(Record::path(&cache.store.dir, &image.key)).unwrap();
    let held = Store::hold(&image.path).unwrap();
    cache.prune(0, None);
    assert!(image.path.exists());
    drop(held);
    cache.prune(0, None);
    assert!(!image.path.exists());
}

#[test]
fn pruning_beside_holding_and_making_takes_nothing_that_is_held() {
    let cache = cache();
    let everything = PruneRules { max_bytes: 0, keep: None, recent_too: true };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut removed = 0;
            while !stop.load(Ordering::Relaxed) {
                removed += cache.store.prune(&everything).unwrap().images.len();
            }
            removed
        });
        let users: Vec<_> = (0..4)
            .map(|user| {
                let cache = &cache;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let image = cache.obtain(if user % 2 == 0 { "a" } else { "b" }, write(400)).unwrap();
                        // Pruned at this very moment, which is to be tried again.
                        let Ok(held) = Store::hold(&image.path) else { continue };
                        std::thread::yield_now();
                        let named = fs::metadata(&image.path).unwrap();
                        assert_eq!(Stamp::of(&named), Stamp::of(&held.file().metadata().unwrap()));
                        assert_eq!(fs::read(&image.path).unwrap(), fake_image(400));
                    }
                })
            })
            .collect();
        let users: Vec<_> = users.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        users.into_iter().for_each(|user| user.unwrap());
        assert!(pruner.join().unwrap() > 0);
    });
    cache.store.prune(&everything).unwrap();
    assert!(cache.names().is_empty(), "{:?}", cache.names());
}

#[test]
fn keys_tell_apart_what_differs() {
    assert_ne!(key_of([&b"ab"[..], b"c"]), key_of([&b"a"[..], b"bc"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    let before = key_of_file("x", file.path(), &file.path().metadata().unwrap());
    assert_ne!(before, key_of_file("y", file.path(), &file.path().metadata().unwrap()));
    fs::write(file.path(), b"1").unwrap();
    assert_ne!(before, key_of_file("x", file.path(), &file.path().metadata().unwrap()));
}
