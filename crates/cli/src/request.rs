//! From arguments to a configuration and a command. Checks that need both are made here; nothing is touched yet.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;
use vmette::{
    AcceleratorChoice, Config, DEFAULT_CMDLINE, ExecOptions, GrantOptions, ImageConfig, MachineOptions,
    SnapshotOptions, VsockOptions, VsockPort,
};

use crate::args::{Accel, Cli, LegacyArgs, MachineArgs, ProcessArgs, RunArgs, ShellArgs, SnapshotArgs};

/// The value of `--guest-vsock-port` that asks for nothing: the original's default.
const GUEST_VSOCK_PORT: u32 = 1025;

/// What is to be run.
pub(crate) enum Wanted {
    /// These arguments, behind the image's entrypoint if it has one; what the image says when there are none; a shell
    /// when it says nothing.
    Arguments(Vec<OsString>),
    /// A shell, whatever the image says.
    Shell,
    /// This command line of the shell, whatever the image says.
    ShellCommand(String),
    /// Nothing: the machine is saved as it has started.
    Nothing,
}

/// One run, understood.
pub(crate) struct Request {
    pub(crate) config: Config,
    /// `None`: the built-in one.
    pub(crate) rootfs: Option<String>,
    pub(crate) wanted: Wanted,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    pub(crate) stop_timeout: Duration,
    pub(crate) console: bool,
    pub(crate) quiet: bool,
    pub(crate) report: Option<PathBuf>,
}

impl Request {
    /// `vmette run`.
    pub(crate) fn from_run(args: RunArgs) -> Result<Self, clap::Error> {
        // What nobody named is something to type into: a shell, an interpreter that is the image's command.
        let SnapshotArgs { build_snapshot, resume_snapshot } = args.snapshot;
        let nothing = build_snapshot.is_some() && args.command.is_empty();
        let unnamed = args.command.is_empty() && args.entrypoint.is_none() && !nothing;
        let tty = args.process.tty || (unnamed && !args.process.no_stdin && is_at_terminal());
        let wanted = if nothing { Wanted::Nothing } else { Wanted::Arguments(args.command) };
        let snapshots = SnapshotOptions { build: build_snapshot, resume: resume_snapshot, allow: false };
        let mut request = Self::new(args.machine, &args.process, args.rootfs, wanted, tty, snapshots)?;
        request.config.command.entrypoint = args.entrypoint.map(|entrypoint| entrypoint.0);
        Ok(request)
    }

    /// `vmette shell`.
    pub(crate) fn from_shell(args: ShellArgs) -> Result<Self, clap::Error> {
        let tty = args.process.tty || is_at_terminal();
        Self::new(args.machine, &args.process, args.rootfs, Wanted::Shell, tty, SnapshotOptions::default())
    }

    /// The command, now that the image is known.
    pub(crate) fn exec(&self, image: &ImageConfig) -> Option<ExecOptions> {
        let exec = match &self.wanted {
            Wanted::Arguments(arguments) => match self.config.command.line(image, arguments) {
                line if line.is_empty() => shell(),
                line => ExecOptions::argv(line),
            },
            Wanted::Shell => shell(),
            Wanted::ShellCommand(command) => ExecOptions::shell(command),
            Wanted::Nothing => return None,
        };
        let exec = exec.stdin(self.stdin);
        if !self.tty {
            return Some(exec);
        }
        let (rows, cols) = crate::terminal::size();
        let exec = exec.tty(rows, cols);
        // The caller's own variable wins.
        Some(match std::env::var_os("TERM") {
            Some(term) if !self.config.command.env.iter().any(|(key, _)| key == "TERM") => {
                exec.env("TERM", term)
            }
            _ => exec,
        })
    }

    /// `vmette --rootfs …`.
    pub(crate) fn from_legacy(args: LegacyArgs) -> Result<Self, clap::Error> {
        if args.machine.switch_root && args.machine.rootfs_ro && args.exec.is_some() {
            return Err(conflict("--switch-root, --rootfs-ro and --exec cannot be used together"));
        }
        if args.guest_vsock_port.is_some_and(|port| port != GUEST_VSOCK_PORT) {
            return Err(conflict(
                "--guest-vsock-port: snapshots use no vsock port of the guest any more; leave it out",
            ));
        }
        let SnapshotArgs { build_snapshot, resume_snapshot } = args.snapshot;
        if resume_snapshot.is_some() && args.exec.is_none() {
            return Err(Cli::command().error(
                ErrorKind::MissingRequiredArgument,
                "--resume-snapshot needs --exec: the command to run in the machine",
            ));
        }
        let (wanted, tty) = match args.exec {
            None if build_snapshot.is_some() => (Wanted::Nothing, false),
            Some(command) => (Wanted::ShellCommand(command), args.process.tty),
            None => (Wanted::Shell, args.process.tty || is_at_terminal()),
        };
        let snapshots = SnapshotOptions { build: build_snapshot, resume: resume_snapshot, allow: false };
        Self::new(args.machine, &args.process, args.rootfs, wanted, tty, snapshots)
    }

    fn new(
        machine: MachineArgs,
        process: &ProcessArgs,
        rootfs: Option<String>,
        wanted: Wanted,
        tty: bool,
        snapshots: SnapshotOptions,
    ) -> Result<Self, clap::Error> {
        if machine.rootfs_ro && machine.scratch.is_some() {
            return Err(conflict(
                "--rootfs-ro and --scratch cannot be used together: the disk takes the root's writes",
            ));
        }
        if machine.require_hardware && machine.accel == Accel::Tcg {
            return Err(conflict("--require-hardware and --accel tcg cannot be used together"));
        }
        let mut config = Config { snapshots, ..Config::default() };
        config.machine = MachineOptions {
            vcpus: machine.vcpus,
            mem_mib: machine.mem_mib,
            accelerator: accelerator(machine.accel, machine.require_hardware),
            timeout_seconds: machine.timeout,
            template: machine.no_template.then_some(false),
            kernel: machine.kernel,
            initramfs: machine.initramfs,
            cmdline: machine.cmdline,
            extra_modules: Vec::new(),
        };
        // A user who asks for the kernel's messages wants to see some. A saved kernel has said them already.
        if machine.console && config.machine.cmdline.is_none() && config.snapshots.resume.is_none() {
            config.machine.cmdline = Some(without_quiet(DEFAULT_CMDLINE));
        }
        config.root.read_only = machine.rootfs_ro;
        config.root.scratch_mib = machine.scratch;
        config.root.name.clone_from(&rootfs);
        let volumes = machine.volumes.into_iter().enumerate().map(|(i, volume)| volume.into_share(i));
        config.grants = GrantOptions {
            shares: machine.shares.into_iter().chain(volumes).collect(),
            disks: machine.disks,
            net: machine.net,
            ca_certs: machine.ca_certs.or_else(vmette::default_ca_certs),
        };
        config.command.env = machine.env;
        config.command.cwd.clone_from(&process.workdir);
        config.command.user.clone_from(&process.user);
        config.command.switch_root = machine.switch_root;
        config.host.pull = machine.pull.into();
        machine.network.apply(&mut config.host);
        config.vsock = VsockOptions {
            port: vsock_port(machine.vsock_port.unwrap_or_default())?,
            // "Any" is asked for when it is said, and granted to nobody who says nothing.
            device: machine.vsock_port == Some(0),
            echo: None,
            forwards: machine.vsock_forwards,
            connects: machine.vsock_connects,
        };
        if config.vsock.port == VsockPort::Disabled {
            if !config.vsock.forwards.is_empty() {
                return Err(conflict("--vsock and a negative --vsock-port cannot be used together"));
            }
            if !config.vsock.connects.is_empty() {
                return Err(conflict("--vsock-connect and a negative --vsock-port cannot be used together"));
            }
        }
        Ok(Self {
            config,
            rootfs,
            wanted,
            stdin: !process.no_stdin,
            tty,
            stop_timeout: Duration::from_secs(machine.stop_timeout.into()),
            console: machine.console,
            quiet: machine.quiet,
            report: machine.report,
        })
    }
}

/// The choice that both flags come to.
pub(crate) fn accelerator(accel: Accel, require_hardware: bool) -> AcceleratorChoice {
    match accel {
        Accel::Auto if require_hardware => AcceleratorChoice::Hardware,
        Accel::Auto => AcceleratorChoice::Auto,
        Accel::Kvm => AcceleratorChoice::Kvm,
        Accel::Tcg => AcceleratorChoice::Tcg,
    }
}

fn vsock_port(port: i64) -> Result<VsockPort, clap::Error> {
    match port {
        i64::MIN..=-1 => Ok(VsockPort::Disabled),
        0 => Ok(VsockPort::Auto),
        _ => u32::try_from(port).map(VsockPort::Fixed).map_err(|_| {
            Cli::command()
                .error(ErrorKind::ValueValidation, format!("--vsock-port {port}: at most {}", u32::MAX))
        }),
    }
}

fn without_quiet(cmdline: &str) -> String {
    cmdline.split(' ').filter(|word| *word != "quiet").collect::<Vec<_>>().join(" ")
}

fn shell() -> ExecOptions {
    ExecOptions::argv([OsString::from("/bin/sh")])
}

fn is_at_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

fn conflict(message: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ArgumentConflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use clap::Parser;

    fn run(args: &[&str]) -> Result<Request, clap::Error> {
        match Cli::try_parse_from([&["vmette", "run"], args].concat())?.command {
            Command::Run(args) => Request::from_run(*args),
            other => panic!("{other:?}"),
        }
    }

    fn legacy(args: &[&str]) -> Result<Request, clap::Error> {
        Request::from_legacy(LegacyArgs::try_parse_from([&["vmette"], args].concat())?)
    }

    #[test]
    fn the_short_flags_are_understood() {
        let request = run(&[
            "-e",
            "A=b",
            "-w",
            "/w",
            "-u",
            "1000:1000",
            "-i",
            "-v",
            "/tmp:/data:ro",
            "--share",
            "s=/tmp",
            "-m",
            "2G",
            "--vcpus",
            "2",
            "--timeout",
            "5",
            "/rootfs",
            "--",
            "echo",
            "-n",
            "x",
        ])
        .unwrap();
        let config = &request.config;
        assert_eq!(config.command.env, vec![("A".into(), "b".into())]);
        assert_eq!(
            (config.machine.mem_mib, config.machine.vcpus, config.machine.timeout_seconds),
            (Some(2048), Some(2), Some(5))
        );
        assert_eq!(config.grants.shares.len(), 2);
        assert_eq!(config.grants.shares[1].guest_path(), "/data");
        assert!(config.grants.shares[1].read_only);
        assert_eq!(request.rootfs.as_deref(), Some("/rootfs"));
        assert!(request.stdin && !request.tty);
    }

    #[test]
    fn registries_and_images_have_their_flags() {
        let request = run(&[
            "--pull",
            "always",
            "--registry-ca",
            "/ca.pem",
            "--plain-http",
            "A:5000",
            "--plain-http",
            "b",
            "--stop-timeout",
            "3",
            "--entrypoint",
            "/x",
            "alpine",
        ])
        .unwrap();
        let config = &request.config;
        assert_eq!(config.host.pull, vmette::PullPolicy::Always);
        assert_eq!(config.host.network.plain_http, ["a:5000", "b"]);
        assert_eq!(config.host.network.ca_certs.as_deref(), Some(std::path::Path::new("/ca.pem")));
        assert_eq!(config.command.entrypoint.as_deref(), Some(&["/x".to_owned()][..]));
        assert_eq!(request.stop_timeout, Duration::from_secs(3));
        assert_eq!(run(&[]).unwrap().config.host.pull, vmette::PullPolicy::Stale);
        assert!(run(&["--pull", "sometimes"]).is_err() && run(&["--plain-http", "http://a"]).is_err());
    }

    #[test]
    fn arguments_go_to_the_images_entrypoint_and_a_shell_does_not() {
        let image = vmette::ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            ..vmette::ImageConfig::default()
        };
        let exec_of = |request: Result<Request, clap::Error>| {
            let mut request = request.unwrap();
            request.tty = false;
            request.exec(&image).unwrap()
        };
        let argv = |line: &[&str]| ExecOptions::argv(line).stdin(true);
        assert_eq!(exec_of(run(&["i"])), argv(&["/entry", "serve"]));
        assert_eq!(exec_of(run(&["i", "--", "stop"])), argv(&["/entry", "stop"]));
        assert_eq!(exec_of(run(&["--entrypoint", "", "i"])), argv(&["/bin/sh"]));
        assert_eq!(exec_of(run(&["--entrypoint", "/x", "i", "--", "y"])), argv(&["/x", "y"]));
        assert_eq!(exec_of(legacy(&["--rootfs", "i"])), argv(&["/bin/sh"]));
        let line = ExecOptions::shell("ls").stdin(true);
        assert_eq!(exec_of(legacy(&["--rootfs", "i", "--exec", "ls"])), line);
        let Command::Shell(args) = Cli::try_parse_from(["vmette", "shell", "i"]).unwrap().command else {
            panic!("not a shell");
        };
        assert_eq!(exec_of(Request::from_shell(*args)), argv(&["/bin/sh"]));
    }

    #[test]
    fn a_command_may_come_without_a_rootfs() {
        let request = run(&["--", "true"]).unwrap();
        assert_eq!(request.rootfs, None);
    }

    #[test]
    fn the_original_form_is_understood() {
        let request =
            legacy(&["--rootfs", "/r", "--exec", "--version", "--vsock-port", "-1", "--env", "A=-b"])
                .unwrap();
        assert_eq!(request.config.vsock.port, VsockPort::Disabled);
        assert_eq!(request.config.command.env[0].1, "-b");
    }

    #[test]
    fn vsock_is_granted_to_those_who_ask() {
        let of = |args: &[&str]| {
            let config = run(args).unwrap().config;
            (config.vsock.port, config.vsock.device, config.vsock.forwards.len())
        };
        assert_eq!(of(&[]), (VsockPort::Auto, false, 0));
        assert_eq!(of(&["--vsock-port", "0"]), (VsockPort::Auto, true, 0));
        assert_eq!(of(&["--vsock-port", "-1"]), (VsockPort::Disabled, false, 0));
        assert_eq!(of(&["--vsock-port", "7", "--vsock", "8=/s"]), (VsockPort::Fixed(7), false, 1));
    }

    #[test]
    fn a_kernel_whose_messages_are_asked_for_is_not_quiet() {
        let of = |args: &[&str]| run(args).unwrap().config.machine.cmdline;
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["--console"]).as_deref(), Some("console=hvc0"));
        assert_eq!(of(&["--console", "--cmdline", "a quiet"]).as_deref(), Some("a quiet"));
        assert_eq!(
            of(&["--console", "--resume-snapshot", "/s"]),
            None,
            "a kernel that has booted has its own"
        );
    }

    #[test]
    fn a_snapshot_is_made_of_what_was_asked_for() {
        let request = run(&["--build-snapshot", "/s", "i"]).unwrap();
        assert!(
            request.exec(&ImageConfig::default()).is_none() && !request.tty,
            "not what the image says, and no shell"
        );
        let request = run(&["--build-snapshot", "/s", "i", "--", "make"]).unwrap();
        assert_eq!(request.exec(&ImageConfig::default()), Some(ExecOptions::argv(["make"]).stdin(true)));
        assert!(
            legacy(&["--rootfs", "i", "--build-snapshot", "/s"])
                .unwrap()
                .exec(&ImageConfig::default())
                .is_none()
        );
        let request = legacy(&["--resume-snapshot", "/s", "--exec", "ls"]).unwrap();
        assert_eq!(request.config.snapshots.resume.as_deref(), Some(std::path::Path::new("/s")));
        assert!(run(&["--resume-snapshot", "/s"]).unwrap().exec(&ImageConfig::default()).is_some());
        assert!(run(&["--resume-snapshot", "/s", "--build-snapshot", "/t"]).is_err());
    }

    #[test]
    fn contradictions_are_usage_errors() {
        let r = ["--rootfs", "/r", "--exec", "x"];
        assert!(legacy(&[&r[..], &["--rootfs-ro", "--scratch", "1G"]].concat()).is_err());
        assert!(legacy(&[&r[..], &["--rootfs-ro", "--switch-root"]].concat()).is_err());
        assert!(legacy(&["--rootfs", "/r", "--resume-snapshot", "/s"]).is_err());
        assert!(legacy(&[&r[..], &["--resume-snapshot", "/s", "--build-snapshot", "/t"]].concat()).is_err());
        assert!(legacy(&["--exec", "x"]).is_err());
        assert!(legacy(&["--rootfs", "--exec"]).is_err());
        assert!(run(&["--require-hardware", "--accel", "tcg"]).is_err());
        assert!(run(&["-n", "-t"]).is_err());
        assert!(run(&["--vsock-port", "4294967296"]).is_err());
        assert!(run(&["--vsock-port", "-1", "--vsock", "1=/s"]).is_err());
        assert!(run(&["--vsock-port", "-1", "--vsock-connect", "1=/s"]).is_err());
        assert!(run(&["--mem-mib", "0"]).is_err());
        assert!(legacy(&[&r[..], &["--guest-vsock-port", "7"]].concat()).is_err());
        assert!(legacy(&[&r[..], &["--guest-vsock-port", "1025"]].concat()).is_ok());
    }
}
