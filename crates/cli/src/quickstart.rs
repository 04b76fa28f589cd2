//! `vmette quickstart`: a first run, and what to try next.

use clap::Parser;

use crate::args::{Cli, Command};
use crate::{exit, request, run, stdio};

const NEXT_STEPS: &str = "
Try next:
  vmette shell                                    a shell in a fresh machine
  vmette run -- sh -c 'uname -a; exit 7'          a command; its exit status is yours
  vmette run -v \"$PWD\":/work:ro -w /work -- ls     with a folder of yours, read-only
  vmette doctor                                   what stands between guest and host here
";

/// Runs a greeting in a machine.
pub(crate) fn quickstart() -> u8 {
    let arguments = ["vmette", "run", "--no-stdin", "--", "sh", "-c", "echo hello from $(uname -sr)"];
    let request = match Cli::try_parse_from(arguments) {
        Ok(Cli { command: Command::Run(args) }) => request::Request::from_run(*args),
        Ok(_) => return exit::FAILURE,
        Err(e) => Err(e),
    };
    let code = match request {
        Ok(request) => run::run(request),
        Err(e) => return exit::usage(&e),
    };
    if code == 0 {
        stdio::print_out(NEXT_STEPS);
    } else {
        stdio::say("the first run failed; `vmette doctor` says what is missing");
    }
    code
}
