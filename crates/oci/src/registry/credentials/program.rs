//! Credential helpers: programs called `docker-credential-NAME` that ask a key ring or a cloud.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use vmette_spawn::{Command, Tool, find};

use super::{Credential, Secret};
use vmette_http::Result;
use vmette_work::Work;
use vmette_work::printable;

const PREFIX: &str = "docker-credential-";
/// Longest name; file systems allow 255 bytes with the prefix.
const NAME_MAX: usize = 128;
/// How long a helper may take: some wait for a person to unlock a key ring.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes of its answer. The tokens of clouds take a few KiB.
const ANSWER_MAX: usize = 128 << 10;
/// The helpers' words, all of them alike, for a server that they know nothing of.
const NOT_FOUND: &str = "credentials not found";
/// The user that stands for an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// A helper's answer: nothing known, or a problem that names the helper and none of its secrets.
type Asked = std::result::Result<Option<Credential>, String>;

/// Asks the helper for the credentials of `server`.
pub(super) fn ask(name: &str, server: &str, work: &Work) -> Result<Asked> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(known) {
        return Ok(Err(format!("the credential helper {:?} is not a name", printable(name, 64))));
    }
    let name = format!("{PREFIX}{name}");
    match find(&name) {
        Some(program) => run(&program, &name, server, work, TIME_MAX),
        None => Ok(Err(format!("{name} is not installed"))),
    }
}

/// `name` is for messages.
pub(super) fn run(program: &Path, name: &str, server: &str, work: &Work, limit: Duration) -> Result<Asked> {
    let failed = |problem: &str| Ok(Err(format!("{name} {problem}")));
    let (status, bytes) = match answer(program, name, server, work, limit) {
        Ok((Some(status), bytes)) => (status, bytes),
        Ok((None, _)) => return failed("answers with more than 128 KiB"),
        Err(vmette_spawn::Error::Cancelled(cancelled)) => return Err(cancelled.into()),
        Err(vmette_spawn::Error::TimedOut { limit, .. }) => {
            return failed(&format!("did not answer within {} seconds", limit.as_secs_f32()));
        }
        Err(e) => return Ok(Err(e.to_string())),
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&bytes);
        return if said.to_ascii_lowercase().contains(NOT_FOUND) {
            Ok(Ok(None))
        } else {
            // Its output is not shown: it may be part of a secret.
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

/// The helper's end and its answer; no end if there is more than [`ANSWER_MAX`] of it, upon which the helper is killed.
fn answer(
    program: &Path,
    name: &str,
    server: &str,
    work: &Work,
    limit: Duration,
) -> std::result::Result<(Option<ExitStatus>, Vec<u8>), vmette_spawn::Error> {
    // The question fits into the pipe. A helper that does not read it says why in another way.
    let question =
        io::pipe().and_then(|(reader, mut writer)| writer.write_all(server.as_bytes()).map(|()| reader));
    let question = question.map_err(|source| vmette_spawn::Error::Start { tool: name.to_owned(), source })?;
    // It is the user's own program and needs the user's session: key rings and clouds are found through the environment.
    let command = Command::new(program).arg("get").pass_on_everything().stdin(question);
    let mut stream = Tool::new(name, command, limit).stream(work)?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 4 << 10]);
    loop {
        match stream.read_some(&mut piece)? {
            0 => break,
            read => bytes.extend_from_slice(&piece[..read]),
        }
        if bytes.len() > ANSWER_MAX {
            return Ok((None, bytes));
        }
    }
    let (status, _) = stream.end()?;
    Ok((Some(status), bytes))
}
