//! How an image wants to be run, and on which platform.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Most volumes of an image: each is mounted at every start, and a guest takes no more.
pub const VOLUMES_MAX: usize = 64;

/// The parts of an image's configuration that a run honours. A rootfs that is not an image declares nothing: its
/// configuration is the default one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// Environment, in the image's order.
    pub env: Vec<(String, String)>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint, or the command itself when there is no entrypoint, unless the caller names others.
    pub cmd: Vec<String>,
    /// Its user: `name`, `uid`, `name:group` or `uid:gid`.
    pub user: Option<String>,
    /// Where it starts; absolute.
    pub working_dir: Option<String>,
    /// Folders that take writes even when the root takes none; absolute, sorted.
    pub volumes: Vec<String>,
    /// The signal that asks it to end, as a name (`SIGQUIT`) or a number.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// The platform of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, as Go names them.
    pub architecture: String,
    /// `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this host's guests: the host's own architecture.
    #[must_use]
    pub fn of_guest() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
