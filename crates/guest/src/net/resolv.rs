//! Name servers, where the workload looks for them: `/etc/resolv.conf`. They are those of the lease and no others.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat, unlinkat};
use rustix::io::Errno;

use super::dhcp::Lease;
use crate::etc::Files;

/// The file, in the workload's root.
pub(crate) const PATH: &str = "/etc/resolv.conf";

const FOLDER: &str = "/etc";
const NAME: &str = "resolv.conf";

/// The file's contents.
pub(super) fn text(lease: &Lease) -> String {
    let mut text = String::from("# The name servers of the DHCP lease.\n");
    if let Some(domain) = &lease.domain {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "search {domain}");
    }
    for server in &lease.name_servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// Writes the file. An image may have something else in its place: most often a link to a file that a service of its own
/// writes. In a writable root the link gives way to a file; it is never followed, wherever it leads.
pub(crate) fn install(files: &Files, text: &str) -> io::Result<()> {
    if files.is_read_only() {
        return cover(files, text);
    }
    let folder = files.tree().make_dirs(FOLDER)?;
    match unlinkat(&folder, NAME, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&folder, NAME, flags, Mode::from_raw_mode(0o644))?;
    std::fs::File::from(file).write_all(text.as_bytes())
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
