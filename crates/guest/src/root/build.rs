//! The process that builds a root, in a mount namespace of its own, and then stays as the PID 1 of its PID namespace (unless
//! a command will be that).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use super::error::{Error, environment};
use super::etc::{self, Files};
use super::layers::Layers;
use super::plan::Plan;
use super::{resolv, shares, system, trust, volumes};
use crate::{log, report, sys};

/// The child's whole life.
pub(crate) fn run(to: OwnedFd, plan: &Plan<'_>) -> ! {
    // A name for `ps`, and nothing depends on it.
    let _ = rustix::thread::set_name(c"vmette-init");
    let log = log::descriptor().unwrap_or(to.as_fd());
    if sys::close_all_but([to.as_fd(), log]).is_err() {
        sys::exit_now(1);
    }
    let to = File::from(to);
    let built = build(plan).map(environment);
    // The workload's root user can open whatever its PID 1 has open.
    if sys::close_all_but([to.as_fd()]).is_err() {
        sys::exit_now(1);
    }
    if report::send(&to, &built).is_err() || built.is_err() {
        sys::exit_now(1);
    }
    drop(to);
    sys::reap_for_ever()
}

/// Returns environment for the root's commands.
fn build(plan: &Plan<'_>) -> Result<Vec<String>, Error> {
    let root = plan.root;
    let read_only = root.is_read_only();
    let layers = Layers::mount(plan)?;
    layers.enter()?;
    system::mount_all(root)?;
    volumes::make(root)?;
    let hint = if read_only { " (the root is read-only, and a link is in the way)" } else { "" };
    for share in shares::outermost_first(&root.shares) {
        shares::mount_at_target(&layers.uevents, share, hint)?;
    }
    let files = Files::of_own_root(read_only).map_err(Error::io("open the root"))?;
    etc::write_identity(&files, plan.identity).map_err(Error::io("name the machine in its /etc"))?;
    if let Some(servers) = plan.name_servers {
        resolv::install(&files, servers).map_err(Error::io(format!("write {}", resolv::PATH)))?;
    }
    if !root.ca_bundle {
        return Ok(Vec::new());
    }
    trust::install(plan.bundle, read_only).map_err(Error::io("install the CA certificates"))
}
