//! Name servers, where a workload looks for them: `/etc/resolv.conf`. They are those of the machine and no others.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, readlinkat};

use super::etc::{Files, create_anew};

/// The file, in the workload's root.
pub(crate) const PATH: &str = "/etc/resolv.conf";

const FOLDER: &str = "/etc";
const NAME: &str = "resolv.conf";

/// Writes the file. An image may have something else in its place: most often a link to a file that a service of its own
/// writes. In a writable root the link gives way to a file; it is never followed, wherever it leads.
pub(crate) fn install(files: &Files, text: &str) -> io::Result<()> {
    if files.is_read_only() {
        return cover(files, text);
    }
    let folder = files.tree().make_dirs(FOLDER)?;
    create_anew(folder.as_fd(), NAME)?.write_all(text.as_bytes())
}

/// In a read-only root the file is covered. A link that leads nowhere can only be given a target, in a folder that takes
/// writes all the same, such as `/run`.
fn cover(files: &Files, text: &str) -> io::Result<()> {
    if files.replace(PATH, text.as_bytes())? {
        return Ok(());
    }
    let tree = files.tree();
    let link = tree.open(PATH, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    let target = readlinkat(&link, "", Vec::new())?;
    let target = target.to_str().map_err(io::Error::other)?;
    let target = resolved(target);
    let (folder, _) = target.rsplit_once('/').unwrap_or_default();
    tree.make_dirs(folder)?;
    tree.create(&target)?.write_all(text.as_bytes())
}

/// The target of a link in [`FOLDER`], from the root on and without dots.
fn resolved(target: &str) -> String {
    let mut path = PathBuf::from("/");
    for part in Path::new(FOLDER).join(target).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    fn root(etc: bool) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        if etc {
            fs::create_dir(root.join("etc")).unwrap();
        }
        (dir, root)
    }

    fn files(root: &Path) -> Files {
        Files::below(File::open(root).unwrap().into())
    }

    #[test]
    fn the_file_is_made_or_replaced() {
        for etc in [false, true] {
            let (_dir, root) = root(etc);
            for text in ["nameserver 1.2.3.4\n", "other\n"] {
                install(&files(&root), text).unwrap();
                assert_eq!(fs::read_to_string(root.join("etc/resolv.conf")).unwrap(), text);
            }
        }
    }

    #[test]
    fn a_link_gives_way_and_what_it_leads_to_stays_as_it_is() {
        let (dir, root) = root(true);
        let outside = dir.path().join("outside");
        fs::write(&outside, "the host's").unwrap();
        fs::write(root.join("inside"), "the image's").unwrap();
        let link = root.join("etc/resolv.conf");
        for target in [outside.to_str().unwrap(), "../../outside", "/inside", "/run/nowhere", "resolv.conf"] {
            symlink(target, &link).unwrap();
            install(&files(&root), "ours").unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_file(), "{target}");
            assert_eq!(fs::read_to_string(&link).unwrap(), "ours");
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "the host's");
        assert_eq!(fs::read_to_string(root.join("inside")).unwrap(), "the image's");
        // The folder may be a link as well.
        fs::remove_dir(root.join("etc")).unwrap();
        symlink(dir.path(), root.join("etc")).unwrap();
        assert!(install(&files(&root), "ours").is_err());
        assert!(!dir.path().join("resolv.conf").exists());
    }

    #[test]
    fn in_a_read_only_root_a_link_that_leads_nowhere_gets_its_target() {
        let (dir, root) = root(true);
        let read_only = || Files::read_only_below(File::open(&root).unwrap().into());
        let link = root.join("etc/resolv.conf");
        for (target, found) in [
            ("../run/systemd/resolve/stub-resolv.conf", "run/systemd/resolve/stub-resolv.conf"),
            ("/run/absolute", "run/absolute"),
            ("../../../../../up", "up"),
        ] {
            symlink(target, &link).unwrap();
            install(&read_only(), "ours").unwrap();
            assert_eq!(fs::read_to_string(root.join(found)).unwrap(), "ours", "{target}");
            fs::remove_file(&link).unwrap();
        }
        symlink(dir.path().join("outside"), &link).unwrap();
        install(&read_only(), "ours").unwrap();
        assert!(!dir.path().join("outside").exists());
    }

    #[test]
    fn a_folder_in_its_place_is_an_error() {
        let (_dir, root) = root(true);
        fs::create_dir(root.join("etc/resolv.conf")).unwrap();
        assert!(install(&files(&root), "ours").is_err());
    }
}
