//! From an error to a message and an exit code.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use vmette::Remedy;
use vmette::provider::ProviderError;

use crate::stdio;

/// A command line that cannot be understood.
pub(crate) const USAGE: u8 = 2;

/// Anything that keeps a run from happening.
pub(crate) const FAILURE: u8 = 1;

/// Prints what is wrong with a command line, or the help that was asked for.
pub(crate) fn usage(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            stdio::print_out(&error.render().to_string());
            return 0;
        }
        // The words that scripts written for the original look for.
        ErrorKind::InvalidValue if is_missing_value(error) => {
            if let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) {
                let flag = argument.split(' ').next().unwrap_or(argument);
                stdio::print_err(&format!("error: {flag} needs a value\n"));
            }
        }
        _ => {}
    }
    stdio::print_err(&error.render().to_string());
    USAGE
}

fn is_missing_value(error: &clap::Error) -> bool {
    matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty())
}

/// An exit status as the system takes it.
pub(crate) fn status(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(FAILURE)
}

/// The status of a process that ended because of a signal.
pub(crate) fn signalled(signal: i32) -> u8 {
    status(128 + signal)
}

/// An error with its causes in one line, and the flag or command that helps. Most messages of the library quote their
/// cause, which is not said twice.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let text = error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said {
        said if said.is_empty() => cause,
        said if said.contains(&cause) => said,
        said => format!("{said}: {cause}"),
    });
    let remedy = match (error.downcast_ref::<vmette::Error>(), error.downcast_ref::<ProviderError>()) {
        (Some(error), _) => error.remedy(),
        (None, Some(error)) => Remedy::of_provider(error),
        (None, None) => None,
    };
    with_hint(text, remedy)
}

/// The text of an error of `vmette image`, with the flag or command that helps.
pub(crate) fn of_provider(error: &ProviderError) -> String {
    with_hint(error.to_string(), Remedy::of_provider(error))
}

/// The library says what to do; this command, how.
fn with_hint(text: String, remedy: Option<Remedy>) -> String {
    let hint = match remedy {
        Some(Remedy::AllowPlainHttp { host }) => format!("--plain-http {host}"),
        Some(Remedy::TrustCertificates) => "--registry-ca PATH".to_owned(),
        Some(Remedy::PullImage { name }) => format!("vmette image pull {name}"),
        Some(Remedy::ListImages) => "vmette image ls".to_owned(),
        Some(Remedy::GoOnline) => "leave --offline out".to_owned(),
        Some(Remedy::NameKernel) => "--kernel PATH".to_owned(),
        Some(Remedy::NameInitramfs) => "--initramfs PATH".to_owned(),
        Some(Remedy::ShowConsole) => "--console".to_owned(),
        Some(Remedy::RunWithoutNetwork) => "--net".to_owned(),
        // The text names the variable, or the package.
        _ => return text,
    };
    format!("{text} ({hint})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        let quoted = vmette::Error::Io(std::io::Error::other("disk on fire"));
        assert_eq!(message(&quoted.into()).matches("disk on fire").count(), 1);
        let added = std::fs::File::open("/no/such").context("the report").unwrap_err();
        assert_eq!(message(&added), "the report: No such file or directory (os error 2)");
    }

    #[test]
    fn a_remedy_is_said_in_the_words_of_the_command() {
        let not_pulled = || ProviderError::NotPulled("alpine".into());
        let expected = "alpine is not in the cache, and the pull policy rules out fetching it; pull it first (vmette image \
                        pull alpine)";
        assert_eq!(of_provider(&not_pulled()), expected);
        assert_eq!(message(&not_pulled().into()), expected);
        let error = vmette::Error::Rootfs(not_pulled());
        assert_eq!(message(&error.into()), format!("rootfs: {expected}"));
    }
}
