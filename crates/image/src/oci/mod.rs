//! OCI and Docker images, wherever they come from.

mod error;
mod source;

pub use error::ImageError;
