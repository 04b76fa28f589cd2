//! From what is asked for to what is started: defaults are filled in, the shape of a snapshot is taken over, and
//! everything that can be known without a machine is checked.

use std::fmt;
use std::path::PathBuf;

use vmette_vmm::AcceleratorChoice;
use vmette_wire::handshake::PROTOCOL_VERSION;

use crate::config::{CommandOptions, Config, GrantOptions, HostOptions, Machine, RootOptions, Rootfs, Vsock};
use crate::error::Error;
use crate::snapshot::Snapshot;
use crate::{validate, vsock};

/// What a session is: nothing is left open, and no two parts contradict each other.
pub(crate) struct Resolved {
    pub(crate) machine: Machine,
    /// Its `read_only` holds for whatever the rootfs is.
    pub(crate) root: RootOptions,
    pub(crate) command: CommandOptions,
    pub(crate) grants: GrantOptions,
    /// The vsock device, if there is one.
    pub(crate) vsock: Option<Vsock>,
    /// The folder into which the machine is saved when its command has succeeded.
    pub(crate) build_snapshot: Option<PathBuf>,
    /// Whether the machine can be saved at all.
    pub(crate) savable: bool,
    /// The snapshot that it starts from.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) host: HostOptions,
}

impl Resolved {
    /// The session that `config` asks for; from `snapshot`, if it is to start from one.
    ///
    /// # Errors
    /// No machine can be like that, or the snapshot is another one.
    pub(crate) fn new(config: &Config, snapshot: Option<Snapshot>) -> Result<Self, Error> {
        validate::asked(config)?;
        let mut resolved = Self {
            machine: Machine::new(&config.machine),
            root: config.root.clone(),
            command: config.command.clone(),
            grants: config.grants.clone(),
            vsock: Vsock::new(&config.vsock, vsock::random_port)?,
            build_snapshot: config.snapshots.build.clone(),
            savable: config.snapshots.allow || config.snapshots.build.is_some(),
            snapshot: None,
            host: config.host.clone(),
        };
        if let Some(snapshot) = snapshot {
            resolved.adopt(config, &snapshot)?;
            resolved.snapshot = Some(snapshot);
        }
        resolved.root.read_only |=
            matches!(&resolved.root.rootfs, Some(Rootfs::Share(share)) if share.read_only);
        // What a snapshot says of its image is as foreign as what an image says of itself.
        validate::shape(&resolved.machine, &resolved.root)?;
        Ok(resolved)
    }

    /// Takes over what the snapshot decides. What is asked for and is not so there is refused.
    fn adopt(&mut self, config: &Config, snapshot: &Snapshot) -> Result<(), Error> {
        let saved = snapshot.manifest();
        if saved.arch != std::env::consts::ARCH {
            return Err(snapshot.refused(&format!(
                "it is of a guest for {}, and this host runs {}",
                saved.arch,
                std::env::consts::ARCH
            )));
        }
        if saved.protocol != PROTOCOL_VERSION {
            return Err(snapshot.refused(&format!(
                "vmette {} made it, whose guest speaks version {} of the protocol, this one {PROTOCOL_VERSION}: make it anew",
                saved.vmette, saved.protocol
            )));
        }
        let same = Same(snapshot);
        let (machine, asked) = (&mut self.machine, &config.machine);
        machine.vcpus = same.number("virtual CPUs", saved.machine.vcpus, asked.vcpus)?;
        machine.mem_mib = same.number("MiB of memory", saved.machine.memory_mib, asked.mem_mib)?;
        machine.cmdline = same.cmdline(&saved.machine.cmdline, asked.cmdline.as_ref())?;
        machine.accelerator = same.accelerator(&saved.engine.accelerator, asked.accelerator)?;
        machine.extra_modules.clone_from(&saved.extra_modules);
        machine.kernel = asked.kernel.clone().or_else(|| saved.kernel.path.clone());
        machine.initramfs = asked.initramfs.clone().or_else(|| saved.initramfs.path.clone());
        self.root.scratch_mib = same.scratch(saved.scratch_mib, config.root.scratch_mib)?;
        let read_only = saved.root.is_read_only();
        if config.root.read_only && !read_only {
            return Err(snapshot.refused("wanted is a read-only root, and its root takes writes"));
        }
        self.root.read_only = read_only;
        if config.command.switch_root && !saved.root.switch_root {
            return Err(snapshot.refused("wanted is a command as PID 1, and it has a PID 1 already"));
        }
        // Its PID 1 runs, whichever that is: a command is one more.
        self.command.switch_root = false;
        self.root.image.clone_from(&saved.image);
        self.root.name = Some(saved.rootfs.name.clone());
        Ok(())
    }
}

/// What a snapshot has, beside what is asked for.
struct Same<'a>(&'a Snapshot);

impl Same<'_> {
    fn number<T: PartialEq + fmt::Display>(
        &self,
        what: &str,
        saved: T,
        asked: Option<T>,
    ) -> Result<T, Error> {
        match asked {
            Some(asked) if asked != saved => {
                Err(self.0.refused(&format!("it has {saved} {what}, and {asked} are wanted")))
            }
            _ => Ok(saved),
        }
    }

    fn cmdline(&self, saved: &str, asked: Option<&String>) -> Result<String, Error> {
        match asked {
            Some(asked) if asked != saved => Err(self.0.refused(&format!(
                "its kernel was booted with the command line `{saved}`, wanted is `{asked}`"
            ))),
            _ => Ok(saved.to_owned()),
        }
    }

    fn scratch(&self, saved: Option<u64>, asked: Option<u64>) -> Result<Option<u64>, Error> {
        match asked {
            Some(mib) if asked != saved => {
                let has = saved.map_or("none".to_owned(), |mib| format!("one of {mib} MiB"));
                Err(self.0.refused(&format!("wanted is a scratch disk of {mib} MiB, and it has {has}")))
            }
            _ => Ok(saved),
        }
    }

    /// What executed the guest has to execute it again.
    fn accelerator(&self, saved: &str, asked: AcceleratorChoice) -> Result<AcceleratorChoice, Error> {
        match (asked, saved) {
            (AcceleratorChoice::Auto | AcceleratorChoice::Tcg, "tcg") => Ok(AcceleratorChoice::Tcg),
            (AcceleratorChoice::Auto | AcceleratorChoice::Kvm, "kvm") => Ok(AcceleratorChoice::Kvm),
            (AcceleratorChoice::Auto, _) => Ok(asked),
            (AcceleratorChoice::Hardware, saved) if saved != "tcg" => Ok(asked),
            (AcceleratorChoice::Hardware, _) => Err(self.0.refused(
                "it was saved under software emulation and runs under nothing else; hardware virtualisation is wanted",
            )),
            (asked, saved) => {
                Err(self.0.refused(&format!("it was saved under {saved}, and {asked} is wanted")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_CMDLINE;

    fn resolved(config: &Config) -> Resolved {
        Resolved::new(config, None).unwrap()
    }

    #[test]
    fn a_default_that_is_said_is_not_one_that_was_left_out() {
        let said = Config::default().with(|c| c.machine.cmdline = Some(DEFAULT_CMDLINE.into()));
        let (said, left_out) = (resolved(&said), resolved(&Config::default()));
        assert_eq!(said.machine.cmdline, left_out.machine.cmdline);
        assert!(said.machine.own_boot && !left_out.machine.own_boot);
        assert_eq!((left_out.machine.vcpus, left_out.machine.mem_mib), (1, 512));
        assert!(left_out.machine.template && left_out.vsock.is_none());
    }
}
