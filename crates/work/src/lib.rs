//! Work that can be cancelled, tells its progress, and is waited for.
//!
//! Everything that takes time takes a [`Work`]: downloads, programs, locks, conversions, the start of a machine. So one
//! [`Cancel`] ends all of it, wherever it waits, and one reporter hears of all of it.
#![forbid(unsafe_code)]

mod cancel;
mod progress;
mod slot;
mod text;

pub use cancel::{Cancel, Cancelled, OnCancel, is_cancelled};
pub use progress::{Item, PROGRESS_STEP, Progress, Reporter, Work};
pub use slot::Slot;
pub use text::{is_unprintable, printable};
