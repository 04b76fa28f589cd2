//! `vmette man`: the manual pages, made from the flags.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use crate::args::Cli;
use crate::{exit, stdio};

/// Writes a page for the command and one for each subcommand into a folder.
pub(crate) fn man(folder: &Path) -> u8 {
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    match written {
        Ok(()) => 0,
        Err(e) => {
            stdio::say(&format!("error: manual pages cannot be written to {}: {e}", folder.display()));
            exit::FAILURE
        }
    }
}
