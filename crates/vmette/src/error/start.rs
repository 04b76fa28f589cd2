//! Errors that keep a machine from coming up, once there is one.

use crate::end::SessionEnd;

/// Why a machine did not come up. Texts of the guest's are safe to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel did not boot, or its agent never came to answer.
    #[error("the guest's agent did not answer within {seconds} s; the guest's console says how far it came")]
    AgentSilent {
        /// How long it was waited for.
        seconds: u32,
    },
    /// The agent is of another version, or did not take what makes the machine one of its own.
    #[error("the guest's agent: {reason}")]
    AgentRefused {
        /// In the agent's words.
        reason: String,
    },
    /// The guest ended before its agent had answered.
    #[error("{cause}")]
    GuestEnded {
        /// The best account there is of its end.
        cause: String,
    },
    /// The agent could not build the workload's root.
    #[error("the guest's root: {reason}")]
    Root {
        /// In the agent's words.
        reason: String,
    },
    /// A timeout or a stop ended the session first.
    #[error("the session ended while it started: {0}")]
    SessionEnded(SessionEnd),
    /// A mistake of vmette's own.
    #[error("{0}")]
    Internal(String),
}
