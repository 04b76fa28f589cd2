//! A granted folder, and how the engine, the guest and the report name it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmette_vmm::{Owner, Share};
use vmette_wire::devices;

use crate::report::ShareGrant;

/// A host folder granted to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareMount {
    /// Its name: ASCII letters, digits, `-`, `_`, `.`; unique; not `ctl`, `rootfs`, `certs` or `agent`.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// Whether the host refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Where it appears in the guest; `/mnt/<tag>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl ShareMount {
    /// A writable share at `/mnt/<tag>`.
    pub fn new(tag: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { tag: tag.into(), path: path.into(), read_only: false, target: None }
    }

    /// The device; `owner` is the guest's user for whom the session's commands run.
    pub(crate) fn device(&self, owner: Option<Owner>) -> Share {
        Share { tag: self.tag.clone(), path: self.path.clone(), read_only: self.read_only, owner }
    }

    /// Where it appears in the guest.
    #[must_use]
    pub fn guest_path(&self) -> String {
        self.target.clone().unwrap_or_else(|| format!("{}/{}", devices::SHARE_DIR, self.tag))
    }
}

impl From<&ShareMount> for devices::Share {
    fn from(share: &ShareMount) -> Self {
        Self { tag: share.tag.clone(), target: share.guest_path(), read_only: share.read_only }
    }
}

impl From<&ShareMount> for ShareGrant {
    fn from(share: &ShareMount) -> Self {
        let host = share.path.display().to_string();
        Self { host, guest: share.guest_path(), read_only: share.read_only }
    }
}
