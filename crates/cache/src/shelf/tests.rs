use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::CacheRoot;

fn shelf() -> (tempfile::TempDir, Shelf) {
    let folder = tempfile::tempdir().unwrap();
    let shelf = CacheRoot::at(folder.path()).shelf("kind").unwrap();
    (folder, shelf)
}

fn make(shelf: &Shelf, name: &str, content: &[u8]) -> PathBuf {
    let write = |out: &mut BufWriter<&File>| out.write_all(content).map_err(Error::io("write", name));
    shelf.file(name, &Work::quiet(), write).unwrap()
}

#[test]
fn two_at_once_build_once() {
    let (_folder, shelf) = shelf();
    let built = AtomicUsize::new(0);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                let build = |out: &mut BufWriter<&File>| {
                    built.fetch_add(1, Ordering::SeqCst);
                    out.write_all(b"content").map_err(Error::io("write", "name"))
                };
                let path = shelf.file("name", &Work::quiet(), build).unwrap();
                assert_eq!(fs::read(path).unwrap(), b"content");
            });
        }
    });
    assert_eq!(built.load(Ordering::SeqCst), 1);
}

#[test]
fn a_damaged_file_is_built_again() {
    let (_folder, shelf) = shelf();
    let path = make(&shelf, "name", b"content");
    let damages: [&dyn Fn(); 4] = [
        &|| fs::write(&path, "cont").unwrap(),
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::write(size_note(&path), "x").unwrap(),
        &|| fs::remove_file(size_note(&path)).unwrap(),
    ];
    for damage in damages {
        damage();
        assert_eq!(make(&shelf, "name", b"content"), path);
        assert_eq!(fs::read(&path).unwrap(), b"content");
    }
}

#[test]
fn a_failed_build_leaves_nothing() {
    let (_folder, shelf) = shelf();
    let result: std::result::Result<_, Error> = shelf.file("name", &Work::quiet(), |out| {
        out.write_all(b"half").map_err(Error::io("write", "name"))?;
        Err(Error::NoHome)
    });
    assert!(matches!(result, Err(Error::NoHome)));
    assert_eq!(Shelf::names(shelf.path()).unwrap(), [""; 0]);
}

#[test]
fn the_next_writer_sweeps_leftovers_of_a_dead_one() {
    let (_folder, shelf) = shelf();
    fs::create_dir(shelf.path().join(".staging-dead")).unwrap();
    fs::write(shelf.path().join(".staging-dead/file"), "").unwrap();
    fs::write(shelf.path().join("file.staging-dead"), "").unwrap();
    let lock = shelf.lock(&Work::quiet()).unwrap();
    assert_eq!(Shelf::names(shelf.path()).unwrap(), [LOCK]);

    let staged = lock.staging().unwrap();
    fs::create_dir(staged.path().join("out")).unwrap();
    fs::create_dir(shelf.path().join("1.0")).unwrap();
    fs::write(shelf.path().join("1.0/damaged"), "").unwrap();
    let path = lock.publish(&staged.path().join("out"), "1.0").unwrap();
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
}

#[test]
fn old_files_are_pruned_when_a_new_one_is_made() {
    let (_folder, shelf) = shelf();
    let (old, recent) = (make(&shelf, "old", b""), make(&shelf, "recent", b""));
    File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(SystemTime::now() - KEEP - Duration::from_secs(60))
        .unwrap();
    make(&shelf, "new", b"");
    assert!(!old.exists() && recent.exists());
}
