//! The machine's log: the kernel's, which the console shows. A line there must never stop the machine.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

/// Longest line the kernel takes is about 1 KiB; an error may quote what a hostile image contains.
const LINE_MAX: usize = 900;

/// Opened once, by PID 1: in the `/dev` of the workload, which some of its children have, there is no log. An agent without
/// a machine has none at all.
static KMSG: OnceLock<File> = OnceLock::new();

/// Opens the log, for this process and those that come of it without executing another program.
///
/// # Errors
/// The kernel's.
pub(crate) fn open() -> io::Result<()> {
    let kmsg = File::options().write(true).open("/dev/kmsg")?;
    // It is opened once, and the first one would do as well.
    let _ = KMSG.set(kmsg);
    Ok(())
}

/// The descriptor that a process has to keep in order to be heard.
pub(crate) fn descriptor() -> Option<BorrowedFd<'static>> {
    KMSG.get().map(AsFd::as_fd)
}

/// An error.
pub(crate) fn error(message: impl Display) {
    write('3', &message.to_string());
}

/// Something worth knowing.
pub(crate) fn note(message: impl Display) {
    write('5', &message.to_string());
}

fn write(level: char, message: &str) {
    let clean: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .scan(0, |len, c| {
            *len += c.len_utf8();
            (*len <= LINE_MAX).then_some(c)
        })
        .collect();
    if let Some(mut kmsg) = KMSG.get() {
        // Without a log there is nobody to tell.
        let _ = kmsg.write_all(format!("<{level}>vmette-guest: {clean}\n").as_bytes());
    }
}
