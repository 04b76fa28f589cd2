use std::os::unix::fs::PermissionsExt as _;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn quiet(_: &str) {}

fn root(env: &[(&str, &str)], macos: bool) -> Result<CacheRoot, AssetError> {
    CacheRoot::from_variables(
        |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)),
        macos,
    )
}

#[test]
fn the_environment_names_the_cache() {
    type Row<'a> = (&'a [(&'a str, &'a str)], bool, &'a str);
    let table: &[Row<'_>] = &[
        (&[("VMETTE_CACHE_DIR", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], false, "/c"),
        (&[("VMETTE_CACHE_DIR", "/c"), ("HOME", "/h")], true, "/c"),
        (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], false, "/x/vmette"),
        (&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")], false, "/h/.cache/vmette"),
        (&[("XDG_CACHE_HOME", ""), ("VMETTE_CACHE_DIR", ""), ("HOME", "/h")], false, "/h/.cache/vmette"),
        (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], true, "/h/Library/Caches/vmette"),
    ];
    for (env, macos, expected) in table {
        assert_eq!(root(env, *macos).unwrap().path(), Path::new(expected), "{env:?}");
    }
}

#[test]
fn the_current_folder_is_never_the_cache() {
    for env in [[("VMETTE_CACHE_DIR", "cache")], [("HOME", ".")], [("HOME", "")]] {
        let error = root(&env, false).unwrap_err().to_string();
        assert!(error.contains(env[0].0), "{error}");
    }
    assert!(root(&[], true).unwrap_err().to_string().contains("VMETTE_CACHE_DIR"));
}

#[test]
fn a_new_cache_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CacheRoot::at(folder.path().join("a/b"));
    cache.ensure().unwrap();
    assert_eq!(fs::metadata(cache.path()).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_cache_that_others_can_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = CacheRoot::at(folder.path()).ensure().unwrap_err();
    assert!(matches!(error, AssetError::CacheMode { mode: 0o777, .. }), "{error}");
    assert!(error.to_string().contains("VMETTE_CACHE_DIR"));
}

#[test]
fn a_file_in_the_place_of_the_cache_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    let error = CacheRoot::at(&path).ensure().unwrap_err().to_string();
    assert!(error.contains("VMETTE_CACHE_DIR") && error.contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn two_at_once_build_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CacheRoot::at(folder.path().join("cache"));
    let built = AtomicUsize::new(0);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                let shelf = cache.shelf("kind").unwrap();
                let path = shelf
                    .file("name", &quiet, |out| {
                        built.fetch_add(1, Ordering::SeqCst);
                        out.write_all(b"content").map_err(AssetError::cache("name"))
                    })
                    .unwrap();
                assert_eq!(fs::read(path).unwrap(), b"content");
            });
        }
    });
    assert_eq!(built.load(Ordering::SeqCst), 1);
}

#[test]
fn a_damaged_file_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = CacheRoot::at(folder.path()).shelf("kind").unwrap();
    let make = || {
        shelf
            .file("name", &quiet, |out| out.write_all(b"content").map_err(AssetError::cache("name")))
            .unwrap()
    };
    let path = make();
    let damages: [&dyn Fn(); 4] = [
        &|| fs::write(&path, "cont").unwrap(),
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::write(size_note(&path), "x").unwrap(),
        &|| fs::remove_file(size_note(&path)).unwrap(),
    ];
    for damage in damages {
        damage();
        assert_eq!(make(), path);
        assert_eq!(fs::read(&path).unwrap(), b"content");
    }
}

#[test]
fn a_failed_build_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = CacheRoot::at(folder.path()).shelf("kind").unwrap();
    let result = shelf.file("name", &quiet, |out| {
        out.write_all(b"half").map_err(AssetError::cache("name"))?;
        Err(AssetError::NoGuest)
    });
    assert!(matches!(result, Err(AssetError::NoGuest)));
    let names: Vec<_> = fs::read_dir(shelf.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [".lock"]);
}

#[test]
fn the_next_writer_sweeps_what_a_dead_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = CacheRoot::at(folder.path()).shelf("kind").unwrap();
    fs::create_dir(shelf.path().join(".staging-dead")).unwrap();
    fs::write(shelf.path().join(".staging-dead/file"), "").unwrap();
    fs::write(shelf.path().join(".staging-file"), "").unwrap();
    let lock = shelf.lock(&quiet).unwrap();
    assert!(!shelf.path().join(".staging-dead").exists());
    assert!(!shelf.path().join(".staging-file").exists());

    let staged = lock.staging().unwrap();
    fs::create_dir(staged.path().join("out")).unwrap();
    fs::create_dir(shelf.path().join("1.0")).unwrap();
    fs::write(shelf.path().join("1.0/damaged"), "").unwrap();
    let path = lock.publish(&staged.path().join("out"), "1.0").unwrap();
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
}

#[test]
fn old_files_are_pruned_when_a_new_one_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = CacheRoot::at(folder.path()).shelf("kind").unwrap();
    let make = |name: &str| shelf.file(name, &quiet, |_| Ok(())).unwrap();
    let (old, recent) = (make("old"), make("recent"));
    File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(SystemTime::now() - KEEP - Duration::from_secs(60))
        .unwrap();
    make("new");
    assert!(!old.exists() && recent.exists());
}
