//! Requests that exchange several frames under one id: `exec`, `put` and `get`. Each stays open until its last event
//! (`exited`, `done`, `failed`), or is refused.
//!
//! # Credits
//! A stream's sender may have at most [`WINDOW`] unconfirmed payload bytes under way. The receiver confirms bytes with
//! `credit` once it has passed them on, so a slow reader holds back its own stream alone, and neither side buffers more
//! than a window for it. A sender that exceeds the window breaks the protocol; the receiver ends the connection.
//!
//! | request | host sends | agent sends |
//! |---|---|---|
//! | `exec` | `data`, `eof` (stdin); `resize`, `signal`, `unread`; `credit` for stdout and stderr together | `started`; `stdout`, `stderr`; `credit` for stdin; last `exited` or `failed` |
//! | `put` | `data`, `eof`; `signal` | `credit`; last `done` or `failed` |
//! | `get` | `credit`; `signal` | `file`, `data`; last `done` or `failed` |

use serde::{Deserialize, Serialize};

use crate::root::RootName;
use crate::strings::{self, StringsError};

/// Unconfirmed payload bytes that a stream may have under way in one direction.
pub const WINDOW: u32 = 1 << 20;

/// A request that opens a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Open {
    /// Runs a command; payload: a [`Command`].
    Exec(Exec),
    /// Writes a file.
    Put(Put),
    /// Reads a file.
    Get(Get),
}

/// One frame from the host for an open stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// Bytes in the payload: stdin of an `exec`, contents of a `put`.
    Data,
    /// No more [`Input::Data`] will come.
    Eof,
    /// More room for the agent's sender.
    Credit {
        /// Bytes that were passed on.
        bytes: u32,
    },
    /// The terminal of an `exec` has a new size.
    Resize(TtySize),
    /// Nobody reads an output of an `exec` any more. Its pipe is closed, which tells its writers; a terminal stays, and its
    /// process group gets `SIGPIPE`.
    Unread {
        /// The output.
        output: OutputName,
    },
    /// Sends a signal to the process group of an `exec`. Any signal cancels a `put` or a `get`: nothing of the file is
    /// left, and the stream ends as `failed`.
    Signal {
        /// Linux signal number, 1 to 64.
        signal: i32,
    },
}

/// A command. The workload's root provides what a field leaves out: the shell's `PATH`, the user's home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The root in which it runs.
    pub root: RootName,
    /// Number of strings of the payload that are arguments. With `shell` it is one: the command line.
    pub argc: u32,
    /// Number of strings after them that are environment variables, `KEY=VALUE`; later ones win.
    pub envc: u32,
    /// Runs the argument with `/bin/sh -c`.
    #[serde(default)]
    pub shell: bool,
    /// Absolute path of a folder that exists; default `/`, or the user's home when `user` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`, looked up in the root's `/etc/passwd` and `/etc/group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Runs on a new terminal of that size: stdout carries what it shows, stderr stays empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// `data` will follow; otherwise stdin is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// The command becomes PID 1 of the root's namespace. Once per root, and only in one that was made with
    /// [`Root::switch_root`](crate::root::Root::switch_root).
    #[serde(default)]
    pub init: bool,
}

/// A file to be written: parent folders are made, an existing file is replaced when the last byte has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The root in which it lies.
    pub root: RootName,
    /// Absolute path.
    pub path: String,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
}

/// A file to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// The root in which it lies.
    pub root: RootName,
    /// Absolute path.
    pub path: String,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TtySize {
    pub rows: u16,
    pub cols: u16,
}

/// An output of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputName {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One frame from the agent that belongs to a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The command runs.
    Started {
        /// Its process id as the workload sees it.
        pid: u32,
    },
    /// Output, in the payload.
    Stdout,
    /// Output, in the payload.
    Stderr,
    /// File contents, in the payload.
    Data,
    /// The file that a `get` has opened.
    File {
        /// Size in bytes, when it was opened.
        size: u64,
        /// Permission bits.
        mode: u32,
    },
    /// More room for the host's sender of that id.
    Credit {
        /// Bytes that were passed on.
        bytes: u32,
    },
    /// The command has ended: so much of its stdin was read, by itself or by others that have it. Comes before `exited` if
    /// it had a stdin that is no terminal.
    Consumed {
        /// Bytes of all `data`.
        bytes: u64,
    },
    /// The command ended and all its output has been sent.
    Exited(ExitStatus),
    /// The transfer is complete.
    Done,
    /// The request could not be carried out, or ended early.
    Failed(Failure),
}

impl Event {
    /// `true` if nothing follows under the same id.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Exited(_) | Self::Done | Self::Failed(_))
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called `exit` with this status, 0 to 255.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The shell's view: the status, or 128 + signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code & 0xff,
            Self::Signal(signal) => 128 + (signal & 0x7f),
        }
    }
}

/// A stream that has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: the operation that failed, its object, the reason.
    pub message: String,
}

/// Kind of a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No such command, file or user.
    NotFound,
    /// It exists and cannot be executed, or opened.
    NotPermitted,
    /// The request itself is wrong.
    Invalid,
    /// No space or no memory left in the guest.
    NoSpace,
    /// Anything else.
    Other,
}

/// The argument block of an `exec`: arguments, then `KEY=VALUE` pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments, or one shell command line.
    pub args: Vec<Vec<u8>>,
    /// `KEY=VALUE`.
    pub env: Vec<Vec<u8>>,
}

impl Command {
    /// Encodes the block for a frame's payload.
    ///
    /// # Errors
    /// A NUL byte in a string, or more than [`strings::COUNT_MAX`] strings.
    pub fn encode(&self) -> Result<Vec<u8>, StringsError> {
        let mut payload = Vec::new();
        strings::append(&mut payload, &self.args)?;
        strings::append(&mut payload, &self.env)?;
        Ok(payload)
    }

    /// Reads the block that came with `exec`.
    ///
    /// # Errors
    /// The payload does not hold as many strings as the header announces, or there is no argument.
    pub fn decode(exec: &Exec, payload: &[u8]) -> Result<Self, StringsError> {
        let argc = exec.argc as usize;
        let announced = argc.saturating_add(exec.envc as usize);
        let mut args = strings::split(payload, announced)?;
        if argc == 0 {
            return Err(StringsError::Missing { announced: 1, found: 0 });
        }
        let env = args.split_off(argc);
        let owned = |list: Vec<&[u8]>| list.into_iter().map(<[u8]>::to_vec).collect();
        Ok(Self { args: owned(args), env: owned(env) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_shells() {
        assert_eq!(ExitStatus::Code(7).code(), 7);
        assert_eq!(ExitStatus::Signal(15).code(), 143);
    }

    #[test]
    fn a_command_survives_the_payload_whatever_its_bytes() {
        let command = Command {
            args: vec![b"printf".to_vec(), b"\xff\xfe".to_vec(), Vec::new()],
            env: vec![b"A=\n'\x80".to_vec()],
        };
        let payload = command.encode().unwrap();
        let exec = Exec { argc: 3, envc: 1, ..Exec::default() };
        assert_eq!(Command::decode(&exec, &payload).unwrap(), command);
        assert!(Command::decode(&Exec { argc: 0, envc: 4, ..Exec::default() }, &payload).is_err());
        assert!(Command::decode(&Exec { argc: u32::MAX, envc: 1, ..Exec::default() }, &payload).is_err());
    }
}
