//! The library's error: for programs a kind with data and a stable code, for people a text that names the cause.

mod code;
mod config;
mod remedy;
mod restore;
mod save;
mod start;
mod vsock;

use std::io;

use vmette_wire::streams::{Failure, FailureKind};

pub use config::{ConfigError, Quantity};
pub use remedy::Remedy;
pub use restore::RestoreError;
pub use save::SaveError;
pub use start::StartError;
pub use vsock::VsockError;

use crate::assets::AssetError;
use crate::end::SessionEnd;

/// Why vmette could not do what it was asked. The text names what failed, on what and why, and what to do about it in
/// words that hold for every program; [`Error::remedy`] has the same as data, [`Error::code`] a name that stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No machine can be like that.
    #[error("config invalid: {0}")]
    InvalidConfig(#[from] ConfigError),
    /// The machine did not come up.
    #[error("start failed: {0}")]
    StartFailed(#[from] StartError),
    /// A saved state could not be restored.
    #[error("restore failed: {0}")]
    RestoreFailed(#[from] RestoreError),
    /// A state could not be saved.
    #[error("save failed: {0}")]
    SaveFailed(#[from] SaveError),
    /// There was no answer within that many seconds.
    #[error("timed out after {0} s")]
    Timeout(u32),
    /// No vsock device, or none that can do this.
    #[error("vsock unavailable: {0}")]
    Vsock(#[from] VsockError),
    /// The connection to the agent in the guest is gone; the text is the first cause.
    #[error("guest agent: {0}")]
    Agent(String),
    /// The session ended before the call, or while it was under way.
    #[error("the session has ended: {0}")]
    Ended(SessionEnd),
    /// The agent refused, or could not carry out, one request. The session goes on.
    #[error("{}", .0.message)]
    Request(Failure),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] vmette_vmm::Error),
    /// The rootfs could not be resolved.
    #[error("rootfs: {0}")]
    Rootfs(#[from] vmette_image::ProviderError),
    /// Kernel, initramfs or busybox.
    #[error(transparent)]
    Assets(#[from] AssetError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] vmette_cache::Error),
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
