//! The machine's name in the `/etc` of a root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use vmette_wire::streams::FailureKind;

use super::tree::Tree;
use crate::errno::kind_of;
use crate::log;

/// Folder for the files of a read-only root; they are mounted over the image's.
const STAGE: &str = "/run/.vmette";

/// Largest `/etc/hosts` that is kept, in bytes.
const HOSTS_MAX: usize = 1 << 20;

const MACHINE_ID: &str = "/etc/machine-id";
const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";

/// The machine's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) hostname: String,
    pub(crate) machine_id: String,
}

/// Writes host name, machine id and hosts; run again, it replaces what it wrote before. An image may have something else
/// than a file in one of these places, or no place for one: that is left alone, and noted.
pub(crate) fn write_identity(files: &Files, identity: &Identity) -> io::Result<()> {
    let hosts = files
        .tree()
        .read(HOSTS, HOSTS_MAX)
        .map(|own| merge_hosts(&String::from_utf8_lossy(&own.unwrap_or_default()), &identity.hostname));
    let name = Ok(format!("{}\n", identity.hostname));
    let id = Ok(format!("{}\n", identity.machine_id));
    for (path, contents) in [(HOSTNAME, name), (MACHINE_ID, id), (HOSTS, hosts)] {
        match contents.and_then(|contents| files.replace(path, contents.as_bytes())) {
            Ok(_) => {}
            Err(e) if matches!(kind_of(&e), FailureKind::Invalid | FailureKind::NotFound) => {
                log::note(format_args!("{path} of the workload is left as it is: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Files of the workload's root.
#[derive(Debug)]
pub(crate) struct Files {
    root: OwnedFd,
    read_only: bool,
}

impl Files {
    /// Those of a process that has the workload's root as its own `/`.
    pub(crate) fn of_own_root(read_only: bool) -> io::Result<Self> {
        Ok(Self { root: File::open("/")?.into(), read_only })
    }

    /// Those of a writable root that the caller is outside of.
    pub(crate) fn below(root: OwnedFd) -> Self {
        Self { root, read_only: false }
    }

    /// Those of a root that counts as read-only.
    #[cfg(test)]
    pub(crate) fn read_only_below(root: OwnedFd) -> Self {
        Self { root, read_only: true }
    }

    /// `true` if they can only be covered.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn tree(&self) -> Tree<'_> {
        Tree::new(self.root.as_fd())
    }

    /// Gives the file at `path` new contents. In a read-only root that is a mount over the file, and `false` when there
    /// is no file to mount over.
    pub(crate) fn replace(&self, path: &str, contents: &[u8]) -> io::Result<bool> {
        if self.read_only {
            return self.cover(path, contents);
        }
        match self.tree().open_regular(path, OFlags::WRONLY | OFlags::TRUNC) {
            Ok(mut file) => file.write_all(contents)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let (folder, name) = path.rsplit_once('/').unwrap_or_default();
                let folder = self.tree().make_dirs(folder)?;
                let mut file = match self.tree().create(path) {
                    // A link that leads to no folder gives way.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => create_anew(folder.as_fd(), name)?,
                    // One that leads nowhere (yet) gets its target.
                    other => other?,
                };
                file.write_all(contents)?;
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    fn cover(&self, path: &str, contents: &[u8]) -> io::Result<bool> {
        match self.tree().open_regular(path, OFlags::RDONLY) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        }
        fs::create_dir_all(STAGE)?;
        let staged = format!("{STAGE}/{}", path.trim_start_matches('/').replace('/', "-"));
        let covered = fs::exists(&staged)?;
        fs::write(&staged, contents)?;
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o644))?;
        if !covered {
            mount_bind(&staged, path)?;
        }
        Ok(true)
    }
}

/// Makes a file of that name in the place of what has it, which is not followed if it is a link.
pub(crate) fn create_anew(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::from_raw_mode(0o644))?.into())
}

/// The image's own lines, and what has to be there besides. A line for 127.0.1.1 is the machine's own name, or that of
/// the template it was cloned from.
fn merge_hosts(own: &str, hostname: &str) -> String {
    let address = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let mut text = String::new();
    for line in own.lines().filter(|line| address(line) != "127.0.1.1") {
        text.push_str(line);
        text.push('\n');
    }
    for wanted in ["127.0.0.1", "::1"] {
        let known = own.lines().any(|line| {
            let line = line.split('#').next().unwrap_or_default();
            address(line) == wanted && line.split_whitespace().skip(1).any(|name| name == "localhost")
        });
        if !known {
            text.push_str(wanted);
            text.push_str(" localhost\n");
        }
    }
    text + "127.0.1.1 " + hostname + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A root with that done to it, and what its files are once the machine has been named in it.
    fn named(prepare: impl FnOnce(&std::path::Path)) -> (tempfile::TempDir, io::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        prepare(dir.path());
        let files = Files::below(File::open(dir.path()).unwrap().into());
        let identity = Identity { hostname: "vm".into(), machine_id: "1d".repeat(16) };
        let done = write_identity(&files, &identity).and_then(|()| write_identity(&files, &identity));
        (dir, done)
    }

    #[test]
    fn links_that_lead_nowhere_get_their_target_or_give_way_to_a_file() {
        let (dir, done) = named(|root| {
            symlink("/no/such/folder/hostname", root.join("etc/hostname")).unwrap();
            symlink("../no/such/id", root.join("etc/machine-id")).unwrap();
            symlink("hosts.own", root.join("etc/hosts")).unwrap();
        });
        done.unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("etc").join(name)).unwrap();
        assert_eq!((read("hostname"), read("machine-id")), ("vm\n".to_owned(), "1d".repeat(16) + "\n"));
        assert!(read("hosts.own").ends_with("127.0.1.1 vm\n"));
        assert!(!dir.path().join("no").exists());
    }

    #[test]
    fn a_root_that_has_no_place_for_them_is_left_as_it_is() {
        let (dir, done) = named(|root| {
            fs::remove_dir(root.join("etc")).unwrap();
            symlink("/no/such/folder", root.join("etc")).unwrap();
        });
        done.unwrap();
        assert!(fs::symlink_metadata(dir.path().join("etc")).unwrap().is_symlink());
    }

    #[test]
    fn an_empty_file_gets_everything() {
        assert_eq!(merge_hosts("", "vm"), "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 vm\n");
    }

    #[test]
    fn the_images_own_lines_stay_and_the_name_is_replaced() {
        let own =
            "# mine\n10.0.0.1 db\n127.0.0.1\tlocalhost me\n127.0.1.1 template\n::1 ip6-localhost # localhost";
        let merged = merge_hosts(own, "vm");
        assert_eq!(
            merged,
            "# mine\n10.0.0.1 db\n127.0.0.1\tlocalhost me\n::1 ip6-localhost # localhost\n::1 localhost\n127.0.1.1 vm\n"
        );
        assert_eq!(merge_hosts(&merged, "vm"), merged, "writing it again changes nothing");
    }
}
