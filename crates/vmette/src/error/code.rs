//! Names of errors that stay the same from version to version. The list is in `docs/API.md`; a test compares the two.
//! No string in this file, before its tests, is anything but a code.

use vmette_cache::StagingError;
use vmette_image::{NetworkError, ProviderError};
use vmette_vmm::Error as EngineError;
use vmette_wire::streams::FailureKind;

use super::{ConfigError, Error, RestoreError, SaveError, StartError, VsockError};
use crate::assets::AssetError;

impl Error {
    /// A name for this kind of error that stays the same, for programs. A later version may have more of them.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfig(error) => error.code(),
            Self::StartFailed(error) => error.code(),
            Self::RestoreFailed(error) => error.code(),
            Self::SaveFailed(error) => error.code(),
            Self::Timeout(_) => "timeout",
            Self::Vsock(error) => error.code(),
            Self::Agent(_) => "agent_lost",
            Self::Ended(_) => "session_ended",
            Self::Request(failure) => of_request(failure.kind),
            Self::Engine(error) => of_engine(error),
            Self::Rootfs(error) => of_provider(error),
            Self::Assets(error) => of_asset(error),
            Self::Cache(error) => of_cache(error),
            Self::Io(_) => "io",
        }
    }
}

impl ConfigError {
    fn code(&self) -> &'static str {
        match self {
            Self::OutOfRange { .. } => "config_out_of_range",
            Self::TooMany { .. } => "config_too_many",
            Self::Malformed { .. } => "config_malformed",
            Self::Twice { .. } => "config_twice",
            Self::File { .. } => "config_file",
            Self::WrongFile { .. } => "config_wrong_file",
            Self::Contradiction(_) => "config_contradiction",
            Self::NoNetwork { .. } => "config_no_network",
            Self::NoShares { .. } => "config_no_shares",
            Self::NothingToRun => "config_nothing_to_run",
            Self::Command(_) => "config_command",
        }
    }
}

impl StartError {
    fn code(&self) -> &'static str {
        match self {
            Self::AgentSilent { .. } => "start_agent_silent",
            Self::AgentRefused { .. } => "start_agent_refused",
            Self::GuestEnded { .. } => "start_guest_ended",
            Self::Root { .. } => "start_root",
            Self::SessionEnded(_) => "start_session_ended",
            Self::Internal(_) => "internal",
        }
    }
}

impl SaveError {
    fn code(&self) -> &'static str {
        match self {
            Self::Impossible(_) => "save_impossible",
            Self::Target(StagingError::Exists(_)) => "save_exists",
            Self::Target(StagingError::Busy(_)) => "save_being_made",
            Self::Target(_) => "save_file",
            Self::File { .. } => "save_file",
            Self::SharesInUse { .. } => "save_shares_in_use",
            Self::GuestMoves { .. } => "save_guest_moves",
            Self::Engine(_) => "save_engine",
            Self::SessionEnded(_) => "save_session_ended",
        }
    }
}

impl RestoreError {
    fn code(&self) -> &'static str {
        match self {
            Self::Refused { .. } | Self::OtherBootFile { .. } => "snapshot_refused",
            Self::Damaged { .. } | Self::Changed(_) => "snapshot_damaged",
        }
    }
}

impl VsockError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoDevice(_) => "vsock_no_device",
            Self::NoPort => "vsock_no_port",
            Self::Socket { .. } => "vsock_socket",
        }
    }
}

fn of_request(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::NotFound => "request_not_found",
        FailureKind::NotPermitted => "request_not_permitted",
        FailureKind::Invalid => "request_invalid",
        FailureKind::NoSpace => "request_no_space",
        FailureKind::Other => "request_failed",
    }
}

fn of_engine(error: &EngineError) -> &'static str {
    match error {
        EngineError::Unavailable { .. } => "engine_unavailable",
        EngineError::InvalidSpec(_) => "engine_spec",
        EngineError::Unsupported { .. } => "engine_unsupported",
        EngineError::File { .. } => "engine_file",
        EngineError::Machine(_) => "engine_machine",
        EngineError::Snapshot { .. } => "engine_snapshot",
        EngineError::Timeout { .. } => "engine_timeout",
        EngineError::Io { .. } => "engine_io",
    }
}

fn of_provider(error: &ProviderError) -> &'static str {
    match error {
        ProviderError::InvalidSpec(_) => "rootfs_spec",
        ProviderError::OfflineCacheMiss(_) => "rootfs_offline",
        ProviderError::NotPulled(_) => "rootfs_not_pulled",
        ProviderError::Network(error) => of_network(error),
        ProviderError::Image { .. } | ProviderError::Layer { .. } => "rootfs_image",
        ProviderError::NoSuchImage { .. } => "image_unknown",
        ProviderError::ImageInUse { .. } => "image_in_use",
        ProviderError::Cancelled => "cancelled",
        ProviderError::Io { .. } => "rootfs_io",
        ProviderError::Cache { .. } => "cache",
        ProviderError::Archive { .. } => "rootfs_archive",
        ProviderError::MissingTool { .. } => "tool_missing",
        ProviderError::Tool { .. } => "tool_failed",
        _ => "rootfs_other",
    }
}

fn of_network(error: &NetworkError) -> &'static str {
    match error {
        NetworkError::Unreachable { .. } => "network_unreachable",
        NetworkError::Status { .. } => "network_status",
        NetworkError::Denied { .. } => "network_denied",
        NetworkError::Truncated { .. } => "network_truncated",
        NetworkError::Length { .. } => "network_length",
        NetworkError::TooLarge { .. } => "network_too_large",
        NetworkError::Changed { .. } => "network_changed",
        NetworkError::PlainHttp { .. } => "network_plain_http",
        NetworkError::Redirect { .. } => "network_redirect",
        NetworkError::Certificate { .. } => "network_certificate",
        NetworkError::Tls { .. } => "network_tls",
        NetworkError::TrustStore { .. } => "network_trust_store",
        NetworkError::Proxy { .. } => "network_proxy",
        NetworkError::Protocol { .. } => "network_protocol",
        NetworkError::Credentials { .. } => "network_credentials",
        _ => "network_other",
    }
}

fn of_cache(error: &vmette_cache::Error) -> &'static str {
    use vmette_cache::Error as Cache;
    match error {
        Cache::Link { .. } | Cache::Owner { .. } | Cache::Writable { .. } => "cache_not_private",
        Cache::Held { .. } => "cache_held",
        Cache::Cancelled(_) => "cancelled",
        _ => "cache",
    }
}

fn of_asset(error: &AssetError) -> &'static str {
    match error {
        AssetError::Cache(error) => of_cache(error),
        AssetError::Cancelled(_) => "cancelled",
        AssetError::AssetsDir { .. } => "assets_folder",
        AssetError::File { .. } => "assets_file",
        AssetError::NoKernel { .. } => "kernel_missing",
        AssetError::NoBusybox { .. } => "busybox_missing",
        AssetError::NoModule { .. } | AssetError::Modules { .. } => "kernel_modules",
        AssetError::GivenInitramfs { .. } => "initramfs_given",
        AssetError::NoGuest => "guest_missing",
        AssetError::Tool(_) => "tool_failed",
        AssetError::Package { .. } => "package",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Strings of the code above.
    fn in_code() -> BTreeSet<&'static str> {
        let (code, _tests) = include_str!("code.rs").split_once("#[cfg(test)]").unwrap();
        code.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| line.split('"').skip(1).step_by(2))
            .collect()
    }

    /// First cells of the table under "Codes".
    fn in_docs() -> Vec<&'static str> {
        let docs = include_str!("../../../../docs/API.md");
        let (_, section) = docs.split_once("### Codes").expect("a section on codes");
        let section = section.split("\n#").next().unwrap();
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
    }

    #[test]
    fn the_documented_codes_are_those_of_the_code() {
        let listed = in_docs();
        let documented: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(documented, in_code());
        assert_eq!(documented.len(), listed.len(), "a code is listed twice");
    }
}
