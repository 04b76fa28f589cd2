//! What a session is asked to be, as data: the same in Rust, in C and in the request of a service. What is not said is a
//! default of the session's; nothing is granted that is not named.

mod machine;
mod root;
mod share;
mod variables;
mod vsock;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmette_image::{ImageConfig, NetworkOptions, PullPolicy};
use vmette_vmm::AcceleratorChoice;

pub(crate) use machine::Machine;
pub use machine::{DEFAULT_CMDLINE, DEFAULT_MEM_MIB, DEFAULT_VCPUS};
pub use root::{Rootfs, RootfsBlock, RootfsShare};
pub use share::ShareMount;
pub(crate) use vsock::Vsock;
pub use vsock::{VsockConnect, VsockForward, VsockOptions, VsockPort};

/// What a session is asked to be. By default a machine with one CPU, 512 MiB, the built-in root and no grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The machine's shape, and what it boots.
    pub machine: MachineOptions,
    /// The workload's root, and where its writes go.
    pub root: RootOptions,
    /// What runs, where and as whom.
    pub command: CommandOptions,
    /// What the guest can reach of the host.
    pub grants: GrantOptions,
    /// Sockets between host and guest.
    pub vsock: VsockOptions,
    /// Snapshots that are made or started from.
    pub snapshots: SnapshotOptions,
    /// How this host is used: its cache, its network.
    pub host: HostOptions,
}

/// The machine's shape, and what it boots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineOptions {
    /// Virtual CPUs, 1 to [`VCPUS_MAX`](crate::VCPUS_MAX). Default: 1, or those of the snapshot.
    pub vcpus: Option<u8>,
    /// Memory in MiB. Default: 512, or that of the snapshot.
    pub mem_mib: Option<u64>,
    /// What executes the guest.
    pub accelerator: AcceleratorChoice,
    /// Seconds after which the session ends, counted from its start. Default, and 0: no limit. Resolving a rootfs comes before
    /// that, and has limits of its own.
    pub timeout_seconds: Option<u32>,
    /// Whether the session may start from, and leave behind, a template of a booted machine. Default: yes.
    pub template: Option<bool>,
    /// Linux kernel. Default: the one that vmette provides, or that of the snapshot.
    pub kernel: Option<PathBuf>,
    /// Initramfs. Default: the one that vmette provides, or that of the snapshot.
    pub initramfs: Option<PathBuf>,
    /// Base of the kernel's command line. Default: `console=hvc0 quiet`, or that of the snapshot.
    pub cmdline: Option<String>,
    /// Further kernel modules that the guest loads when it boots, for example `kvm-amd`.
    pub extra_modules: Vec<String>,
}

/// The workload's root, and where its writes go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootOptions {
    /// The root. Default: the built-in one, or that of the snapshot.
    pub rootfs: Option<Rootfs>,
    /// The caller's name for the root, for the report. Default: its path.
    pub name: Option<String>,
    /// How the image wants to be run; [`CommandOptions`] win. [`RootOptions::set_artifact`] sets it.
    pub image: ImageConfig,
    /// Whether the root is read-only, whatever it is. [`RootfsShare::read_only`] says the same for a folder.
    pub read_only: bool,
    /// Size in MiB of a scratch disk that takes the root's writes. Default: they go to the guest's memory.
    pub scratch_mib: Option<u64>,
}

/// What runs, where and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandOptions {
    /// Whether there is a command at all.
    pub workload: WorkloadStrategy,
    /// A program and its arguments, or arguments of the entrypoint if there is one. Wins over `shell`.
    pub argv: Option<Vec<String>>,
    /// A command line for the guest's shell. The image's entrypoint has no part in it.
    pub shell: Option<String>,
    /// Takes the place of the image's entrypoint, and drops its command. An empty one removes both.
    pub entrypoint: Option<Vec<String>>,
    /// The folder of the guest in which commands start; it must exist. Default: where the image says.
    pub cwd: Option<String>,
    /// The user of the guest as whom commands run. Default: the image's.
    pub user: Option<String>,
    /// The workload's environment, after the image's; of two equal names the later one wins. A name may be any that
    /// [`is_valid_env_key`](crate::is_valid_env_key) takes. In the written form a word that is not UTF-8 is an array of its
    /// bytes.
    #[serde(with = "variables")]
    pub env: Vec<(OsString, OsString)>,
    /// Whether the command is PID 1 of its namespace, as an init system wants to be.
    pub switch_root: bool,
}

/// Whether a session has a command of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadStrategy {
    /// It runs [`CommandOptions::argv`] or [`CommandOptions::shell`], else the image's command, and ends with it. Without
    /// any of them it is as [`WorkloadStrategy::Agent`].
    #[default]
    OneShot,
    /// It stays up until it is stopped; commands come with [`SessionHandle::exec`](crate::SessionHandle::exec).
    Agent,
}

/// What the guest can reach of the host, beside [vsock](VsockOptions).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrantOptions {
    /// Host folders.
    pub shares: Vec<ShareMount>,
    /// Raw images and block devices, read-write.
    pub disks: Vec<PathBuf>,
    /// Whether the guest has a network, behind the host's address translation: it reaches the internet, and whatever
    /// else the host's own network reaches, the host's services included unless they listen on its loopback only. An
    /// engine that cannot keep the guest away from that loopback refuses. Such a machine boots cold, and cannot be saved.
    pub net: bool,
    /// Folder with CA certificates (`*.pem`, `*.crt`, `*.cer`) that the workload trusts.
    pub ca_certs: Option<PathBuf>,
}

/// Snapshots that are made or started from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotOptions {
    /// The new folder into which the whole machine is saved once the command has ended with status 0, at once if there is
    /// no command; the session ends then. Only a command that is named here counts, not the image's.
    pub build: Option<PathBuf>,
    /// The folder of the snapshot that the session starts from.
    pub resume: Option<PathBuf>,
    /// Whether [`Session::snapshot`](crate::Session::snapshot) may be used. Costs a start from a template some 50 ms and
    /// the memory that it otherwise shares with other machines.
    pub allow: bool,
}

/// How this host is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostOptions {
    /// Cache folder. Default: the user's.
    pub cache_dir: Option<PathBuf>,
    /// Whether nothing may be fetched over the network.
    pub offline: bool,
    /// When the source of a rootfs that is in the cache is asked for something newer.
    pub pull: PullPolicy,
    /// How registries and other servers are talked to.
    pub network: NetworkOptions,
    /// A file of the installation of vmette that this is, such as a shared library: its helper programs are looked for
    /// around that as they are around the running program.
    pub installed_at: Option<PathBuf>,
}

impl MachineOptions {
    /// The time after which the session ends; `None` for no limit, which is what 0 seconds stand for too.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()))
    }
}

impl Config {
    /// A configuration that starts from the snapshot in `folder`: of its shape, with its image's wishes, and with no
    /// grants.
    #[must_use]
    pub fn resume(folder: impl Into<PathBuf>) -> Self {
        let snapshots = SnapshotOptions { resume: Some(folder.into()), ..SnapshotOptions::default() };
        Self { snapshots, ..Self::default() }
    }

    /// The configuration after a change, for use in the middle of an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_configuration_is_the_same_after_it_was_written_and_read() {
        let mut config = Config::default();
        config.machine.vcpus = Some(2);
        config.machine.accelerator = AcceleratorChoice::Tcg;
        config.root.rootfs = Some(Rootfs::Share(RootfsShare { path: "/r".into(), read_only: true }));
        config.command.argv = Some(vec!["ls".into()]);
        let bytes = OsString::from_vec(b"not UTF-8: \xff".to_vec());
        config.command.env = vec![("A.b-c".into(), "d".into()), ("E".into(), bytes)];
        config.grants.shares = vec![ShareMount::new("work", "/w")];
        config.vsock.port = VsockPort::Fixed(5000);
        config.vsock.forwards = vec![VsockForward { port: 1, path: "/s".into() }];
        config.host.pull = PullPolicy::Never;
        config.host.network.plain_http = vec!["a:5000".into()];
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert!(text.contains(r#"[["A.b-c","d"],["E",[110,"#), "{text}");
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    }

    /// Each object of the written form gets a field too much, one after the other.
    #[test]
    fn an_unknown_field_is_refused_by_its_name_wherever_it_is() {
        let mut config = Config::default();
        config.root.rootfs = Some(Rootfs::Share(RootfsShare { path: "/r".into(), read_only: true }));
        config.grants.shares = vec![ShareMount::new("work", "/w")];
        config.vsock.forwards = vec![VsockForward { port: 1, path: "/s".into() }];
        config.vsock.connects = vec![VsockConnect { port: 1, path: "/s".into() }];
        let whole = serde_json::to_value(&config).unwrap();
        let mut places = vec![String::new()];
        let mut objects = 0;
        while let Some(place) = places.pop() {
            let mut changed = whole.clone();
            match changed.pointer_mut(&place).unwrap() {
                serde_json::Value::Object(fields) => {
                    places.extend(fields.keys().map(|key| format!("{place}/{key}")));
                    // Labels and the choice of a root have no fields of their own.
                    if place.ends_with("/labels") || place.ends_with("/rootfs") {
                        continue;
                    }
                    fields.insert("grant_all".into(), true.into());
                }
                serde_json::Value::Array(items) => {
                    places.extend((0..items.len()).map(|i| format!("{place}/{i}")));
                    continue;
                }
                _ => continue,
            }
            objects += 1;
            let error = serde_json::from_value::<Config>(changed).expect_err(&place).to_string();
            assert!(error.contains("unknown field `grant_all`"), "{place}: {error}");
        }
        assert_eq!(objects, 14, "a group was not visited");
    }
}
