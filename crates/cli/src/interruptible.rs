//! Work that may take for ever, and that a signal cancels at any moment.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::signals::RunSignals;

/// How long cancelled work may take to clean up after itself. After that it ends with the process, which leaves no more
/// than a killed one: partial downloads, which are resumed.
const CLEAN_UP: Duration = Duration::from_secs(2);

/// Does `work` on a thread of its own. Returns `None` when the deadline has passed, or when a signal cancelled the work
/// first: the work has seen that, or had two seconds to.
///
/// # Errors
/// No thread can be started.
pub(crate) fn until_cancelled<T: Send + 'static>(
    signals: &RunSignals,
    deadline: Option<Instant>,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Option<T>> {
    let (sender, receiver) = mpsc::channel();
    let cancelled = sender.clone();
    // A signal that came before this line calls the hook at once.
    signals.when_fatal(move || drop(cancelled.send(None)));
    std::thread::Builder::new().name("work".into()).spawn(move || drop(sender.send(Some(work()))))?;
    let first = match deadline {
        None => receiver.recv().ok(),
        Some(deadline) => receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
    };
    signals.when_fatal(|| {});
    if let Some(None) = first {
        // Only the thread's end is waited for: its result no longer matters.
        let _ = receiver.recv_timeout(CLEAN_UP);
    }
    Ok(first.flatten())
}
