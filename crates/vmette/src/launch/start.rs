//! The steps of a start, in their order.

use std::sync::Arc;

use vmette_vmm::{Accelerator, AcceleratorChoice, Capabilities, Support};

use super::bring_up::Ready;
use super::launcher::{Launched, Launcher};
use super::{prepare, saving};
use crate::error::{ConfigError, Error, SaveError, VsockError};
use crate::report::{Grants, Report, RootfsReport, StartedFrom, Timings};
use crate::vsock;

impl Launcher<'_> {
    /// Starts the machine: from a template, else cold; on the best accelerator, else on emulation if any will do.
    pub(crate) fn launch(&self) -> Result<Launched, Error> {
        // Before anything is fetched or made for an engine that is not there.
        let bare = prepare::bare_spec(self.config);
        let mut capabilities = self.engine.probe(&bare)?;
        if let (Some(reason), true) = (capabilities.vsock.refusal(), self.config.vsock.is_some()) {
            return Err(VsockError::NoDevice(reason.to_owned()).into());
        }
        if let (Some(reason), true) = (capabilities.nat.refusal(), self.config.grants.net) {
            return Err(ConfigError::NoNetwork { reason: reason.to_owned() }.into());
        }
        if !self.config.grants.shares.is_empty() {
            self.try_shares()?;
        }
        if self.config.build_snapshot.is_some() {
            saving::possible(self.config, &capabilities).map_err(SaveError::Impossible)?;
        }
        if let (Some(saved), Some(reason)) = (&self.config.snapshot, capabilities.snapshots.refusal()) {
            return Err(
                saved.refused(&format!("{} cannot restore this machine: {reason}", capabilities.engine))
            );
        }
        let mut prepared = self.prepare(&capabilities)?;
        if !prepared.spec.shares.is_empty() {
            // A folder as root is one as well.
            self.try_shares()?;
        }
        let assets_ms = self.elapsed_ms();
        let (Ready { up, root }, started_from) = match self.bring_up(&prepared, &capabilities) {
            Ok(ready) => ready,
            Err(on_kvm) if self.may_fall_back(&capabilities, &on_kvm) => {
                prepared.spec.accelerator = AcceleratorChoice::Tcg;
                let emulated = self.engine.probe(&prepared.spec)?;
                // When the same machine does not come up under emulation either, KVM is not at fault.
                let Ok(ready) = self.bring_up(&prepared, &emulated) else { return Err(on_kvm) };
                self.notices.warn(format!(
                    "no machine came up on KVM ({on_kvm}); runs are emulated in software until the host restarts"
                ));
                prepared.spec.accelerator = AcceleratorChoice::Kvm;
                if let Err(e) = self.engine.boot_failed(&prepared.spec, &on_kvm.to_string()) {
                    self.notices.warn(format!("the next run will try KVM again: {e}"));
                }
                capabilities = emulated;
                ready
            }
            Err(e) => return Err(e),
        };
        let timings = Timings {
            assets_ms,
            machine_ms: up.machine_ms,
            agent_ms: up.agent_ms,
            ready_ms: self.elapsed_ms(),
        };
        let saver = self.saver(&up, &prepared, &capabilities).map(Arc::new);
        Ok(Launched {
            report: self.report(&capabilities, started_from, prepared.rootfs, timings),
            cmdline: prepared.spec.cmdline,
            saver,
            machine: up.machine,
            connection: up.connection,
            root,
            _held: prepared.held,
        })
    }

    /// A host that can share no folder says so in one line, before a machine is started that would fail.
    fn try_shares(&self) -> Result<(), Error> {
        match self.engine.try_shares() {
            Support::Yes => Ok(()),
            Support::No(reason) => Err(ConfigError::NoShares { reason }.into()),
        }
    }

    /// Whether KVM may be what kept a machine from coming up: not when the caller's own files may be.
    fn may_fall_back(&self, capabilities: &Capabilities, error: &Error) -> bool {
        let of_the_caller = matches!(
            error,
            Error::Engine(vmette_vmm::Error::File { .. } | vmette_vmm::Error::InvalidSpec(_))
        );
        self.config.machine.accelerator == AcceleratorChoice::Auto
            && capabilities.accelerator == Accelerator::Kvm
            && !of_the_caller
            && !self.config.machine.own_boot
            && self.config.snapshot.is_none()
            && self.shared.ended().is_none()
    }

    fn report(
        &self,
        capabilities: &Capabilities,
        started_from: StartedFrom,
        rootfs: RootfsReport,
        timings: Timings,
    ) -> Report {
        let granted = &self.config.grants;
        Report {
            engine: capabilities.engine.clone(),
            accelerator: capabilities.accelerator,
            isolation: capabilities.accelerator.isolation(),
            reasons: capabilities.reasons.clone(),
            started_from,
            rootfs,
            notes: self.notices.warnings(),
            grants: Grants {
                shares: granted.shares.iter().map(Into::into).collect(),
                disks: granted.disks.iter().map(|d| d.display().to_string()).collect(),
                network: granted.net,
                vsock: self.config.vsock.as_ref().map(|vsock| vsock::grant(vsock, self.runs)),
            },
            timings,
        }
    }
}
