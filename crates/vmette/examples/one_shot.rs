//! One command from start to end; its output goes where this program's goes.
//!
//! `cargo run -p vmette --example one_shot`

fn main() -> Result<(), vmette::Error> {
    let config =
        vmette::Config { exec_cmd: Some("echo hello from $(uname -sr)".into()), ..vmette::Config::default() };
    let output = vmette::run(&config)?;
    println!("exit status {}", output.exit_code);
    Ok(())
}
