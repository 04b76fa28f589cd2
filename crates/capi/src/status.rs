//! What a call came to.

use library::provider::ProviderError;

/// What a call came to. vmette_last_error_message() has the text. There may be more in a later version.
///
/// cbindgen:prefix-with-name
/// cbindgen:rename-all=ScreamingSnakeCase
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmetteStatus {
    /// Done.
    Ok = 0,
    /// No machine can be like that.
    InvalidConfig = 1,
    /// The machine did not come up.
    StartFailed = 2,
    /// A saved state could not be restored.
    RestoreFailed = 3,
    /// A state could not be saved.
    SaveFailed = 4,
    /// This version, or this engine, has no snapshots of sessions.
    SnapshotUnsupported = 5,
    /// No answer in time.
    Timeout = 6,
    /// No vsock of that kind.
    Vsock = 7,
    /// Another system error.
    Io = 8,
    /// A pointer that must not be NULL is NULL.
    NullArg = 9,
    /// A string is no UTF-8.
    InvalidUtf8 = 10,
    /// The engine refused: it is not there, too old, has no such accelerator, or cannot use a file.
    EngineFailed = 11,
    /// The kernel, the initramfs or the cache folder.
    AssetsFailed = 12,
    /// The root file system could not be resolved.
    RootfsFailed = 13,
    /// The guest refused one request; the session goes on. For a command, vmette_last_error_exit_code() says why.
    RequestFailed = 14,
    /// The connection to the guest is gone, or the session has ended.
    AgentLost = 15,
    /// The session ended because the machine or the connection to it failed.
    SessionFailed = 16,
    /// It was called off with a vmette_stop_t.
    Cancelled = 17,
    /// A mistake of vmette's own. The handles of the call must not be used any more, except to free them.
    InternalError = 18,
    /// None of the others.
    OtherError = 19,
}

/// Why a call failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: VmetteStatus,
    /// The library's name for it, if it is the library's.
    pub(crate) code: Option<&'static str>,
    pub(crate) message: String,
    /// What a shell would make of it.
    pub(crate) exit_code: i32,
}

impl Failure {
    pub(crate) fn new(status: VmetteStatus, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into(), exit_code: 1 }
    }

    pub(crate) fn null(name: &str) -> Self {
        Self::new(VmetteStatus::NullArg, format!("{name} is NULL"))
    }
}

impl From<library::Error> for Failure {
    fn from(error: library::Error) -> Self {
        use library::Error;
        let status = match &error {
            Error::InvalidConfig(_) => VmetteStatus::InvalidConfig,
            Error::StartFailed(_) => VmetteStatus::StartFailed,
            Error::RestoreFailed(_) => VmetteStatus::RestoreFailed,
            Error::SaveFailed(_) => VmetteStatus::SaveFailed,
            Error::Engine(library::engine_api::Error::Unsupported {
                operation: "save" | "restore", ..
            }) => VmetteStatus::SnapshotUnsupported,
            Error::Timeout(_) => VmetteStatus::Timeout,
            Error::Vsock(_) => VmetteStatus::Vsock,
            Error::Agent(_) | Error::Ended(_) => VmetteStatus::AgentLost,
            Error::Request(_) => VmetteStatus::RequestFailed,
            Error::Engine(_) => VmetteStatus::EngineFailed,
            Error::Rootfs(ProviderError::Cancelled) => VmetteStatus::Cancelled,
            Error::Rootfs(_) => VmetteStatus::RootfsFailed,
            Error::Assets(_) => VmetteStatus::AssetsFailed,
            Error::Io(_) => VmetteStatus::Io,
            _ => VmetteStatus::OtherError,
        };
        Self { status, code: Some(error.code()), exit_code: error.exit_code(), message: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        library::Error::Io(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use library::{Error, FailureKind};
    use vmette_wire::streams::Failure as Refusal;

    #[test]
    fn an_error_keeps_its_kind_its_text_and_its_exit_code() {
        let failure = Failure::from(Error::Timeout(30));
        assert_eq!(
            (failure.status, failure.message.as_str(), failure.code),
            (VmetteStatus::Timeout, "timed out after 30 s", Some("timeout"))
        );
        let refused = |kind| Failure::from(Error::Request(Refusal { kind, message: "no".into() }));
        assert_eq!(refused(FailureKind::NotFound).exit_code, 127);
        assert_eq!(refused(FailureKind::NotPermitted).exit_code, 126);
        assert_eq!(refused(FailureKind::NotFound).status, VmetteStatus::RequestFailed);
        let stopped = Failure::from(Error::Rootfs(ProviderError::Cancelled));
        assert_eq!(stopped.status, VmetteStatus::Cancelled);
    }
}
