//! One caller that has the stream to itself while its machine is saved.

use std::sync::mpsc::sync_channel;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use vmette_vmm::ControlStream;
use vmette_wire::ResponseHeader;
use vmette_wire::agent::Op;
use vmette_wire::frame;

use super::{Connection, Pending, REQUEST_TIMEOUT, Waiter};
use crate::error::{ConfigError, Error, SaveError};
use crate::guest_text::safe;
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
    pub(crate) fn request(&mut self, op: &Op, timeout: Duration) -> Result<ResponseHeader, Error> {
        let (sender, receiver) = sync_channel(1);
        let id = self.connection.register(Waiter::Once(sender))?;
        let pending = Pending { connection: self.connection.clone(), id, receiver };
        let bytes = frame::encode(id, op, &[]).map_err(|e| ConfigError::Command(e.to_string()))?;
        self.connection.write(&mut self.writer, &bytes)?;
        Ok(pending.wait(timeout)?.0)
    }

    /// Brings the workload's processes and the stream to a standstill: what was under way has arrived, and until it is
    /// released nothing runs and nothing more is sent.
    pub(crate) fn hold(&mut self) -> Result<(), Error> {
        match self.request(&Op::Hold, REQUEST_TIMEOUT) {
            Ok(header) if header.ok => Ok(()),
            Ok(header) => {
                let reason = header.error.as_deref().map_or_else(String::new, safe);
                Err(SaveError::GuestMoves { reason }.into())
            }
            Err(e) => {
                // It may come to it later, when nobody would tell it to go on.
                let _ = self.request(&Op::Release { realtime_ns: now_ns() }, Duration::ZERO);
                Err(e)
            }
        }
    }

    /// Lets the stream go on, in a guest whose clock stood still as well; and its workload, if it has its shares.
    pub(crate) fn release(&mut self, realtime_ns: u64) -> Result<(), Error> {
        let header = self.request(&Op::Release { realtime_ns }, REQUEST_TIMEOUT)?;
        if header.ok {
            return Ok(());
        }
        Err(Error::Agent(safe(header.error.as_deref().unwrap_or("the guest's clock could not be set"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::tests::{answer, next, pair};
    use std::io::Write;
    use std::thread;

    #[test]
    fn while_the_stream_is_held_nobody_else_sends() {
        let (connection, mut guest) = pair();
        let served = thread::spawn(move || {
            let mut ops = Vec::new();
            for _ in 0..3 {
                let frame = next(&mut guest);
                ops.push(String::from_utf8(frame.header.clone()).unwrap());
                answer(&mut guest, frame.id, &[]);
            }
            // Open until everything was looked at.
            (ops, guest)
        });
        let mut alone = connection.alone();
        alone.hold().unwrap();
        let other = connection.clone();
        let waiting = thread::spawn(move || other.request(&Op::Ping, &[], REQUEST_TIMEOUT).map(drop));
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
            answer(&mut guest, hold, &[]);
            let refusal = ResponseHeader::error("\x1b[2Jno clock");
            let id = next(&mut guest).id;
            guest.write_all(&frame::encode_response(id, &refusal, &[]).unwrap()).unwrap();
            guest
        });
        let mut alone = connection.alone();
        alone.hold().unwrap();
        let error = alone.release(7).unwrap_err().to_string();
        assert!(error.contains("\\u{1b}[2Jno clock"), "{error}");
        drop(served.join().unwrap());
    }
}
