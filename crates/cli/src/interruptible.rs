//! Work that may take for ever, and that the user may call off at any moment of it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::signals::RunSignals;

/// How long work that was called off may take to clean up after itself. After that it ends with the process, which
/// leaves no more than what a killed one leaves: partial downloads, which are resumed.
const CLEAN_UP: Duration = Duration::from_secs(2);

/// Does `work` on a thread of its own. `None` when the deadline has passed, or when a signal called it off first: the
/// work has seen that, or has had two seconds to.
///
/// # Errors
/// No thread can be started.
pub(crate) fn until_called_off<T: Send + 'static>(
    signals: &RunSignals,
    deadline: Option<Instant>,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Option<T>> {
    let (sender, receiver) = mpsc::channel();
    let called_off = sender.clone();
    // Whether the signal comes before or after this line, it is heard.
    signals.when_fatal(move || drop(called_off.send(None)));
    std::thread::Builder::new().name("work".into()).spawn(move || drop(sender.send(Some(work()))))?;
    let first = match deadline {
        None => receiver.recv().ok(),
        Some(deadline) => receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
    };
    signals.when_fatal(|| {});
    if let Some(None) = first {
        // The result does not matter any more, that the thread is done does.
        let _ = receiver.recv_timeout(CLEAN_UP);
    }
    Ok(first.flatten())
}
