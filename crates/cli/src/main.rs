//! The `vmette` command: arguments in, exit code out. Everything it does goes through the `vmette` library.
#![forbid(unsafe_code)]

mod args;
mod doctor;
mod exit;
mod grants;
mod ignored;
mod image;
mod inherited;
mod interruptible;
mod limits;
mod man;
mod network_args;
mod progress;
mod providers;
mod quickstart;
mod request;
mod run;
mod screen;
mod signals;
mod snapshot;
mod stdio;
mod terminal;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, LegacyArgs};

fn main() -> ExitCode {
    if let Err(e) = inherited::normalise() {
        stdio::say(&format!("error: the state of this process: {e}"));
        return ExitCode::from(exit::FAILURE);
    }
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let code = match dispatch(&arguments) {
        Ok(code) => code,
        Err(e) => exit::usage(&e),
    };
    ExitCode::from(code)
}

/// The first argument decides: a subcommand, or the flags of the original command.
fn dispatch(arguments: &[OsString]) -> Result<u8, clap::Error> {
    let first = arguments.get(1).and_then(|a| a.to_str()).unwrap_or_default();
    let is_general = matches!(first, "" | "-h" | "--help" | "-V" | "--version");
    if first.starts_with('-') && !is_general {
        let legacy = LegacyArgs::try_parse_from(arguments)?;
        return Ok(run::run(request::Request::from_legacy(legacy)?));
    }
    match Cli::try_parse_from(arguments)?.command {
        Command::Run(args) => Ok(run::run(request::Request::from_run(*args)?)),
        Command::Shell(args) => Ok(run::run(request::Request::from_shell(*args)?)),
        Command::Image(command) => Ok(image::image(*command)),
        Command::Snapshot(command) => Ok(snapshot::snapshot(&command)),
        Command::Doctor(args) => Ok(doctor::doctor(&args)),
        Command::Providers => Ok(providers::providers()),
        Command::Quickstart => Ok(quickstart::quickstart()),
        Command::Version => {
            stdio::print_out(&format!("vmette {}\n", env!("CARGO_PKG_VERSION")));
            Ok(0)
        }
        Command::Man { folder } => Ok(man::man(&folder)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vmette", &mut script);
            stdio::print_out(&String::from_utf8_lossy(&script));
            Ok(0)
        }
    }
}
