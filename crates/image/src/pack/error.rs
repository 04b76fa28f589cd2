//! Failures of packing.

use std::path::PathBuf;

use vmette_oci::FileError;
use vmette_work::Cancelled;

use super::reroot::RerootError;
use crate::tool::ToolError;

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    #[error(transparent)]
    Tool(ToolError),
    #[error(transparent)]
    Cache(vmette_cache::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the image that mksquashfs made {source}: {image}", image = .image.display())]
    Reroot {
        image: PathBuf,
        #[source]
        source: RerootError,
    },
}

impl From<ToolError> for PackError {
    fn from(error: ToolError) -> Self {
        match error {
            ToolError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Tool(error),
        }
    }
}
