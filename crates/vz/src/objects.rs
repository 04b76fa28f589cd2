//! The objects of VZ that a machine consists of. They live on its queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block2::RcBlock;
use objc2::AnyThread;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSError, NSString, NSURL};
use objc2_virtualization::{VZVirtioSocketDevice, VZVirtualMachine, VZVirtualMachineConfiguration};
use vmette_vmm::{Error, MachineEnd, Result, Slot};

use crate::config::{self, Configured, Plan};
use crate::confined::Queue;
use crate::delegate::MachineDelegate;
use crate::exception::caught;
use crate::failure::Failure;
use crate::vsock::Ports;

/// How a change of state came out: written once, by VZ's completion handler or by whoever knows that it will not come.
pub(crate) type Outcome = Slot<std::result::Result<(), Failure>>;

/// A change of state that VZ carries out in its own time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Start,
    Pause,
    Resume,
    Stop,
    /// Writes the state of a paused machine into a new file.
    Save(PathBuf),
    /// Makes a new machine a paused one.
    Restore(PathBuf),
}

impl Change {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Start => "starting a machine",
            Self::Pause => "pausing a machine",
            Self::Resume => "resuming a machine",
            Self::Stop => "stopping a machine",
            Self::Save(_) => "saving a machine",
            Self::Restore(_) => "restoring a machine",
        }
    }
}

/// In the order in which they are dropped.
pub(crate) struct Objects {
    pub(crate) ports: Ports,
    machine: Retained<VZVirtualMachine>,
    configuration: Retained<VZVirtualMachineConfiguration>,
    pub(crate) identifier: Vec<u8>,
    /// VZ does not hold it.
    _delegate: Retained<MachineDelegate>,
}

impl Objects {
    /// On `queue`. How the machine ends by itself goes to `verdict`.
    pub(crate) fn new(plan: Plan, queue: &Queue, verdict: Arc<Slot<MachineEnd>>) -> Result<Self> {
        let Configured { configuration, identifier } = config::build(plan)?;
        let delegate = MachineDelegate::new(verdict);
        // SAFETY: on the queue that the machine is given, with a configuration that VZ has accepted; the delegate is
        // kept beside the machine.
        let (machine, devices) = unsafe {
            let machine = VZVirtualMachine::initWithConfiguration_queue(
                VZVirtualMachine::alloc(),
                &configuration,
                queue.raw(),
            );
            machine.setDelegate(Some(ProtocolObject::from_ref(&*delegate)));
            let devices = machine.socketDevices();
            (machine, devices)
        };
        let device = devices.firstObject().and_then(|device| device.downcast::<VZVirtioSocketDevice>().ok());
        let device = device.ok_or_else(|| Error::Machine("the machine has no vsock device".into()))?;
        Ok(Self { ports: Ports::new(device), machine, configuration, identifier, _delegate: delegate })
    }

    /// Begins a change; its outcome is set here at once when the machine is not in a state for it.
    pub(crate) fn begin(&self, change: &Change, outcome: Arc<Outcome>) {
        if !self.can(change) {
            let refusal = format!("{} is not possible in the state that it is in", change.name());
            outcome.set(Err(Failure::from_text(refusal)));
            return;
        }
        let machine = &self.machine;
        let completed = outcome.clone();
        let done = RcBlock::new(move |error: *mut NSError| {
            completed.set(Failure::check(error));
        });
        // SAFETY: on the machine's queue, in a state that allows it; VZ copies the block.
        let begun = caught(|| unsafe {
            match change {
                Change::Start => machine.startWithCompletionHandler(&done),
                Change::Pause => machine.pauseWithCompletionHandler(&done),
                Change::Resume => machine.resumeWithCompletionHandler(&done),
                Change::Stop => machine.stopWithCompletionHandler(&done),
                Change::Save(path) => machine.saveMachineStateToURL_completionHandler(&url(path), &done),
                Change::Restore(path) => {
                    machine.restoreMachineStateFromURL_completionHandler(&url(path), &done);
                }
            }
        });
        if let Err(thrown) = begun {
            // The handler is not called then.
            outcome.set(Err(Failure::from_text(thrown)));
        }
    }

    fn can(&self, change: &Change) -> bool {
        // SAFETY: on the machine's queue.
        unsafe {
            match change {
                Change::Start | Change::Restore(_) => self.machine.canStart(),
                Change::Pause => self.machine.canPause(),
                Change::Resume | Change::Save(_) => self.machine.canResume(),
                Change::Stop => self.machine.canStop(),
            }
        }
    }

    /// Why VZ cannot save a machine of this configuration. Only to be asked where machines can be saved at all.
    pub(crate) fn check_saveable(&self) -> std::result::Result<(), Failure> {
        // SAFETY: on the machine's queue; the method is there since macOS 14, which the caller has checked.
        unsafe { self.configuration.validateSaveRestoreSupportWithError() }
            .map_err(|error| Failure::of(&error))
    }
}

/// The path was made by us, in a folder whose name is text.
fn url(path: &Path) -> Retained<NSURL> {
    NSURL::fileURLWithPath(&NSString::from_str(&path.to_string_lossy()))
}
