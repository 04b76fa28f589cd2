//! The process that builds the workload's root, in a mount namespace of its own, and then stays as the workload's PID 1
//! (unless a command will be that).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use vmette_wire::agent::{Boot, Overlay};

use crate::etc::{self, Files, Identity};
use crate::mounts::{self, Layers};
use crate::{log, net, sys, trust, volumes};

/// Longest report, in bytes: a page, which a pipe takes in one piece.
pub(crate) const REPORT_MAX: u64 = 4096;

const SUCCESS: &str = "ok\n";

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("no disk with the serial number {serial} appeared in the guest within {seconds} s")]
    NoDisk { serial: String, seconds: u64 },
    #[error(
        "no vsock device appeared in the guest within {seconds} s; its kernel needs the modules vsock and \
         vmw_vsock_virtio_transport"
    )]
    NoVsock { seconds: u64 },
    #[error("the network: {0}")]
    Network(String),
    #[error("no virtio-fs share with the tag {tag} appeared in the guest within {seconds} s")]
    NoShare { tag: String, seconds: u64 },
}

impl BootError {
    /// For `map_err`: wraps an I/O error with what was tried.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }
}

/// Whether the workload cannot write to its root.
pub(crate) fn is_read_only(boot: &Boot) -> bool {
    boot.overlay == Overlay::None
}

/// The child's whole life. `network` is the report of the process that leases an address.
pub(crate) fn run(
    report: OwnedFd,
    network: Option<OwnedFd>,
    boot: &Boot,
    bundle: &[u8],
    identity: &Identity,
) -> ! {
    // A name for `ps`, and nothing depends on it.
    let _ = rustix::thread::set_name(c"vmette-init");
    let kept = network.as_ref().unwrap_or(&report);
    let log = log::descriptor().unwrap_or(report.as_fd());
    if sys::close_all_but([report.as_fd(), kept.as_fd(), log]).is_err() {
        sys::exit_now(1);
    }
    let mut report = File::from(report);
    let built = build(boot, bundle, identity, network);
    // The workload's root user can open whatever its PID 1 has open.
    if sys::close_all_but([report.as_fd()]).is_err() {
        sys::exit_now(1);
    }
    if report.write_all(report_of(&built).as_bytes()).is_err() || built.is_err() {
        sys::exit_now(1);
    }
    drop(report);
    sys::reap_for_ever()
}

/// What is reported of an outcome, as long as a report may be.
pub(crate) fn report_of(outcome: &Result<Vec<String>, BootError>) -> String {
    let mut text = match outcome {
        Ok(env) => env.iter().fold(SUCCESS.to_owned(), |text, entry| text + entry + "\n"),
        Err(e) => e.to_string(),
    };
    text.truncate(text.floor_char_boundary(usize::try_from(REPORT_MAX).unwrap_or(usize::MAX)));
    text
}

/// The environment that a report of success brings, or the error's text.
pub(crate) fn parse_report(text: &str) -> Result<Vec<String>, String> {
    match text.strip_prefix(SUCCESS) {
        Some(env) => Ok(env.lines().map(str::to_owned).collect()),
        None if text.is_empty() => {
            Err("the process that works on the root was killed (out of memory? give the machine more)"
                .to_owned())
        }
        None => Err(text.to_owned()),
    }
}

/// Returns environment for the workload's commands.
fn build(
    boot: &Boot,
    bundle: &[u8],
    identity: &Identity,
    network: Option<OwnedFd>,
) -> Result<Vec<String>, BootError> {
    let layers = Layers::mount(boot)?;
    layers.enter()?;
    let read_only = is_read_only(boot);
    mounts::system(boot)?;
    volumes::make(boot)?;
    for share in &boot.shares {
        layers.share(share, read_only)?;
    }
    let files = Files::of_own_root(read_only).map_err(BootError::io("open the root"))?;
    etc::write_identity(&files, identity).map_err(BootError::io("name the machine in its /etc"))?;
    if let Some(network) = network {
        let servers = net::wait_for(network)?;
        net::install_name_servers(&files, &servers)
            .map_err(BootError::io(format!("write {}", net::RESOLV_CONF)))?;
    }
    if !boot.ca_bundle {
        return Ok(Vec::new());
    }
    trust::install(bundle, read_only).map_err(BootError::io("install the CA certificates"))
}

/// Makes a folder and those above it.
pub(crate) fn make_dir(path: &str) -> Result<(), BootError> {
    fs::create_dir_all(path).map_err(BootError::io(format!("make the folder {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_tell_success_error_and_silence_apart() {
        assert_eq!(parse_report("ok\n").unwrap(), Vec::<String>::new());
        assert_eq!(parse_report("ok\nA=1\nB=2\n").unwrap(), ["A=1", "B=2"]);
        assert_eq!(parse_report("cannot mount").unwrap_err(), "cannot mount");
        assert!(parse_report("").unwrap_err().contains("killed"));
    }
}
