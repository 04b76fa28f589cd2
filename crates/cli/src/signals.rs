//! Signals to this process. The first Ctrl-C goes to the command, the second ends the machine. The first `SIGTERM` asks
//! the command to end with the image's stop signal, the second ends the machine. The others end it at once. In every case
//! the process goes through its normal end, so nothing is left behind.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use vmette::{Process, StopHandle};

use crate::{ignored, terminal};

/// Signals that a terminal sends. A program that was started to ignore one of them goes on ignoring it.
const OF_A_TERMINAL: [i32; 3] = [SIGHUP, SIGINT, SIGQUIT];

/// Shared with the thread that waits for signals.
struct State {
    stop: StopHandle,
    /// The signal that ended the run, or 0.
    fatal: AtomicI32,
    /// Called when there is one.
    when_fatal: Mutex<Box<dyn FnOnce() + Send>>,
    /// The command, once it runs.
    process: Mutex<Option<Target>>,
}

struct Target {
    process: Weak<Process>,
    /// To the thread that tells the command: a guest that reads nothing more holds up only that thread.
    messages: Sender<Message>,
    /// Set while a resize is on its way: of any number of them only the last size counts.
    resizing: Arc<AtomicBool>,
    tty: bool,
    stop: Stop,
    interrupted: bool,
    terminated: bool,
}

/// A message for the command.
enum Message {
    Resize,
    Signal {
        number: i32,
        /// The signal to this process that it stands for, and that ends the run when the command cannot be told.
        on: i32,
    },
}

/// How a command is asked to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// Linux signal number.
    pub(crate) signal: i32,
    /// How long it may take.
    pub(crate) grace: Duration,
    /// Set when work follows the command's end, such as saving, that takes long enough to be cancelled.
    pub(crate) followed: bool,
}

/// The signals of one run.
pub(crate) struct RunSignals {
    state: Arc<State>,
}

impl RunSignals {
    /// From now on a signal uses `stop`, unless this process was started to ignore it.
    pub(crate) fn install(stop: StopHandle) -> std::io::Result<Self> {
        let state = Arc::new(State {
            stop,
            fatal: AtomicI32::new(0),
            when_fatal: Mutex::new(Box::new(|| {})),
            process: Mutex::new(None),
        });
        let of_terminal = OF_A_TERMINAL.into_iter().filter(|signal| !ignored::is_ignored(*signal));
        let mut signals = Signals::new(of_terminal.chain([SIGTERM, SIGWINCH]))?;
        let shared = state.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in &mut signals {
                if !shared.deliver(signal) {
                    shared.end(signal);
                }
            }
        })?;
        Ok(Self { state })
    }

    /// The command runs: from now on a first Ctrl-C goes to it, and a first `SIGTERM` asks it to end as `stop` says.
    pub(crate) fn command_runs(&self, process: &Arc<Process>, tty: bool, stop: Stop) -> std::io::Result<()> {
        let process = Arc::downgrade(process);
        let (messages, queue) = mpsc::channel();
        let resizing = Arc::new(AtomicBool::new(false));
        let (state, told, being_resized) = (self.state.clone(), process.clone(), resizing.clone());
        std::thread::Builder::new()
            .name("signals-out".into())
            .spawn(move || state.tell(&told, &queue, &being_resized))?;
        let target = Target { process, messages, resizing, tty, stop, interrupted: false, terminated: false };
        *self.state.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        if tty {
            // The window may have changed while the machine started.
            self.state.deliver(SIGWINCH);
        }
        Ok(())
    }

    /// Calls `hook` when a signal ends the run, or now if one has. It takes the place of the one before.
    pub(crate) fn when_fatal(&self, hook: impl FnOnce() + Send + 'static) {
        let mut slot = self.state.when_fatal.lock().unwrap_or_else(PoisonError::into_inner);
        if self.fatal().is_some() {
            hook();
        } else {
            *slot = Box::new(hook);
        }
    }

    /// The signal that ended the run.
    pub(crate) fn fatal(&self) -> Option<i32> {
        Some(self.state.fatal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

impl State {
    /// Ends the run because of `signal`.
    fn end(&self, signal: i32) {
        let mut hook = self.when_fatal.lock().unwrap_or_else(PoisonError::into_inner);
        self.fatal.store(signal, Ordering::SeqCst);
        std::mem::replace(&mut *hook, Box::new(|| {}))();
        drop(hook);
        self.stop.stop();
    }

    /// Gives the signal to the command, if it is one for it.
    fn deliver(self: &Arc<Self>, signal: i32) -> bool {
        let mut target = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = target.as_ref().and_then(|t| t.process.upgrade());
        let (Some(target), Some(process)) = (target.as_mut(), process) else { return signal == SIGWINCH };
        if target.stop.followed && process.has_ended() {
            return signal == SIGWINCH;
        }
        match signal {
            SIGWINCH => {
                if target.tty && !target.resizing.swap(true, Ordering::SeqCst) {
                    // A thread that has ended has ended with the command.
                    let _ = target.messages.send(Message::Resize);
                }
                true
            }
            SIGINT if !target.interrupted => {
                target.interrupted = true;
                target.messages.send(Message::Signal { number: SIGINT, on: signal }).is_ok()
            }
            SIGTERM if !target.terminated => {
                target.terminated = true;
                let message = Message::Signal { number: target.stop.signal, on: signal };
                target.messages.send(message).is_ok() && self.watch(target.stop.grace)
            }
            _ => false,
        }
    }

    /// Passes the messages on. Each may take as long as the guest takes to read what is before it.
    fn tell(&self, process: &Weak<Process>, queue: &Receiver<Message>, resizing: &AtomicBool) {
        for message in queue {
            let Some(process) = process.upgrade() else { return };
            match message {
                Message::Resize => {
                    // Before it is looked at: what changes from here on needs another message.
                    resizing.store(false, Ordering::SeqCst);
                    let (rows, cols) = terminal::size();
                    // A lost connection ends the run by itself.
                    let _ = process.resize(rows, cols);
                }
                Message::Signal { number, on } => {
                    if process.signal(number).is_err() {
                        self.end(on);
                    }
                }
            }
        }
    }

    /// Ends the run as `SIGTERM` does when it has not ended by itself within `grace`. The end of the session is not
    /// enough: its output may wait for a reader that has stopped.
    fn watch(self: &Arc<Self>, grace: Duration) -> bool {
        let state = self.clone();
        let watcher = std::thread::Builder::new().name("stop-timeout".into()).spawn(move || {
            // The end of the run is that of the process, and of this thread.
            std::thread::sleep(grace);
            state.end(SIGTERM);
        });
        watcher.is_ok()
    }
}
