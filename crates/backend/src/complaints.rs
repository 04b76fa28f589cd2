//! A server complains on its standard error, which the engine reads: one line each, beginning with the program's name.

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

/// Prints errors that a library reports only to its log.
///
/// # Errors
/// The process has a logger already.
pub fn print_errors(prefix: String) -> Result<(), SetLoggerError> {
    log::set_boxed_logger(Box::new(Stderr { prefix }))?;
    log::set_max_level(LevelFilter::Error);
    Ok(())
}

struct Stderr {
    prefix: String,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{}: {}", self.prefix, record.args());
        }
    }

    fn flush(&self) {}
}
