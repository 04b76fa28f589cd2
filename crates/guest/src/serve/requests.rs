//! The work of each request.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use vmette_wire::desktop::DesktopRequest;
use vmette_wire::root::{Attach, Detach};
use vmette_wire::streams::{Failure, FailureKind};
use vmette_wire::{
    Boot, Frame, Hello, MachineRequest, Open, Request, ResponseHeader, Root, RootName, RootRequest,
};

use super::change::{Change, Kind};
use super::sync::{self, Sync};
use super::{Agent, Phase, ServeError};
use crate::actions::{self, ActionError};
use crate::exec::ExecError;
use crate::exec::running::Running;
use crate::files::{Get, Put};
use crate::root::tree::Tree;
use crate::stream::{AGENT, Role, STREAMS, Stream};
use crate::world::{Changing, Place, Purpose, World, WorldError};

impl<W: World> Agent<W> {
    /// Carries out one request, or hands a frame to its stream.
    pub(super) fn handle(&mut self, frame: &Frame) -> Result<(), ServeError> {
        let (id, payload) = (frame.id, &frame.payload[..]);
        let request = match Request::parse(&frame.header) {
            Ok(request) => request,
            Err(e) => {
                let refusal = format!("the guest agent does not know this request: {e}");
                return Ok(self.out.answer(id, Err(refusal))?);
            }
        };
        match request {
            Request::Hello(hello) => {
                let greeted = self.hello(hello, payload);
                Ok(self.out.answer(id, greeted)?)
            }
            Request::Machine(MachineRequest::Ping) => Ok(self.out.answer(id, Ok::<_, WorldError>(()))?),
            Request::Machine(request) => self.machine(id, &request),
            Request::Root(request) => self.root(id, request, payload),
            Request::Open(open) => self.open(id, &open, payload),
            Request::Input(input) => Ok(self.registry.input(id, input, payload, &mut self.out)?),
            Request::Desktop(request) => self.desktop(id, &request),
        }
    }

    fn hello(&mut self, hello: Hello, payload: &[u8]) -> Result<(), WorldError> {
        let entropy = hello.check(payload)?;
        for root in &hello.awaited {
            self.world.place(root, Purpose::Files)?;
        }
        if self.out.is_held() {
            self.orphan();
        }
        self.world.hello(&hello, entropy)?;
        self.phase = Phase::Greeted { awaited: hello.awaited.into_iter().collect() };
        // Not before this machine is one of its own.
        self.thaw()
    }

    fn machine(&mut self, id: u32, request: &MachineRequest) -> Result<(), ServeError> {
        if let Err(e) = self.greeted() {
            return Ok(self.out.answer(id, Err(e))?);
        }
        match request {
            MachineRequest::Boot(boot) => {
                let begun = self.boot(boot);
                self.begun(Kind::Make, id, begun)
            }
            MachineRequest::Ping => Ok(self.out.answer(id, Ok::<_, WorldError>(()))?),
            MachineRequest::Sync => self.sync(id),
            MachineRequest::Hold => {
                let frozen = self.freeze();
                let holds = frozen.is_ok();
                self.out.answer(id, frozen)?;
                if holds {
                    self.out.hold();
                }
                Ok(())
            }
            MachineRequest::Release { realtime_ns } => {
                let set = self.world.set_clock(*realtime_ns);
                // Whatever came of the clock, they go on.
                let released = self.thaw().and(set);
                self.out.release();
                Ok(self.out.answer(id, released)?)
            }
        }
    }

    /// Freezes the workloads; if that fails they go on.
    fn freeze(&mut self) -> Result<(), WorldError> {
        let frozen = self.world.freeze();
        if frozen.is_err() {
            // The first error tells more.
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets the workloads go on, unless one would do so without its shares.
    fn thaw(&mut self) -> Result<(), WorldError> {
        if self.lacks_shares() { Ok(()) } else { self.world.thaw() }
    }

    fn lacks_shares(&self) -> bool {
        matches!(&self.phase, Phase::Greeted { awaited } if !awaited.is_empty())
    }

    /// The roots that lack their shares, for a host that has said hello.
    fn greeted(&mut self) -> Result<&mut BTreeSet<RootName>, WorldError> {
        match &mut self.phase {
            Phase::Stranger => Err(WorldError::Order("hello comes first on a connection")),
            Phase::Greeted { awaited } => Ok(awaited),
        }
    }

    fn boot(&mut self, boot: &Boot) -> Result<Changing, WorldError> {
        boot.check()?;
        self.world.boot(boot)
    }

    fn root(&mut self, id: u32, request: RootRequest, payload: &[u8]) -> Result<(), ServeError> {
        match request {
            RootRequest::Make(root) => {
                let begun = self.make(&root, payload);
                self.begun(Kind::Make, id, begun)
            }
            RootRequest::Attach(attach) => {
                let begun = self.attach(&attach, payload);
                self.begun(Kind::Attach(attach.root), id, begun)
            }
            RootRequest::Detach(detach) => {
                let begun = self.detach(&detach);
                self.begun(Kind::Detach(detach.root), id, begun)
            }
        }
    }

    fn make(&mut self, root: &Root, bundle: &[u8]) -> Result<Changing, WorldError> {
        self.greeted()?;
        root.check(bundle)?;
        self.world.make_root(root, bundle)
    }

    fn attach(&mut self, attach: &Attach, bundle: &[u8]) -> Result<Changing, WorldError> {
        self.greeted()?;
        attach.check(bundle)?;
        self.world.attach(attach, bundle)
    }

    fn detach(&mut self, detach: &Detach) -> Result<Changing, WorldError> {
        self.greeted()?;
        detach.check()?;
        // Nothing is frozen for a root that is not there.
        self.world.place(&detach.root, Purpose::Files)?;
        self.freeze()?;
        self.world.detach(detach)
    }

    /// Answers once what has begun is done.
    fn begun(&mut self, kind: Kind, id: u32, begun: Result<Changing, WorldError>) -> Result<(), ServeError> {
        let watched = begun.and_then(|changing| match changing {
            Changing::Done => Ok(None),
            Changing::Pending(report) => {
                let watch = self.poll.watch(AGENT).readable(report.as_fd(), Role::Change);
                watch.map(|()| Some(report)).map_err(WorldError::io("wait for a process"))
            }
        });
        match watched {
            Ok(Some(report)) => {
                self.change = Some(Change { kind, id, report });
                Ok(())
            }
            Ok(None) => self.changed(kind, id, Ok(())),
            Err(e) => self.changed(kind, id, Err(e)),
        }
    }

    /// Takes the report of the change under way.
    pub(super) fn finish_change(&mut self) -> Result<(), ServeError> {
        let Some(Change { kind, id, report }) = self.change.take() else { return Ok(()) };
        let done = self.world.finish(report);
        self.changed(kind, id, done)
    }

    /// Answers for a change, and has the workloads run or stand still as their shares are there or not.
    fn changed(&mut self, kind: Kind, id: u32, mut done: Result<(), WorldError>) -> Result<(), ServeError> {
        match (kind, &done, &mut self.phase) {
            (Kind::Detach(root), Ok(()), Phase::Greeted { awaited }) => drop(awaited.insert(root)),
            (Kind::Attach(root), Ok(()), Phase::Greeted { awaited }) => {
                awaited.remove(&root);
                done = self.thaw();
            }
            // It has them still; the first error tells more.
            (Kind::Detach(_), Err(_), _) => drop(self.thaw()),
            // The host, which is told, tries again or ends the machine.
            (Kind::Attach(_), Err(_), _) | (Kind::Make, ..) | (_, Ok(()), Phase::Stranger) => {}
        }
        Ok(self.out.answer(id, done)?)
    }

    fn sync(&mut self, id: u32) -> Result<(), ServeError> {
        self.is_new(id)?;
        let begun = self.registry.admit(&sync::LIMIT).and_then(|()| {
            let begun = match self.world.sync() {
                Ok(Some(pidfd)) => {
                    let number = self.registry.reserve();
                    Sync::new(id, pidfd, self.poll.watch(number)).map(|sync| Some((number, sync)))
                }
                done => done.map(|_| None),
            };
            begun.map_err(|e| format!("cannot start a process for sync: {e}"))
        });
        match begun {
            Ok(Some((number, sync))) => self.registry.insert(number, Box::new(sync)),
            Ok(None) => self.out.answer(id, Ok::<_, String>(()))?,
            Err(e) => self.out.answer(id, Err(e))?,
        }
        Ok(())
    }

    /// Refuses a stream under the id of an open one: whatever came for it could be for either.
    fn is_new(&self, id: u32) -> Result<(), ServeError> {
        if self.registry.has(id) { Err(ServeError::DuplicateId { id }) } else { Ok(()) }
    }

    fn open(&mut self, id: u32, open: &Open, payload: &[u8]) -> Result<(), ServeError> {
        self.is_new(id)?;
        let number = self.registry.reserve();
        let admitted = self.registry.admit(&STREAMS);
        let opened = admitted
            .map_err(|message| Failure { kind: FailureKind::Other, message })
            .and_then(|()| self.opened(id, number, open, payload));
        match opened {
            Ok(stream) => self.registry.insert(number, stream),
            Err(failure) => self.out.failed(id, failure)?,
        }
        Ok(())
    }

    fn opened(
        &mut self,
        id: u32,
        number: u32,
        open: &Open,
        payload: &[u8],
    ) -> Result<Box<dyn Stream>, Failure> {
        Ok(match open {
            Open::Exec(exec) => {
                let purpose = if exec.init { Purpose::Init } else { Purpose::Command };
                let place = place(&self.world, &self.phase, &exec.root, purpose).map_err(ExecError::from)?;
                let watch = self.poll.watch(number);
                let running = Running::start(&place, id, exec, payload, &mut self.history, watch)?;
                if exec.init {
                    self.world.init_started(&exec.root, running.child().pid(), running.child().pidfd());
                }
                Box::new(running)
            }
            Open::Put(put) => {
                let place =
                    place(&self.world, &self.phase, &put.root, Purpose::Files).map_err(ExecError::from)?;
                Box::new(Put::begin(Tree::new(place.root), id, put)?)
            }
            Open::Get(get) => {
                let place =
                    place(&self.world, &self.phase, &get.root, Purpose::Files).map_err(ExecError::from)?;
                Box::new(Get::begin(Tree::new(place.root), id, get)?)
            }
        })
    }

    fn desktop(&mut self, id: u32, request: &DesktopRequest) -> Result<(), ServeError> {
        self.is_new(id)?;
        let number = self.registry.reserve();
        let begun = actions::limit(&request.action)
            .map_err(|e| e.to_string())
            .and_then(|limit| self.registry.admit(limit))
            .and_then(|()| {
                place(&self.world, &self.phase, &request.root, Purpose::Command)
                    .map_err(|e| ActionError::from(ExecError::from(e)))
                    .and_then(|place| {
                        let watch = self.poll.watch(number);
                        actions::begin(&place, id, &request.action, &mut self.history, watch)
                    })
                    .map_err(|e| e.to_string())
            });
        match begun {
            Ok(stream) => self.registry.insert(number, stream),
            Err(e) => self.out.desktop(id, ResponseHeader::error(e), b"")?,
        }
        Ok(())
    }
}

/// The place where a request is carried out, for a host that has said hello.
fn place<'a, W: World>(
    world: &'a W,
    phase: &Phase,
    root: &RootName,
    purpose: Purpose,
) -> Result<Place<'a>, WorldError> {
    match phase {
        Phase::Stranger => Err(WorldError::Order("hello comes first on a connection")),
        Phase::Greeted { awaited } if !awaited.is_empty() => {
            Err(WorldError::Order("shares are missing, without which nothing runs: attach comes first"))
        }
        Phase::Greeted { .. } => world.place(root, purpose),
    }
}
