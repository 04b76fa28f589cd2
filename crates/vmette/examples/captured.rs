//! The output as a value, with a host folder granted read-only and a limit of time.
//!
//! `cargo run -p vmette --example captured`

use vmette::{Config, ShareMount};

fn main() -> Result<(), vmette::Error> {
    let folder = std::env::current_dir()?;
    let config = Config::default().with(|c| {
        c.grants.shares = vec![ShareMount { read_only: true, ..ShareMount::new("here", folder) }];
        c.command.shell = Some("ls /mnt/here | wc -l".into());
        c.machine.timeout_seconds = Some(120);
    });
    let output = vmette::run_captured(&config)?;
    println!("status {}, entries: {}", output.exit_code, output.output.trim());
    Ok(())
}
