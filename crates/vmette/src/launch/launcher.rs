//! The start of one session, and what it results in.

use std::sync::Arc;
use std::time::Instant;

use vmette_cache::CacheRoot;
use vmette_vmm::{Console, Hypervisor, Machine};
use vmette_work::Work;

use super::held::Held;
use crate::connection::{Connection, RootHandle};
use crate::end::Shared;
use crate::notice::Notices;
use crate::report::Report;
use crate::resolved::Resolved;
use crate::snapshot::Saver;

/// What a session holds while it runs.
pub(crate) struct Launched {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) connection: Connection,
    pub(crate) root: RootHandle,
    pub(crate) report: Report,
    pub(crate) cmdline: String,
    /// What saves the machine, or why it cannot be saved.
    pub(crate) saver: Result<Arc<Saver>, String>,
    /// Kept until the session ends.
    pub(crate) _held: Held,
}

/// One start: what it is to be, where, and who is told.
pub(crate) struct Launcher<'a> {
    pub(crate) config: &'a Resolved,
    pub(crate) engine: Arc<dyn Hypervisor>,
    pub(crate) cache: &'a CacheRoot,
    pub(crate) shared: &'a Arc<Shared>,
    /// Ends with the session, and tells its observer.
    pub(crate) work: &'a Work,
    pub(crate) notices: &'a Notices,
    pub(crate) started: Instant,
    /// Where the guest kernel's messages go.
    pub(crate) console: Console,
    /// Whether a command will run.
    pub(crate) runs: bool,
}

impl Launcher<'_> {
    /// Milliseconds since the start began.
    pub(super) fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }
}
