//! What each request does.

use std::os::fd::AsFd;

use vmette_wire::agent::{Attach, Boot, Command, Exec, Failure, FailureKind, Hello, Put as PutRequest};
use vmette_wire::{Frame, Op, Request, ResponseHeader};

use super::{Agent, Change, ChangeKind, Phase, Role, ServeError, Stream, Syncing, refusal};
use crate::child;
use crate::exec::ExecError;
use crate::exec::prepare::{self, Output, Start};
use crate::exec::running::Running;
use crate::files::{Get, Put};
use crate::tree::Tree;
use crate::world::{self, Booting, Place, Purpose, World, WorldError};

/// Most streams at once.
const STREAMS_MAX: usize = 256;

/// Most `sync` requests at once.
const SYNCS_MAX: usize = 16;

impl<W: World> Agent<W> {
    /// Carries out one request, or takes one frame of a stream.
    pub(super) fn handle(&mut self, frame: Frame) -> Result<(), ServeError> {
        let id = frame.id;
        let op = match Request::parse(&frame.header) {
            Ok(Request::Op(op)) => op,
            Ok(Request::Action(action)) => {
                let place = place(&self.world, self.phase, Purpose::Command);
                return self.jobs.start(id, &action, place, &mut self.history, &self.poll, &mut self.out);
            }
            Err(e) => {
                let header =
                    ResponseHeader::error(format!("the guest agent does not know this request: {e}"));
                return Ok(self.out.respond(id, &header, b"")?);
            }
        };
        match op {
            Op::Hello(hello) => {
                let header =
                    self.hello(&hello, &frame.payload).map_or_else(refusal, |()| ResponseHeader::ok());
                self.out.respond(id, &header, b"")?;
            }
            Op::Boot(boot) => self.boot(id, &boot, &frame.payload)?,
            Op::Attach(attach) => self.attach(id, &attach, &frame.payload)?,
            Op::Detach(attach) => self.detach(id, &attach)?,
            Op::Hold => {
                let frozen = self.freeze();
                let holds = frozen.is_ok();
                self.out.respond(id, &frozen.map_or_else(refusal, |()| ResponseHeader::ok()), b"")?;
                if holds {
                    self.out.hold();
                }
            }
            Op::Release { realtime_ns } => {
                let set = self.world.set_clock(realtime_ns);
                // Whatever came of the clock, they go on.
                let header = self.thaw().and(set).map_or_else(refusal, |()| ResponseHeader::ok());
                self.out.release();
                self.out.respond(id, &header, b"")?;
            }
            Op::Ping => self.out.respond(id, &ResponseHeader::ok(), b"")?,
            Op::Sync => self.sync(id)?,
            Op::Exec(exec) => self.exec(id, &exec, &frame.payload)?,
            Op::Put(put) => self.put(id, &put)?,
            Op::Get { path } => self.get(id, &path)?,
            Op::Data => self.data(id, &frame.payload)?,
            Op::Eof => self.eof(id)?,
            // What follows is for streams that may have ended while it was on its way.
            Op::Credit { bytes } => match self.streams.get_mut(&id) {
                Some(Stream::Exec(running)) => running.credit(bytes)?,
                Some(Stream::Get(get)) => get.credit(bytes)?,
                Some(Stream::Put(_)) | None => {}
            },
            Op::Resize(size) => {
                if let Some(Stream::Exec(running)) = self.streams.get_mut(&id) {
                    running.resize(size);
                }
            }
            Op::Unread { output } => {
                if let Some(Stream::Exec(running)) = self.streams.get_mut(&id) {
                    running.unread(output);
                }
            }
            Op::Signal { signal } => self.signal(id, signal)?,
        }
        Ok(())
    }

    fn hello(&mut self, hello: &Hello, payload: &[u8]) -> Result<(), WorldError> {
        let entropy = world::check_hello(hello, payload)?;
        if self.out.is_held() {
            self.orphan();
        }
        self.world.hello(hello, entropy)?;
        self.phase = if hello.attach_follows { Phase::Bare } else { Phase::Ready };
        // Not before this machine is one of its own.
        self.thaw()
    }

    /// Stops the workload's processes; if that fails they go on.
    fn freeze(&mut self) -> Result<(), WorldError> {
        let frozen = self.world.freeze();
        if frozen.is_err() {
            // What has stopped goes on; the first error tells more.
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets the workload's processes go on, unless they would do so without their shares.
    fn thaw(&mut self) -> Result<(), WorldError> {
        if self.phase == Phase::Bare { Ok(()) } else { self.world.thaw() }
    }

    fn boot(&mut self, id: u32, boot: &Boot, bundle: &[u8]) -> Result<(), ServeError> {
        let begun = if self.phase == Phase::Stranger {
            Err(WorldError::Order("hello comes before boot"))
        } else {
            world::check_boot(boot, bundle).and_then(|()| self.world.boot(boot, bundle))
        };
        self.begun(ChangeKind::Boot, id, begun)
    }

    fn attach(&mut self, id: u32, attach: &Attach, bundle: &[u8]) -> Result<(), ServeError> {
        let begun = self
            .has_root()
            .and_then(|()| world::check_attach(attach, bundle))
            .and_then(|()| self.world.attach(attach, bundle));
        self.begun(ChangeKind::Attach, id, begun)
    }

    fn detach(&mut self, id: u32, attach: &Attach) -> Result<(), ServeError> {
        let begun = self
            .has_root()
            .and_then(|()| world::check_shares(&attach.shares))
            .and_then(|()| self.freeze())
            .and_then(|()| self.world.detach(&attach.shares));
        self.begun(ChangeKind::Detach, id, begun)
    }

    /// Whether a host that is no stranger has had a root built.
    fn has_root(&self) -> Result<(), WorldError> {
        let phase = if self.phase == Phase::Bare { Phase::Ready } else { self.phase };
        place(&self.world, phase, Purpose::Files).map(drop)
    }

    /// Answers once what has begun is done.
    fn begun(
        &mut self,
        kind: ChangeKind,
        id: u32,
        begun: Result<Booting, WorldError>,
    ) -> Result<(), ServeError> {
        match begun {
            Ok(Booting::Pending(report)) => {
                self.poll.readable(report.as_fd(), Role::Boot, id)?;
                self.booting = Some(Change { kind, id, report });
                Ok(())
            }
            Ok(Booting::Done) => self.changed(kind, id, Ok(())),
            Err(e) => self.changed(kind, id, Err(e)),
        }
    }

    /// Answers for a change of the root, and has the workload run or stand still as its shares are there or not.
    pub(super) fn changed(
        &mut self,
        kind: ChangeKind,
        id: u32,
        mut done: Result<(), WorldError>,
    ) -> Result<(), ServeError> {
        match (kind, &done) {
            (ChangeKind::Detach, Ok(())) => self.phase = Phase::Bare,
            (ChangeKind::Attach, Ok(())) => {
                self.phase = Phase::Ready;
                done = self.thaw();
            }
            // It has them still; the first error tells more.
            (ChangeKind::Detach, Err(_)) => drop(self.thaw()),
            // The host, which is told, tries again or ends the machine.
            (ChangeKind::Attach, Err(_)) | (ChangeKind::Boot, _) => {}
        }
        let header = done.map_or_else(refusal, |()| ResponseHeader::ok());
        Ok(self.out.respond(id, &header, b"")?)
    }

    fn sync(&mut self, id: u32) -> Result<(), ServeError> {
        let header = if self.syncs.len() >= SYNCS_MAX {
            ResponseHeader::error(format!("too many sync requests at once (allowed: {SYNCS_MAX})"))
        } else {
            match self.world.sync() {
                Ok(Some(pidfd)) => {
                    self.poll.readable(pidfd.as_fd(), Role::Sync, id)?;
                    self.syncs.push(Syncing { pidfd, id: Some(id) });
                    return Ok(());
                }
                Ok(None) => ResponseHeader::ok(),
                Err(e) => ResponseHeader::error(format!("cannot start a process for sync: {e}")),
            }
        };
        Ok(self.out.respond(id, &header, b"")?)
    }

    /// Whether a new stream may begin; if not, it has been told.
    fn admit(&mut self, id: u32) -> Result<bool, ServeError> {
        if self.streams.contains_key(&id) {
            return Err(ServeError::DuplicateId { id });
        }
        let room = self.streams.len() + self.orphans.len() + child::reap_killed() < STREAMS_MAX;
        if !room {
            let message = format!("{STREAMS_MAX} commands and transfers run in this machine: end one first");
            self.out.failed(id, Failure { kind: FailureKind::Other, message })?;
        }
        Ok(room)
    }

    fn exec(&mut self, id: u32, exec: &Exec, payload: &[u8]) -> Result<(), ServeError> {
        if !self.admit(id)? {
            return Ok(());
        }
        let started = Command::decode(exec, payload)
            .map_err(|e| ExecError::Invalid(format!("the command's arguments: {e}")))
            .and_then(|command| {
                let purpose = if exec.init { Purpose::Init } else { Purpose::Command };
                let place = place(&self.world, self.phase, purpose)?;
                prepare::start(&place, exec, command, Output::Streams, &mut self.history)
            });
        match started {
            Ok(started) => {
                if exec.init {
                    self.world.init_started(started.child.pid().as_raw_nonzero().get().unsigned_abs());
                }
                if let Start::Done { inner_pid: pid } = started.start {
                    self.out.event(id, &vmette_wire::Event::Started { pid }, b"")?;
                }
                let running = Running::new(id, started, exec.init, &self.poll)?;
                self.streams.insert(id, Stream::Exec(Box::new(running)));
            }
            Err(e) => self.out.failed(id, e)?,
        }
        Ok(())
    }

    fn put(&mut self, id: u32, request: &PutRequest) -> Result<(), ServeError> {
        if !self.admit(id)? {
            return Ok(());
        }
        let begun = match place(&self.world, self.phase, Purpose::Files) {
            Ok(place) => Put::begin(Tree::new(place.root), id, request).map_err(Failure::from),
            Err(e) => Err(Failure::from(ExecError::from(e))),
        };
        match begun {
            Ok(put) => drop(self.streams.insert(id, Stream::Put(put))),
            Err(failure) => self.out.failed(id, failure)?,
        }
        Ok(())
    }

    fn get(&mut self, id: u32, path: &str) -> Result<(), ServeError> {
        if !self.admit(id)? {
            return Ok(());
        }
        let begun = match place(&self.world, self.phase, Purpose::Files) {
            Ok(place) => Get::begin(Tree::new(place.root), id, path).map_err(Failure::from),
            Err(e) => Err(Failure::from(ExecError::from(e))),
        };
        match begun {
            Ok((get, file)) => {
                self.out.event(id, &file, b"")?;
                self.streams.insert(id, Stream::Get(get));
            }
            Err(failure) => self.out.failed(id, failure)?,
        }
        Ok(())
    }

    fn data(&mut self, id: u32, bytes: &[u8]) -> Result<(), ServeError> {
        match self.streams.get_mut(&id) {
            Some(Stream::Exec(running)) => running.data(bytes, &mut self.out),
            Some(Stream::Put(put)) => {
                if let Err(e) = put.data(bytes, &mut self.out)? {
                    self.streams.remove(&id);
                    self.out.failed(id, e)?;
                }
                Ok(())
            }
            // The stream has ended while this was on its way; a `get` takes none.
            Some(Stream::Get(_)) | None => Ok(()),
        }
    }

    /// A command gets the signal; a transfer, which is no process, is given up.
    fn signal(&mut self, id: u32, signal: i32) -> Result<(), ServeError> {
        match self.streams.get(&id) {
            Some(Stream::Exec(running)) => running.signal(signal),
            Some(Stream::Put(_) | Stream::Get(_)) => {
                self.streams.remove(&id);
                let message = "the host has given the transfer up".to_owned();
                self.out.failed(id, Failure { kind: FailureKind::Other, message })?;
            }
            None => {}
        }
        Ok(())
    }

    fn eof(&mut self, id: u32) -> Result<(), ServeError> {
        match self.streams.get_mut(&id) {
            Some(Stream::Exec(running)) => running.eof(),
            Some(Stream::Put(_)) => {
                if let Some(Stream::Put(put)) = self.streams.remove(&id) {
                    match put.finish() {
                        Ok(()) => self.out.event(id, &vmette_wire::Event::Done, b"")?,
                        Err(e) => self.out.failed(id, e)?,
                    }
                }
            }
            Some(Stream::Get(_)) | None => {}
        }
        Ok(())
    }
}

/// Where a request is carried out, for a host that has said who it is.
fn place<W: World>(world: &W, phase: Phase, purpose: Purpose) -> Result<Place<'_>, WorldError> {
    match phase {
        Phase::Stranger => Err(WorldError::Order("hello comes first on a connection")),
        Phase::Bare => {
            Err(WorldError::Order("shares are missing, without which nothing runs: attach comes first"))
        }
        Phase::Ready => world.place(purpose),
    }
}
