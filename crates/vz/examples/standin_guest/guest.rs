//! The guest of the stand-in's machines (see crates/vz/standin): a process that serves the real agent.
//!
//! Its arguments are the kernel's command line and the machine's devices; its standard input is the wire to the machine,
//! its output is the console. Words of the command line say how it behaves:
//!
//! | word | |
//! |---|---|
//! | `root=DIR` | where the agent's files lie; the arguments are written to `DIR/machine` |
//! | `guest=agent` | connects to the host and serves; the default |
//! | `guest=off`, `guest=crash`, `guest=panic` | ends at once, with and without an error, or as a kernel that gives up |
//! | `guest=silent` | does nothing |
//! | `guest=reboot` | gives up, begins anew and comes no further |
//! | `vmette.agent=vsock:PORT` | where the agent's host is |
//!
//! Ports of its own: 7 echoes, 9 is told a port of the host and says `hello` there, 11 says on the console that the kernel gave
//! up, nobody is at the others.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use vmette_guest::World;

const DIAL: u32 = 1;
const CONNECT: u32 = 2;
const ACCEPTED: u32 = 3;
const REFUSED: u32 = 4;
const PAUSE: u32 = 5;
const PAUSE_NOW: u32 = 6;

/// The memory of a guest that was set up, of which a file beside it has the details.
const BOOTED: u32 = 1;

const ECHO_PORT: u32 = 7;

const DIAL_PORT: u32 = 9;

const LIE_PORT: u32 = 11;

const PANIC: &str = "[    1.0] Kernel panic - not syncing: made up";

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cmdline = arguments.first().cloned().unwrap_or_default();
    let word = |name: &str| cmdline.split(' ').filter_map(|word| word.strip_prefix(name)).next_back();
    match word("guest=").unwrap_or("agent") {
        "off" => ExitCode::SUCCESS,
        "panic" => {
            println!("{PANIC}");
            ExitCode::SUCCESS
        }
        "crash" => {
            println!("last words of the guest");
            ExitCode::from(3)
        }
        kind @ ("silent" | "reboot") => {
            if kind == "reboot" {
                println!("{PANIC}");
            }
            if let Some(root) = word("root=") {
                // Who looks for it learns that the machine runs; who does not has no use for the reason either.
                let _ = std::fs::write(format!("{root}/machine"), arguments.join("\n"));
            }
            // The wire's end is the machine's.
            while let Ok(Some(([kind, ..], _))) = receive() {
                if kind == PAUSE && send([PAUSE_NOW, 0, 0], None).is_err() {
                    break;
                }
            }
            ExitCode::SUCCESS
        }
        _ => match agent(&arguments, word("root="), word("vmette.agent=vsock:")) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                println!("guest: {e}");
                ExitCode::FAILURE
            }
        },
    }
}

fn agent(arguments: &[String], root: Option<&str>, port: Option<&str>) -> io::Result<()> {
    let missing = |what| move || io::Error::other(format!("no {what} in the command line"));
    let root = root.ok_or_else(missing("root"))?;
    let port: u32 = port.and_then(|port| port.parse().ok()).ok_or_else(missing("agent's port"))?;
    std::fs::write(format!("{root}/machine"), arguments.join("\n"))?;
    let restored = arguments.iter().find_map(|argument| argument.strip_prefix("restored="));
    let mut world = vmette_guest::Hosted::new(root)?;
    let boot = format!("{root}/boot");
    if restored == Some(&BOOTED.to_string()) {
        let (boot, roots): (_, Vec<_>) = serde_json::from_slice(&std::fs::read(&boot)?)?;
        world.boot(&boot).map_err(io::Error::other)?;
        for root in &roots {
            world.make_root(root, b"").map_err(io::Error::other)?;
        }
    }
    let restored = restored.is_some();
    let record = world.record();
    let (sender, hosts) = mpsc::channel();
    if !restored {
        sender.send(connect(port)?).map_err(io::Error::other)?;
    }
    let host: Arc<Mutex<Host>> = Arc::default();
    let for_wire = host.clone();
    thread::spawn(move || {
        // However it ends, the plug is pulled: the agent ends, and what it has started with it.
        let memory = || {
            let record = record.lock().expect("nobody panics with it");
            match &record.boot {
                None => Ok(0),
                Some(told) => {
                    std::fs::write(&boot, serde_json::to_vec(&(told, &record.roots))?).map(|()| BOOTED)
                }
            }
        };
        let _ = attend(restored.then_some((port, sender)), memory);
        let mut host = for_wire.lock().expect("nobody panics with it");
        host.gone = true;
        host.hang_up();
    });
    let stream = hosts.recv().map_err(io::Error::other)?;
    {
        let mut host = host.lock().expect("nobody panics with it");
        host.stream = Some(stream.try_clone()?);
        if host.gone {
            host.hang_up();
        }
    }
    vmette_guest::serve(OwnedFd::from(stream), world).map_err(io::Error::other)
}

/// The connection to the host, and whether the machine is gone.
#[derive(Default)]
struct Host {
    stream: Option<UnixStream>,
    gone: bool,
}

impl Host {
    fn hang_up(&self) {
        if let Some(stream) = &self.stream {
            // Fails when the host was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Connects to a port of the host.
fn connect(port: u32) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    send([DIAL, port, 0], Some(&theirs))?;
    Ok(ours)
}

/// Answers connections of the host until the wire is cut. The first to the agent's port of a restored machine is its
/// host.
fn attend(
    mut agent: Option<(u32, mpsc::Sender<UnixStream>)>,
    memory: impl Fn() -> io::Result<u32>,
) -> io::Result<()> {
    while let Some(([kind, port, number], fd)) = receive()? {
        if kind == PAUSE {
            send([PAUSE_NOW, 0, memory()?], None)?;
        }
        let Some(fd) = fd.filter(|_| kind == CONNECT) else { continue };
        let stream = UnixStream::from(fd);
        if let Some((_, sender)) = agent.take_if(|(agent, _)| *agent == port) {
            send([ACCEPTED, port, number], None)?;
            sender.send(stream).map_err(io::Error::other)?;
        } else if port == ECHO_PORT {
            send([ACCEPTED, port, number], None)?;
            thread::spawn(move || {
                let mut text = Vec::new();
                (&stream).read_to_end(&mut text).and_then(|_| (&stream).write_all(&text))
            });
        } else if port == LIE_PORT {
            send([ACCEPTED, port, number], None)?;
            println!("{PANIC}");
        } else if port == DIAL_PORT {
            send([ACCEPTED, port, number], None)?;
            thread::spawn(move || {
                let mut port = [0; 4];
                (&stream).read_exact(&mut port)?;
                let mut called = connect(u32::from_le_bytes(port))?;
                // Whoever refuses closes: the caller's stream says so.
                if called.write_all(b"hello").and_then(|()| called.shutdown(Shutdown::Write)).is_ok() {
                    io::copy(&mut called, &mut &stream)?;
                }
                io::Result::Ok(())
            });
        } else {
            send([REFUSED, port, number], None)?;
        }
    }
    Ok(())
}

fn send(message: [u32; 3], stream: Option<&UnixStream>) -> io::Result<()> {
    let bytes = message.map(u32::to_ne_bytes).concat();
    let fds: Vec<_> = stream.iter().map(|stream| stream.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(io::stdin(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message and what came with it; `None` when the wire is cut.
fn receive() -> io::Result<Option<([u32; 3], Option<OwnedFd>)>> {
    let mut bytes = [0; 12];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(io::stdin(), &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    if got.bytes != bytes.len() {
        return Ok(None);
    }
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok(Some(([number(0), number(4), number(8)], fd)))
}
