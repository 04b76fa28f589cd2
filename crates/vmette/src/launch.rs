//! From a configuration to a machine whose agent has built the workload's root.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmette_vmm::{
    Accelerator, AcceleratorChoice, Capabilities, Console, Disk, Hypervisor, Machine, MachineEnd,
    MachineSpec, Origin, Share,
};
use vmette_wire::ResponseHeader;
use vmette_wire::agent::{self, Boot, Op, Overlay, Root};

use crate::assets::{self, AssetOptions, CacheRoot};
use crate::connection::Connection;
use crate::end::Shared;
use crate::guest_text::safe;
use crate::notice::Notices;
use crate::report::{Grants, Report, ShareGrant, StartedFrom, Timings};
use crate::template::Template;
use crate::{Config, Error, Rootfs, RootfsArtifact, RootfsBlock, ca, identity};

/// How long a booting guest may take until its agent answers.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a restored one may take. Sixteen at once on two cores under emulation need a few seconds.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the agent may take to build the root: hot-plugged devices have to appear first.
const ROOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait for the machine's own account of its end once its stream has ended.
const END_GRACE: Duration = Duration::from_secs(2);

/// What a session holds while it runs.
pub(crate) struct Launched {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) connection: Connection,
    pub(crate) report: Report,
    pub(crate) cmdline: String,
    /// Kept until the session ends.
    pub(crate) _held: Held,
}

/// What has to outlive the machine.
#[derive(Default)]
pub(crate) struct Held {
    scratch: Option<File>,
    rootfs: Option<vmette_image::InUse>,
}

/// Everything that was resolved before the first machine is made.
struct Prepared {
    spec: MachineSpec,
    boot: Boot,
    ca_bundle: Vec<u8>,
    held: Held,
}

/// An attempt that got as far as an answering agent.
struct Up {
    machine: Arc<dyn Machine>,
    connection: Connection,
    machine_ms: f64,
    agent_ms: f64,
}

pub(crate) struct Launcher<'a> {
    pub(crate) config: &'a Config,
    pub(crate) engine: Arc<dyn Hypervisor>,
    pub(crate) cache: &'a CacheRoot,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) notices: &'a Notices,
    pub(crate) started: Instant,
}

impl Launcher<'_> {
    /// Starts the machine: from a template, else cold; on the best accelerator, else on emulation if any will do.
    pub(crate) fn launch(&self) -> Result<Launched, Error> {
        // Before anything is fetched or made for an engine that is not there.
        let bare = spec_of(self.config, self.config.kernel.clone(), self.config.initramfs.clone());
        let mut capabilities = self.engine.probe(&bare)?;
        let mut prepared = self.prepare(capabilities.boots)?;
        let assets_ms = self.elapsed_ms();
        let (up, started_from) = match self.bring_up(&prepared.spec, &capabilities) {
            Ok(up) => up,
            Err(e) if self.may_fall_back(&capabilities) => {
                self.notices
                    .warn(format!("no machine came up on KVM ({e}); this run is emulated in software"));
                if let Err(e) = self.engine.boot_failed(&prepared.spec, &e.to_string()) {
                    self.notices.warn(format!("the next run will try KVM again: {e}"));
                }
                prepared.spec.accelerator = AcceleratorChoice::Tcg;
                capabilities = self.engine.probe(&prepared.spec)?;
                self.bring_up(&prepared.spec, &capabilities)?
            }
            Err(e) => return Err(e),
        };
        let answer =
            up.connection.request(&Op::Boot(prepared.boot.clone()), &prepared.ca_bundle, ROOT_TIMEOUT)?;
        accepted(&answer.0).map_err(|e| Error::StartFailed(format!("the guest's root: {e}")))?;
        let timings = Timings {
            assets_ms,
            machine_ms: up.machine_ms,
            agent_ms: up.agent_ms,
            ready_ms: self.elapsed_ms(),
        };
        Ok(Launched {
            report: self.report(&capabilities, started_from, timings),
            cmdline: prepared.spec.cmdline,
            machine: up.machine,
            connection: up.connection,
            _held: prepared.held,
        })
    }

    fn may_fall_back(&self, capabilities: &Capabilities) -> bool {
        self.config.accelerator == AcceleratorChoice::Auto
            && capabilities.accelerator == Accelerator::Kvm
            && self.shared.ended().is_none()
    }

    fn bring_up(&self, spec: &MachineSpec, capabilities: &Capabilities) -> Result<(Up, StartedFrom), Error> {
        if self.config.template
            && capabilities.snapshots
            && let Some(up) = self.via_template(spec)?
        {
            return Ok((up, StartedFrom::Template));
        }
        self.check_running()?;
        let up = self.try_start(spec.clone(), BOOT_TIMEOUT)?;
        Ok((up, StartedFrom::Cold))
    }

    /// `None`: no template can be had, boot cold. An error: the session has ended meanwhile, or nothing boots at all.
    fn via_template(&self, spec: &MachineSpec) -> Result<Option<Up>, Error> {
        let base = base_spec(spec);
        let template = Template::locate(&*self.engine, &base, self.cache)?;
        if template.exists()
            && let Some(up) = self.restore(&template, spec)?
        {
            return Ok(Some(up));
        }
        let lock = match template.lock() {
            Ok(lock) => lock,
            Err(reason) => {
                self.notices.warn(format!("no template: {reason}; booting cold"));
                return Ok(None);
            }
        };
        // Another run may have made it while we waited.
        if !template.exists() && !self.make(&template, base)? {
            return Ok(None);
        }
        drop(lock);
        self.restore(&template, spec)
    }

    fn restore(&self, template: &Template, spec: &MachineSpec) -> Result<Option<Up>, Error> {
        let mut spec = spec.clone();
        spec.origin = Origin::Snapshot(template.path());
        match self.try_start(spec, RESTORE_TIMEOUT) {
            Ok(up) => {
                template.touch();
                Ok(Some(up))
            }
            // What is wrong with the caller's own files is wrong in a cold boot too: let that one say it.
            Err(Error::Engine(vmette_vmm::Error::File { .. } | vmette_vmm::Error::InvalidSpec(_))) => {
                Ok(None)
            }
            Err(e) => {
                self.check_running()?;
                self.notices.warn(format!("the template is not usable ({e}); booting cold"));
                if let Err(e) = template.condemn() {
                    self.notices.warn(format!("the template could not be removed: {e}"));
                }
                Ok(None)
            }
        }
    }

    /// Boots a bare machine and saves it. `false`: it could not be saved.
    fn make(&self, template: &Template, base: MachineSpec) -> Result<bool, Error> {
        if let Err(reason) = template.check_space() {
            self.notices.warn(format!("no template: {reason}; booting cold"));
            return Ok(false);
        }
        if let Err(e) = template.prune() {
            self.notices.warn(format!("old templates could not be removed: {e}"));
        }
        self.notices.progress("booting a template (once for this kernel and machine shape)");
        let up = self.try_start(base, BOOT_TIMEOUT)?;
        let saved = up.machine.pause().and_then(|()| up.machine.save(&template.path()));
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
    fn try_start(&self, spec: MachineSpec, timeout: Duration) -> Result<Up, Error> {
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
        let answer = connection.request(&Op::Hello(hello), &entropy, timeout).and_then(|(header, _)| {
            accepted(&header).map_err(|e| Error::StartFailed(format!("the guest's agent: {e}")))
        });
        if let Err(e) = answer {
            machine.stop();
            return Err(match e {
                Error::Timeout(seconds) => Error::StartFailed(format!(
                    "the guest's agent did not answer within {seconds} s; see the guest's console with --console"
                )),
                Error::Agent(cause) => Error::StartFailed(cause),
                other => other,
            });
        }
        Ok(Up { machine, connection, machine_ms, agent_ms: self.elapsed_ms() })
    }

    fn check_running(&self) -> Result<(), Error> {
        match self.shared.ended() {
            Some(end) => Err(Error::StartFailed(format!("the session ended while it started: {end:?}"))),
            None => Ok(()),
        }
    }

    fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }

    fn prepare(&self, boots: bool) -> Result<Prepared, Error> {
        let config = self.config;
        let progress = |text: &str| self.notices.progress(text);
        let ca_bundle = match &config.ca_certs {
            Some(dir) => ca::bundle(dir)?,
            None => None,
        };
        let options = asset_options(config, self.cache);
        let (kernel, initramfs) = if boots {
            let found = assets::boot_assets(&options, &progress)?;
            (found.kernel, found.initramfs)
        } else {
            (config.kernel.clone(), config.initramfs.clone())
        };
        let mut held = Held::default();
        let mut shares = Vec::new();
        let block = match &config.rootfs {
            Some(Rootfs::Block(block)) => Some(block.clone()),
            Some(Rootfs::Share(share)) => {
                shares.push(Share {
                    tag: agent::ROOTFS_TAG.into(),
                    path: share.path.clone(),
                    // Writes go to the overlay; the folder itself is never written to.
                    read_only: true,
                });
                None
            }
            None if boots => Some(self.builtin(&options)?),
            None => None,
        };
        let root = match &block {
            Some(block) => {
                held.rootfs = Some(vmette_image::Store::hold(&block.path)?);
                Root::Block { fstype: block.fstype.as_str().to_owned() }
            }
            None => Root::Share,
        };
        let rootfs = block.map(|block| block.path);
        let mut disks = Vec::new();
        let mut overlay = if config.is_root_read_only() { Overlay::None } else { Overlay::Tmpfs };
        if let Some(mib) = config.scratch_mib {
            let (file, path) = self.scratch(mib)?;
            disks.push(Disk { serial: agent::SCRATCH_SERIAL.into(), path, read_only: false });
            held.scratch = Some(file);
            overlay = Overlay::Scratch;
        }
        for (i, path) in config.disks.iter().enumerate() {
            disks.push(Disk { serial: format!("disk{i}"), path: path.clone(), read_only: false });
        }
        shares.extend(config.shares.iter().map(|share| Share {
            tag: share.tag.clone(),
            path: share.path.clone(),
            read_only: share.read_only,
        }));
        let boot = Boot {
            root,
            overlay,
            shares: config
                .shares
                .iter()
                .map(|share| agent::Share {
                    tag: share.tag.clone(),
                    target: share.guest_path(),
                    read_only: share.read_only,
                })
                .collect(),
            ca_bundle: ca_bundle.is_some(),
            switch_root: config.switch_root,
            payload_len: 0,
        };
        let spec = MachineSpec { rootfs, disks, shares, ..spec_of(config, kernel, initramfs) };
        Ok(Prepared { spec, boot, ca_bundle: ca_bundle.unwrap_or_default(), held })
    }

    /// A scratch image without a name: it is gone with the processes that have it open, however they end. It lies in
    /// the cache, because a folder for temporary files may well be memory.
    fn scratch(&self, mib: u64) -> Result<(File, PathBuf), Error> {
        let folder = self.cache.path().join("scratch");
        fs::create_dir_all(&folder)?;
        let image = vmette_image::make_scratch(&folder, mib)?;
        let file = File::options().read(true).write(true).open(image.path())?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok((file, path.into()))
    }

    fn builtin(&self, options: &AssetOptions) -> Result<RootfsBlock, Error> {
        let busybox = assets::busybox(options, &|text| self.notices.progress(text))?;
        let store = vmette_image::Store::open(self.cache.path())?;
        match vmette_image::builtin_rootfs(&store, &busybox)? {
            RootfsArtifact::BlockImage { path, fstype, .. } => Ok(RootfsBlock { path, fstype }),
            RootfsArtifact::Directory { path, .. } => {
                Err(Error::StartFailed(format!("the built-in rootfs is a folder: {}", path.display())))
            }
        }
    }

    fn report(&self, capabilities: &Capabilities, started_from: StartedFrom, timings: Timings) -> Report {
        let shares = self.config.shares.iter().map(|share| ShareGrant {
            host: share.path.display().to_string(),
            guest: share.guest_path(),
            read_only: share.read_only,
        });
        Report {
            engine: capabilities.engine.clone(),
            accelerator: capabilities.accelerator,
            isolation: capabilities.accelerator.isolation(),
            reasons: capabilities.reasons.clone(),
            started_from,
            notes: self.notices.warnings(),
            grants: Grants {
                shares: shares.collect(),
                disks: self.config.disks.iter().map(|d| d.display().to_string()).collect(),
                network: self.config.net,
            },
            timings,
        }
    }
}

/// Where a configuration's kernel and initramfs come from.
pub(crate) fn asset_options(config: &Config, cache: &CacheRoot) -> AssetOptions {
    let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    AssetOptions {
        kernel: given(&config.kernel),
        initramfs: given(&config.initramfs),
        offline: config.offline,
        extra_modules: config.extra_modules.clone(),
        ..AssetOptions::from_env(cache.clone())
    }
}

/// How many disks and shares the machine will have.
fn slots_of(config: &Config) -> usize {
    let rootfs = usize::from(matches!(config.rootfs, Some(Rootfs::Share(_))));
    rootfs + usize::from(config.scratch_mib.is_some()) + config.disks.len() + config.shares.len()
}

/// The bare machine of a configuration.
pub(crate) fn spec_of(config: &Config, kernel: PathBuf, initramfs: PathBuf) -> MachineSpec {
    MachineSpec {
        kernel,
        initramfs,
        cmdline: config.cmdline.clone(),
        vcpus: u32::from(config.vcpus),
        memory_mib: config.mem_mib,
        rootfs: None,
        slots: slots_of(config),
        disks: Vec::new(),
        shares: Vec::new(),
        console: config.console.clone(),
        accelerator: config.accelerator,
        origin: Origin::Cold,
    }
}

/// The machine that a template is made of: the shape, without anything of this one run.
pub(crate) fn base_spec(spec: &MachineSpec) -> MachineSpec {
    MachineSpec {
        rootfs: None,
        disks: Vec::new(),
        shares: Vec::new(),
        console: Console::Discard,
        origin: Origin::Cold,
        ..spec.clone()
    }
}

/// The agent's refusal as a text that is safe to show: the guest chose the words.
fn accepted(header: &ResponseHeader) -> Result<(), String> {
    if header.ok {
        return Ok(());
    }
    Err(safe(header.error.as_deref().unwrap_or("refused without a reason")))
}
