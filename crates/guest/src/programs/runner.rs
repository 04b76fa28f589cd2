//! `vsock-runner SIGNAL_PORT LISTEN_PORT`: tells the host that it is ready, takes one command from it, runs that, and
//! sends back what it prints and its exit status.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::net::{Shutdown, shutdown};

use super::listening::{accept, listen_on};
use super::words::{number, usage};
use crate::sys::{self, CID_HOST, VsockAddr};

/// Longest command, in bytes.
const COMMAND_MAX: u64 = 65_535;

pub(super) fn run(args: &[OsString]) -> io::Result<i32> {
    let form = "vsock-runner SIGNAL_PORT LISTEN_PORT";
    let [signal, listen] = args else { return Ok(usage(form)) };
    let (Some(signal), Some(listen)) = (number(signal), number(listen)) else { return Ok(usage(form)) };
    // A host that hears that it is ready can connect.
    let listener = listen_on(listen)?;
    let mut ready = File::from(sys::vsock_connect(VsockAddr { cid: CID_HOST, port: signal })?);
    ready.write_all(b"READY\n")?;
    drop(ready);
    let connection = accept(&listener)?;
    drop(listener);
    let code = serve(&connection)?;
    rustix::fs::sync();
    Ok(code)
}

fn serve(connection: &OwnedFd) -> io::Result<i32> {
    let mut stream = File::from(connection.try_clone()?);
    let mut command = Vec::new();
    (&mut stream).take(COMMAND_MAX + 1).read_to_end(&mut command)?;
    if command.len() as u64 > COMMAND_MAX {
        return Err(io::Error::other(format!("a command of more than {COMMAND_MAX} bytes")));
    }
    use std::os::unix::ffi::OsStringExt;
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(OsString::from_vec(command))
        .stdin(Stdio::null())
        .stdout(connection.try_clone()?)
        .stderr(connection.try_clone()?)
        .status()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    stream.write_all(format!("__EXIT__:{code}\n").as_bytes())?;
    shutdown(&stream, Shutdown::Write)?;
    // The other side closes when it has everything.
    io::copy(&mut stream, &mut io::sink())?;
    Ok(code)
}
