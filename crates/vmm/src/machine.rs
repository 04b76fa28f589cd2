//! The two traits.

use std::path::Path;
use std::sync::Arc;

use crate::{
    Capabilities, Device, DeviceId, MachineSpec, Result, SavedState, Slot, Support, VsockListener,
    VsockStream,
};

/// The byte stream to the guest's agent: a socket of the host, whatever carries it in between. Dropping it does not
/// end the machine.
pub type ControlStream = std::os::unix::net::UnixStream;

/// The way a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEnd {
    /// The host stopped it.
    Stopped,
    /// The guest powered off or rebooted by itself.
    PoweredOff,
    /// It failed: the cause, with the last lines of the engine or the console where they help.
    Failed(String),
}

/// An engine.
pub trait Hypervisor: Send + Sync {
    /// Returns what this engine can do here for such a machine. Cheap enough for every run.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when the engine, or the accelerator that the spec insists on,
    /// is not usable here.
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities>;

    /// Tries whether host folders can be shared here. It may cost the start of a process, and is for those who need to
    /// know.
    fn try_shares(&self) -> Support;

    /// Returns as text everything about the engine, the host and the machine's shape that a saved state depends on: a
    /// state may be restored only under the fingerprint under which it was saved. Kernel, initramfs and command line are
    /// the caller's to add; rootfs, disks, shares and console do not count.
    ///
    /// # Errors
    /// As [`Hypervisor::probe`].
    fn fingerprint(&self, spec: &MachineSpec) -> Result<String>;

    /// Takes note that the guest of such a machine never came to life, so that the next choice of an accelerator may be
    /// another one.
    ///
    /// # Errors
    /// The note cannot be kept.
    fn boot_failed(&self, spec: &MachineSpec, reason: &str) -> Result<()>;

    /// Checks the spec and prepares a machine. Nothing runs yet.
    ///
    /// # Errors
    /// The spec is wrong, or something is missing on the host.
    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>>;
}

/// A machine. Every method may be called from any thread. Dropping the last handle stops the machine and removes all
/// that belonged to it.
pub trait Machine: Send + Sync {
    /// Boots or restores the machine and lets it run. The agent may take its time to answer on the stream; bytes that are
    /// written before are kept for it. Once per machine.
    ///
    /// # Errors
    /// The machine does not run, and has ended.
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

    /// Writes memory and devices into an empty folder. The machine must be paused, stays paused and may be resumed. The
    /// content of its disks is written out and for the caller to copy.
    ///
    /// The folder is the caller's: to make, to flush to the disk, to name, and to remove after a failure.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported), or a failure, after which files may be in the folder.
    fn save(&self, folder: &Path) -> Result<SavedState>;

    /// Attaches a device to the running machine and returns its name. The guest finds it a moment later.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) from an engine that cannot; a device of that name is there, or
    /// no place is free; a file of the device cannot be used. The machine is as before.
    fn attach(&self, device: Device) -> Result<DeviceId>;

    /// Detaches a device, whether it was attached or there from the start. The guest must not be using it, and has to
    /// let go of it.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) from an engine that cannot; there is no such device. If the guest
    /// does not let go in time, the device stays.
    fn detach(&self, id: &DeviceId) -> Result<()>;

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

    /// Returns the slot in which the end is reported, exactly once. It outlives the machine.
    fn end(&self) -> Arc<Slot<MachineEnd>>;

    /// Returns the ids of the host processes that make up the machine, for measuring.
    fn processes(&self) -> Vec<u32>;
}
