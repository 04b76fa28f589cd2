//! The report of a child on its way to its program: its process id, and the step that failed, if one did. The end of the pipe without a
//! failure is the program's beginning: nothing else than executing it, or the child's own end, closes the child's side.
//!
//! A privileged process of the workload can reach into a child that has not become its program yet, and write to the pipe
//! or hold it open. So the report is read up to a limit, and checked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, read};

use super::{SpawnError, Step};

/// Bytes of a record: two numbers.
const RECORD_LEN: usize = 8;

/// A child's birth, and its failure.
const RECORDS_MAX: usize = 2;

/// Highest error number of Linux.
const ERRNO_MAX: i32 = 4095;

/// One of the things a child says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record(i32, i32);

impl Record {
    /// It lives, under that id of its own PID namespace.
    pub(super) fn born(inner_pid: i32) -> Self {
        Self(inner_pid, 0)
    }

    /// It ends without its program.
    pub(super) fn failed(step: Step, errno: i32) -> Self {
        Self(step as i32, errno)
    }

    pub(super) fn to_bytes(self) -> [u8; RECORD_LEN] {
        ((u64::from(self.0.cast_unsigned()) << 32) | u64::from(self.1.cast_unsigned())).to_ne_bytes()
    }

    fn of(bytes: [u8; RECORD_LEN]) -> Self {
        let both = u64::from_ne_bytes(bytes);
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0).cast_signed();
        Self(half(both >> 32), half(both))
    }
}

/// The agent's end of a child's report.
#[derive(Debug)]
pub(crate) struct Report {
    pipe: OwnedFd,
    received: Vec<u8>,
}

/// Outcome of a report.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The child is on its way.
    Pending,
    /// It has become the program, or was killed on its way, which its exit status tells.
    Runs {
        /// Its process id inside of its PID namespace.
        inner_pid: u32,
    },
    /// It ends without having become the program.
    Failed(SpawnError),
}

impl Report {
    /// `pipe` does not block.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self { pipe, received: Vec::with_capacity(RECORDS_MAX * RECORD_LEN + 1) }
    }

    /// Takes what has come. After an outcome there is no other.
    pub(crate) fn outcome(&mut self) -> Outcome {
        loop {
            let mut bytes = [0; RECORDS_MAX * RECORD_LEN + 1];
            match read(&self.pipe, &mut bytes) {
                Ok(0) => break,
                Ok(n) => self.received.extend_from_slice(&bytes[..n]),
                Err(Errno::AGAIN) => return Outcome::Pending,
                Err(Errno::INTR) => {}
                Err(e) => return failed(Step::Setup, e.into()),
            }
            if self.received.len() > RECORDS_MAX * RECORD_LEN {
                return failed(
                    Step::Setup,
                    io::Error::new(io::ErrorKind::InvalidData, "its report is forged"),
                );
            }
        }
        let (records, rest) = self.received.as_chunks::<RECORD_LEN>();
        let records = records.iter().map(|bytes| Record::of(*bytes));
        match (records.collect::<Vec<_>>().as_slice(), rest) {
            ([Record(inner_pid, 0)], []) if *inner_pid > 0 => {
                Outcome::Runs { inner_pid: inner_pid.unsigned_abs() }
            }
            ([], []) => {
                let cause = io::Error::new(io::ErrorKind::UnexpectedEof, "it was killed before that");
                failed(Step::Setup, cause)
            }
            ([.., Record(step, errno)], []) if (1..=ERRNO_MAX).contains(errno) => {
                failed(Step::of(*step).unwrap_or(Step::Setup), io::Error::from_raw_os_error(*errno))
            }
            _ => failed(Step::Setup, io::Error::new(io::ErrorKind::InvalidData, "its report is forged")),
        }
    }
}

impl AsFd for Report {
    /// Readable when there may be an outcome.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn failed(step: Step, source: io::Error) -> Outcome {
    Outcome::Failed(SpawnError { step, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{ioctl_fionbio, write};
    use rustix::pipe::pipe;

    /// The outcomes of these bytes, and then of their end.
    fn of(bytes: &[u8]) -> (Outcome, Outcome) {
        let (reader, writer) = pipe().unwrap();
        ioctl_fionbio(&reader, true).unwrap();
        let mut report = Report::new(reader);
        write(&writer, bytes).unwrap();
        let before = report.outcome();
        drop(writer);
        (before, report.outcome())
    }

    fn error(outcome: &Outcome) -> (Step, Option<i32>) {
        match outcome {
            Outcome::Failed(e) => (e.step, e.source.raw_os_error()),
            other => panic!("no failure but {other:?}"),
        }
    }

    #[test]
    fn only_the_end_of_the_report_is_an_outcome() {
        let born = Record::born(7).to_bytes();
        assert!(matches!(of(&born), (Outcome::Pending, Outcome::Runs { inner_pid: 7 })));
        let both = [born, Record::failed(Step::Chdir, libc::ENOENT).to_bytes()].concat();
        let (before, after) = of(&both);
        assert!(matches!(before, Outcome::Pending));
        assert_eq!(error(&after), (Step::Chdir, Some(libc::ENOENT)));
        let early = Record::failed(Step::Setup, libc::EMFILE).to_bytes();
        assert_eq!(error(&of(&early).1), (Step::Setup, Some(libc::EMFILE)));
    }

    #[test]
    fn a_child_that_was_killed_at_once_and_a_forged_report_are_failures() {
        let born = Record::born(7).to_bytes();
        assert_eq!(error(&of(b"").1), (Step::Setup, None));
        assert_eq!(error(&of(&[0; 100]).0), (Step::Setup, None), "not read without end");
        for forged in [&born[..3], &[0; 8], &[0xff; 16], &[born, Record(99, 0).to_bytes()].concat()] {
            assert_eq!(error(&of(forged).1), (Step::Setup, None), "{forged:?}");
        }
        let unknown = [born, Record(99, libc::EPERM).to_bytes()].concat();
        assert_eq!(error(&of(&unknown).1), (Step::Setup, Some(libc::EPERM)));
    }
}
