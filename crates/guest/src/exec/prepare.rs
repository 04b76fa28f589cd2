//! From a request to a process: arguments, environment, user, working directory.

use std::collections::BTreeSet;
use std::ffi::CString;

use vmette_wire::path::PATH_MAX;
use vmette_wire::streams::{Command, Exec};

use super::ExecError;
use super::script::{INLINE_MAX, Script};
use super::starting::{Start, Starting};
use super::stdio::Stdio;
use crate::child::Child;
use crate::root::tree::Tree;
use crate::root::users::{self, User};
use crate::sys::{self, Launch};
use crate::world::Place;

/// `PATH` of a command whose request names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most folders of `PATH` that are searched.
const PATH_DIRS_MAX: usize = 256;

/// Arguments and environment above this size need a larger stack limit: the kernel gives them a quarter of it.
const LARGE_ARGUMENTS: usize = 1 << 20;

/// The stack limit they get; a quarter of it is more than the 6 MiB at which the kernel stops in any case.
const LARGE_STACK: u64 = 64 << 20;

/// Name of the script that an init command in shell form becomes: the start of `/proc/1/comm`.
const RUNNER: &str = ".vmette-runner.sh";

/// The agent's memory of earlier commands.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Number of those that lay in files, whose names are told apart by it. A request's number would not do: a command that
    /// has outlived its host may have the same one as a command of the next host.
    scripts: u64,
    /// A command has run, and may have left processes that signal others.
    ran: bool,
}

/// A command that has been started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) start: Start,
    pub(crate) stdio: Stdio,
    pub(crate) script: Option<Script>,
}

/// Destination of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// stdout and stderr apart, or a terminal.
    Streams,
    /// Both on one pipe.
    Merged,
    /// Nowhere.
    Discard,
}

/// Starts the command that `exec` and `command` describe.
pub(crate) fn start(
    place: &Place<'_>,
    exec: &Exec,
    command: Command,
    output: Output,
    history: &mut History,
) -> Result<Started, ExecError> {
    let tree = Tree::new(place.root);
    let user = exec.user.as_deref().map(|spec| users::lookup(tree, spec)).transpose()?;
    let credentials = user.as_ref().map(|user| &user.credentials);
    let env = environment(place, exec, &command.env, user.as_ref())?;
    let (cwd, cwd_or_root) = working_directory(exec, user.as_ref())?;
    let (args, program, script) = arguments(place, exec, command.args, user.as_ref(), history)?;
    let programs = candidates(&program, &env)?;
    let stdio = match (output, exec.tty) {
        (Output::Merged, _) => Stdio::merged()?,
        (Output::Discard, _) => Stdio::none()?,
        (Output::Streams, None) => Stdio::pipes(exec.stdin, credentials)?,
        (Output::Streams, Some(size)) => {
            Stdio::terminal(place.mount_ns.is_some().then_some(tree), size, exec.stdin, credentials)?
        }
    };
    let size: usize = args.iter().chain(&env).map(|s| s.as_bytes().len() + 1 + size_of::<usize>()).sum();
    let launch = Launch {
        programs,
        args,
        env,
        cwd: c_string(cwd.as_bytes().to_vec())?,
        cwd_or_root,
        stdio: stdio.for_child(),
        terminal: stdio.terminal.is_some(),
        user: credentials.cloned(),
        mount_ns: place.mount_ns,
        pid_ns: place.pid_ns,
        group: place.group,
        pid_one: exec.init && place.mount_ns.is_some(),
        stack_limit: (size > LARGE_ARGUMENTS).then_some(LARGE_STACK),
        descriptor_limit: place.descriptor_limit,
        reset_oom_score: place.oom_protected,
    };
    let program = String::from_utf8_lossy(&program).into_owned();
    // The workload's PID 1 is born into a namespace of its own, out of everybody's reach.
    let (child, start) = if history.ran && !exec.init {
        let (spawned, report) =
            sys::spawn_beside(&launch).map_err(|e| ExecError::spawn(e, &program, &cwd))?;
        (Child::new(spawned), Start::UnderWay(Starting::new(report, program, cwd)))
    } else {
        let (spawned, inner_pid) = sys::spawn(&launch).map_err(|e| ExecError::spawn(e, &program, &cwd))?;
        history.ran = true;
        (Child::new(spawned), Start::Done { inner_pid })
    };
    Ok(Started { child, start, stdio, script })
}

/// The arguments, the program among them that is looked for, and the file that holds the command if there is one.
type Arguments = (Vec<CString>, Vec<u8>, Option<Script>);

fn arguments(
    place: &Place<'_>,
    exec: &Exec,
    args: Vec<Vec<u8>>,
    user: Option<&User>,
    history: &mut History,
) -> Result<Arguments, ExecError> {
    let owner = user.map(|user| &user.credentials);
    let mut script = None;
    let args = if !exec.shell {
        args
    } else {
        let [line]: [Vec<u8>; 1] = args
            .try_into()
            .map_err(|_| ExecError::invalid("a shell command is one argument: the command line"))?;
        let shell = b"/bin/sh".to_vec();
        if exec.init {
            let (file, path) =
                Script::write(place, RUNNER.to_owned(), &[b"#!/bin/sh\n", &line, b"\n"], owner)
                    .map_err(ExecError::Script)?;
            script = Some(file);
            // Executed itself it names the process. Only a machine's agent is sure that no other thread's child still
            // has the file open for writing, which would forbid it.
            if place.mount_ns.is_some() { vec![path.into_bytes()] } else { vec![shell, path.into_bytes()] }
        } else if line.len() >= INLINE_MAX {
            history.scripts += 1;
            let name = format!(".vmette-cmd-{}.sh", history.scripts);
            let (file, path) =
                Script::write(place, name, &[&line, b"\n"], owner).map_err(ExecError::Script)?;
            script = Some(file);
            vec![shell, path.into_bytes()]
        } else {
            vec![shell, b"-c".to_vec(), line]
        }
    };
    let program = args.first().cloned().unwrap_or_default();
    let args = args.into_iter().map(c_string).collect::<Result<_, _>>()?;
    Ok((args, program, script))
}

/// Defaults, then the root's environment, then the request's; the last of a name counts.
fn environment(
    place: &Place<'_>,
    exec: &Exec,
    requested: &[Vec<u8>],
    user: Option<&User>,
) -> Result<Vec<CString>, ExecError> {
    let home = match user {
        Some(user) => user.home.as_deref().unwrap_or("/"),
        None if Tree::new(place.root).is_dir("/root") => "/root",
        None => "/",
    };
    let mut all = vec![format!("PATH={DEFAULT_PATH}"), format!("HOME={home}")];
    if exec.tty.is_some() {
        all.push("TERM=xterm-256color".to_owned());
    }
    if let Some(name) = user.and_then(|user| user.name.as_deref()) {
        all.push(format!("USER={name}"));
        all.push(format!("LOGNAME={name}"));
    }
    all.extend_from_slice(place.env);
    let mut names = BTreeSet::new();
    let mut kept = Vec::with_capacity(all.len() + requested.len());
    for entry in all.iter().map(String::as_bytes).chain(requested.iter().map(Vec::as_slice)).rev() {
        let Some(end) = entry.iter().position(|b| *b == b'=').filter(|end| *end > 0) else {
            let shown = String::from_utf8_lossy(&entry[..entry.len().min(40)]).into_owned();
            return Err(ExecError::Invalid(format!("environment entry {shown:?} is not NAME=VALUE")));
        };
        if names.insert(&entry[..end]) {
            kept.push(c_string(entry.to_vec())?);
        }
    }
    kept.reverse();
    Ok(kept)
}

/// The working directory; `true` if `/` will do instead.
fn working_directory(exec: &Exec, user: Option<&User>) -> Result<(String, bool), ExecError> {
    match &exec.cwd {
        Some(cwd) if cwd.starts_with('/') && cwd.len() < PATH_MAX => Ok((cwd.clone(), false)),
        Some(cwd) => Err(ExecError::Invalid(format!("working directory {cwd:?} is not an absolute path"))),
        None => Ok((user.and_then(|user| user.home.clone()).unwrap_or_else(|| "/".to_owned()), true)),
    }
}

/// The paths that `execvp` would try for `program` with that environment.
fn candidates(program: &[u8], env: &[CString]) -> Result<Vec<CString>, ExecError> {
    if program.is_empty() {
        return Ok(Vec::new());
    }
    if program.contains(&b'/') {
        return Ok(vec![c_string(program.to_vec())?]);
    }
    let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
    path.split(|b| *b == b':')
        .take(PATH_DIRS_MAX)
        .map(|dir| {
            let dir = if dir.is_empty() { b"." } else { dir };
            c_string([dir, b"/", program].concat())
        })
        .collect()
}

fn c_string(bytes: Vec<u8>) -> Result<CString, ExecError> {
    CString::new(bytes).map_err(|_| ExecError::invalid("a NUL byte in an argument, a variable or a path"))
}
