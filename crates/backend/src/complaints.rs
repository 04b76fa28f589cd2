//! A server complains on its standard error, which the engine reads: one line each, beginning with the program's name,
//! and so many in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

/// Lines that are printed within [`WHILE`]. Some of them are a guest's doing, which could otherwise keep the engine busy
/// with reading.
const LINES_MAX: u32 = 64;

/// The time after which more lines are printed.
const WHILE: Duration = Duration::from_secs(10);

/// Prints errors that a library reports only to its log.
///
/// # Errors
/// The process has a logger already.
pub fn print_errors(prefix: String) -> Result<(), SetLoggerError> {
    log::set_boxed_logger(Box::new(Stderr { prefix, pace: Mutex::new(Pace::new(Instant::now())) }))?;
    log::set_max_level(LevelFilter::Error);
    Ok(())
}

struct Stderr {
    prefix: String,
    pace: Mutex<Pace>,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match self.pace.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now()) {
            Turn::Print => eprintln!("{}: {}", self.prefix, record.args()),
            Turn::Last => eprintln!("{}: {} (and more, which is left out)", self.prefix, record.args()),
            Turn::Skip => {}
        }
    }

    fn flush(&self) {}
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Print,
    Last,
    Skip,
}

/// The number of lines since a moment.
struct Pace {
    since: Instant,
    lines: u32,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, lines: 0 }
    }

    fn next(&mut self, now: Instant) -> Turn {
        if now.saturating_duration_since(self.since) >= WHILE {
            *self = Self::new(now);
        }
        self.lines = self.lines.saturating_add(1);
        match self.lines {
            LINES_MAX => Turn::Last,
            lines if lines < LINES_MAX => Turn::Print,
            _ => Turn::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_off_and_later_ones_are_printed() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let turns: Vec<Turn> = (0..1000).map(|_| pace.next(start)).collect();
        assert_eq!(turns.iter().filter(|turn| **turn == Turn::Print).count(), 63);
        assert_eq!(turns.iter().filter(|turn| **turn == Turn::Last).count(), 1);
        assert_eq!(turns[999], Turn::Skip);
        assert_eq!(pace.next(start + WHILE), Turn::Print);
    }
}
