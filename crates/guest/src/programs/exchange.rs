//! A connection in place of stdin and stdout.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::net::{Shutdown, shutdown};

use super::complain;
use crate::sys;

/// Passes stdin to the connection, closing its sending half at the end, and the connection to stdout, both at the same
/// time. Ends with the other side's last byte.
pub(super) fn with_stdio(connection: OwnedFd) -> io::Result<i32> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut sender = File::from(connection.try_clone()?);
    thread::Builder::new().spawn(move || {
        let sent = io::copy(&mut stdin, &mut sender)
            .and_then(|_| shutdown(&sender, Shutdown::Write).map_err(Into::into));
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
    io::copy(&mut File::from(connection), &mut stdout)?;
    Ok(0)
}
