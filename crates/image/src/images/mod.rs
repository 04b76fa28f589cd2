//! The images of a cache, as `vmette image` shows and changes them.

mod report;

pub use report::{ExportFormat, Exported, ImageDetails, ImageSummary, PruneOptions, PruneReport, Removed};
