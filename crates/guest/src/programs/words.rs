//! Words of a command line, and words for its user.

use std::ffi::OsStr;
use std::io::{self, Write};

/// Exit status for a wrong command line.
pub(super) const USAGE: i32 = 2;

/// A port or a context, in decimal.
pub(super) fn number(text: &OsStr) -> Option<u32> {
    text.to_str()?.parse().ok()
}

pub(super) fn usage(form: &str) -> i32 {
    // Nobody to tell: the status says it.
    let _ = writeln!(io::stderr(), "usage: {form}");
    USAGE
}

pub(super) fn complain(name: &str, error: &io::Error) {
    // Nobody to tell: the status says it.
    let _ = writeln!(io::stderr(), "{name}: {error}");
}
