//! Copying that can be cancelled.

use std::io::{self, Read, Write};

use vmette_work::Work;

/// Bytes copied between two looks at whether it was cancelled.
const PIECE: u64 = 16 << 20;

pub(super) fn copy(from: impl Read, to: &mut impl Write, work: &Work) -> io::Result<u64> {
    let mut from = from;
    let mut copied = 0;
    loop {
        work.check()?;
        match io::copy(&mut from.by_ref().take(PIECE), to)? {
            0 => return Ok(copied),
            piece => copied += piece,
        }
    }
}
