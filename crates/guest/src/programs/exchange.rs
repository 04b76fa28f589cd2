//! A connection in place of stdin and stdout.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::net::{SendFlags, Shutdown, send, shutdown};

use super::words::complain;
use crate::sys;

/// Bytes that are moved at once: what a packet has room for. The kernel's own ways of moving data between descriptors
/// would send a packet for each page.
const CHUNK: usize = 64 << 10;

/// Passes stdin to the connection, closing its sending half at the end, and the connection to stdout, both at the same
/// time. Ends when both have ended, or when the other side takes no more.
pub(super) fn with_stdio(connection: OwnedFd) -> io::Result<i32> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut sender = File::from(connection.try_clone()?);
    let sending = thread::Builder::new().spawn(move || {
        let sent = pass_on(&mut stdin, &mut sender)
            .and_then(|()| shutdown(&sender, Shutdown::Write).map_err(Into::into));
        match sent {
            // The other side has closed first, as it may.
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {}
            Err(e) => {
                complain("vsock", &e);
                sys::exit_now(1);
            }
        }
    })?;
    let mut connection = File::from(connection);
    pass_on(&mut connection, &mut stdout)?;
    // Nothing is sent by this; it fails when the other side has closed altogether, and then nobody waits for stdin.
    if send(&connection, &[], SendFlags::NOSIGNAL).is_ok() {
        // A panic there has ended the program already.
        let _ = sending.join();
    }
    Ok(0)
}

pub(super) fn pass_on(from: &mut File, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
