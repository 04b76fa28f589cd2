//! vmette needs no privileges. These tests make users of their own, which only root can: without it they are the
//! ordinary user already, and every other test says the same.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::machine::{VMETTE, Vmette, entries, shared_cache};

/// An installation that every user can reach, and a folder for everybody's temporary files.
struct Host {
    dir: TempDir,
}

impl Host {
    /// `None` where users cannot be made.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let host = Self { dir };
        for (folder, mode) in [("", 0o755), ("bin", 0o755), ("home", 0o755), ("tmp", 0o1777)] {
            let path = host.dir.path().join(folder);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let built = Path::new(VMETTE).parent().unwrap();
        for program in ["vmette", "vmette-virtiofsd", "vmette-vsockd"] {
            fs::copy(built.join(program), host.dir.path().join("bin").join(program))
                .unwrap_or_else(|e| panic!("{program}: {e}; `cargo build --workspace` makes it"));
        }
        Some(host)
    }

    fn temp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// A new user, who has a kernel in the cache already.
    fn user(&self, name: &str) -> User {
        let name = format!("vmette-{name}-{}", std::process::id());
        let home = self.dir.path().join("home").join(&name);
        administer(&[
            "useradd",
            "--create-home",
            "--shell",
            "/bin/sh",
            "--home-dir",
            home.to_str().unwrap(),
            &name,
        ]);
        let made = fs::metadata(&home).unwrap();
        let user = User {
            name,
            uid: made.uid(),
            gid: made.gid(),
            program: self.dir.path().join("bin/vmette"),
            temp: self.temp(),
            home,
        };
        Vmette::run(["--quiet", "--", "true"]).exits(0);
        let cache = user.cache();
        fs::create_dir_all(&cache).unwrap();
        for shelf in
            ["kernel", "busybox"].map(|shelf| shared_cache().join(shelf)).iter().filter(|s| s.exists())
        {
            assert!(Command::new("cp").arg("-a").args([shelf, &cache]).status().unwrap().success());
        }
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
        let owner = format!("{}:{}", user.uid, user.gid);
        assert!(Command::new("chown").args(["-R", &owner]).arg(&user.home).status().unwrap().success());
        user
    }
}

/// Gone with its guard.
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
    program: PathBuf,
    temp: PathBuf,
}

impl User {
    fn cache(&self) -> PathBuf {
        self.home.join(".cache/vmette")
    }

    /// `vmette` as this user, in the user's own folder and with the default cache.
    fn vmette(&self, args: &[&str]) -> Vmette {
        self.vmette_below(&[], args)
    }

    /// The same, started by a program that this user starts.
    fn vmette_below(&self, starter: &[&str], args: &[&str]) -> Vmette {
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        let identity = ["--reuid", &uid, "--regid", &gid, "--clear-groups", "--inh-caps=-all", "--"];
        let environment = ["env", "--unset=VMETTE_CACHE_DIR", "--unset=XDG_CACHE_HOME"];
        let program = self.program.to_str().unwrap();
        Vmette::from_program("setpriv", [&identity[..], &environment, starter, &[program], args].concat())
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .temp(&self.temp)
            .dir(&self.home)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        administer(&["userdel", &self.name]);
    }
}

/// Programs that change the list of users fail when another one is at it.
fn administer(command: &[&str]) {
    let lock = Path::new(env!("CARGO_TARGET_TMPDIR")).join("users.lock");
    let output = Command::new("flock").arg(lock).args(command).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_ordinary_user_runs_a_command_shares_a_folder_and_has_vsock() {
    let Some(host) = Host::new() else { return };
    let user = host.user("one");
    let first = user.vmette(&["run", "--", "sh", "-c", "id -u; uname -s; exit 7"]).exits(7);
    first.printed("0\nLinux\n");

    let work = user.home.join("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("file"), "of the user\n").unwrap();
    fs::write(work.join("roots"), "of root\n").unwrap();
    for path in [&work, &work.join("file")] {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
    let script = "cat /data/file; echo new > /data/new; mkdir /data/sub; echo x > /data/roots; chown 0:0 /data/file; true";
    user.vmette(&["run", "-v", "./work:/data", "--", "sh", "-c", script]).exits(0).printed("of the user\n");
    assert_eq!(fs::read_to_string(work.join("new")).unwrap(), "new\n");
    for name in ["new", "sub", "file"] {
        assert_eq!(fs::metadata(work.join(name)).unwrap().uid(), user.uid, "{name}");
    }
    // Root in the guest is nobody but the user on the host.
    assert_eq!(fs::read_to_string(work.join("roots")).unwrap(), "of root\n");

    // For a user of the guest it is the user's own too, and whatever is private in it.
    fs::set_permissions(work.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let script = "id -u; cat /data/file; echo more >> /data/file; mkdir /data/theirs; stat -c %u:%g /data/file /data/theirs";
    user.vmette(&["run", "-q", "-u", "1234:50", "-v", "./work:/data", "--", "sh", "-c", script])
        .exits(0)
        .printed("1234\nof the user\n1234:50\n1234:50\n");
    assert_eq!(fs::metadata(work.join("theirs")).unwrap().uid(), user.uid);

    let read_only =
        user.vmette(&["run", "-v", "./work:/data:ro", "--", "sh", "-c", "echo x > /data/new"]).outcome();
    assert_ne!(read_only.code, Some(0), "{read_only:?}");
    user.vmette(&["run", "--scratch", "64M", "--", "true"]).exits(0);
    let script = "echo ping | vsock-send $VMETTE_VSOCK_PORT";
    user.vmette(&["run", "--vsock-port", "0", "--", "sh", "-c", script]).exits(0).printed("ping\n");
    user.vmette(&["doctor"]).exits(0);
    assert!(entries(&host.temp()).is_empty(), "{:?}", entries(&host.temp()));
}

#[test]
fn a_user_without_threads_to_spare_gets_an_answer_and_keeps_the_template() {
    let Some(host) = Host::new() else { return };
    let user = host.user("poor");
    user.vmette(&["run", "--", "true"]).exits(0);
    let folder = user.cache().join("templates");
    let templates = || -> Vec<u64> {
        let inode = |name| fs::metadata(folder.join(name)).unwrap().ino();
        entries(&folder).into_iter().map(inode).collect()
    };
    let before = templates();
    // From none for the processes' own watchers to enough for all but QEMU.
    for threads in [4, 6, 8, 10] {
        let limit = format!("--nproc={threads}");
        let outcome = user.vmette_below(&["prlimit", &limit], &["run", "--", "true"]).outcome();
        assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
        assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
        assert_eq!(templates(), before, "{outcome:?}");
    }
    let outcome = user.vmette(&["run", "--", "true"]).exits(0);
    outcome.said([", template,"]);
    assert!(outcome.warnings().is_empty(), "{outcome:?}");
}

#[test]
fn two_users_of_one_machine_do_not_meet() {
    let Some(host) = Host::new() else { return };
    let (one, two) = (host.user("red"), host.user("blue"));
    let first = |user: &User| user.vmette(&["run", "--", "sh", "-c", "echo hello; exit 3"]).start();
    for outcome in [first(&one), first(&two)].map(crate::machine::Running::wait) {
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert!(outcome.warnings().is_empty(), "{outcome:?}");
    }
    for user in [&one, &two] {
        let cache = fs::metadata(user.cache()).unwrap();
        assert_eq!((cache.uid(), cache.mode() & 0o777), (user.uid, 0o700));
    }
    // Neither as a source of kernels nor as a place to put one for the other.
    let foreign = one.cache();
    let args = ["run", "--", "true"];
    let environment = two.vmette(&args).env("XDG_CACHE_HOME", "/nonexistent");
    environment.exits(0);
    let program = two.program.to_str().unwrap().to_owned();
    let setting = format!("VMETTE_CACHE_DIR={}", foreign.display());
    let (uid, gid) = (two.uid.to_string(), two.gid.to_string());
    let refused = [
        "--reuid",
        &uid,
        "--regid",
        &gid,
        "--clear-groups",
        "--",
        "env",
        &setting,
        &program,
        "run",
        "--",
        "true",
    ];
    Vmette::from_program("setpriv", refused).temp(&two.temp).exits(1).said([foreign.to_str().unwrap()]);
    fs::set_permissions(&one.home, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o777)).unwrap();
    Vmette::from_program("setpriv", refused).temp(&two.temp).exits(1).said([foreign.to_str().unwrap()]);
    assert!(entries(&host.temp()).is_empty(), "{:?}", entries(&host.temp()));
}
