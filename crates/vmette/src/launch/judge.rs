//! Judges a template from which a machine did not start.

use crate::Error;

/// The culprit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The caller's own files: they are as wrong in a cold boot, which says so.
    Caller,
    /// The template is not what was saved, or the engine does not take it: no run will start from it.
    Template,
    /// The host, at this moment: threads, descriptors or memory ran out, or the engine was killed. Other runs may use the
    /// template meanwhile.
    Host,
    /// The machine came up and its guest did not. A host under load is slow, and a template may be broken in a way that
    /// nobody sees: when it happens again, it is the template.
    Unclear,
}

/// Judges by the error of the start.
pub(super) fn verdict(error: &Error) -> Verdict {
    use vmette_vmm::Error as Engine;
    match error {
        Error::Engine(Engine::File { .. } | Engine::InvalidSpec(_)) => Verdict::Caller,
        Error::Engine(Engine::Snapshot { .. }) | Error::RestoreFailed(_) => Verdict::Template,
        Error::Engine(Engine::Timeout { .. }) => Verdict::Unclear,
        Error::Engine(_) | Error::Io(_) => Verdict::Host,
        _ => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{RestoreError, StartError};
    use std::io;

    #[test]
    fn only_what_tells_of_the_template_is_held_against_it() {
        use vmette_vmm::Error as Engine;
        let text = || String::from("text");
        let shortage = || io::Error::from(io::ErrorKind::WouldBlock);
        let cases = [
            (RestoreError::Changed(text()).into(), Verdict::Template),
            (Engine::Snapshot { path: "/x".into(), reason: text() }.into(), Verdict::Template),
            (Engine::File { what: "disk", path: "/x".into(), source: shortage() }.into(), Verdict::Caller),
            (Engine::InvalidSpec(text()).into(), Verdict::Caller),
            (Engine::io("start a thread")(shortage()).into(), Verdict::Host),
            (Engine::Machine(text()).into(), Verdict::Host),
            (Error::Io(shortage()), Verdict::Host),
            (Engine::Timeout { operation: "MIGRATION", seconds: 1 }.into(), Verdict::Unclear),
            (StartError::GuestEnded { cause: text() }.into(), Verdict::Unclear),
        ];
        for (error, expected) in cases {
            assert_eq!(verdict(&error), expected, "{error}");
        }
    }
}
