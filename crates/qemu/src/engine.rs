//! The engine itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmette_cache::KeyBuilder;
use vmette_vmm::{
    Accelerator, AcceleratorChoice, Capabilities, Error, Framing, Hypervisor, Machine, MachineSpec, Origin,
    Result, Support,
};

use crate::ENGINE;
use crate::accel::{self, Decision};
use crate::boot::Prepared;
use crate::checks;
use crate::host_facts::{self, HostFacts};
use crate::locate::{self, Programs};
use crate::machine::QemuMachine;
use crate::plan::{self, Plan};
use crate::servers;
use crate::snapshot::Snapshot;
use crate::version::{self, Version};

/// Digits of a key in a fingerprint.
const DIGITS: usize = 16;

/// Places of the engine's parts. The engine looks for those that are `None`.
#[derive(Debug, Clone, Default)]
pub struct QemuOptions {
    /// The QEMU program; else the one in `VMETTE_QEMU`, else the first on `PATH`.
    pub binary: Option<PathBuf>,
    /// The program `vmette-virtiofsd`; else in the folder `VMETTE_LIBEXEC_DIR`, around `installed_at` and the running
    /// program, or on `PATH`.
    pub share_server: Option<PathBuf>,
    /// The program `vmette-vsockd`; else in the same places.
    pub vsock_server: Option<PathBuf>,
    /// A file of the installation that this engine belongs to, when that is not the running program's.
    pub installed_at: Option<PathBuf>,
    /// Folder for what saves time on the next start: QEMU's version, and that KVM does not work here.
    pub cache_dir: Option<PathBuf>,
}

/// QEMU.
#[derive(Debug, Clone, Default)]
pub struct Qemu {
    options: QemuOptions,
}

impl Qemu {
    /// An engine that looks for everything itself and keeps nothing.
    #[must_use]
    pub fn discover() -> Self {
        Self::default()
    }

    /// An engine with some things given.
    #[must_use]
    pub fn with_options(options: QemuOptions) -> Self {
        Self { options }
    }

    fn cache_dir(&self) -> Option<&Path> {
        self.options.cache_dir.as_deref()
    }

    fn binary(&self) -> Result<(PathBuf, Version)> {
        let binary = locate::qemu(self.options.binary.as_deref())?;
        let version = version::of(&binary, self.cache_dir())?;
        Ok((binary, version))
    }

    fn decide(&self, choice: AcceleratorChoice) -> Result<Decision> {
        accel::decide(choice, &HostFacts::gather(self.cache_dir()))
            .map_err(|reason| Error::Unavailable { engine: ENGINE, reason })
    }

    fn fingerprint_of(
        &self,
        spec: &MachineSpec,
        accelerator: Accelerator,
        version: &Version,
    ) -> Result<String> {
        // Two builds of one version may differ, and a state says nothing of it. What names the build is the same
        // wherever it is installed: a state may be restored on another host.
        let mut build = KeyBuilder::new().text(&version.sha256);
        if accelerator != Accelerator::Tcg {
            // The guest sees the real processor, and part of its state is the host kernel's.
            for fact in [host_facts::processor(), host_facts::kernel()] {
                build = build.text(&fact);
            }
        }
        let build: String = build.finish().to_string().chars().take(DIGITS).collect();
        let shape = plan::shape(spec, accelerator)?;
        Ok(format!("QEMU {} {shape} build={build}", version.text))
    }
}

impl Hypervisor for Qemu {
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities> {
        let (_, version) = self.binary()?;
        let Decision { accelerator, reasons, remedy } = self.decide(spec.accelerator)?;
        Ok(Capabilities {
            engine: format!("{ENGINE} {version}"),
            accelerator,
            reasons,
            remedy,
            boots_elf: true,
            snapshots: Support::unless(
                (!cfg!(target_os = "linux")).then(|| "QEMU saves machines on Linux only".into()),
            ),
            vsock: Support::unless(self.programs().vsockd().err().map(|e| e.to_string())),
            nat: Support::No(checks::NO_NAT.into()),
            frames: Support::unless(checks::no_frames(&version)),
            framing: Framing::LengthPrefixed,
            max_vcpus: checks::max_vcpus(),
        })
    }

    fn try_shares(&self) -> Support {
        let tried = self.programs().virtiofsd().and_then(|program| servers::try_shares(&program));
        Support::unless(tried.err().map(|e| e.to_string()))
    }

    fn fingerprint(&self, spec: &MachineSpec) -> Result<String> {
        let (_, version) = self.binary()?;
        self.fingerprint_of(spec, self.decide(spec.accelerator)?.accelerator, &version)
    }

    fn boot_failed(&self, spec: &MachineSpec, reason: &str) -> Result<()> {
        let Some(dir) = self.cache_dir() else { return Ok(()) };
        if self.decide(spec.accelerator)?.accelerator != Accelerator::Kvm {
            return Ok(());
        }
        host_facts::remember_kvm_failure(dir, reason).map_err(Error::io("remember that KVM failed"))
    }

    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>> {
        let (binary, version) = self.binary()?;
        let accelerator = self.decide(spec.accelerator)?.accelerator;
        let spec = checks::checked(spec, &version)?;
        let fingerprint = self.fingerprint_of(&spec, accelerator, &version)?;
        let snapshot = match &spec.origin {
            Origin::Cold => None,
            Origin::Saved(saved) => Some(Snapshot::open(saved, &fingerprint, spec.memory_mib << 20)?),
        };
        let plan = Plan::new(&spec, accelerator)?;
        let programs = self.programs();
        for plugged in plan.devices() {
            programs.for_device(&plugged.device)?;
        }
        let prepared = Prepared { binary, programs, fingerprint, spec, plan, snapshot };
        Ok(Arc::new(QemuMachine::new(prepared)))
    }
}

impl Qemu {
    fn programs(&self) -> Programs {
        Programs {
            virtiofsd: self.options.share_server.clone(),
            vsockd: self.options.vsock_server.clone(),
            installed_at: self.options.installed_at.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn spec() -> MachineSpec {
        MachineSpec { accelerator: AcceleratorChoice::Tcg, ..MachineSpec::new("/bin/sh", "/bin/sh") }
    }

    /// A "QEMU" that answers to `-version` and otherwise does what the script says.
    fn pretended(dir: &Path, script: &str) -> Qemu {
        let new = dir.join("new");
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = -version ] && {{ echo QEMU emulator version 8.2.0; exit; }}\n{script}\n"
        );
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, dir.join("qemu")).unwrap();
        Qemu::with_options(QemuOptions { binary: Some(dir.join("qemu")), ..QemuOptions::default() })
    }

    #[test]
    fn an_engine_that_dies_at_once_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let engine = pretended(dir.path(), "echo 'unexpected error: MSR 0x10a' >&2; kill -ABRT $$");
        let machine = engine.create(spec()).unwrap();
        let error = machine.start().unwrap_err().to_string();
        assert!(error.contains("signal 6") && error.contains("MSR 0x10a"), "{error}");
        assert!(matches!(machine.end().wait(), vmette_vmm::MachineEnd::Failed(_)));
        assert!(machine.pause().is_err());
        machine.stop();
    }

    #[test]
    fn stop_ends_an_engine_that_does_not_answer_and_is_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let engine = pretended(dir.path(), "exec sleep 1000");
        let machine = engine.create(spec()).unwrap();
        let starter = {
            let machine = machine.clone();
            std::thread::spawn(move || machine.start().map(drop))
        };
        while machine.processes().is_empty() {
            std::thread::yield_now();
        }
        machine.stop();
        machine.stop();
        assert_eq!(machine.end().wait(), vmette_vmm::MachineEnd::Stopped);
        let error = starter.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("stopped"), "{error}");
        assert!(machine.processes().is_empty());
    }

    #[test]
    fn a_machine_that_was_stopped_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let machine = pretended(dir.path(), "exit 1").create(spec()).unwrap();
        machine.stop();
        assert!(machine.start().is_err());
        assert_eq!(machine.end().wait(), vmette_vmm::MachineEnd::Stopped);
    }

    #[test]
    fn the_fingerprint_knows_the_shape_and_not_what_is_plugged_in() {
        let dir = tempfile::tempdir().unwrap();
        let engine = pretended(dir.path(), "exit 1");
        let base = engine.fingerprint(&spec()).unwrap();
        assert_eq!(engine.fingerprint(&MachineSpec { rootfs: Some("/x".into()), ..spec() }).unwrap(), base);
        assert_ne!(engine.fingerprint(&MachineSpec { vcpus: 2, ..spec() }).unwrap(), base);
        assert_ne!(engine.fingerprint(&MachineSpec { memory_mib: 512, ..spec() }).unwrap(), base);
        let share = vmette_vmm::Share { tag: "a".into(), path: "/".into(), read_only: true, owner: None };
        let one = MachineSpec { shares: vec![share.clone()], ..spec() };
        assert_eq!(engine.fingerprint(&one).unwrap(), base);
        let five = (0..5).map(|_| share.clone()).collect();
        let five = engine.fingerprint(&MachineSpec { shares: five, ..spec() }).unwrap();
        assert_ne!(five, base, "more places make another shape");
        assert_eq!(engine.fingerprint(&MachineSpec { slots: 5, ..spec() }).unwrap(), five);
    }

    #[test]
    fn a_missing_engine_names_the_remedy() {
        let options = QemuOptions { binary: Some("/nonexistent/qemu".into()), ..QemuOptions::default() };
        let engine = Qemu::with_options(options);
        let error = engine.probe(&spec()).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
}
