//! A template saves time, and whatever is wrong with one costs no more than that.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::cache::{self, Cache};
use crate::machine::{Outcome, Vmette, entries};

fn run_with(cache: &Path) -> Outcome {
    let outcome = Vmette::script("echo done; exit 3").cache(cache).exits(3);
    outcome.printed("done\n");
    outcome
}

/// After the damage a run succeeds from a cold boot, of which it makes a new template, and says so once; the run after
/// that is undisturbed.
fn survives(cache: &Cache, word: &str, damage: impl Fn(&Path)) {
    damage(&cache.template());
    let outcome = run_with(cache.path());
    assert_eq!(outcome.warnings().len(), 1, "{outcome:?}");
    assert!(outcome.warnings()[0].contains(word), "{outcome:?}");
    outcome.said(["booting a template"]);
    let next = run_with(cache.path());
    assert!(next.warnings().is_empty(), "{next:?}");
    next.said([", template,"]);
    cache.has_no_leavings();
}

#[test]
fn the_second_run_starts_from_a_template() {
    let cache = Cache::without_template();
    run_with(cache.path()).said(["booting a template"]);
    let second = run_with(cache.path());
    second.said([", template,"]);
    assert!(!second.stderr.contains("booting a template"), "{second:?}");
    assert!(second.warnings().is_empty(), "{second:?}");
}

#[test]
fn without_template_means_cold_and_none_is_left() {
    let cache = Cache::without_template();
    Vmette::run(["--no-template", "--", "true"]).cache(cache.path()).exits(0).said([", cold boot,"]);
    let folder = cache.path().join("templates");
    assert!(!folder.exists() || entries(&folder).is_empty());
}

#[test]
fn a_damaged_template_costs_a_cold_boot_and_one_warning() {
    let cache = Cache::with_template();
    survives(&cache, "state was changed", |template| {
        let state = OpenOptions::new().write(true).open(template.join("machine/state")).unwrap();
        state.write_all_at(b"not what was saved", 1000).unwrap();
    });
    survives(&cache, "memory", |template| {
        OpenOptions::new()
            .write(true)
            .open(template.join("machine/memory"))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
    });
    survives(&cache, "stamps", |template| fs::write(template.join("stamps.json"), "{").unwrap());
    survives(&cache, "more", |template| fs::write(template.join("machine/more"), "").unwrap());
}

#[test]
fn a_foreign_template_is_not_trusted() {
    let cache = Cache::with_template();
    survives(&cache, "others", |template| {
        fs::set_permissions(template.join("machine"), fs::Permissions::from_mode(0o777)).unwrap();
    });
    survives(&cache, "memory", |template| {
        let copy = template.join("copy");
        let copied = Command::new("cp").args([&template.join("machine/memory"), &copy]).status().unwrap();
        assert!(copied.success());
        fs::rename(copy, template.join("machine/memory")).unwrap();
    });
}

#[test]
fn what_befalls_the_host_costs_a_cold_boot_and_leaves_the_template() {
    let cache = Cache::without_template();
    let dir = tempfile::tempdir().unwrap();
    let (qemu, trouble) = (dir.path().join("qemu"), dir.path().join("trouble"));
    // What the kernel does when it has no more memory, to machines that start from a saved state.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-incoming*) [ -e {} ] && kill -KILL $$;; esac\nexec qemu-system-{} \"$@\"\n",
        trouble.display(),
        std::env::consts::ARCH
    );
    fs::write(&qemu, script).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let run = || Vmette::script("exit 3").cache(cache.path()).env("VMETTE_QEMU", &qemu).exits(3);
    run().said(["booting a template", ", template,"]);
    fs::write(&trouble, "").unwrap();
    for _ in 0..2 {
        let outcome = run();
        assert_eq!(outcome.warnings().len(), 1, "{outcome:?}");
        outcome.said(["no start from the template this time", "killed by signal 9", ", cold boot,"]);
    }
    fs::remove_file(&trouble).unwrap();
    let outcome = run();
    assert!(outcome.warnings().is_empty() && !outcome.stderr.contains("booting a template"), "{outcome:?}");
    outcome.said([", template,"]);
}

#[test]
fn two_first_runs_at_once_both_succeed() {
    let cache = Cache::without_template();
    let start = || Vmette::script("echo done; exit 3").cache(cache.path()).start();
    let running = [start(), start()];
    let outcomes = running.map(crate::machine::Running::wait);
    for outcome in &outcomes {
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert!(outcome.warnings().is_empty(), "{outcome:?}");
        outcome.said([", template,"]);
    }
    let makers = outcomes.iter().filter(|outcome| outcome.stderr.contains("booting a template")).count();
    assert_eq!(makers, 1, "{outcomes:?}");
    cache.has_no_leavings();
}

#[test]
fn a_template_is_not_changed_by_those_who_run_from_it() {
    let cache = Cache::with_template();
    let sum =
        || Command::new("sha256sum").arg(cache.template().join("machine/memory")).output().unwrap().stdout;
    let before = sum();
    Vmette::script("dd if=/dev/urandom of=/x bs=1M count=20 2>/dev/null").cache(cache.path()).exits(0);
    assert!(sum() == before);
}

#[test]
fn a_cache_that_is_no_folder_is_named_with_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    fs::File::create(&file).unwrap().write_all(b"x").unwrap();
    let outcome = Vmette::run(["--", "true"]).cache(&file).exits(1);
    outcome.said([file.to_str().unwrap()]).printed("");
    Vmette::run(["--", "true"])
        .env("VMETTE_CACHE_DIR", "relative/cache")
        .exits(1)
        .said(["VMETTE_CACHE_DIR", "relative/cache"]);
}

#[test]
fn a_cache_that_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    Vmette::run(["--", "true"]).cache(dir.path()).exits(1).said([dir.path().to_str().unwrap()]);
}

/// A file system of that size at the cache's place, gone with its guard. Needs root; without it there is none.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mounted = rustix::process::geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", options, "vmette-test"])
                .arg(dir.path())
                .status()
                .is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_cache_without_room_for_a_template_costs_one_warning() {
    let Some(disk) = SmallDisk::mount("size=120m,mode=700") else { return };
    cache::fill(disk.0.path());
    for _ in 0..2 {
        let outcome = run_with(disk.0.path());
        assert_eq!(outcome.warnings().len(), 1, "{outcome:?}");
        outcome.said(["no template", "MiB free", ", cold boot,"]);
    }
}

#[test]
fn a_cache_without_room_for_the_kernel_is_a_clear_error() {
    let Some(disk) = SmallDisk::mount("size=1m,mode=700") else { return };
    let kernels = crate::machine::shared_cache().join("kernel");
    crate::machine::private_folder(&disk.0.path().join("kernel"));
    Vmette::run(["--quiet", "--", "true"]).exits(0);
    for name in entries(&kernels).into_iter().filter(|name| name != ".lock") {
        std::os::unix::fs::symlink(kernels.join(&name), disk.0.path().join("kernel").join(&name)).unwrap();
    }
    Vmette::run(["--", "true"])
        .cache(disk.0.path())
        .exits(1)
        .said(["no space is left", disk.0.path().to_str().unwrap()]);
}

#[test]
fn a_cache_that_has_become_read_only_still_serves_what_it_has() {
    let Some(disk) = SmallDisk::mount("size=400m,mode=700") else { return };
    cache::fill(disk.0.path());
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.0.path()).status().unwrap();
    assert!(remounted.success());
    let outcome = Vmette::script("exit 3").cache(disk.0.path()).outcome();
    assert!(matches!(outcome.code, Some(1 | 3)), "{outcome:?}");
    if outcome.code == Some(1) {
        outcome.said([disk.0.path().to_str().unwrap(), "ead-only"]);
    }
}

/// A root with a shell, and with `programs` beside it: their names and what they are for the shell.
pub(crate) fn archive(folder: &Path, programs: &[(&str, &str)]) -> String {
    let root = folder.join("root");
    let bin = root.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let (_dir, builtin) = crate::roots::folder();
    fs::copy(builtin.join("bin/busybox"), bin.join("sh")).unwrap();
    for (name, script) in programs {
        fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    }
    for entry in fs::read_dir(&bin).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let archive = folder.join("root.tar");
    let made = Command::new("tar").arg("-cf").arg(&archive).arg("-C").args([&root, Path::new(".")]).status();
    assert!(made.unwrap().success());
    format!("tar+file://{}", archive.display())
}

#[test]
fn an_image_of_the_cache_is_in_its_template_from_the_first_run_on() {
    let cache = Cache::without_template();
    let dir = tempfile::tempdir().unwrap();
    let spec = archive(dir.path(), &[("true", "exit 0")]);
    let run =
        || Vmette::run([&spec, "--", "sh", "-c", "echo x > /file; exit 3"]).cache(cache.path()).exits(3);
    run().said(["booting a template"]);
    assert_eq!(cache.templates(), 1);
    let second = run();
    assert!(!second.stderr.contains("booting a template") && second.warnings().is_empty(), "{second:?}");
    second.said([", template,"]);
    // Another use of it is another machine; one with a share takes one without a root.
    Vmette::run(["--rootfs-ro", &spec, "--", "sh", "-c", "! echo x > /file"]).cache(cache.path()).exits(0);
    assert_eq!(cache.templates(), 2);
    let volume = format!("{}:/data", dir.path().display());
    Vmette::run(["-v", &volume, &spec, "--", "sh", "-c", "exit 3"]).cache(cache.path()).exits(3);
    assert_eq!(cache.templates(), 3);
    cache.has_no_leavings();
}

#[test]
fn an_image_that_was_made_again_has_a_template_of_its_own() {
    let cache = Cache::without_template();
    let dir = tempfile::tempdir().unwrap();
    let spec = archive(dir.path(), &[]);
    let run = || Vmette::run([&spec, "--", "sh", "-c", "exit 3"]).cache(cache.path()).exits(3);
    run();
    fs::remove_dir_all(cache.path().join("images")).unwrap();
    run().said(["booting a template"]);
    assert_eq!(cache.templates(), 2);
}

#[test]
fn a_template_is_made_of_images_without_the_usual_programs_and_of_those_that_cheat() {
    let cache = Cache::without_template();
    for program in ["exit 1", "exec sleep 1000", "sleep 1000 & echo noise; yes", "kill -9 -1"] {
        let dir = tempfile::tempdir().unwrap();
        let spec = archive(
            dir.path(),
            &[("true", program), ("sleep", "while :; do read x; done"), ("yes", "while :; do echo y; done")],
        );
        for _ in 0..2 {
            let outcome = Vmette::run([&spec, "--", "sh", "-c", "exit 3"]).cache(cache.path()).exits(3);
            assert!(outcome.warnings().is_empty(), "{program}: {outcome:?}");
        }
    }
    assert_eq!(cache.templates(), 4);
}
