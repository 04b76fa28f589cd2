//! One caller that has the stream to itself while its machine is saved.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use vmette_vmm::ControlStream;
use vmette_wire::{MachineRequest, Request};

use super::{Answer, Connection, REQUEST_TIMEOUT, Waiter};
use crate::error::{Error, SaveError};
use crate::identity::now_ns;

impl Connection {
    /// Has every other caller wait until what this returns is dropped: while the workload stands still, the agent takes
    /// no commands and no files for it.
    pub(crate) fn alone(&self) -> Alone<'_> {
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Alone { connection: self, writer }
    }
}

/// While it lives nobody else sends.
pub(crate) struct Alone<'a> {
    connection: &'a Connection,
    writer: MutexGuard<'a, ControlStream>,
}

impl Alone<'_> {
    /// Sends one request and waits for its one answer.
    pub(crate) fn request(
        &mut self,
        request: impl Into<Request>,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let (pending, id) = self.connection.expect(Waiter::Answer)?;
        let bytes = self.connection.encode(id, &request.into(), &[])?;
        self.connection.write(&mut self.writer, &bytes)?;
        pending.wait(timeout)
    }

    /// Brings the workload's processes and the stream to a standstill: what was under way has arrived, and until it is
    /// released nothing runs and nothing more is sent.
    pub(crate) fn hold(&mut self) -> Result<(), Error> {
        match self.request(MachineRequest::Hold, REQUEST_TIMEOUT) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(SaveError::GuestMoves { reason }.into()),
            Err(e) => {
                // It may come to it later, when nobody would tell it to go on.
                let _ = self.request(MachineRequest::Release { realtime_ns: now_ns() }, Duration::ZERO);
                Err(e)
            }
        }
    }

    /// Lets the stream go on, in a guest whose clock stood still as well; and its workload, if it has its shares.
    pub(crate) fn release(&mut self, realtime_ns: u64) -> Result<(), Error> {
        self.request(MachineRequest::Release { realtime_ns }, REQUEST_TIMEOUT)?.map_err(Error::Agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::tests::{next, pair, reply};
    use std::thread;
    use vmette_wire::Reply;

    #[test]
    fn while_the_stream_is_held_nobody_else_sends() {
        let (connection, mut guest) = pair();
        let served = thread::spawn(move || {
            let mut ops = Vec::new();
            for _ in 0..3 {
                let frame = next(&mut guest);
                ops.push(String::from_utf8(frame.header.clone()).unwrap());
                reply(&mut guest, frame.id, &Reply::Done);
            }
            // Open until everything was looked at.
            (ops, guest)
        });
        let mut alone = connection.alone();
        alone.hold().unwrap();
        let other = connection.clone();
        let waiting =
            thread::spawn(move || other.request(MachineRequest::Ping, &[], REQUEST_TIMEOUT).map(drop));
        while connection.waiting() == 0 {
            thread::yield_now();
        }
        alone.release(7).unwrap();
        drop(alone);
        waiting.join().unwrap().unwrap();
        let (ops, _guest) = served.join().unwrap();
        assert!(ops[0].contains("hold") && ops[1].contains("release") && ops[2].contains("ping"), "{ops:?}");
    }

    #[test]
    fn a_guest_that_does_not_go_on_says_why_without_driving_the_terminal() {
        let (connection, mut guest) = pair();
        let served = thread::spawn(move || {
            let hold = next(&mut guest).id;
            reply(&mut guest, hold, &Reply::Done);
            let id = next(&mut guest).id;
            reply(&mut guest, id, &Reply::Refused("\x1b[2Jno clock".into()));
            guest
        });
        let mut alone = connection.alone();
        alone.hold().unwrap();
        let error = alone.release(7).unwrap_err().to_string();
        assert!(error.contains("\\u{1b}[2Jno clock"), "{error}");
        drop(served.join().unwrap());
    }
}
