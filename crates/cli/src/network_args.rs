//! Flags on registries and other servers, which `vmette run` and `vmette image` have in common.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::values;

/// When registries and servers are asked for something newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Only when it is not in the cache
    Missing,
    /// Each time; not reaching the server is an error
    Always,
    /// When it was last asked for more than an hour ago
    #[default]
    Newer,
    /// Not at all: what is not in the cache is an error
    Never,
}

impl From<Pull> for vmette::PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Missing => Self::Missing,
            Pull::Always => Self::Always,
            Pull::Newer => Self::Stale,
            Pull::Never => Self::Never,
        }
    }
}

/// How registries and other servers are talked to: of every subcommand that may.
#[derive(Debug, Default, Args)]
pub(crate) struct NetworkArgs {
    /// Fetch nothing
    #[arg(long)]
    pub(crate) offline: bool,
    /// Trust these certificates of registries and servers: PEM file, or folder of them
    #[arg(long, value_name = "PATH")]
    pub(crate) registry_ca: Option<PathBuf>,
    /// Talk to this host without TLS (those on loopback may be in any case)
    #[arg(long, value_name = "HOST[:PORT]", value_parser = values::host)]
    pub(crate) plain_http: Vec<String>,
}

impl NetworkArgs {
    /// Takes them over.
    pub(crate) fn apply(self, host: &mut vmette::HostOptions) {
        host.offline = self.offline;
        host.network = vmette::NetworkOptions { ca_certs: self.registry_ca, plain_http: self.plain_http };
    }
}
