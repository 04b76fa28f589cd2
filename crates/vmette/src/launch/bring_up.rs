//! From a spec to a machine with an answering agent: through a template, or from power-on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use vmette_vmm::{Capabilities, Machine, MachineEnd, MachineSpec, Origin};
use vmette_wire::{Hello, RootName};

use super::judge::{Verdict, verdict};
use super::launcher::Launcher;
use super::prepare::{Prepared, base_spec};
use crate::connection::{Connection, RootHandle};
use crate::error::{Error, StartError};
use crate::report::StartedFrom;
use crate::template::Template;
use crate::{ExecOptions, Process, identity};

/// How long a booting guest may take until its agent answers.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a restored one may take. Sixteen at once on two cores under emulation need a few seconds.
pub(super) const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the agent may take to build the root: hot-plugged devices have to appear first.
pub(super) const ROOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Commands that run before a template with a root is saved: after the third there is nothing left to be set up.
const WARM_UPS: usize = 3;

/// How long one of them may take. It is the image's program: it may do anything, or wait for ever.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait for the machine's own account of its end once its stream has ended.
const END_GRACE: Duration = Duration::from_secs(2);

/// An attempt that got as far as an answering agent.
pub(super) struct Up {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) connection: Connection,
    pub(super) machine_ms: f64,
    pub(super) agent_ms: f64,
}

/// A machine with its root.
pub(super) struct Ready {
    pub(super) up: Up,
    pub(super) root: RootHandle,
}

/// What came of a template.
enum Restored {
    Up(Up),
    /// There is no machine, and the template stays: its fault is not known.
    Not,
    /// There is no such template any more.
    Removed,
}

impl Launcher<'_> {
    /// A machine whose workload's root is ready.
    pub(super) fn bring_up(
        &self,
        prepared: &Prepared,
        capabilities: &Capabilities,
    ) -> Result<(Ready, StartedFrom), Error> {
        if let Some(saved) = &self.config.snapshot {
            return Ok((self.resume(saved, prepared)?, StartedFrom::Snapshot));
        }
        // Two machines from one saved state would have one link address, and be leased one address.
        if self.config.machine.template
            && !self.config.grants.net
            && capabilities.snapshots.refusal().is_none()
            && let Some(ready) = self.via_template(prepared)?
        {
            return Ok((ready, StartedFrom::Template));
        }
        self.check_running()?;
        let up = self.try_start(prepared.spec.clone(), BOOT_TIMEOUT)?;
        Ok((build_root(up, prepared)?, StartedFrom::Cold))
    }

    /// `None`: no template can be had, boot cold. An error: the session has ended meanwhile, or nothing boots at all.
    fn via_template(&self, prepared: &Prepared) -> Result<Option<Ready>, Error> {
        let base = base_spec(&prepared.spec);
        if prepared.root_in_template {
            let base = MachineSpec { rootfs: prepared.spec.rootfs.clone(), ..base.clone() };
            let template =
                Template::locate(&*self.engine, &base, Some((&prepared.boot, &prepared.root)), self.cache)?;
            if template.exists() || template.has_room() {
                let up = self.start_from(&template, base, prepared, true)?;
                return Ok(up.map(|up| Ready { root: up.connection.root(&prepared.root.name), up }));
            }
        }
        let template = Template::locate(&*self.engine, &base, None, self.cache)?;
        let up = self.start_from(&template, base, prepared, false)?;
        up.map(|up| build_root(up, prepared)).transpose()
    }

    /// Starts from the template, making it if need be: of the machine `base`, `with_root` or without one.
    fn start_from(
        &self,
        template: &Template,
        base: MachineSpec,
        prepared: &Prepared,
        with_root: bool,
    ) -> Result<Option<Up>, Error> {
        if template.exists() {
            match self.restore(template, &prepared.spec)? {
                Restored::Up(up) => return Ok(Some(up)),
                // At once it would come to the same.
                Restored::Not => return Ok(None),
                Restored::Removed => {}
            }
        }
        let lock = match template.lock(self.work) {
            Ok(lock) => lock,
            Err(reason) => {
                self.check_running()?;
                self.notices.warn(format!("no template: {reason}; booting cold"));
                return Ok(None);
            }
        };
        // Another run may have made it while we waited.
        if !template.exists() && !self.make(template, base, prepared, with_root)? {
            return Ok(None);
        }
        drop(lock);
        match self.restore(template, &prepared.spec)? {
            Restored::Up(up) => Ok(Some(up)),
            Restored::Not | Restored::Removed => Ok(None),
        }
    }

    fn restore(&self, template: &Template, spec: &MachineSpec) -> Result<Restored, Error> {
        let begun = SystemTime::now();
        let started = template.saved().and_then(|saved| {
            let spec = MachineSpec { origin: Origin::Saved(saved), ..spec.clone() };
            self.try_start(spec, RESTORE_TIMEOUT)
        });
        let error = match started {
            Ok(up) => {
                template.touch();
                return Ok(Restored::Up(up));
            }
            Err(error) => error,
        };
        let verdict = verdict(&error);
        if verdict == Verdict::Caller {
            return Ok(Restored::Not);
        }
        // What has ended with the session says nothing.
        self.check_running()?;
        let condemned = match verdict {
            Verdict::Template => true,
            Verdict::Caller | Verdict::Host => false,
            Verdict::Unclear => template.record_failed_start(begun),
        };
        if !condemned {
            self.notices.warn(format!("no start from the template this time ({error}); booting cold"));
            return Ok(Restored::Not);
        }
        self.notices.warn(format!("the template is not usable ({error}) and was given up"));
        if let Err(e) = template.condemn() {
            self.notices.warn(format!("the template could not be removed: {e}"));
        }
        Ok(Restored::Removed)
    }

    /// Boots a machine and saves it. `false`: it could not be saved.
    fn make(
        &self,
        template: &Template,
        base: MachineSpec,
        prepared: &Prepared,
        with_root: bool,
    ) -> Result<bool, Error> {
        if let Err(reason) = template.check_space() {
            self.notices.warn(format!("no template: {reason}; booting cold"));
            return Ok(false);
        }
        if let Err(e) = template.prune() {
            self.notices.warn(format!("old templates could not be removed: {e}"));
        }
        let of = if with_root { "root" } else { "kernel" };
        self.work.step(&format!("booting a template (once for this {of} and machine shape)"));
        let up = self.try_start(base, BOOT_TIMEOUT)?;
        let (up, warmed) = if with_root {
            let Ready { up, root } = build_root(up, prepared)?;
            (up, warm_up(&root))
        } else {
            (up, Ok(()))
        };
        let saved = match warmed {
            Ok(()) => template.make(|dir| Ok(up.machine.pause().and_then(|()| up.machine.save(dir))?)),
            Err(e) => Err(e),
        };
        up.machine.stop();
        self.check_running()?;
        match saved {
            Ok(()) => Ok(true),
            Err(e) => {
                self.notices.warn(format!("no template: {e}; booting cold"));
                Ok(false)
            }
        }
    }

    /// One attempt: a machine, its stream, an agent that says hello.
    pub(super) fn try_start(&self, spec: MachineSpec, timeout: Duration) -> Result<Up, Error> {
        self.try_start_before(spec, timeout, Vec::new())
    }

    /// As [`Self::try_start`]; commands in the machine do not go on before each of the `awaited` roots has had an `attach`.
    pub(super) fn try_start_before(
        &self,
        spec: MachineSpec,
        timeout: Duration,
        awaited: Vec<RootName>,
    ) -> Result<Up, Error> {
        let machine = self.engine.create(spec)?;
        self.shared.attach(&machine);
        let stream = machine.start()?;
        let machine_ms = self.elapsed_ms();
        let end = machine.end();
        let connection = Connection::new(stream, move || match end.wait_until(Instant::now() + END_GRACE) {
            Some(MachineEnd::Failed(message)) => Some(message),
            Some(MachineEnd::PoweredOff) => Some("the guest powered off".into()),
            Some(MachineEnd::Stopped) => Some("the machine was stopped".into()),
            None => None,
        })?;
        let (hello, entropy) = identity::hello()?;
        let hello = Hello { awaited, ..hello };
        let answer = connection
            .request(hello, &entropy, timeout)
            .and_then(|answer| Ok(answer.map_err(|reason| StartError::AgentRefused { reason })?));
        if let Err(e) = answer {
            machine.stop();
            return Err(match e {
                Error::Timeout(seconds) => StartError::AgentSilent { seconds }.into(),
                Error::Agent(cause) => StartError::GuestEnded { cause }.into(),
                other => other,
            });
        }
        Ok(Up { machine, connection, machine_ms, agent_ms: self.elapsed_ms() })
    }

    fn check_running(&self) -> Result<(), Error> {
        match self.shared.ended() {
            Some(end) => Err(StartError::SessionEnded(end).into()),
            None => Ok(()),
        }
    }
}

/// Leaves in the guest's memory what the first commands would have to read and set up. An error: the machine is not in a
/// state to be saved, because a command still runs, or because its agent does not answer.
fn warm_up(root: &RootHandle) -> Result<(), Error> {
    for _ in 0..WARM_UPS {
        let process = match Process::start(root, &ExecOptions::argv(["true"])) {
            Ok(process) => process,
            // An image need not have such a program.
            Err(Error::Request(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        match process.run_out(Instant::now() + WARM_UP_LIMIT) {
            Ok(_) => {}
            Err(Error::Timeout(_)) => {
                process.signal(libc::SIGKILL)?;
                return process.run_out(Instant::now() + WARM_UP_LIMIT).map(drop);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Has the agent build the workload's root.
fn build_root(up: Up, prepared: &Prepared) -> Result<Ready, Error> {
    let Prepared { boot, root, ca_bundle, .. } = prepared;
    let root = up.connection.build_root(boot, root, ca_bundle, ROOT_TIMEOUT)?;
    let root = root.map_err(|reason| StartError::Root { reason })?;
    Ok(Ready { up, root })
}
