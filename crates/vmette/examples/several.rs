//! Several machines at once, one thread each.
//!
//! `cargo run -p vmette --example several`

use std::thread;

use vmette::{Config, Error, RunOutput};

const MACHINES: u32 = 4;

fn main() -> Result<(), Error> {
    let runs: Vec<_> = (0..MACHINES)
        .map(|i| {
            thread::spawn(move || -> Result<RunOutput, Error> {
                let shell = format!("echo machine {i} is $(hostname)");
                vmette::run_captured(&Config::default().with(|c| c.command.shell = Some(shell)))
            })
        })
        .collect();
    for run in runs {
        match run.join() {
            Ok(output) => print!("{}", output?.output),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(())
}
