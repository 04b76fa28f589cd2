//! The seam between vmette and the engines that run its virtual machines.
//!
//! An engine is a [`Hypervisor`]: it says what it can do here ([`Hypervisor::probe`]) and makes a [`Machine`] from a
//! [`MachineSpec`]. A machine, once started, hands over one [`ControlStream`] to the agent in its guest; everything
//! else that vmette does goes over that stream and needs to know nothing of the engine.
//!
//! Nothing above this crate asks which engine it has: differences are data in [`Capabilities`].
#![forbid(unsafe_code)]

mod capabilities;
pub mod checks;
pub mod console;
mod device;
mod error;
pub mod fake;
mod machine;
mod spec;
mod vsock;

pub use capabilities::{Accelerator, Capabilities, Isolation, Support};
pub use device::{Device, DeviceId, Disk, Frames, Framing, Mac, Network, Owner, Share};
pub use error::{Error, Result, is_shortage};
pub use machine::{ControlStream, Hypervisor, Machine, MachineEnd};
pub use spec::{AcceleratorChoice, Console, MachineSpec, Origin, Saved, SavedState};
/// The contract with the guest about devices.
pub use vmette_wire::devices;
pub use vmette_work::Slot;
pub use vsock::{TimedOut, VsockListener, VsockStream};
