//! The caller's terminal: raw while a command of the guest has it, and as it was whenever another program has it.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

/// The size for a terminal of unknown size.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// The time between two looks at a terminal that another program has, and that somebody types at. The system tells nobody
/// when a shell hands its terminal over.
const TURN: Duration = Duration::from_millis(100);

/// Rows and columns of the caller's terminal.
pub(crate) fn size() -> (u16, u16) {
    match tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin())) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => DEFAULT_SIZE,
    }
}

/// True unless another job of the same shell has the terminal that is stdin: to read from it, or to change its settings,
/// stops whoever is in the background.
pub(crate) fn is_in_foreground() -> bool {
    // Of a terminal that does not control this process nobody is in the background.
    tcgetpgrp(rustix::stdio::stdin()).map_or(true, |group| group == getpgrp())
}

/// Waits until there is something to read at the terminal that is stdin, and until it is this process that may read it. A
/// background job that only waited in `read` would be stopped, although its command may never want to read.
pub(crate) fn await_input() -> std::io::Result<()> {
    loop {
        let stdin = rustix::stdio::stdin();
        match poll(&mut [PollFd::from_borrowed_fd(stdin, PollFlags::IN)], None) {
            Ok(_) if is_in_foreground() => return Ok(()),
            Ok(_) => std::thread::sleep(TURN),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The settings of a terminal that is to be raw. All clones are the same terminal's.
#[derive(Clone, Default)]
pub(crate) struct Settings(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// True as long as a command of the guest has the terminal.
    wanted: bool,
    /// The settings before it was made raw; `None` if it is not raw.
    before: Option<Termios>,
}

impl Settings {
    /// Makes stdin raw if it is a terminal, or as soon as it is this process's; dropping the guard restores it.
    pub(crate) fn raw(&self) -> std::io::Result<Option<RawMode>> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        self.state().wanted = true;
        let mode = RawMode(self.clone());
        self.state().enter()?;
        Ok(Some(mode))
    }

    /// Makes the terminal raw if it is to be and this process has come by it in silence, from the background.
    pub(crate) fn take_over(&self) {
        let mut state = self.state();
        if state.wanted && state.before.is_none() {
            // Fails only when the terminal is gone.
            let _ = state.enter();
        }
    }

    /// The process goes on after it was stopped: whoever had the terminal meanwhile may have changed its settings.
    pub(crate) fn go_on(&self) {
        let mut state = self.state();
        if state.wanted && is_in_foreground() {
            // If it was stopped without notice the settings of before are still those that are known.
            let known = state.before.take();
            // Fails only when the terminal is gone.
            let _ = state.enter();
            state.before = known.or(state.before.take());
        }
    }

    /// Restores the terminal before the process stops.
    pub(crate) fn pause(&self) {
        self.state().leave();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self) -> std::io::Result<()> {
        if !is_in_foreground() {
            return Ok(());
        }
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        self.before = Some(before);
        Ok(())
    }

    fn leave(&mut self) {
        // In the background the settings are another program's.
        if let Some(before) = self.before.take()
            && is_in_foreground()
        {
            // Fails only when the terminal is gone.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
        }
    }
}

/// Keeps the terminal raw; dropping it restores what was.
pub(crate) struct RawMode(Settings);

impl Drop for RawMode {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.wanted = false;
        state.leave();
    }
}
