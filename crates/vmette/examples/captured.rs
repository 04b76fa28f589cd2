//! The output as a value, with a host folder granted read-only and a limit of time.
//!
//! `cargo run -p vmette --example captured`

use vmette::{Config, ShareMount};

fn main() -> Result<(), vmette::Error> {
    let folder = std::env::current_dir()?;
    let config = Config {
        shares: vec![ShareMount { read_only: true, ..ShareMount::new("here", folder) }],
        exec_cmd: Some("ls /mnt/here | wc -l".into()),
        capture_output: true,
        timeout_seconds: Some(120),
        ..Config::default()
    };
    let output = vmette::run(&config)?;
    println!("status {}, entries: {}", output.exit_code, output.output.trim());
    Ok(())
}
