//! Serves the vsock device of one machine.
//!
//! Started by vmette with the listening socket for QEMU as standard input, its one connection waiting in it, and the
//! control channel as standard output. It restricts itself before it reads the first byte from the guest, or ends. It
//! ends with the machine, and with its owner.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    match vmette_vsock::server::run() {
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
