//! What signals to this process mean: the first Ctrl-C is the command's, the second ends the machine; the others end it
//! at once. Nothing is left behind in any case, because the process always goes through its normal end.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use vmette::{Process, StopHandle};

use crate::terminal;

/// Shared with the thread that waits for signals.
#[derive(Default)]
struct State {
    /// The signal that ended the run, or 0.
    fatal: AtomicI32,
    /// The command, once it runs.
    process: Mutex<Option<Target>>,
}

struct Target {
    process: Weak<Process>,
    tty: bool,
    interrupted: bool,
}

/// The signals of one run.
pub(crate) struct RunSignals {
    state: Arc<State>,
}

impl RunSignals {
    /// From now on signals stop what `stop` stops.
    pub(crate) fn install(stop: StopHandle) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH])?;
        let shared = state.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in &mut signals {
                if !shared.deliver(signal) {
                    shared.fatal.store(signal, Ordering::SeqCst);
                    stop.stop();
                }
            }
        })?;
        Ok(Self { state })
    }

    /// The command runs: a first Ctrl-C is its own from now on.
    pub(crate) fn command_runs(&self, process: &Arc<Process>, tty: bool) {
        let target = Target { process: Arc::downgrade(process), tty, interrupted: false };
        *self.state.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        if tty {
            // The window may have changed while the machine started.
            self.state.deliver(SIGWINCH);
        }
    }

    /// The signal that ended the run.
    pub(crate) fn fatal(&self) -> Option<i32> {
        Some(self.state.fatal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

impl State {
    /// Gives the signal to the command, if it is one for it.
    fn deliver(&self, signal: i32) -> bool {
        let mut target = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = target.as_ref().and_then(|t| t.process.upgrade());
        let (Some(target), Some(process)) = (target.as_mut(), process) else { return signal == SIGWINCH };
        match signal {
            SIGWINCH => {
                if target.tty {
                    let (rows, cols) = terminal::size();
                    // A lost connection ends the run by itself.
                    let _ = process.resize(rows, cols);
                }
                true
            }
            SIGINT if !target.interrupted => {
                target.interrupted = true;
                process.signal(SIGINT).is_ok()
            }
            _ => false,
        }
    }
}
