//! An engine without machines: each "guest" is a thread that serves the agent's end of a socket pair.
//!
//! The test suite runs the real agent's code in that thread, so that sessions can be tried by the hundred without a VM.
//! Kernel and rootfs of a spec are not looked at. The engine isolates nothing and says so.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::{
    Accelerator, Capabilities, ControlStream, Device, DeviceId, Error, Framing, Hypervisor, Machine,
    MachineEnd, MachineSpec, Result, SavedState, Slot, Support, VsockListener, VsockStream,
};

/// The guest's program, given its end of the stream. When it returns, the machine has powered off.
pub type Guest = dyn Fn(UnixStream, &MachineSpec) -> std::result::Result<(), String> + Send + Sync;

/// The engine.
pub struct FakeHypervisor {
    guest: Arc<Guest>,
    last: Arc<Mutex<Option<UnixStream>>>,
}

impl FakeHypervisor {
    /// An engine whose guests all run `guest`.
    pub fn new<G>(guest: G) -> Self
    where
        G: Fn(UnixStream, &MachineSpec) -> std::result::Result<(), String> + Send + Sync + 'static,
    {
        Self { guest: Arc::new(guest), last: Arc::default() }
    }

    /// A second handle on the host's end of the stream of the machine that was started last: it shows a test whether
    /// writers still get rid of their bytes.
    #[must_use]
    pub fn host_end(&self) -> Option<UnixStream> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Hypervisor for FakeHypervisor {
    fn probe(&self, _spec: &MachineSpec) -> Result<Capabilities> {
        Ok(Capabilities {
            engine: "fake".into(),
            accelerator: Accelerator::None,
            reasons: vec!["the in-process engine of the test suite isolates nothing".into()],
            remedy: None,
            boots_elf: false,
            snapshots: Support::No("there is no machine that could be saved".into()),
            vsock: Support::No("the in-process engine has no devices".into()),
            nat: Support::Yes,
            frames: Support::No("the in-process engine has no devices".into()),
            framing: Framing::LengthPrefixed,
            max_vcpus: 1,
        })
    }

    fn try_shares(&self) -> Support {
        Support::Yes
    }

    fn fingerprint(&self, _spec: &MachineSpec) -> Result<String> {
        Ok("fake".into())
    }

    fn boot_failed(&self, _spec: &MachineSpec, _reason: &str) -> Result<()> {
        Ok(())
    }

    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>> {
        Ok(Arc::new(FakeMachine {
            guest: self.guest.clone(),
            last: self.last.clone(),
            spec,
            host_end: Mutex::new(None),
            end: Arc::new(Slot::new()),
        }))
    }
}

struct FakeMachine {
    guest: Arc<Guest>,
    last: Arc<Mutex<Option<UnixStream>>>,
    spec: MachineSpec,
    /// A second handle on the host's end: shutting it down is pulling the plug.
    host_end: Mutex<Option<UnixStream>>,
    end: Arc<Slot<MachineEnd>>,
}

impl FakeMachine {
    fn unsupported<T>(operation: &'static str) -> Result<T> {
        Err(Error::Unsupported { engine: "fake", operation, reason: "there is no machine".into() })
    }
}

impl Machine for FakeMachine {
    fn start(&self) -> Result<ControlStream> {
        let (host, guest_end) = UnixStream::pair().map_err(Error::io("socketpair"))?;
        let mut slot = self.host_end.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() || self.end.get().is_some() {
            return Err(Error::Machine("the machine was started before".into()));
        }
        *slot = Some(host.try_clone().map_err(Error::io("duplicate a socket"))?);
        drop(slot);
        let second = host.try_clone().map_err(Error::io("duplicate a socket"))?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(second);
        let (guest, spec, end) = (self.guest.clone(), self.spec.clone(), self.end.clone());
        thread::Builder::new()
            .name("fake-guest".into())
            .spawn(move || {
                end.set(match guest(guest_end, &spec) {
                    Ok(()) => MachineEnd::PoweredOff,
                    Err(message) => MachineEnd::Failed(message),
                });
            })
            .map_err(Error::io("start a thread"))?;
        Ok(host)
    }

    fn pause(&self) -> Result<()> {
        Self::unsupported("pause")
    }

    fn resume(&self) -> Result<()> {
        Self::unsupported("resume")
    }

    fn save(&self, _folder: &Path) -> Result<SavedState> {
        Self::unsupported("save")
    }

    fn attach(&self, _device: Device) -> Result<DeviceId> {
        Self::unsupported("attaching a device")
    }

    fn detach(&self, _id: &DeviceId) -> Result<()> {
        Self::unsupported("detaching a device")
    }

    fn vsock_listen(&self, _port: u32) -> Result<VsockListener> {
        Self::unsupported("vsock")
    }

    fn vsock_connect(&self, _port: u32) -> Result<VsockStream> {
        Self::unsupported("vsock")
    }

    fn stop(&self) {
        self.end.set(MachineEnd::Stopped);
        if let Some(stream) = self.host_end.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Fails only when the guest has closed its end already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn end(&self) -> Arc<Slot<MachineEnd>> {
        self.end.clone()
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn spec() -> MachineSpec {
        MachineSpec::new("/k", "/i")
    }

    fn echo() -> FakeHypervisor {
        FakeHypervisor::new(|stream, _| {
            let mut reader = stream.try_clone().map_err(|e| e.to_string())?;
            std::io::copy(&mut reader, &mut &stream).map(drop).map_err(|e| e.to_string())
        })
    }

    #[test]
    fn the_guest_serves_the_other_end_and_stop_pulls_the_plug() {
        let machine = echo().create(spec()).unwrap();
        let mut stream = machine.start().unwrap();
        stream.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
        machine.stop();
        assert_eq!(machine.end().wait(), MachineEnd::Stopped);
        assert_eq!(stream.read(&mut answer).unwrap(), 0);
    }

    #[test]
    fn a_guest_that_returns_has_powered_off_and_a_machine_starts_once() {
        let engine = FakeHypervisor::new(|_, _| Ok(()));
        let machine = engine.create(spec()).unwrap();
        machine.start().unwrap();
        assert!(machine.start().is_err());
        assert_eq!(machine.end().wait(), MachineEnd::PoweredOff);
    }
}
