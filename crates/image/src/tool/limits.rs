//! What a program may take: a defect in it, or what a stranger has made of its input, must not take the machine.

use std::io;
use std::process::Child;

/// Limits of one program, and of what it starts. Without core dumps.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nothing can be set there"))]
pub(crate) struct Limits {
    /// Of each file that it writes, in bytes.
    pub(crate) file: u64,
    /// Of its address space, in bytes.
    pub(crate) address_space: u64,
}

impl Limits {
    /// For one that has just started, and will not have got far.
    #[cfg(target_os = "linux")]
    pub(crate) fn set(&self, child: &Child) -> io::Result<()> {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let pid = Pid::from_child(child);
        let limits = [(Resource::Fsize, self.file), (Resource::As, self.address_space), (Resource::Core, 0)];
        for (resource, limit) in limits {
            prlimit(Some(pid), resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        }
        Ok(())
    }

    /// Other systems cannot limit another process.
    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    pub(crate) fn set(&self, _child: &Child) -> io::Result<()> {
        Ok(())
    }
}
