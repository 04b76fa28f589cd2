//! From an error to a message and an exit code.

use clap::error::{ContextKind, ContextValue, ErrorKind};

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

/// An error with its causes, in one line. Most messages of the library quote their cause, which is not said twice.
pub(crate) fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said {
        said if said.is_empty() => cause,
        said if said.contains(&cause) => said,
        said => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        let io = std::io::Error::other("disk on fire");
        let quoted: Result<(), _> = Err(vmette::Error::Io(io));
        assert_eq!(message(&quoted.unwrap_err().into()).matches("disk on fire").count(), 1);
        let added = std::fs::File::open("/no/such").context("the report").unwrap_err();
        assert_eq!(message(&added), "the report: No such file or directory (os error 2)");
    }
}
