//! A root of the machine, which commands and files are asked of. There is no other way to ask for them, and no handle before
//! there is a root.

use std::sync::Arc;
use std::time::Duration;

use vmette_wire::desktop::DesktopRequest;
use vmette_wire::{Action, Boot, MachineRequest, Open, Root, RootName, RootRequest};

use super::{Connection, REQUEST_TIMEOUT, Response, Waiter};
use crate::Error;
use crate::stream::StreamQueue;

/// A handle on a root that is there; clones share its connection.
#[derive(Clone)]
pub(crate) struct RootHandle {
    connection: Connection,
    name: RootName,
}

impl Connection {
    /// Sets the machine up and makes a root in it. The inner error is the reason of the agent's refusal.
    pub(crate) fn build_root(
        &self,
        boot: &Boot,
        root: &Root,
        ca_bundle: &[u8],
        timeout: Duration,
    ) -> Result<Result<RootHandle, String>, Error> {
        // Both at once: the agent works through them in order, and this saves a round trip.
        let boot = self.send_request(MachineRequest::Boot(boot.clone()), &[])?;
        let made = self.send_request(RootRequest::Make(root.clone()), ca_bundle)?;
        let done = boot.wait(timeout)?.and(made.wait(timeout)?);
        Ok(done.map(|()| self.root(&root.name)))
    }

    /// The root of that name of a machine that was saved with it.
    pub(crate) fn root(&self, name: &RootName) -> RootHandle {
        RootHandle { connection: self.clone(), name: name.clone() }
    }

    /// Opens a stream: events for the returned id go to `queue` until the last one.
    pub(super) fn open(&self, open: Open, payload: &[u8], queue: &Arc<StreamQueue>) -> Result<u32, Error> {
        let id = self.register(Waiter::Stream(queue.clone()))?;
        self.send_header(id, &open.into(), payload)?;
        Ok(id)
    }
}

impl RootHandle {
    /// Opens a stream with a request that names this root.
    pub(crate) fn open(
        &self,
        request: impl FnOnce(RootName) -> Open,
        payload: &[u8],
        queue: &Arc<StreamQueue>,
    ) -> Result<u32, Error> {
        self.connection.open(request(self.name.clone()), payload, queue)
    }

    /// A request of the desktop. A refusal is an answer with `ok: false`.
    pub(crate) fn action(&self, action: &Action) -> Result<Response, Error> {
        let extra = match action {
            Action::Wait { ms } => Duration::from_millis(*ms).min(REQUEST_TIMEOUT),
            _ => Duration::ZERO,
        };
        let request = DesktopRequest { root: self.name.clone(), action: action.clone() };
        let (pending, id) = self.connection.expect(Waiter::Desktop)?;
        self.connection.send_header(id, &request.into(), &[])?;
        pending.wait(REQUEST_TIMEOUT + extra)
    }

    /// The connection to its machine.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}
