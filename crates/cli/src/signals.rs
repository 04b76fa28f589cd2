//! Signals to this process. The first Ctrl-C goes to the command, the second ends the machine. The first `SIGTERM` asks
//! the command to end with the image's stop signal, the second ends the machine. Those that have no meaning but what a
//! program gives them are passed on. The others end the machine at once. In every case the process goes through its normal
//! end, so nothing is left behind, and the terminal is as it was.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGSYS, SIGTERM, SIGTRAP, SIGTSTP,
    SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU,
};
use signal_hook::iterator::Signals;
use vmette::{Process, StopHandle};

use crate::ignored;
use crate::terminal::{self, Settings};

/// Signals that a terminal sends to end a program. One that was started to ignore some of them goes on ignoring them.
const OF_A_TERMINAL: [i32; 3] = [SIGHUP, SIGINT, SIGQUIT];

/// Signals that end the machine, as they would end any program that has no use for them.
const ENDING: [i32; 5] = [SIGTERM, SIGABRT, SIGTRAP, SIGSYS, SIGXCPU];

/// Signals that mean what the command makes of them, each with its number in the guest. Docker and podman pass them on
/// too.
const PASSED_ON: [(i32, i32); 6] =
    [(SIGUSR1, 10), (SIGUSR2, 12), (SIGALRM, 14), (SIGVTALRM, 26), (SIGPROF, 27), (SIGIO, 29)];

/// The others of Linux that are passed on, with the same numbers: `SIGSTKFLT`, `SIGPWR`, and the real-time signals, of
/// which the C library keeps the first two for itself.
#[cfg(target_os = "linux")]
fn passed_on_by_linux() -> impl Iterator<Item = i32> {
    [16, 30].into_iter().chain(34..=64)
}

#[cfg(not(target_os = "linux"))]
fn passed_on_by_linux() -> impl Iterator<Item = i32> {
    std::iter::empty()
}

/// The guest's number of a signal that is passed on.
fn in_the_guest(signal: i32) -> Option<i32> {
    let named = PASSED_ON.iter().find(|(ours, _)| *ours == signal).map(|(_, guests)| *guests);
    named.or_else(|| passed_on_by_linux().find(|number| *number == signal))
}

/// Shared with the thread that waits for signals.
struct State {
    stop: StopHandle,
    /// The signal that ended the run, or 0.
    fatal: AtomicI32,
    /// Called when there is one.
    when_fatal: Mutex<Box<dyn FnOnce() + Send>>,
    /// The command, once it runs.
    process: Mutex<Option<Target>>,
    /// Of the terminal, if the command is to have one.
    settings: Settings,
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
        /// The signal to this process that it stands for, and that ends the run when the command cannot be told. `None`: it
        /// is no reason to end the run.
        on: Option<i32>,
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
    /// From now on a signal uses `stop`, unless this process was started to ignore it. With `settings` a stopped process
    /// hands the terminal over and takes it back.
    pub(crate) fn install(stop: StopHandle, settings: Option<&Settings>) -> std::io::Result<Self> {
        let state = Arc::new(State {
            stop,
            fatal: AtomicI32::new(0),
            when_fatal: Mutex::new(Box::new(|| {})),
            process: Mutex::new(None),
            settings: settings.cloned().unwrap_or_default(),
        });
        let of_stopping = settings.map_or(&[][..], |_| &[SIGTSTP, SIGCONT]).iter().copied();
        let of_terminal = OF_A_TERMINAL.into_iter().chain(of_stopping);
        let of_terminal = of_terminal.filter(|signal| !ignored::is_ignored(*signal));
        let passed_on = PASSED_ON.iter().map(|(signal, _)| *signal).chain(passed_on_by_linux());
        let mut signals = Signals::new(of_terminal.chain(ENDING).chain(passed_on).chain([SIGWINCH]))?;
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

    /// Gives the signal to the command, if it is one for it. `false`: it ends the run.
    fn deliver(self: &Arc<Self>, signal: i32) -> bool {
        match signal {
            SIGTSTP => return self.pause(),
            SIGCONT => self.settings.go_on(),
            _ => {}
        }
        // The window may have changed while the process stood still.
        let signal = if signal == SIGCONT { SIGWINCH } else { signal };
        let harmless = signal == SIGWINCH || in_the_guest(signal).is_some();
        let mut target = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = target.as_ref().and_then(|t| t.process.upgrade());
        let (Some(target), Some(process)) = (target.as_mut(), process) else { return harmless };
        if target.stop.followed && process.has_ended() {
            return harmless;
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
                target.messages.send(Message::Signal { number: SIGINT, on: Some(signal) }).is_ok()
            }
            SIGTERM if !target.terminated => {
                target.terminated = true;
                let message = Message::Signal { number: target.stop.signal, on: Some(signal) };
                target.messages.send(message).is_ok() && self.watch(target.stop.grace)
            }
            _ => in_the_guest(signal).is_some_and(|number| {
                // A thread that has ended has ended with the command.
                let _ = target.messages.send(Message::Signal { number, on: None });
                true
            }),
        }
    }

    /// Stops this process as `SIGTSTP` does, with a terminal that is fit for its shell. The machine goes on until its output
    /// finds no reader. Always `true`: a stop is not the end.
    fn pause(&self) -> bool {
        self.settings.pause();
        // Returns when the process goes on. A process that cannot signal itself has none to stop it either.
        let _ = kill_process(getpid(), Signal::STOP);
        true
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
                    if let (Err(_), Some(on)) = (process.signal(number), on) {
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
