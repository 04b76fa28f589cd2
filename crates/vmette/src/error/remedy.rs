//! Remedies of errors, as data: each program says them in its own words.

use serde::Serialize;
use vmette_image::{NetworkError, ProviderError};

use super::{ConfigError, Error, StartError};
use crate::assets::AssetError;

/// The caller's remedy for an error. Programs turn it into a flag, a field of a request or a button.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Remedy {
    /// Allow this server to be talked to without TLS.
    AllowPlainHttp {
        /// The server, `host` or `host:port`, as [`NetworkOptions`](crate::NetworkOptions) takes it.
        host: String,
    },
    /// Name the certificates by which the server is to be trusted.
    TrustCertificates,
    /// Fetch the image first.
    PullImage {
        /// The name that was asked for.
        name: String,
    },
    /// Look which images there are.
    ListImages,
    /// Allow that something is fetched.
    GoOnline,
    /// Name a kernel.
    NameKernel,
    /// Name an initramfs.
    NameInitramfs,
    /// Look at the guest kernel's messages.
    ShowConsole,
    /// Leave the network out.
    RunWithoutNetwork,
    /// Name another cache folder, or make this one usable.
    SetCacheDir,
    /// Install a package of the distribution.
    InstallPackage {
        /// Its name on Debian.
        package: String,
    },
}

impl Error {
    /// The remedy. `None` if the text tells it, or there is none.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::InvalidConfig(ConfigError::NoNetwork { .. }) => Some(Remedy::RunWithoutNetwork),
            Self::StartFailed(StartError::AgentSilent { .. }) => Some(Remedy::ShowConsole),
            Self::Assets(error) => of_asset(error),
            Self::Cache(error) => of_cache(error),
            Self::Rootfs(error) => Remedy::of_provider(error),
            _ => None,
        }
    }
}

impl Remedy {
    /// The remedy for an error of the image store or of a provider.
    #[must_use]
    pub fn of_provider(error: &ProviderError) -> Option<Self> {
        match error {
            ProviderError::OfflineCacheMiss(_) => Some(Self::GoOnline),
            ProviderError::NotPulled(name) => Some(Self::PullImage { name: name.clone() }),
            ProviderError::NoSuchImage { .. } => Some(Self::ListImages),
            ProviderError::Cache { .. } => Some(Self::SetCacheDir),
            ProviderError::MissingTool { package, .. } => {
                Some(Self::InstallPackage { package: (*package).to_owned() })
            }
            ProviderError::Network(NetworkError::PlainHttp { host, .. } | NetworkError::Tls { host, .. }) => {
                Some(Self::AllowPlainHttp { host: host.clone() })
            }
            ProviderError::Network(NetworkError::Certificate { .. } | NetworkError::TrustStore { .. }) => {
                Some(Self::TrustCertificates)
            }
            _ => None,
        }
    }
}

fn of_cache(error: &vmette_cache::Error) -> Option<Remedy> {
    match error {
        vmette_cache::Error::Cancelled(_) | vmette_cache::Error::Held { .. } => None,
        _ => Some(Remedy::SetCacheDir),
    }
}

fn of_asset(error: &AssetError) -> Option<Remedy> {
    match error {
        AssetError::Cache(error) => of_cache(error),
        AssetError::NoKernel { .. } => Some(Remedy::NameKernel),
        AssetError::NoGuest => Some(Remedy::NameInitramfs),
        AssetError::NoBusybox { .. } => Some(Remedy::InstallPackage { package: "busybox-static".to_owned() }),
        _ => None,
    }
}
