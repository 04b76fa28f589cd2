//! A machine that stays: a command with separate streams, files in and out.
//!
//! `cargo run -p vmette --example streams`

use vmette::{Config, Error, ExecOptions, Output, Session};

fn main() -> Result<(), Error> {
    let config = Config::default();
    let session = Session::start(&config)?;
    println!("{} ({})", session.report().engine, session.report().isolation);

    session.put("/work/words", 0o644, &mut &b"pear\napple\nfig\n"[..])?;
    let sort = session.exec(&ExecOptions::shell("sort - words; echo sorted >&2").cwd("/work").stdin(true))?;
    sort.write_stdin(b"banana\n")?;
    sort.close_stdin()?;
    while let Some(output) = sort.next_output()? {
        match output {
            Output::Stdout(bytes) => print!("out: {}", String::from_utf8_lossy(&bytes)),
            Output::Stderr(bytes) => print!("err: {}", String::from_utf8_lossy(&bytes)),
        }
    }
    println!("{:?}", sort.wait()?);

    let mut back = Vec::new();
    let info = session.get("/work/words", &mut back)?;
    println!("{} bytes came back", info.size);
    session.shutdown()
}
