//! Measures vmette, through its command and through its library, beside plain QEMU and other sandboxes on the same
//! machine, and prints a table. A target that is missed is shown, and is no failure; a measurement that fails is.
#![forbid(unsafe_code)]

mod bench;
mod copy;
mod fleet;
mod host;
mod input;
mod layout;
mod listing;
mod live;
mod memory;
mod nested;
mod peers;
mod phase;
mod plain;
mod program;
mod pull;
mod registry;
mod share;
mod snapshots;
mod starts;
mod stats;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use phase::Plan;

/// Measures vmette beside plain QEMU and other sandboxes.
#[derive(Debug, Parser)]
struct Args {
    /// The vmette command [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    vmette: Option<PathBuf>,
    /// Write the table to this file as well
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Take the times of the test suite's KVM lane from this file
    #[arg(long, value_name = "FILE")]
    kvm_lane: Option<PathBuf>,
    /// Measure everything a few times only, for a first impression
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    match measure(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: Args) -> anyhow::Result<()> {
    let vmette = match args.vmette {
        Some(path) => path,
        None => std::env::current_exe().context("find this program")?.with_file_name("vmette"),
    };
    let vmette = vmette
        .canonicalize()
        .with_context(|| format!("{} is not there; `make build` makes it", vmette.display()))?;
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let text = bench::run(&vmette, plan, args.kvm_lane.as_deref())?;
    if let Some(out) = &args.out {
        fs::write(out, &text).with_context(|| format!("write {}", out.display()))?;
    }
    print!("{text}");
    Ok(())
}
