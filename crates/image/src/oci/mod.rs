//! OCI and Docker images, wherever they come from.

mod archive;
mod bounded;
mod config;
mod download;
mod error;
mod image;
mod layout;
mod limits;
mod local;
mod manifest;
mod media_type;
mod outer;
mod provider;
mod pull;
mod reference;
mod registry;
mod resolve;
mod select;
mod slice;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use error::ImageError;
pub(crate) use limits::{MAX_BYTES_VARIABLE, max_bytes};
pub(crate) use local::Form;
pub use provider::{LocalImageProvider, OciProvider};
pub(crate) use reference::Reference;
pub(crate) use registry::Credential;
