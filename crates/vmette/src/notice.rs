//! What a session tells whoever watches it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use vmette_work::{Progress, Reporter};

/// Something a person may want to know while a session starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A step that takes seconds begins.
    Progress(String),
    /// Something went wrong and was worked around.
    Warning(String),
    /// A line that the guest sent to the port that echoes ([`VsockOptions::echo`](crate::VsockOptions::echo)), or that it
    /// connected there. The guest chose the words; what a terminal would obey is escaped. Bounded.
    Vsock(String),
}

/// Most warnings of one session: a guest can cause some.
const WARNINGS_MAX: usize = 100;

/// Receives notices, on the thread that starts the session or one of the session's own, until the session is dropped or
/// has failed to start: a call under way is waited for, and no other one follows. It may drop the session itself, which
/// does not wait for the call that does it.
pub type Observer = Arc<dyn Fn(&Notice) + Send + Sync>;

/// Passes notices on, and keeps the warnings for the report.
#[derive(Default)]
pub(crate) struct Notices {
    watching: Mutex<Watching>,
    changed: Condvar,
    warnings: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Watching {
    observer: Option<Observer>,
    /// Whose calls of the observer are under way.
    calls: Vec<ThreadId>,
}

impl Notices {
    pub(crate) fn new(observer: Option<Observer>) -> Self {
        let watching = Watching { observer, ..Watching::default() };
        Self { watching: Mutex::new(watching), ..Self::default() }
    }

    /// Passes on what the session's work tells.
    pub(crate) fn reporter(self: &Arc<Self>) -> Reporter {
        let notices = self.clone();
        Arc::new(move |progress| match progress {
            Progress::Step(line) => notices.tell(&Notice::Progress((*line).to_owned())),
            Progress::Warning(line) => notices.warn((*line).to_owned()),
            // No download of a session's own start is told in steps.
            _ => {}
        })
    }

    pub(crate) fn vsock(&self, text: String) {
        self.tell(&Notice::Vsock(text));
    }

    /// Passes a warning on, the same one only once.
    pub(crate) fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.contains(&text) || warnings.len() >= WARNINGS_MAX {
            return;
        }
        warnings.push(text.clone());
        drop(warnings);
        self.tell(&Notice::Warning(text));
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, notice: &Notice) {
        let mut watching = self.watching();
        let Some(observer) = watching.observer.clone() else { return };
        watching.calls.push(thread::current().id());
        drop(watching);
        let call = Call(self);
        observer(notice);
        // Before the call counts as over: this may be the last to hold it.
        drop(observer);
        drop(call);
    }

    /// Lets the observer go. When this returns none of its calls is under way, but for one that is the caller's own.
    fn close(&self) {
        let own = thread::current().id();
        let mut watching = self.watching();
        let observer = watching.observer.take();
        while watching.calls.iter().any(|call| *call != own) {
            watching = self.changed.wait(watching).unwrap_or_else(PoisonError::into_inner);
        }
        drop(watching);
        // What it holds may be anything, to be dropped where no lock is held.
        drop(observer);
    }

    fn watching(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of the observer, over when it is dropped: also when the observer panics.
struct Call<'a>(&'a Notices);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let own = thread::current().id();
        let mut watching = self.0.watching();
        if let Some(place) = watching.calls.iter().position(|call| *call == own) {
            watching.calls.swap_remove(place);
        }
        drop(watching);
        self.0.changed.notify_all();
    }
}

/// Keeps the observer told until it is dropped. Threads that outlive the session, as one that waits for a server of the
/// host, have nobody to tell from then on.
pub(crate) struct Told(Arc<Notices>);

impl Told {
    pub(crate) fn new(observer: Option<Observer>) -> Self {
        Self(Arc::new(Notices::new(observer)))
    }

    pub(crate) fn notices(&self) -> &Arc<Notices> {
        &self.0
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// An observer that says when it is called, and returns when it is let go.
    fn slow() -> (Told, mpsc::Receiver<&'static str>, mpsc::Sender<()>, mpsc::Sender<&'static str>) {
        let (seen, order) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let (called, gate) = (seen.clone(), Mutex::new(gate));
        let told = Told::new(Some(Arc::new(move |_| {
            called.send("called").unwrap();
            gate.lock().unwrap().recv().unwrap();
            called.send("returns").unwrap();
        })));
        (told, order, go, seen)
    }

    #[test]
    fn a_call_under_way_is_waited_for_and_none_follows() {
        let (told, order, go, seen) = slow();
        let notices = told.notices().clone();
        let calling = {
            let notices = notices.clone();
            thread::spawn(move || notices.reporter()(&Progress::Step("one")))
        };
        assert_eq!(order.recv().unwrap(), "called");
        let closing = thread::spawn(move || {
            drop(told);
            seen.send("closed").unwrap();
        });
        // The observer has been taken: the call is all that is waited for.
        while notices.watching().observer.is_some() {
            thread::yield_now();
        }
        notices.warn("nobody hears it".into());
        go.send(()).unwrap();
        calling.join().unwrap();
        closing.join().unwrap();
        assert_eq!(order.iter().collect::<Vec<_>>(), ["returns", "closed"]);
        assert_eq!(notices.warnings(), ["nobody hears it"]);
    }

    #[test]
    fn an_observer_may_end_what_it_observes_and_may_panic() {
        let cell = Arc::new(Mutex::new(None));
        let held = cell.clone();
        let told = Told::new(Some(Arc::new(move |_| {
            let told: Option<Told> = held.lock().unwrap().take();
            drop(told);
        })));
        let notices = told.notices().clone();
        *cell.lock().unwrap() = Some(told);
        notices.reporter()(&Progress::Step("the end"));
        assert!(cell.lock().unwrap().is_none());

        let told = Told::new(Some(Arc::new(|_| panic!("on purpose"))));
        let notices = told.notices().clone();
        assert!(thread::spawn(move || notices.reporter()(&Progress::Step("one"))).join().is_err());
        drop(told);
    }
}
