//! The most that a program may take: neither a defect in it nor a stranger's input must take the host.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limits of one program and of each process that it starts. There are no core dumps in any case: a core file would hold
/// a guest's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each file that it writes.
    pub file: Option<u64>,
    /// Bytes of its address space. Not on macOS, which does not know this limit.
    pub address_space: Option<u64>,
}

impl Limits {
    /// Sets them for this process. Makes system calls only: it runs between fork and exec.
    pub(crate) fn set(&self) -> io::Result<()> {
        limit(Resource::Core, Some(0))?;
        limit(Resource::Fsize, self.file)?;
        #[cfg(target_os = "linux")]
        limit(Resource::As, self.address_space)?;
        Ok(())
    }
}

fn limit(resource: Resource, limit: Option<u64>) -> io::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    // A hard limit of this process is lower: only root could raise it.
    let limit = getrlimit(resource).maximum.map_or(limit, |hard| hard.min(limit));
    Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?)
}
