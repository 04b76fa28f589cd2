//! Host and agent: what the host asks ([`Op`], or an [`Action`] of the desktop) and what the agent answers.
//!
//! The order on a new connection is `hello`, `boot`, then any number of `exec`, `put`, `get`, `ping`, `sync` and
//! desktop actions, side by side. Everything may be sent without waiting for the answer to what came before: the agent
//! works through `hello` and `boot` in order.
//!
//! # Saving a machine
//! Whoever saves the machine sends `hold` first, and nothing more until the state is written. Between the answer to it
//! and a `release` no byte is under way in either direction, so that the saved state has no half of a message in it. In
//! the machine that goes on a `release` follows; in one that is made from the state, another host's `hello`: what the
//! commands of the former host print from then on is lost, and their input is at its end.
//!
//! A workload never runs without shares that it is to have, or it would write to its root what is meant for them: it
//! stands still from a `detach`, or from a `hello` that announces it, until an `attach` has succeeded. Commands and files
//! are refused meanwhile.
//!
//! # Streams and credits
//! `exec`, `put` and `get` stay open until their last event (`exited`, `done`, `failed`). A stream's sender may have
//! at most [`WINDOW`] unconfirmed payload bytes under way. The receiver confirms bytes with `credit` once it has passed
//! them on, so a slow reader holds back just its own stream, and neither side buffers more than a window for it. A
//! sender that exceeds the window breaks the protocol; the receiver ends the connection.
//!
//! | request | host sends | agent sends |
//! |---|---|---|
//! | `exec` | `data`, `eof` (stdin); `resize`, `signal`; `credit` for stdout and stderr together | `started`; `stdout`, `stderr`; `credit` for stdin; last `exited` or `failed` |
//! | `put` | `data`, `eof`; `signal` | `credit`; last `done` or `failed` |
//! | `get` | `credit`; `signal` | `file`, `data`; last `done` or `failed` |

use serde::{Deserialize, Serialize};

use crate::action::{Action, ResponseHeader};
use crate::strings::{self, StringsError};

/// Version of everything in this module. Host and guest are built together; a difference means a stale template or a
/// foreign initramfs.
pub const PROTOCOL_VERSION: u32 = 5;

/// Unconfirmed payload bytes that a stream may have under way in one direction.
pub const WINDOW: u32 = 1 << 20;

/// Bytes of fresh randomness that `hello` carries as its payload.
pub const ENTROPY_LEN: usize = 64;

/// Most shares in one `boot`.
pub const SHARES_MAX: usize = 64;

/// Most disks in one `boot`.
pub const DISKS_MAX: usize = 32;

/// Most [`Boot::volumes`] in one `boot`: real images declare one or two, and each may cost the guest a mount.
pub const VOLUMES_MAX: usize = 64;

/// Longest path in a request, with its end, in bytes: Linux takes none that is longer.
pub const PATH_MAX: usize = 4096;

/// Longest serial number of a virtio block device, in bytes.
pub const SERIAL_MAX: usize = 20;

/// Longest PEM bundle in one `boot`, in bytes.
pub const CA_BUNDLE_MAX: usize = 8 << 20;

/// Where one-shot shares appear: `/mnt/<tag>`.
pub const SHARE_DIR: &str = "/mnt";

/// The `virtio-serial` port that carries the frames on engines without vsock.
pub const AGENT_PORT_NAME: &str = "vmette.agent";

/// Serial number of the block device that holds the rootfs.
pub const ROOTFS_SERIAL: &str = "rootfs";

/// Serial number of the scratch disk.
pub const SCRATCH_SERIAL: &str = "scratch";

/// virtio-fs tag of a rootfs that is a directory.
pub const ROOTFS_TAG: &str = "rootfs";

/// A control request. The desktop's requests are [`Action`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// First frame of a connection; payload: [`ENTROPY_LEN`] random bytes. Answer: a [`ResponseHeader`].
    Hello(Hello),
    /// Builds the workload's root; payload: a PEM bundle when `ca_bundle` is set. Answer: a [`ResponseHeader`].
    Boot(Boot),
    /// Answered at once.
    Ping,
    /// Writes everything that is dirty in the guest to its disks and shares, then answers.
    Sync,
    /// Sends what is under way, then an answer, and from then on nothing until `release` or `hello`.
    Hold,
    /// Sends again, and then an answer. The machine stood still meanwhile, and its clock with it. The workload goes on
    /// unless an `attach` is awaited.
    Release {
        /// The host's clock: nanoseconds since 1970, UTC.
        realtime_ns: u64,
    },
    /// Mounts further shares in the workload's root; payload: a PEM bundle when `ca_bundle` is set. Lets a workload that
    /// stands still go on, unless it fails. Answer: a [`ResponseHeader`].
    Attach(Attach),
    /// Has the workload stand still and unmounts shares of its root; it takes no certificates back. The workload goes on
    /// with the next `attach`, or at once when this fails. Answer: a [`ResponseHeader`].
    Detach(Attach),
    /// Runs a command; payload: its arguments, then its environment, as [`strings`].
    Exec(Exec),
    /// Writes a file into the workload's root.
    Put(Put),
    /// Reads a file out of the workload's root.
    Get {
        /// Absolute path in the workload's root.
        path: String,
    },
    /// Bytes for the stream of that id (stdin of an `exec`, contents of a `put`), in the payload.
    Data,
    /// No more [`Op::Data`] will come.
    Eof,
    /// More room for the agent's sender of that id.
    Credit {
        /// Bytes that were passed on.
        bytes: u32,
    },
    /// The terminal of that `exec` has a new size.
    Resize(TtySize),
    /// Nobody reads an output of that `exec` any more. Its pipe is closed, so that whoever writes to it is told; a
    /// terminal stays, and its process group gets `SIGPIPE`.
    Unread {
        /// Which output.
        output: OutputName,
    },
    /// Sends a signal to the process group of that `exec`. Any signal gives a `put` or a `get` up: nothing is left of the
    /// file, and the stream ends as `failed`.
    Signal {
        /// Linux signal number, 1 to 64.
        signal: i32,
    },
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

/// What makes this machine different from every other clone of the same template, and who is speaking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the host.
    pub protocol: u32,
    /// The host's clock: nanoseconds since 1970, UTC.
    pub realtime_ns: u64,
    /// Host name of the guest, a valid DNS label.
    pub hostname: String,
    /// Contents of `/etc/machine-id`: 32 lower-case hexadecimal digits.
    pub machine_id: String,
    /// Whether the workload of a machine that was saved stands still until an `attach` has brought what it is to have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attach_follows: bool,
    /// Bytes that follow, see [`Op::Hello`]; the frame codec writes it.
    #[serde(default, skip_serializing)]
    pub payload_len: u32,
}

/// How the workload's root is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// What lies at the bottom.
    pub root: Root,
    /// What takes the writes.
    pub overlay: Overlay,
    /// In the order in which they are mounted.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Serial numbers of further block devices that have to be there before the first command.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Absolute folders of the workload's root that are made when they are missing, and take writes even if the root takes
    /// none; what the image has in them stays to be seen.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Absolute folder that is made when it is missing: where the image's commands start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Whether the payload is a PEM bundle to be trusted by the workload.
    #[serde(default)]
    pub ca_bundle: bool,
    /// Whether `exec` requests with [`Exec::init`] will run the workload as PID 1 of its namespace.
    #[serde(default)]
    pub switch_root: bool,
    /// Whether the machine has a vsock device, which is waited for.
    #[serde(default)]
    pub vsock: bool,
    /// Whether the machine has a network device, which is waited for; its address is leased from the DHCP server behind
    /// it before the first command, and renewed.
    #[serde(default)]
    pub network: bool,
    /// Whether copies of the machine may be made: its commands are members of a control group, which stands still
    /// meanwhile, and what a copy may get has its programs in the workload's root.
    #[serde(default)]
    pub savable: bool,
    /// Bytes that follow, see [`Op::Boot`]; the frame codec writes it.
    #[serde(default, skip_serializing)]
    pub payload_len: u32,
}

impl Boot {
    /// That root with an overlay in memory, and nothing else.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self {
            root,
            overlay: Overlay::Tmpfs,
            shares: Vec::new(),
            disks: Vec::new(),
            volumes: Vec::new(),
            working_dir: None,
            ca_bundle: false,
            switch_root: false,
            vsock: false,
            savable: false,
            network: false,
            payload_len: 0,
        }
    }
}

/// The rootfs as the guest finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Root {
    /// The virtio-blk device with the serial number [`ROOTFS_SERIAL`].
    Block {
        /// A file system type of the guest's kernel: `squashfs`, `erofs`, `ext4`.
        fstype: String,
    },
    /// The virtio-fs share with the tag [`ROOTFS_TAG`].
    Share,
}

/// Where the workload's writes to its root go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// Memory, gone with the machine.
    Tmpfs,
    /// The ext4 file system on the virtio-blk device with the serial number [`SCRATCH_SERIAL`].
    Scratch,
    /// Nowhere: the root is read-only.
    None,
}

/// A host folder in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its virtio-fs tag.
    pub tag: String,
    /// Absolute path in the workload's root; created when missing.
    pub target: String,
    /// Mounted read-only as well; the host enforces it in any case.
    #[serde(default)]
    pub read_only: bool,
}

/// What comes or goes after the `boot`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// In the order in which they are mounted; they are unmounted in the opposite one.
    pub shares: Vec<Share>,
    /// Whether the payload is a PEM bundle to be trusted by the workload from now on.
    #[serde(default)]
    pub ca_bundle: bool,
    /// Whether the machine has got a vsock device, which is waited for.
    #[serde(default)]
    pub vsock: bool,
    /// Bytes that follow, see [`Op::Attach`]; the frame codec writes it.
    #[serde(default, skip_serializing)]
    pub payload_len: u32,
}

/// A command. What a field leaves out comes from the workload's root: the shell's `PATH`, the user's home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// How many strings of the payload are arguments. With `shell` it is one: the command line.
    pub argc: u32,
    /// How many strings after them are environment variables, `KEY=VALUE`, later ones win.
    pub envc: u32,
    /// Runs the argument with `/bin/sh -c`.
    #[serde(default)]
    pub shell: bool,
    /// Absolute path in the workload's root; default `/`, or the user's home when `user` is set. Must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`, looked up in the workload's `/etc/passwd` and `/etc/group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Runs on a new terminal of that size: stdout carries what it shows, stderr stays empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// Whether `data` will follow; otherwise stdin is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// The command becomes PID 1 of the workload's namespace. Once per machine, and only after a `boot` with
    /// `switch_root`.
    #[serde(default)]
    pub init: bool,
    /// Bytes that follow, see [`Op::Exec`]; the frame codec writes it.
    #[serde(default, skip_serializing)]
    pub payload_len: u32,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TtySize {
    pub rows: u16,
    pub cols: u16,
}

/// A file to be written: parent folders are made, an existing file is replaced when the last byte has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Absolute path in the workload's root.
    pub path: String,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
}

/// One frame from the agent that belongs to a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
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
    /// What `get` found.
    File {
        /// In bytes, when it was opened.
        size: u64,
        /// Permission bits.
        mode: u32,
    },
    /// More room for the host's sender of that id.
    Credit {
        /// Bytes that were passed on.
        bytes: u32,
    },
    /// The command ended and all its output has been sent.
    Exited(ExitStatus),
    /// The transfer is complete.
    Done,
    /// The request could not be carried out, or ended early.
    Failed(Failure),
}

impl Event {
    /// Whether nothing follows under the same id.
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

/// Why a stream request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: what failed, on what.
    pub message: String,
}

/// See [`Failure`].
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

/// A request as it was read from a frame's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `{"op": …}`
    Op(Op),
    /// `{"action": …}`
    Action(Action),
}

impl Request {
    /// Reads a header.
    ///
    /// # Errors
    /// An unknown operation or action, a missing or (where the type says so) an unknown field.
    pub fn parse(header: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Probe {
            action: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(header)?;
        if probe.action.is_some() {
            serde_json::from_slice(header).map(Self::Action)
        } else {
            serde_json::from_slice(header).map(Self::Op)
        }
    }
}

/// An answer as it was read from a frame's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `{"ok": …}`
    Response(ResponseHeader),
    /// `{"event": …}`
    Event(Event),
}

impl Reply {
    /// Reads a header.
    ///
    /// # Errors
    /// Neither an answer nor a known event.
    pub fn parse(header: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Probe {
            event: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(header)?;
        if probe.event.is_some() {
            serde_json::from_slice(header).map(Self::Event)
        } else {
            serde_json::from_slice(header).map(Self::Response)
        }
    }
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
    /// The payload does not hold what the header announced, or there is no argument.
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
    use crate::frame;

    fn header_of<T: Serialize>(value: &T, payload: &[u8]) -> Vec<u8> {
        let bytes = frame::encode(1, value, payload).unwrap();
        frame::read_frame(&mut &bytes[..]).unwrap().unwrap().header
    }

    #[test]
    fn requests_are_told_apart_by_their_key() {
        let op = Op::Exec(Exec { argc: 1, tty: Some(TtySize { rows: 24, cols: 80 }), ..Exec::default() });
        assert_eq!(Request::parse(&header_of(&Op::Ping, b"")).unwrap(), Request::Op(Op::Ping));
        assert!(matches!(Request::parse(&serde_json::to_vec(&op).unwrap()), Ok(Request::Op(o)) if o == op));
        let action = Action::Wait { ms: 3 };
        assert_eq!(Request::parse(&header_of(&action, b"")).unwrap(), Request::Action(action));
        assert!(Request::parse(br#"{"op":"format_disk"}"#).is_err());
        assert!(Request::parse(br#"{"op":"exec","argc":1,"envc":0,"sudo":true}"#).is_err());
        assert!(Request::parse(b"{}").is_err());
    }

    #[test]
    fn messages_with_a_payload_pass_the_codec() {
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            realtime_ns: 1,
            hostname: "vm".into(),
            machine_id: "0".repeat(32),
            attach_follows: false,
            payload_len: 0,
        };
        let parsed = Request::parse(&header_of(&Op::Hello(hello.clone()), &[7; ENTROPY_LEN])).unwrap();
        assert_eq!(
            parsed,
            Request::Op(Op::Hello(Hello { payload_len: u32::try_from(ENTROPY_LEN).unwrap(), ..hello }))
        );
        let exec = Exec { argc: 1, shell: true, ..Exec::default() };
        assert!(Request::parse(&header_of(&Op::Exec(exec), b"true\0")).is_ok());
    }

    #[test]
    fn a_payload_does_not_disturb_the_message() {
        assert_eq!(Request::parse(&header_of(&Op::Data, b"abc")).unwrap(), Request::Op(Op::Data));
        assert_eq!(Reply::parse(&header_of(&Event::Stdout, b"abc")).unwrap(), Reply::Event(Event::Stdout));
    }

    #[test]
    fn answers_are_told_apart_by_their_key() {
        let event = Event::Exited(ExitStatus::Signal(9));
        assert_eq!(Reply::parse(&header_of(&event, b"")).unwrap(), Reply::Event(event));
        let ok = ResponseHeader::ok();
        assert_eq!(Reply::parse(&serde_json::to_vec(&ok).unwrap()).unwrap(), Reply::Response(ok));
        assert!(Reply::parse(br#"{"event":"exploded"}"#).is_err());
        assert!(Reply::parse(b"{}").is_err());
    }

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
