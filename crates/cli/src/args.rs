//! The command line, as data. Parsing has no side effects; [`crate::request`] gives it a meaning.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vmette::{ShareMount, VsockConnect, VsockForward};

use crate::grants::{self, Volume};
use crate::image::ImageCommand;
use crate::network_args::{NetworkArgs, Pull};
use crate::values::{self, Entrypoint};

const AFTER_HELP: &str = "\
The original form, vmette --rootfs SPEC [--exec CMD], takes all options of `vmette run` and these:
  --rootfs SPEC            The root (required, but with --resume-snapshot)
  --exec CMD               A shell command line; without it, a shell
  --guest-vsock-port 1025  Of no use any more; other ports are refused

Exit status: the command's own; 128+n when signal n killed it; 127 when it does not exist,
126 when it cannot be executed; 124 after --timeout; 2 for a wrong command line; 1 for all else.";

/// Runs untrusted work in a Linux microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "vmette", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a fresh machine
    Run(Box<RunArgs>),
    /// Open a shell in a fresh machine
    Shell(Box<ShellArgs>),
    /// List, fetch, make and remove images
    #[command(subcommand)]
    Image(Box<ImageCommand>),
    /// Look at snapshots that `vmette run --build-snapshot` has made
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Say what a run would have here, and why not more
    Doctor(DoctorArgs),
    /// List the forms that a rootfs can be named in
    Providers,
    /// Run a first command and say what to try next
    Quickstart,
    /// Print a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// It is made if it is not there
        folder: PathBuf,
    },
    /// Print the version
    #[command(hide = true)]
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Run this instead of the image's entrypoint and command ("" for neither; a JSON array for several words)
    #[arg(long, value_name = "CMD", value_parser = values::entrypoint, allow_hyphen_values = true)]
    pub(crate) entrypoint: Option<Entrypoint>,
    #[command(flatten)]
    pub(crate) snapshot: SnapshotArgs,
    /// Image (python:3.12-alpine), folder, or one of the forms of `vmette providers`; nothing for the built-in one
    pub(crate) rootfs: Option<String>,
    /// What to run, or arguments of the image's entrypoint; without it what the image says, else a shell
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Snapshots, made or started from.
#[derive(Debug, Default, Args)]
pub(crate) struct SnapshotArgs {
    /// Save the machine into this new folder when the command has succeeded; at once if there is none
    #[arg(long, value_name = "PATH", conflicts_with = "resume_snapshot")]
    pub(crate) build_snapshot: Option<PathBuf>,
    /// Start from the snapshot in this folder
    #[arg(long, value_name = "PATH")]
    pub(crate) resume_snapshot: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Say what a snapshot is of
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Read all of its files and compare them with what was written
    #[arg(long)]
    pub(crate) verify: bool,
    /// The snapshot's folder
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Image (python:3.12-alpine), folder, or one of the forms of `vmette providers`; nothing for the built-in one
    pub(crate) rootfs: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the commands that would mend what was found
    #[arg(long, conflicts_with = "json")]
    pub(crate) fix: bool,
    /// With --fix: run them, with sudo where they take root
    #[arg(long, requires = "fix")]
    pub(crate) yes: bool,
    /// Judge for this accelerator
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub(crate) accel: Accel,
}

/// Which accelerator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// The best there is
    #[default]
    Auto,
    /// Linux KVM
    Kvm,
    /// Software emulation
    Tcg,
}

/// What the command is given.
#[derive(Debug, Default, Args)]
pub(crate) struct ProcessArgs {
    /// Pass stdin on (this is the default; accepted for habit's sake)
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// Give the command no stdin
    #[arg(short = 'n', long, conflicts_with_all = ["interactive", "tty"])]
    pub(crate) no_stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// Start in this folder of the guest
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Run as this user of the guest: name or uid, with :group or :gid behind it
    #[arg(short = 'u', long, value_name = "USER")]
    pub(crate) user: Option<String>,
}

/// How long a command may take to end after `SIGTERM`, unless the caller says otherwise: what container tools give.
pub(crate) const STOP_TIMEOUT_SECONDS: u32 = 10;

/// What the machine is, and what it is granted.
#[derive(Debug, Default, Args)]
pub(crate) struct MachineArgs {
    /// Set a variable (KEY alone passes the caller's on)
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = values::os(values::env), allow_hyphen_values = true)]
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Grant a folder, at this path of the guest
    #[arg(short = 'v', long = "volume", value_name = "HOST:GUEST[:ro]", value_parser = values::os(grants::volume))]
    pub(crate) volumes: Vec<Volume>,
    /// Grant a folder, at /mnt/TAG
    #[arg(long = "share", value_name = "TAG=PATH[:ro]", value_parser = values::os(grants::share))]
    pub(crate) shares: Vec<ShareMount>,
    /// Grant a raw disk image or device, read-write
    #[arg(long = "disk", value_name = "PATH")]
    pub(crate) disks: Vec<PathBuf>,
    /// Let a disk of that size take the root's writes instead of memory
    #[arg(long, value_name = "SIZE", value_parser = values::mib)]
    pub(crate) scratch: Option<u64>,
    /// Make the root read-only
    #[arg(long)]
    pub(crate) rootfs_ro: bool,
    /// Make the command PID 1
    #[arg(long)]
    pub(crate) switch_root: bool,
    /// Grant a network: all that this host's own network reaches
    #[arg(long)]
    pub(crate) net: bool,
    /// When to ask for a newer version of an image that is in the cache
    #[arg(long, value_name = "WHEN", default_value = "newer")]
    pub(crate) pull: Pull,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// End the machine after that many seconds, with status 124
    #[arg(long, value_name = "SECONDS", value_parser = values::number::<u32>)]
    pub(crate) timeout: Option<u32>,
    /// Give the command that many seconds to end after SIGTERM
    #[arg(long, value_name = "SECONDS", value_parser = values::number::<u32>, default_value_t = STOP_TIMEOUT_SECONDS)]
    pub(crate) stop_timeout: u32,
    /// Virtual CPUs (1, or those of the snapshot)
    #[arg(long, value_name = "N", value_parser = values::number::<u8>)]
    pub(crate) vcpus: Option<u8>,
    /// Memory: MiB, or with M or G behind it (512M, or that of the snapshot)
    #[arg(short = 'm', long = "mem-mib", visible_alias = "memory", value_name = "SIZE", value_parser = values::mib)]
    pub(crate) mem_mib: Option<u64>,
    /// Choose the accelerator
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub(crate) accel: Accel,
    /// Refuse to run without hardware virtualisation
    #[arg(long)]
    pub(crate) require_hardware: bool,
    /// Boot from power-on, and leave no template behind
    #[arg(long)]
    pub(crate) no_template: bool,
    /// Use this kernel
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,
    /// Use this initramfs
    #[arg(long, value_name = "PATH")]
    pub(crate) initramfs: Option<PathBuf>,
    /// Replace the base kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) cmdline: Option<String>,
    /// Trust the certificates in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) ca_certs: Option<PathBuf>,
    /// Grant a vsock port of the host that answers with what it is sent: negative none, 0 any
    #[arg(long, value_name = "PORT", value_parser = values::number::<i64>, allow_negative_numbers = true)]
    pub(crate) vsock_port: Option<i64>,
    /// Grant a UNIX socket of the host, at this vsock port
    #[arg(long = "vsock", value_name = "PORT=SOCKET", value_parser = values::vsock)]
    pub(crate) vsock_forwards: Vec<VsockForward>,
    /// Make a UNIX socket on the host that leads to this vsock port of the guest
    #[arg(long = "vsock-connect", value_name = "PORT=SOCKET", value_parser = values::vsock_connect)]
    pub(crate) vsock_connects: Vec<VsockConnect>,
    /// Write what the run had as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Show the guest kernel's messages on stderr
    #[arg(long)]
    pub(crate) console: bool,
    /// Print nothing but errors
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

/// The flags of the original command.
#[derive(Debug, Parser)]
#[command(name = "vmette", disable_version_flag = true)]
pub(crate) struct LegacyArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Rootfs
    #[arg(long, value_name = "SPEC", required_unless_present = "resume_snapshot")]
    pub(crate) rootfs: Option<String>,
    /// Shell command; without it, a shell
    #[arg(long, value_name = "CMD", allow_hyphen_values = true)]
    pub(crate) exec: Option<String>,
    #[command(flatten)]
    pub(crate) snapshot: SnapshotArgs,
    /// Of no use any more: only its default, 1025, is taken
    #[arg(long, value_name = "PORT", value_parser = values::number::<u32>)]
    pub(crate) guest_vsock_port: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
        LegacyArgs::command().debug_assert();
    }
}
