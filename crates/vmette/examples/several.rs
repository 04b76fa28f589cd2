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
                vmette::run(&Config {
                    exec_cmd: Some(format!("echo machine {i} is $(hostname)")),
                    capture_output: true,
                    ..Config::default()
                })
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
