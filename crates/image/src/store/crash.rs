//! Ends a test's child process at a named point, as a power cut or `SIGKILL` would.

/// Names the point at which the process ends.
pub(super) const VARIABLE: &str = "VMETTE_STORE_TEST_CRASH";

pub(super) fn point(name: &str) {
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == name) {
        // Nothing is dropped, no handler runs.
        std::process::abort();
    }
}
