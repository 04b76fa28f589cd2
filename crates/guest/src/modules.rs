//! The kernel's modules, loaded in the order that whoever made the initramfs has worked out: no `modprobe`, no
//! dependency search on the boot path.

use std::fs::{self, File};
use std::io;

use rustix::io::Errno;
use rustix::system::finit_module;

/// Those of every machine.
pub(crate) const LIST: &str = "/modules.list";

/// Loads what a list names, one absolute path a line; returns what could not be loaded, for whoever misses a device later.
pub(crate) fn load(list: &str) -> Vec<String> {
    let list = match fs::read_to_string(list) {
        Ok(list) => list,
        Err(e) => return vec![format!("{list}: {e}")],
    };
    paths(&list).filter_map(|path| insert(path).err().map(|e| format!("{path}: {e}"))).collect()
}

/// The result of [`load`], for an error's text.
pub(crate) fn listed(failed: &[String]) -> String {
    if failed.is_empty() { "none".to_owned() } else { failed.join(", ") }
}

fn paths(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn insert(path: &str) -> io::Result<()> {
    match finit_module(File::open(path)?, c"", 0) {
        // Built into this kernel, or listed twice.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_list_is_one_path_a_line() {
        let list = "/lib/a.ko\n\n  # why b\n/lib/b.ko \n";
        assert_eq!(super::paths(list).collect::<Vec<_>>(), ["/lib/a.ko", "/lib/b.ko"]);
    }
}
