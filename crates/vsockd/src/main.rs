//! Serves the vsock device of one machine over vhost-user: its ports belong to that machine and need no privilege.
//!
//! Started by vmette with the listening socket for QEMU as standard input, its one connection waiting in it, and the
//! control channel as standard output. It restricts itself before it reads the first byte from the guest, or ends: it
//! moves bytes between the guest's memory and sockets that its owner gave it, opens no file and makes no socket. It ends
//! with the machine, and with its owner.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod packet;
#[cfg(target_os = "linux")]
mod queues;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(target_os = "linux")]
mod server;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    match server::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmette-vsockd: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("vmette-vsockd: vhost-user devices are served on Linux only");
    ExitCode::FAILURE
}
