//! Hard limits of this process with which no machine of a given size can run. To start one all the same would end in an
//! error of QEMU's that names neither the limit nor its owner.

use rustix::process::{Resource, getrlimit};

/// Open files of a run: the machine's, and connections to it.
const FILES: u64 = 128;

/// Open files of the server of a share: parts of the guest's memory, and the files that the guest uses.
const FILES_OF_A_SHARE: u64 = 1024;

/// Address space that QEMU takes beside the guest's memory, in MiB: its code and libraries, the emulator's translated
/// code (a GiB, or a quarter of the guest's memory if that is less), the stacks of its threads.
const BESIDE_MEMORY_MIB: u64 = 1024;

/// Why no machine with that much memory, and with shares or without, can run here; `None` if no limit is in the way.
pub(crate) fn in_the_way(mem_mib: u64, shares: bool) -> Option<String> {
    in_the_way_of(mem_mib, shares, |resource| getrlimit(resource).maximum)
}

/// The same over any limits.
fn in_the_way_of(mem_mib: u64, shares: bool, limit: impl Fn(Resource) -> Option<u64>) -> Option<String> {
    let files = if shares { FILES_OF_A_SHARE } else { FILES };
    let bytes = |mib: u64| mib.saturating_mul(1 << 20);
    let wanted = [
        #[cfg(target_os = "linux")]
        (Resource::Fsize, bytes(mem_mib), "file size", "f", "the guest's memory is a file"),
        #[cfg(target_os = "linux")]
        (
            Resource::As,
            bytes(mem_mib.saturating_add(BESIDE_MEMORY_MIB)),
            "address space",
            "v",
            "it holds the guest's memory",
        ),
        (Resource::Nofile, files, "open files", "n", "each device and each server has some"),
    ];
    wanted.into_iter().find_map(|(resource, least, name, flag, reason)| {
        let limit = limit(resource).filter(|limit| *limit < least)?;
        let shown = |value: u64| if resource == Resource::Nofile { value.to_string() } else { in_mib(value) };
        let smaller = if resource == Resource::Nofile { "" } else { ", or give the machine less memory (-m)" };
        Some(format!(
            "the limit on {name} of this process is {}, and this machine needs {} ({reason}); start vmette with a higher \
             hard limit (ulimit -H{flag}){smaller}",
            shown(limit),
            shown(least)
        ))
    })
}

fn in_mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_limit_that_is_in_the_way_is_named() {
        let with = |which: Resource, limit: u64| {
            in_the_way_of(512, false, move |resource| (resource == which).then_some(limit))
        };
        assert_eq!(in_the_way_of(512, true, |_| None), None);
        assert!(in_the_way_of(512, true, |resource| (resource == Resource::Nofile).then_some(256)).is_some());
        assert_eq!(with(Resource::Fsize, 512 << 20), None);
        let file = with(Resource::Fsize, (512 << 20) - 1).unwrap();
        assert!(
            file.contains("file size") && file.contains("511 MiB") && file.contains("ulimit -Hf"),
            "{file}"
        );
        let space = with(Resource::As, 1 << 30).unwrap();
        assert!(space.contains("address space") && space.contains("(-m)"), "{space}");
        let files = with(Resource::Nofile, 64).unwrap();
        assert!(files.contains("open files of this process is 64") && !files.contains("-m"), "{files}");
    }
}
