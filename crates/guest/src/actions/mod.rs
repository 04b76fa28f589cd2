//! The desktop's requests that need no display: `wait`, `exec`, `exec_capture`. Each is a [`Stream`](crate::stream::Stream)
//! with one answer.

mod background;
mod capture;
mod job;
mod wait;

use vmette_wire::Action;
use vmette_wire::streams::{Command, Exec};

use crate::exec::ExecError;
use crate::exec::prepare::{self, History, Output, Started};
use crate::stream::{Limit, Stream, Watch};
use crate::world::Place;
use job::JOBS;

pub(crate) use job::ActionError;

/// The limit that an action counts against.
pub(crate) fn limit(action: &Action) -> Result<&'static Limit, ActionError> {
    match action {
        Action::Wait { .. } | Action::ExecCapture { .. } => Ok(&JOBS),
        Action::Exec { .. } => Ok(&background::LIMIT),
        other => Err(ActionError::NoDesktop(other.name())),
    }
}

/// Begins an action.
pub(crate) fn begin(
    place: &Place<'_>,
    id: u32,
    action: &Action,
    history: &mut History,
    watch: Watch<'_>,
) -> Result<Box<dyn Stream>, ActionError> {
    let mut start = |command: &str, output| start(place, command, output, history);
    Ok(match action {
        Action::Wait { ms } => Box::new(wait::Wait::new(id, *ms)?),
        Action::Exec { command } => {
            let started = start(command, Output::Discard)?;
            Box::new(background::Background::new(id, started, watch).map_err(unwatched)?)
        }
        Action::ExecCapture { command, timeout_ms } => {
            let started = start(command, Output::Merged)?;
            Box::new(capture::Capture::new(id, started, *timeout_ms, watch).map_err(unwatched)?)
        }
        other => return Err(ActionError::NoDesktop(other.name())),
    })
}

fn start(
    place: &Place<'_>,
    command: &str,
    output: Output,
    history: &mut History,
) -> Result<Started, ExecError> {
    let exec = Exec { argc: 1, shell: true, ..Exec::default() };
    let command = Command { args: vec![command.as_bytes().to_vec()], env: Vec::new() };
    prepare::start(place, &exec, command, output, history)
}

fn unwatched(source: std::io::Error) -> ExecError {
    ExecError::Stdio { what: "a watch", source }
}
