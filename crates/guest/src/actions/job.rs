//! Requests that keep their host waiting, and the errors of all actions.

use crate::exec::ExecError;
use crate::stream::Limit;

/// Most `wait` and `exec_capture` requests at once.
pub(super) static JOBS: Limit = Limit { max: JOBS_MAX, what: "waits and captured commands" };

/// See [`JOBS`].
const JOBS_MAX: usize = 16;

/// Longest `wait`, in milliseconds; hosts give up on an answer well before.
pub(super) const WAIT_MAX_MS: u64 = 60_000;

/// An action that is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error("action `{0}` needs a desktop, and this machine has none")]
    NoDesktop(&'static str),
    #[error("a wait of {0} ms is longer than the longest one, {WAIT_MAX_MS} ms")]
    Wait(u64),
    #[error(transparent)]
    Exec(#[from] ExecError),
}
