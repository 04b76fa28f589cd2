//! What a session is to be.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use vmette_image::{BlockFs, ImageConfig, NetworkOptions, PullPolicy, RootfsArtifact};
use vmette_vmm::{AcceleratorChoice, Console};

/// Base kernel command line.
pub const DEFAULT_CMDLINE: &str = "console=hvc0 quiet";

/// What the machine is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkloadStrategy {
    /// Runs [`Config::argv`] or [`Config::exec_cmd`], else what the image says, and ends with it. Without any of them, as
    /// [`WorkloadStrategy::Agent`].
    #[default]
    OneShot,
    /// Stays up until it is stopped; commands come with [`Session::exec`](crate::Session::exec).
    Agent,
}

/// The port of the host that the guest is told of in `VMETTE_VSOCK_PORT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VsockPort {
    /// None, and no vsock device.
    Disabled,
    /// None, and no vsock device, unless [`Config::vsock`] or [`Config::vsock_forwards`] ask for one: a device costs each
    /// start some time. The port is then the first forward's, else one of 50000 to 59999.
    #[default]
    Auto,
    /// This one, and a device: 1 to 4294967294.
    Fixed(u32),
}

/// A port of the host at which the guest of one machine reaches a UNIX socket of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockForward {
    /// The port: 1 to 4294967294.
    pub port: u32,
    /// The socket, a stream socket on which somebody listens.
    pub path: PathBuf,
}

/// A UNIX socket of the host that is made for a session: each connection to it becomes one to a port of the guest. Only
/// this user may connect. It is there before the first command runs, and gone with the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockConnect {
    /// The guest's port: 1 to 4294967294. Until somebody listens there, connections are closed at once.
    pub port: u32,
    /// The socket, in a folder that exists. What is there already is an error, unless it is a socket on which nobody
    /// listens any more.
    pub path: PathBuf,
}

/// A rootfs that is a host folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsShare {
    /// The folder. The guest never writes to it: writes go to an overlay.
    pub path: PathBuf,
    /// Whether the guest's root is read-only, without an overlay.
    pub read_only: bool,
}

/// A rootfs that is a block image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsBlock {
    /// The image. It is never written to.
    pub path: PathBuf,
    /// Its file system.
    pub fstype: BlockFs,
}

/// The workload's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// A folder.
    Share(RootfsShare),
    /// An image.
    Block(RootfsBlock),
}

/// A host folder granted to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareMount {
    /// Its name: ASCII letters, digits, `-`, `_`, `.`; unique; not `ctl`, `rootfs`, `certs` or `agent`.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// Whether the host refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Where it appears in the guest; `/mnt/<tag>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl ShareMount {
    /// A writable share at `/mnt/<tag>`.
    pub fn new(tag: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { tag: tag.into(), path: path.into(), read_only: false, target: None }
    }

    /// Where it appears in the guest.
    #[must_use]
    pub fn guest_path(&self) -> String {
        self.target.clone().unwrap_or_else(|| format!("{}/{}", vmette_wire::devices::SHARE_DIR, self.tag))
    }
}

impl From<&ShareMount> for vmette_wire::devices::Share {
    /// The share as the guest is told of it.
    fn from(share: &ShareMount) -> Self {
        Self { tag: share.tag.clone(), target: share.guest_path(), read_only: share.read_only }
    }
}

/// What a session is to be. Nothing is granted that is not named here.
#[derive(Debug, Clone)]
pub struct Config {
    /// Linux kernel; empty: the one that vmette provides.
    pub kernel: PathBuf,
    /// initramfs; empty: the one that vmette provides.
    pub initramfs: PathBuf,
    /// Base kernel command line.
    pub cmdline: String,
    /// The workload's root; `None`: the built-in one.
    pub rootfs: Option<Rootfs>,
    /// What the caller calls the rootfs, for the report; its path when absent.
    pub rootfs_name: Option<String>,
    /// How the image wants to be run; what the caller says below wins. [`Config::set_rootfs_artifact`] sets it.
    pub image: ImageConfig,
    /// Takes the place of the image's entrypoint, and drops its command. An empty one is none at all.
    pub entrypoint: Option<Vec<String>>,
    /// Whether the root is read-only whatever the rootfs is. [`RootfsShare::read_only`] says the same for a folder.
    pub rootfs_read_only: bool,
    /// Host folders.
    pub shares: Vec<ShareMount>,
    /// Raw images, read-write.
    pub disks: Vec<PathBuf>,
    /// A shell command line to run. The image's entrypoint has no part in it.
    pub exec_cmd: Option<String>,
    /// A program and its arguments to run, or arguments of the entrypoint if there is one; wins over `exec_cmd`.
    pub argv: Option<Vec<String>>,
    /// Where commands start; it must exist. Without it, where the image says.
    pub cwd: Option<String>,
    /// Who runs commands. Without it, who the image says.
    pub user: Option<String>,
    /// Whether the command is PID 1 of its namespace, as an init system wants to be.
    pub switch_root: bool,
    /// Whether the guest has a network, behind the host's address translation: it reaches the internet, and whatever
    /// else the host's own network reaches, the host's services included unless they listen on its loopback only. An
    /// engine that cannot keep the guest away from that loopback refuses. Such a machine boots cold, and cannot be saved.
    pub net: bool,
    /// Whether vmette prints nothing of its own.
    pub quiet: bool,
    /// Whether the command's output is kept for [`Session::wait_captured`](crate::Session::wait_captured) and
    /// [`Session::capture_rx`](crate::Session::capture_rx) rather than passed to this process's stdout and stderr.
    pub capture_output: bool,
    /// The port that the guest is told of, and whether there is a vsock device.
    pub vsock_port: VsockPort,
    /// Whether the machine has a vsock device although no port asks for one: for
    /// [`Session::vsock_listen`](crate::Session::vsock_listen) and
    /// [`Session::vsock_connect`](crate::Session::vsock_connect).
    pub vsock: bool,
    /// Whether the session's command finds, at the port it is told of, somebody who sends back what it sends and shows it
    /// as [`Notice::Vsock`](crate::Notice::Vsock). Not when a forward has that port, and not without a command. Set it to
    /// `false` to listen there yourself.
    pub vsock_echo: bool,
    /// Ports of the host that lead to UNIX sockets of the host.
    pub vsock_forwards: Vec<VsockForward>,
    /// UNIX sockets of the host that lead to ports of the guest.
    pub vsock_connects: Vec<VsockConnect>,
    /// vsock port in the guest for snapshots.
    pub guest_vsock_port: u32,
    /// Ends the session after that many seconds, counted from the start of the session. Resolving a rootfs comes before
    /// that, and has limits of its own.
    pub timeout_seconds: Option<u32>,
    /// Virtual CPUs, 1 or more.
    pub vcpus: u8,
    /// Memory in MiB.
    pub mem_mib: u64,
    /// Saves the whole machine into this new folder once the command has ended with status 0, at once if there is no
    /// command, and ends the session. Only a command that is named here counts, not one of the image.
    pub build_snapshot: Option<PathBuf>,
    /// Starts from the snapshot in this folder: see [`Config::resume`](Self::resume).
    pub resume_snapshot: Option<PathBuf>,
    /// Whether [`Session::snapshot`](crate::Session::snapshot) may be used. Costs a start from a template some 50 ms and
    /// the memory that it otherwise shares with other machines.
    pub allow_snapshot: bool,
    /// What the machine is for.
    pub workload: WorkloadStrategy,
    /// Width and height of the desktop, in pixels.
    pub display_size: (u32, u32),
    /// The workload's environment, after the image's; later ones win.
    pub env: Vec<(String, String)>,
    /// Size of a scratch disk that takes the root's writes, in MiB; without it they go to the guest's memory.
    pub scratch_mib: Option<u64>,
    /// Which accelerator.
    pub accelerator: AcceleratorChoice,
    /// Where the guest kernel's messages go.
    pub console: Console,
    /// Whether the session may start from, and leave behind, a template of a booted machine.
    pub template: bool,
    /// Folder with CA certificates (`*.pem`, `*.crt`, `*.cer`) that the workload trusts.
    pub ca_certs: Option<PathBuf>,
    /// Cache folder; `None`: the user's.
    pub cache_dir: Option<PathBuf>,
    /// Further kernel modules that the guest loads when it boots, for example `kvm-amd`.
    pub extra_modules: Vec<String>,
    /// Whether nothing may be fetched over the network on the host.
    pub offline: bool,
    /// When the source of a rootfs that is in the cache is asked for something newer.
    pub pull: PullPolicy,
    /// How registries and other servers are talked to.
    pub network: NetworkOptions,
    /// A file of the installation of vmette that this is, such as a shared library: its helper programs are looked for
    /// around that as they are around the running program.
    pub installed_at: Option<PathBuf>,
}

impl Config {
    /// A one-shot machine with one CPU, 512 MiB, the built-in rootfs and no grants. Empty paths stand for the kernel
    /// and the initramfs that vmette provides.
    pub fn new(kernel: impl Into<PathBuf>, initramfs: impl Into<PathBuf>) -> Self {
        Self {
            kernel: kernel.into(),
            initramfs: initramfs.into(),
            cmdline: DEFAULT_CMDLINE.into(),
            rootfs: None,
            rootfs_name: None,
            image: ImageConfig::default(),
            entrypoint: None,
            rootfs_read_only: false,
            shares: Vec::new(),
            disks: Vec::new(),
            exec_cmd: None,
            argv: None,
            cwd: None,
            user: None,
            switch_root: false,
            net: false,
            quiet: false,
            capture_output: false,
            vsock_port: VsockPort::Auto,
            vsock: false,
            vsock_echo: true,
            vsock_forwards: Vec::new(),
            vsock_connects: Vec::new(),
            guest_vsock_port: 1025,
            timeout_seconds: None,
            vcpus: 1,
            mem_mib: 512,
            build_snapshot: None,
            resume_snapshot: None,
            allow_snapshot: false,
            workload: WorkloadStrategy::OneShot,
            display_size: (1280, 800),
            env: Vec::new(),
            scratch_mib: None,
            accelerator: AcceleratorChoice::Auto,
            console: Console::Discard,
            template: true,
            ca_certs: None,
            cache_dir: None,
            extra_modules: Vec::new(),
            offline: false,
            pull: PullPolicy::default(),
            network: NetworkOptions::default(),
            installed_at: None,
        }
    }

    /// Takes over what a provider resolved, with how it wants to be run.
    pub fn set_rootfs_artifact(&mut self, artifact: RootfsArtifact, force_read_only: bool) {
        self.rootfs_read_only |= force_read_only;
        let (rootfs, image) = match artifact {
            RootfsArtifact::Directory { path, read_only, config } => {
                let read_only = read_only || force_read_only;
                (Rootfs::Share(RootfsShare { path, read_only }), config)
            }
            RootfsArtifact::BlockImage { path, fstype, config } => {
                (Rootfs::Block(RootfsBlock { path, fstype }), config)
            }
        };
        self.rootfs = Some(rootfs);
        self.image = image;
    }

    /// Whether the workload's root takes no writes.
    #[must_use]
    pub fn is_root_read_only(&self) -> bool {
        self.rootfs_read_only || matches!(&self.rootfs, Some(Rootfs::Share(share)) if share.read_only)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new("", "")
    }
}
