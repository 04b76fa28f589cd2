//! One command from start to end; its output goes where this program's goes.
//!
//! `cargo run -p vmette --example one_shot`

fn main() -> Result<(), vmette::Error> {
    let config =
        vmette::Config::default().with(|c| c.command.shell = Some("echo hello from $(uname -sr)".into()));
    let output = vmette::run(&config)?;
    println!("exit status {}", output.exit_code);
    Ok(())
}
