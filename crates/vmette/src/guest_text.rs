//! Texts that a guest chose the words of, on their way to a person's terminal or log.

/// Most characters that are passed on.
const LENGTH_MAX: usize = 2048;

/// The text with everything escaped that a terminal would obey, and no longer than is useful.
pub(crate) fn safe(text: &str) -> String {
    vmette_work::printable(text, LENGTH_MAX)
}
