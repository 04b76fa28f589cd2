//! The report of a check.

use std::fmt;

/// One broken rule: where, what, and how to put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// A crate, or a file with a line.
    pub(crate) place: String,
    /// Which rule is broken, by what.
    pub(crate) what: String,
    /// The remedy.
    pub(crate) remedy: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.remedy)
    }
}
