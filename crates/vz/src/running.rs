//! What a machine and the thread that waits for its end share.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmette_vmm::console::LastLines;
use vmette_vmm::{ControlStream, Error, MachineEnd, Result, Slot, VsockStream};

use crate::confined::Confined;
use crate::failure::Failure;
use crate::objects::{Change, Objects, Outcome};
use crate::snapshot::Snapshot;
use crate::vsock::AGENT_PORT;

/// How long VZ may take to start, pause or resume a machine.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// How long it may take to write or to read a machine's whole memory.
const STATE_LIMIT: Duration = Duration::from_secs(120);

/// How long it may take to stop one, which pulls a plug and nothing else; and how long its queue may take to come to
/// anything.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long the guest may take from power-on until its agent connects.
const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// How long a guest may take to answer to a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for the rest of the console, which is in a pipe already.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(crate) struct Running {
    pub(crate) objects: Confined<Objects>,
    console: Arc<LastLines>,
    /// Who ended the machine, or how it ended by itself. The first writer wins.
    pub(crate) verdict: Arc<Slot<MachineEnd>>,
    /// The same, once nothing of the machine is left.
    pub(crate) end: Arc<Slot<MachineEnd>>,
    /// Held during a change of state: one at a time.
    changing: Mutex<()>,
    /// The outcome of the change under way, or of the last one.
    outcome: Mutex<Arc<Outcome>>,
}

impl Running {
    pub(crate) fn new(
        objects: Confined<Objects>,
        console: Arc<LastLines>,
        verdict: Arc<Slot<MachineEnd>>,
    ) -> Self {
        // Whoever ends a machine waits for the change under way: there is none yet.
        let outcome = Slot::new();
        outcome.set(Err(over()));
        Self {
            objects,
            console,
            verdict,
            end: Arc::new(Slot::new()),
            changing: Mutex::new(()),
            outcome: Mutex::new(Arc::new(outcome)),
        }
    }

    /// From power-on to the agent's connection.
    pub(crate) fn boot(&self) -> Result<ControlStream> {
        let (sender, opened) = sync_channel(1);
        self.objects.with(move |objects| drop(sender.try_send(objects.ports.open(AGENT_PORT, 1))));
        let Ok(Some(agent)) = opened.recv_timeout(STOP_LIMIT) else {
            return Err(Error::Machine("the agent's port could not be opened".into()));
        };
        // VZ starts a guest again that reboots, as one does whose kernel gave up: it would go on like that.
        let verdict = self.verdict.clone();
        self.console.on_panic(move |line| {
            verdict.set(MachineEnd::Failed(gave_up(line)));
        });
        self.change(Change::Start)?;
        let stream = agent.recv_timeout(AGENT_LIMIT).map_err(|e| match e {
            RecvTimeoutError::Timeout => Error::Machine(format!(
                "the guest's agent did not connect within {} s{}",
                AGENT_LIMIT.as_secs(),
                self.last_lines()
            )),
            RecvTimeoutError::Disconnected => Error::Machine("the machine has ended".into()),
        })?;
        // From here on the line may be the workload's.
        self.console.ignore_panic();
        // There is one agent. Whatever else the guest runs finds nobody at that port.
        self.objects.with(|objects| objects.ports.close(AGENT_PORT));
        Ok(stream)
    }

    /// From a saved state to the agent's connection: the one that it had is gone, and it waits for another.
    pub(crate) fn restore(&self, snapshot: &Snapshot) -> Result<ControlStream> {
        self.change(Change::Restore(snapshot.state())).map_err(|error| match error {
            Error::Machine(reason) => Error::Snapshot { path: snapshot.folder.clone(), reason },
            error => error,
        })?;
        self.change(Change::Resume)?;
        self.connect(AGENT_PORT)
    }

    /// Connects to a port of the guest.
    pub(crate) fn connect(&self, port: u32) -> Result<VsockStream> {
        let (sender, receiver) = sync_channel(1);
        self.objects.with(move |objects| objects.ports.connect(port, sender));
        match receiver.recv_timeout(CONNECT_LIMIT) {
            Ok(connected) => connected.map_err(|failure| refused(port, failure.text())),
            Err(RecvTimeoutError::Timeout) => Err(Error::Timeout {
                operation: "connecting to a vsock port of the guest",
                seconds: CONNECT_LIMIT.as_secs(),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Machine("the machine has ended".into())),
        }
    }

    /// Has VZ change the machine's state, and waits for it. Cut short when the machine ends.
    pub(crate) fn change(&self, change: Change) -> Result<()> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = Arc::new(Slot::new());
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome.clone();
        // Only now: whoever ends the machine sets its verdict first and then looks at the outcome.
        if self.verdict.get().is_some() {
            // It may be waited for already.
            outcome.set(Err(over()));
            return Err(over().into_error(Error::Machine));
        }
        let limit = match change {
            Change::Save(_) | Change::Restore(_) => STATE_LIMIT,
            _ => CHANGE_LIMIT,
        };
        let operation = change.name();
        self.begin(change, &outcome);
        match outcome.wait_until(Instant::now() + limit) {
            Some(Ok(())) => Ok(()),
            Some(Err(failure)) => {
                Err(failure.into_error(|text| Error::Machine(format!("{operation}: {text}"))))
            }
            None => Err(Error::Timeout { operation, seconds: limit.as_secs() }),
        }
    }

    fn begin(&self, change: Change, outcome: &Arc<Outcome>) {
        let outcome = outcome.clone();
        self.objects.with(move |objects| objects.begin(&change, outcome));
    }

    /// Waits for the verdict, ends what is left of the machine, and says what happened.
    pub(crate) fn watch(&self) {
        let verdict = self.verdict.wait();
        self.pull_the_plug();
        // Closes the console's pipe, and every port of the host.
        self.objects.close(STOP_LIMIT);
        let under_way = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
        under_way.set(Err(over()));
        self.console.wait_closed(LAST_WORDS);
        self.end.set(match verdict {
            MachineEnd::Stopped => MachineEnd::Stopped,
            MachineEnd::Failed(cause) => MachineEnd::Failed(format!("{cause}{}", self.last_lines())),
            MachineEnd::PoweredOff => match self.console.panic() {
                Some(line) => MachineEnd::Failed(format!("{}{}", gave_up(&line), self.last_lines())),
                None => MachineEnd::PoweredOff,
            },
        });
    }

    /// VZ takes no stop while it starts or saves a machine, so that comes to its end first.
    fn pull_the_plug(&self) {
        let under_way = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let deadline = Instant::now() + STOP_LIMIT;
        let stopped = Arc::new(Slot::new());
        self.begin(Change::Stop, &stopped);
        if stopped.wait_until(deadline) == Some(Ok(())) {
            return;
        }
        if under_way.wait_until(deadline).is_some() {
            let stopped = Arc::new(Slot::new());
            self.begin(Change::Stop, &stopped);
            stopped.wait_until(deadline);
        }
        // Otherwise its objects are dropped all the same, which ends it too.
    }

    /// The end, unless even that takes too long.
    pub(crate) fn wait_end(&self) -> Option<MachineEnd> {
        self.end.wait_until(Instant::now() + 3 * STOP_LIMIT)
    }

    fn last_lines(&self) -> String {
        match self.console.tail() {
            lines if lines.is_empty() => lines,
            lines => format!("\nlast lines of the guest's console:{lines}"),
        }
    }
}

/// The outcome of what is not begun, or does not come to its end.
fn over() -> Failure {
    Failure::from_text("the machine has ended".into())
}

fn gave_up(line: &str) -> String {
    format!("the guest's kernel gave up: {line}")
}

/// Why a port of the guest is not connected to.
pub(crate) fn refused(port: u32, why: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::ConnectionRefused, format!("port {port}: {why}"));
    Error::io("connect to a vsock port of the guest")(source)
}
