//! The machine's log: the kernel's, which the console shows. A line there must never stop the machine.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Longest line the kernel takes is about 1 KiB; an error may quote what a hostile image contains.
const LINE_MAX: usize = 900;

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
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // Without a log there is nobody to tell.
        let _ = kmsg.write_all(format!("<{level}>vmette-guest: {clean}\n").as_bytes());
    }
}
