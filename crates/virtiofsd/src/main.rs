//! Serves one host folder to one virtual machine over virtio-fs.
//!
//! Started by vmette with the listening socket as standard input; the machine's connection is waiting in it already. It
//! restricts itself before it reads the first byte from the guest: a mount namespace in which the folder is all there
//! is, no network, no capability but those of a file server, a seccomp filter. If any of that fails it ends: a folder
//! is served restricted or not at all. It ends with the connection, and with its owner, and by nothing that a guest does.
//!
//! With `--probe` it restricts itself, serves nothing, and says why if that cannot be done on this host.

#[cfg(target_os = "linux")]
mod folder;
#[cfg(target_os = "linux")]
mod locks;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(target_os = "linux")]
mod options;
#[cfg(target_os = "linux")]
mod queues;
#[cfg(target_os = "linux")]
mod requests;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(target_os = "linux")]
mod server;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let options = options::Options::parse(std::env::args_os().skip(1)).map_err(server::Error::from);
    match options.and_then(server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(server::Error::Helper) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vmette-virtiofsd: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("vmette-virtiofsd: virtio-fs is served on Linux only");
    ExitCode::FAILURE
}
