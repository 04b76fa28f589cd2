//! OCI and Docker images, wherever they come from.

mod error;
mod reference;
mod source;

pub use error::ImageError;
#[allow(unused_imports, reason = "the provider of registries and the image store's façade meet here")]
pub(crate) use reference::Reference;
