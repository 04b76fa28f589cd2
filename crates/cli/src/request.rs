//! From arguments to a configuration and a command. Checks that need both are made here; nothing is touched yet.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::CommandFactory;
use clap::error::ErrorKind;
use vmette::{AcceleratorChoice, Config, ExecOptions, VsockPort};

use crate::args::{Accel, Cli, LegacyArgs, MachineArgs, ProcessArgs, RunArgs, ShellArgs};

/// One run, understood.
pub(crate) struct Request {
    pub(crate) config: Config,
    /// `None`: the built-in one.
    pub(crate) rootfs: Option<String>,
    pub(crate) exec: ExecOptions,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    pub(crate) console: bool,
    pub(crate) quiet: bool,
    pub(crate) report: Option<PathBuf>,
}

impl Request {
    /// `vmette run`.
    pub(crate) fn from_run(args: RunArgs) -> Result<Self, clap::Error> {
        let exec = if args.command.is_empty() { shell() } else { ExecOptions::argv(&args.command) };
        // A shell that nobody named is one to type into.
        let tty = args.process.tty || (args.command.is_empty() && !args.process.no_stdin && is_at_terminal());
        Self::new(args.machine, &args.process, args.rootfs, exec, tty)
    }

    /// `vmette shell`.
    pub(crate) fn from_shell(args: ShellArgs) -> Result<Self, clap::Error> {
        let tty = args.process.tty || is_at_terminal();
        Self::new(args.machine, &args.process, args.rootfs, shell(), tty)
    }

    /// `vmette --rootfs …`.
    pub(crate) fn from_legacy(args: LegacyArgs) -> Result<Self, clap::Error> {
        let (exec, tty) = match &args.exec {
            Some(command) => (ExecOptions::shell(command), args.process.tty),
            None => (shell(), args.process.tty || is_at_terminal()),
        };
        if args.machine.switch_root && args.machine.rootfs_ro && args.exec.is_some() {
            return Err(conflict("--switch-root, --rootfs-ro and --exec cannot be used together"));
        }
        let (build, resume) = (args.build_snapshot, args.resume_snapshot);
        let mut request = Self::new(args.machine, &args.process, args.rootfs, exec, tty)?;
        request.config.build_snapshot = build;
        request.config.resume_snapshot = resume;
        request.config.guest_vsock_port = args.guest_vsock_port;
        Ok(request)
    }

    fn new(
        machine: MachineArgs,
        process: &ProcessArgs,
        rootfs: Option<String>,
        exec: ExecOptions,
        tty: bool,
    ) -> Result<Self, clap::Error> {
        if machine.rootfs_ro && machine.scratch.is_some() {
            return Err(conflict(
                "--rootfs-ro and --scratch cannot be used together: the disk takes the root's writes",
            ));
        }
        if machine.require_hardware && machine.accel == Accel::Tcg {
            return Err(conflict("--require-hardware and --accel tcg cannot be used together"));
        }
        let mut config =
            Config::new(machine.kernel.unwrap_or_default(), machine.initramfs.unwrap_or_default());
        match machine.cmdline {
            Some(cmdline) => config.cmdline = cmdline,
            // Who asks for the kernel's messages wants to see some.
            None if machine.console => config.cmdline = without_quiet(&config.cmdline),
            None => {}
        }
        config.rootfs_read_only = machine.rootfs_ro;
        config.shares = machine.shares;
        for (i, volume) in machine.volumes.into_iter().enumerate() {
            config.shares.push(volume.into_share(i));
        }
        config.disks = machine.disks;
        config.env = machine.env;
        config.cwd = process.workdir.clone();
        config.user = process.user.clone();
        config.switch_root = machine.switch_root;
        config.net = machine.net;
        config.offline = machine.offline;
        config.timeout_seconds = machine.timeout;
        config.vcpus = machine.vcpus;
        config.mem_mib = machine.mem_mib;
        config.scratch_mib = machine.scratch;
        config.template = !machine.no_template;
        config.quiet = machine.quiet;
        config.ca_certs = machine.ca_certs.or_else(vmette::default_ca_certs);
        config.vsock_port = vsock_port(machine.vsock_port)?;
        config.accelerator = accelerator(machine.accel, machine.require_hardware);
        let stdin = !process.no_stdin;
        let exec = Self::with_terminal(vmette::Session::command_of(&config, exec).stdin(stdin), tty);
        Ok(Self {
            config,
            rootfs,
            exec,
            stdin,
            tty,
            console: machine.console,
            quiet: machine.quiet,
            report: machine.report,
        })
    }

    fn with_terminal(exec: ExecOptions, tty: bool) -> ExecOptions {
        if !tty {
            return exec;
        }
        let (rows, cols) = crate::terminal::size();
        let exec = exec.tty(rows, cols);
        // What the terminal is, is the caller's to know.
        match std::env::var_os("TERM") {
            Some(term) => exec.env("TERM", term),
            None => exec,
        }
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
        assert_eq!(config.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!((config.mem_mib, config.vcpus, config.timeout_seconds), (2048, 2, Some(5)));
        assert_eq!(config.shares.len(), 2);
        assert_eq!(config.shares[1].guest_path(), "/data");
        assert!(config.shares[1].read_only);
        assert_eq!(request.rootfs.as_deref(), Some("/rootfs"));
        assert!(request.stdin && !request.tty);
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
        assert_eq!(request.config.vsock_port, VsockPort::Disabled);
        assert_eq!(request.config.env[0].1, "-b");
    }

    #[test]
    fn a_kernel_whose_messages_are_asked_for_is_not_quiet() {
        assert!(run(&[]).unwrap().config.cmdline.contains("quiet"));
        let config = run(&["--console"]).unwrap().config;
        assert!(
            !config.cmdline.contains("quiet") && config.cmdline.contains("console="),
            "{}",
            config.cmdline
        );
        assert_eq!(run(&["--console", "--cmdline", "a quiet"]).unwrap().config.cmdline, "a quiet");
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
        assert!(run(&["--mem-mib", "0"]).is_err());
    }
}
