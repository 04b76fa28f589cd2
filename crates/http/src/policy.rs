//! The user's rules for requests.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Trust in servers, beyond the system's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOptions {
    /// PEM file, or folder of `*.pem`, `*.crt` and `*.cer` files, whose certificates are trusted beside the usual ones.
    pub ca_certs: Option<PathBuf>,
    /// Servers, `host` or `host:port`, that may be talked to without TLS. Those on loopback may in any case.
    pub plain_http: Vec<String>,
}

/// Rules for all requests of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refuses every request.
    pub offline: bool,
    /// Trust in servers.
    pub network: NetworkOptions,
}
