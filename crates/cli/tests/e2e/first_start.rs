//! A first start can be ended while something else is waited for: the distribution's tools, or another process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::machine::{Outcome, Running, Vmette, entries};

/// The tools here would run for ten minutes. A run ends within a moment, and on a busy host within this.
const SOON: Duration = Duration::from_secs(10);

const ENDING: [(Signal, i32); 3] = [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)];

/// An empty cache, and a folder of programs that come before the host's.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Whose `apt-get` says that it has begun and goes on for ever, and takes no request to end.
    fn with_a_hanging_apt() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir };
        fs::create_dir(place.path("programs")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(place.path("begun")).status().unwrap().success());
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--version) exit ;; esac\ntrap '' TERM INT HUP\necho > {}\nsleep 600 &\nwait\n",
            place.path("begun").display()
        );
        for name in ["apt-get", "apt-cache"] {
            let program = place.path("programs").join(name);
            fs::write(&program, &script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Vmette {
        let path = format!("{}:{}", self.path("programs").display(), std::env::var("PATH").unwrap());
        Vmette::run(args.iter().copied().chain(["--", "true"])).cache(&self.path("cache")).env("PATH", path)
    }

    /// Whether nothing of a start that was ended is left.
    fn has_no_leftovers(&self) {
        let left = entries(&self.path("cache").join("kernel"));
        assert!(left.is_empty(), "{left:?}");
    }

    /// Waits until the tool has begun.
    fn has_begun(&self) {
        fs::read(self.path("begun")).unwrap();
    }
}

/// On a host that has a kernel for virtual machines installed there is nothing to fetch.
fn has_kernel() -> bool {
    let is_kernel = |name: &Path| {
        name.to_string_lossy().contains("vmlinuz-") && name.to_string_lossy().contains("-cloud-")
    };
    fs::read_dir("/boot").is_ok_and(|mut boot| boot.any(|entry| is_kernel(&entry.unwrap().path())))
}

/// Ends the run by `end`, and sees to it that it took no longer than promised.
fn ends_soon(running: Running, end: impl FnOnce(&Running)) -> Outcome {
    let begun = Instant::now();
    end(&running);
    let outcome = running.wait();
    assert!(begun.elapsed() < SOON, "{:?}: {outcome:?}", begun.elapsed());
    outcome
}

#[test]
fn a_signal_ends_a_start_while_apt_fetches() {
    if has_kernel() {
        return;
    }
    for (signal, code) in ENDING {
        let place = Place::with_a_hanging_apt();
        let running = place.run(&[]).start();
        place.has_begun();
        let outcome = ends_soon(running, |running| running.signal(signal));
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        place.has_no_leftovers();
    }
}

#[test]
fn a_timeout_ends_a_start_while_apt_fetches() {
    if has_kernel() {
        return;
    }
    let place = Place::with_a_hanging_apt();
    let running = place.run(&["--timeout", "1"]).start();
    place.has_begun();
    let outcome = ends_soon(running, |_| ());
    assert_eq!(outcome.code, Some(124), "{outcome:?}");
    place.has_no_leftovers();
}

#[test]
fn a_signal_ends_a_start_while_another_process_prepares_the_same() {
    if has_kernel() {
        return;
    }
    let place = Place::with_a_hanging_apt();
    let holder = place.run(&[]).start();
    place.has_begun();
    for (signal, code) in ENDING {
        let mut running = place.run(&[]).start();
        // The other one's process id is that of its lock.
        running.has_said("waiting for another vmette that prepares the same files (process ");
        let outcome = ends_soon(running, |running| running.signal(signal));
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
    }
    let outcome = ends_soon(holder, |holder| holder.signal(Signal::TERM));
    assert_eq!(outcome.code, Some(143), "{outcome:?}");
    place.has_no_leftovers();
}
