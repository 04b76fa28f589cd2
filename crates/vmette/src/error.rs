//! The library's error.

use std::io;

use vmette_wire::agent::{Failure, FailureKind};

use crate::assets::AssetError;

/// Why vmette could not do what it was asked. The text is meant for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be met by any machine.
    #[error("config invalid: {0}")]
    InvalidConfig(String),
    /// The machine did not come up.
    #[error("start failed: {0}")]
    StartFailed(String),
    /// A saved state could not be restored.
    #[error("restore failed: {0}")]
    RestoreFailed(String),
    /// A state could not be saved.
    #[error("save failed: {0}")]
    SaveFailed(String),
    /// Nothing came within that many seconds.
    #[error("timed out after {0} s")]
    Timeout(u32),
    /// No host-to-guest channel of that kind.
    #[error("vsock unavailable: {0}")]
    Vsock(String),
    /// The connection to the agent in the guest is gone; the text is the first cause.
    #[error("guest agent: {0}")]
    Agent(String),
    /// The agent refused, or could not carry out, one request. The session goes on.
    #[error("{}", .0.message)]
    Request(Failure),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] vmette_vmm::Error),
    /// The rootfs could not be resolved.
    #[error("rootfs: {0}")]
    Rootfs(#[from] vmette_image::ProviderError),
    /// Kernel, initramfs or cache folder.
    #[error(transparent)]
    Assets(#[from] AssetError),
    /// Another system error.
    #[error("I/O: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// The exit status that shells and container tools give to a command that failed like that: 127 for one that does
    /// not exist, 126 for one that cannot be executed, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Request(Failure { kind: FailureKind::NotFound, .. }) => 127,
            Self::Request(Failure { kind: FailureKind::NotPermitted, .. }) => 126,
            _ => 1,
        }
    }
}
