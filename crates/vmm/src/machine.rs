//! The two traits.

use std::path::Path;
use std::sync::Arc;

use crate::{Capabilities, Error, MachineSpec, Result, Slot, VsockListener, VsockStream};

/// The byte stream to the guest's agent: a socket of the host, whatever carries it in between. Dropping it does not
/// end the machine.
pub type ControlStream = std::os::unix::net::UnixStream;

/// How a machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEnd {
    /// The host stopped it.
    Stopped,
    /// The guest powered off or rebooted by itself.
    PoweredOff,
    /// It failed: what happened, with the last lines of the engine or the console where they help.
    Failed(String),
}

/// An engine.
pub trait Hypervisor: Send + Sync {
    /// What this engine offers here for such a machine. Cheap enough for every run.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when the engine, or the accelerator that the spec insists on,
    /// is not usable here.
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities>;

    /// All of the engine, the host and the machine's shape that a saved state depends on, as text: a state may be
    /// restored only under the fingerprint under which it was saved. Kernel, initramfs and command line are the
    /// caller's to add; rootfs, disks, shares and console do not count.
    ///
    /// # Errors
    /// As [`Hypervisor::probe`].
    fn fingerprint(&self, spec: &MachineSpec) -> Result<String>;

    /// Takes note that a machine like that ran and its guest never came to life, so that the next choice of an
    /// accelerator may be another one.
    ///
    /// # Errors
    /// The note cannot be kept.
    fn boot_failed(&self, spec: &MachineSpec, reason: &str) -> Result<()>;

    /// Checks the spec and prepares a machine. Nothing runs yet.
    ///
    /// # Errors
    /// What is wrong with the spec, or what is missing on the host.
    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>>;
}

/// A machine. Every method may be called from any thread. Dropping the last handle stops the machine and removes all
/// that belonged to it.
pub trait Machine: Send + Sync {
    /// Boots or restores the machine and lets it run. The agent may take its time to answer on the stream, bytes that
    /// are written before are kept for it. Once per machine.
    ///
    /// # Errors
    /// Whatever kept it from running; the machine has then ended.
    fn start(&self) -> Result<ControlStream>;

    /// Stops the virtual CPUs.
    ///
    /// # Errors
    /// The machine does not run.
    fn pause(&self) -> Result<()>;

    /// Lets the virtual CPUs run again.
    ///
    /// # Errors
    /// The machine is not paused.
    fn resume(&self) -> Result<()>;

    /// Writes memory and devices into a new folder; the machine must be paused, stays paused and may be resumed. What is
    /// on its disks is written out and for the caller to copy.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported), or a failure that leaves no folder behind.
    fn save(&self, dir: &Path) -> Result<()>;

    /// Takes the shares' devices out of the running machine, so that it can be saved. The guest has unmounted them and
    /// takes part in it.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported); the guest does not take part.
    fn unplug_shares(&self) -> Result<()> {
        Err(Error::Unsupported {
            engine: "this engine",
            operation: "taking shares out of a running machine",
            reason: "a machine with shares cannot be saved".into(),
        })
    }

    /// Gives the shares of its spec back to a machine that [`Machine::unplug_shares`] took them from.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported); a share cannot be served any more.
    fn plug_shares(&self) -> Result<()> {
        Err(Error::Unsupported {
            engine: "this engine",
            operation: "giving shares to a running machine",
            reason: "they are part of it from its start".into(),
        })
    }

    /// Opens a port of the host to the guest of a machine that has a vsock device and was started.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported); the port is taken in this machine; the machine does not run.
    fn vsock_listen(&self, port: u32) -> Result<VsockListener>;

    /// Connects to a port of the guest. Bounded in time by the engine.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported); nobody listens there; the machine does not run.
    fn vsock_connect(&self, port: u32) -> Result<VsockStream>;

    /// Ends the machine at once, as pulling the plug would. Returns when its processes are gone. Idempotent.
    fn stop(&self);

    /// Where the end is reported, exactly once. It outlives the machine.
    fn end(&self) -> Arc<Slot<MachineEnd>>;

    /// Ids of the host processes that make up the machine, for measuring.
    fn processes(&self) -> Vec<u32>;
}
