//! Programs for vsock that a workload can use without having them in its image: this binary under other names.

mod exchange;
mod listening;
mod runner;
mod words;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use crate::sys::{self, VsockAddr};
use listening::{accept, listen_on};
use words::{complain, number, usage};

/// Their folder, below a workload's root.
pub(crate) const FOLDER: &str = "usr/local/bin";

/// All of them.
pub(crate) const NAMES: [&str; 3] = ["vsock-send", "vsock-listen", "vsock-runner"];

/// Runs the program that the first argument names, and returns its exit status; `None` when it names none of them.
pub fn run(args: impl Iterator<Item = OsString>) -> Option<i32> {
    let mut args = args;
    let name = args.next()?;
    let name = Path::new(&name).file_name().and_then(OsStr::to_str)?;
    let args: Vec<OsString> = args.collect();
    let program: fn(&[OsString]) -> io::Result<i32> = match name {
        "vsock-send" => send,
        "vsock-listen" => listen,
        "vsock-runner" => runner::run,
        _ => return None,
    };
    sys::ignore_broken_pipes();
    Some(program(&args).unwrap_or_else(|e| {
        complain(name, &e);
        1
    }))
}

/// `vsock-send PORT [CID]`: connects, and passes stdin there and stdout back.
fn send(args: &[OsString]) -> io::Result<i32> {
    let (port, cid) = match args {
        [port] => (number(port), Some(sys::CID_HOST)),
        [port, cid] => (number(port), number(cid)),
        _ => (None, None),
    };
    let (Some(port), Some(cid)) = (port, cid) else {
        return Ok(usage("vsock-send PORT [CID]"));
    };
    exchange::with_stdio(sys::vsock_connect(VsockAddr { cid, port })?)
}

/// `vsock-listen PORT`: accepts one connection, and passes stdin there and stdout back.
fn listen(args: &[OsString]) -> io::Result<i32> {
    let [port] = args else { return Ok(usage("vsock-listen PORT")) };
    let Some(port) = number(port) else { return Ok(usage("vsock-listen PORT")) };
    exchange::with_stdio(accept(&listen_on(port)?)?)
}

#[cfg(test)]
mod tests {
    use super::words::USAGE;
    use super::*;

    fn run_as(args: &[&str]) -> Option<i32> {
        run(args.iter().map(OsString::from))
    }

    #[test]
    fn only_its_own_names_make_it_a_program() {
        assert_eq!(run_as(&["/init"]), None);
        assert_eq!(run_as(&["vsock-sender", "1"]), None);
        assert_eq!(run_as(&[]), None);
    }

    #[test]
    fn a_wrong_command_line_is_status_2() {
        for args in [
            &["/usr/local/bin/vsock-send"][..],
            &["vsock-send", "x"],
            &["vsock-send", "1", "2", "3"],
            &["vsock-send", "-1"],
            &["vsock-listen"],
            &["vsock-listen", "4294967296"],
            &["vsock-runner", "1"],
            &["vsock-runner", "1", "y"],
        ] {
            assert_eq!(run_as(args), Some(USAGE), "{args:?}");
        }
    }
}
