//! Credential helpers: programs called `docker-credential-NAME` that ask a key ring or a cloud.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Credential, Secret};
use crate::context::Context;
use crate::error::Result;
use crate::http::printable;
use crate::tool;

const PREFIX: &str = "docker-credential-";
/// Longest name; file systems allow 255 bytes with the prefix.
const NAME_MAX: usize = 128;
/// How long a helper may take: some wait for a person to unlock a key ring.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes of its answer. The tokens of clouds take a few KiB.
const ANSWER_MAX: u64 = 128 << 10;
/// How often one that has closed its output is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// How often it is looked whether the caller has given up.
const SLICE: Duration = Duration::from_millis(50);
/// What helpers say when they know nothing of a server, all of them alike.
const NOT_FOUND: &str = "credentials not found";
/// The user that stands for an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What becomes of asking: nothing known, or a problem that names the helper and none of its secrets.
type Asked = std::result::Result<Option<Credential>, String>;

/// Ends the helper and what it has started, and waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It may have ended this moment.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Asks the helper for the credentials of `server`.
pub(super) fn ask(name: &str, server: &str, ctx: &Context) -> Result<Asked> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(known) {
        return Ok(Err(format!("the credential helper {:?} is not a name", printable(name, 64))));
    }
    let name = format!("{PREFIX}{name}");
    match tool::find(&name) {
        Some(program) => run(&program, &name, server, ctx, TIME_MAX),
        None => Ok(Err(format!("{name} is not installed"))),
    }
}

/// `name` is for messages.
pub(super) fn run(program: &Path, name: &str, server: &str, ctx: &Context, limit: Duration) -> Result<Asked> {
    let failed = |problem: &str| Ok(Err(format!("{name} {problem}")));
    // It is the user's own program and needs the user's session: key rings and clouds are found through the environment.
    let spawned = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut running = match spawned {
        Ok(child) => Running(child),
        Err(e) => return failed(&format!("cannot be started: {e}")),
    };
    let (Some(mut stdin), Some(stdout)) = (running.0.stdin.take(), running.0.stdout.take()) else {
        return failed("cannot be talked to");
    };
    // Less than a pipe holds; a helper that does not read it says why in another way.
    let _ = stdin.write_all(server.as_bytes());
    drop(stdin);
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(ANSWER_MAX + 1).read_to_end(&mut bytes);
        // Nobody waits any more when the helper took too long.
        let _ = sender.send(read.map(|_| bytes));
    });
    let until = Instant::now() + limit;
    let too_long = format!("did not answer within {} seconds", limit.as_secs_f32());
    let bytes = loop {
        ctx.check_cancelled()?;
        match receiver.recv_timeout(SLICE) {
            Ok(Ok(bytes)) => break bytes,
            Ok(Err(e)) => return failed(&format!("cannot be read: {e}")),
            Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < until => {}
            Err(_) => return failed(&too_long),
        }
    };
    if bytes.len() as u64 > ANSWER_MAX {
        return failed("answers with more than 128 KiB");
    }
    let status = loop {
        ctx.check_cancelled()?;
        match running.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => thread::sleep(POLL),
            Ok(None) => return failed(&too_long),
            Err(e) => return failed(&format!("cannot be waited for: {e}")),
        }
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&bytes);
        return if said.to_ascii_lowercase().contains(NOT_FOUND) {
            Ok(Ok(None))
        } else {
            // What it printed is not shown: it may be part of a secret.
            failed(&format!("failed ({status}): run `echo {server} | {name} get` to see why"))
        };
    }
    Ok(match serde_json::from_slice::<Answer>(&bytes) {
        Ok(answer) if answer.secret.is_empty() => Ok(None),
        Ok(answer) if answer.username == TOKEN_USER => {
            Ok(Some(Credential::IdentityToken(Secret::new(answer.secret))))
        }
        Ok(answer) => Ok(Some(Credential::password(&answer.username, &answer.secret))),
        Err(_) => Err(format!("{name} answers with something that is not credentials")),
    })
}
