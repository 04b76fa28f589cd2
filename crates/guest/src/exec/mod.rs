//! Commands: from a request to a process ([`prepare`]), its standard streams ([`stdio`]), its way to its program
//! ([`starting`]), and the stream of a command that runs ([`running`]).

pub(crate) mod prepare;
pub(crate) mod running;
pub(crate) mod script;
pub(crate) mod starting;
pub(crate) mod stdio;

use vmette_wire::streams::{Failure, FailureKind};

use crate::errno::kind_of;
use crate::root::users::UserError;
use crate::sys::{SpawnError, Step};
use crate::world::WorldError;

/// A command that does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("cannot make {what}: {source}")]
    Stdio { what: &'static str, source: std::io::Error },
    #[error("cannot write the command to a file in the guest: {0}")]
    Script(#[source] std::io::Error),
    #[error("{message}: {source}")]
    Spawn { kind: FailureKind, message: String, source: std::io::Error },
    #[error(
        "the command was held up for {} s before it could run, and was ended: another process of the guest stops or \
         traces what is started there, or a file system that a process of the guest serves does not answer",
        starting::START_LIMIT.as_secs()
    )]
    HeldUp,
}

impl ExecError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// Puts the step that failed into the words of the request.
    fn spawn(error: SpawnError, program: &str, cwd: &str) -> Self {
        let errno = error.source.raw_os_error().unwrap_or(0);
        let no_memory = matches!(errno, libc::ENOMEM | libc::EAGAIN | libc::ENOSPC);
        let (kind, message) = match error.step {
            Step::Exec => match errno {
                libc::ENOENT | libc::ENOTDIR => (
                    FailureKind::NotFound,
                    format!("command not found in the guest (or its interpreter is missing): {program}"),
                ),
                libc::E2BIG => (
                    FailureKind::Invalid,
                    format!(
                        "{program}: Linux allows 128 KiB for one argument or variable and 6 MiB for all together; \
                         pass long text through stdin or a file"
                    ),
                ),
                libc::EACCES | libc::ENOEXEC | libc::EPERM | libc::EISDIR => {
                    (FailureKind::NotPermitted, format!("cannot execute {program}"))
                }
                _ if no_memory => (FailureKind::NoSpace, format!("cannot execute {program}")),
                _ => (FailureKind::NotPermitted, format!("cannot execute {program}")),
            },
            Step::Chdir => (
                // Not "not found": that is what a command that does not exist is.
                FailureKind::Invalid,
                format!("working directory {cwd} in the guest"),
            ),
            Step::Clone => (
                if no_memory { FailureKind::NoSpace } else { FailureKind::Other },
                "no process can be made in the guest (no memory, too many processes, or the workload's PID 1 has ended)"
                    .to_owned(),
            ),
            Step::User => (FailureKind::NotPermitted, "cannot change to the user".to_owned()),
            step => (FailureKind::Other, format!("cannot prepare the process ({step:?})")),
        };
        Self::Spawn { kind, message, source: error.source }
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        let kind = match &error {
            ExecError::Invalid(_) => FailureKind::Invalid,
            ExecError::World(e) => e.kind(),
            ExecError::User(e) => e.kind(),
            ExecError::Stdio { source, .. } | ExecError::Script(source) => kind_of(source),
            ExecError::Spawn { kind, .. } => *kind,
            ExecError::HeldUp => FailureKind::Other,
        };
        Self { kind, message: error.to_string() }
    }
}
