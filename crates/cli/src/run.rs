//! One run: resolve, start, attach, wait, report.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use vmette::{Console, DEFAULT_MEM_MIB, Notice, Report, Session, SessionEnd, Snapshot, Started, StopHandle};

use crate::progress::{Display, Verbosity};
use crate::request::Request;
use crate::signals::{RunSignals, Stop};
use crate::stdio::{print_err, say};
use crate::terminal::Settings;
use crate::{exit, interruptible, limits, stdio};

/// How long what is left of the output may take to be read when the time of the machine is up. Whoever set a limit did not
/// mean to wait for a reader that has stopped.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// Carries the request out; returns the exit status.
pub(crate) fn run(request: Request) -> u8 {
    let stop = StopHandle::new();
    let settings = Settings::default();
    let signals = match RunSignals::install(stop.clone(), request.tty.then_some(&settings)) {
        Ok(signals) => signals,
        Err(e) => {
            say(&format!("error: signal handlers: {e}"));
            return exit::FAILURE;
        }
    };
    // A snapshot's memory is known when it is open.
    let mem_mib = request.config.machine.mem_mib.unwrap_or(match request.config.snapshots.resume {
        Some(_) => 0,
        None => DEFAULT_MEM_MIB,
    });
    if let Some(reason) = limits::in_the_way(mem_mib, !request.config.grants.shares.is_empty()) {
        say(&format!("error: {reason}"));
        return exit::FAILURE;
    }
    let report = request.report.clone();
    let mut result = attempt(request, &stop, &signals, &settings);
    if let (Err(e), Some(path)) = (&result, &report) {
        // A failed start is a result too.
        let end = SessionEnd::Error(exit::message(e));
        if let Err(e) = write_report(path, None, &end) {
            result = Err(e);
        }
    }
    if let Some(signal) = signals.fatal() {
        return exit::signalled(signal);
    }
    match result {
        Ok(code) => code,
        Err(e) => {
            say(&format!("error: {}", exit::message(&e)));
            e.downcast_ref::<vmette::Error>().map_or(exit::FAILURE, |e| exit::status(e.exit_code()))
        }
    }
}

fn attempt(
    mut request: Request,
    stop: &StopHandle,
    signals: &RunSignals,
    settings: &Settings,
) -> anyhow::Result<u8> {
    if !resolve_rootfs(&mut request, stop, signals)? {
        if let Some(path) = &request.report {
            write_report(path, None, &SessionEnd::Stopped)?;
        }
        // A signal: the exit status is its own.
        return Ok(exit::FAILURE);
    }
    let snapshot = request.config.snapshots.resume.as_deref().map(Snapshot::open).transpose()?;
    let exec = request.exec(snapshot.as_ref().map_or(&request.config.root.image, Snapshot::image));
    let mut builder = Session::builder(&request.config);
    if let Some(snapshot) = snapshot {
        builder = builder.snapshot(snapshot);
    }
    if request.console {
        builder = builder.console(Console::File(Arc::new(duplicate_stderr()?)));
    }
    let quiet = request.quiet;
    let started = builder
        .stop_handle(stop)
        .observer(Arc::new(move |notice: &Notice| match notice {
            Notice::Progress(text) if !quiet => say(text),
            Notice::Warning(text) if !quiet => say(&format!("warning: {text}")),
            // It is what the user asked for, not talk of vmette's.
            Notice::Vsock(line) => print_err(&format!("{line}\r\n")),
            _ => {}
        }))
        .piped()
        .start_with(exec)?;
    let session = match started {
        Started::Running(session) => session,
        Started::Ended(end) => {
            if let Some(path) = &request.report {
                write_report(path, None, &end)?;
            }
            if signals.fatal().is_none() {
                say_end(&request, &end);
            }
            return Ok(exit::status(end.exit_code()));
        }
    };
    if !quiet {
        banner(session.report(), request.config.root.scratch_mib);
    }
    let (result, read) = match attach(&session, &request, signals, settings) {
        Ok(read) => (Ok(()), read),
        Err(e) => (Err(e), true),
    };
    // Output that could not be passed on ends the session: nobody would see the rest.
    if result.is_err() {
        session.stop();
    }
    let end = session.wait();
    if let Some(path) = &request.report {
        write_report(path, Some(session.report()), &end)?;
    }
    drop(session);
    // Where nobody reads, a message would wait for ever too.
    if signals.fatal().is_none() && read {
        say_end(&request, &end);
    }
    match result {
        // The connection's end is the session's, which was reported.
        Err(vmette::Error::Agent(_) | vmette::Error::Ended(_)) | Ok(()) => Ok(exit::status(end.exit_code())),
        Err(e) => Err(e).context("the command's output"),
    }
}

/// Tells of an end that the exit status alone does not explain.
fn say_end(request: &Request, end: &SessionEnd) {
    match end {
        SessionEnd::TimedOut if !request.quiet => say(&format!(
            "timed out after {} s; exit status 124",
            request.config.machine.timeout_seconds.unwrap_or_default()
        )),
        SessionEnd::Error(message) => say(&format!("error: {message}")),
        SessionEnd::Exited(code) if !request.quiet => {
            if let Some(target) = &request.config.snapshots.build {
                say(&match code {
                    0 => format!("saved the machine to {}", target.display()),
                    code => format!("no snapshot: the command ended with status {code}"),
                });
            }
        }
        _ => {}
    }
}

/// Connects the caller's streams with the command's until it ends, and everything was passed on. `false` when a signal
/// or the time limit came first: a writer may still wait for its reader then.
fn attach(
    session: &Session,
    request: &Request,
    signals: &RunSignals,
    settings: &Settings,
) -> Result<bool, vmette::Error> {
    let Some(process) = session.process() else { return Ok(true) };
    let _raw = if request.tty { settings.raw()? } else { None };
    let followed = request.config.snapshots.build.is_some();
    let how = Stop { signal: session.stop_signal(), grace: request.stop_timeout, followed };
    signals.command_runs(process, request.tty, how)?;
    let given = if request.stdin { stdio::forward_stdin(process, settings.clone())? } else { None };
    let limit = request.config.machine.timeout().map(|limit| limit + OUTPUT_GRACE);
    let to_forward = process.clone();
    let forward = move || vmette::forward(&to_forward, &mut stdio::stdout(), &mut stdio::stderr());
    let forwarded =
        interruptible::until_cancelled(signals, limit.map(|limit| Instant::now() + limit), forward)?;
    if let Some(given) = given {
        given.hand_back(process);
    }
    forwarded.map_or(Ok(false), |result| result.map(|()| true))
}

/// Resolves the spec, unless a signal comes first: then it is `false`.
fn resolve_rootfs(request: &mut Request, stop: &StopHandle, signals: &RunSignals) -> anyhow::Result<bool> {
    let Some(spec) = request.rootfs.clone() else { return Ok(true) };
    let (host, stop) = (request.config.host.clone(), stop.clone());
    let display = Display::new(if request.quiet { Verbosity::Nothing } else { Verbosity::All });
    let reporter = display.reporter();
    let work = move || vmette::resolve_rootfs_until(&spec, &host, reporter, &stop);
    let resolved = interruptible::until_cancelled(signals, None, work);
    display.clear();
    let Some(artifact) = resolved? else { return Ok(false) };
    request.config.root.set_artifact(artifact?);
    Ok(true)
}

fn duplicate_stderr() -> anyhow::Result<File> {
    let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).context("duplicate stderr")?;
    Ok(File::from(fd))
}

/// One line: what stands between the guest and the host, and what was granted.
fn banner(report: &Report, scratch_mib: Option<u64>) {
    let from = match report.started_from {
        vmette::StartedFrom::Template => "template",
        vmette::StartedFrom::Snapshot => "snapshot",
        vmette::StartedFrom::Cold => "cold boot",
    };
    let mut line = format!(
        "{}, {} ({}), {from}, ready in {:.2} s",
        report.engine,
        report.accelerator,
        report.isolation,
        report.timings.ready_ms / 1000.0
    );
    if report.rootfs.kind != vmette::RootfsKind::Builtin {
        line.push_str(&format!("; root {}", report.rootfs.name));
        if let Some(id) = &report.rootfs.id {
            line.push_str(&format!(" ({id})"));
        }
    }
    for share in &report.grants.shares {
        let access = if share.read_only { "read-only" } else { "read-write" };
        line.push_str(&format!("; {} at {} {access}", share.host, share.guest));
    }
    for disk in &report.grants.disks {
        line.push_str(&format!("; disk {disk} read-write"));
    }
    if report.grants.network {
        line.push_str("; network behind this host's address translation");
    }
    if let Some(vsock) = &report.grants.vsock {
        for forward in &vsock.forwards {
            line.push_str(&format!("; {} at vsock port {}", forward.host, forward.port));
        }
        for connect in &vsock.connects {
            line.push_str(&format!("; the guest's vsock port {} at {}", connect.port, connect.host));
        }
        if let (Some(port), true) = (vsock.port, vsock.echo) {
            line.push_str(&format!("; echo at vsock port {port}"));
        }
    }
    if let Some(mib) = scratch_mib {
        line.push_str(&format!("; overlay upper on scratch disk of {mib} MiB"));
    }
    say(&line);
}

fn write_report(path: &Path, report: Option<&Report>, end: &SessionEnd) -> anyhow::Result<()> {
    let (kind, message) = match end {
        SessionEnd::Exited(_) => ("exited", None),
        SessionEnd::TimedOut => ("timed_out", None),
        SessionEnd::Stopped => ("stopped", None),
        SessionEnd::Error(message) => ("error", Some(message)),
    };
    let mut value = serde_json::to_value(report).context("report")?;
    if !value.is_object() {
        value = serde_json::json!({});
    }
    value["end"] = serde_json::json!({ "kind": kind, "exit_code": end.exit_code(), "message": message });
    let mut text = serde_json::to_vec_pretty(&value).context("report")?;
    text.push(b'\n');
    File::create(path)
        .and_then(|mut file| file.write_all(&text))
        .with_context(|| format!("report {}", path.display()))
}
