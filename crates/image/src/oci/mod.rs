//! OCI and Docker images, wherever they come from.

mod error;
mod reference;
#[allow(dead_code, reason = "the provider of registries, which is to use it, comes with the pull")]
mod registry;
mod source;

pub use error::ImageError;
#[allow(unused_imports, reason = "the provider of registries and the image store's façade meet here")]
pub(crate) use reference::Reference;
pub(crate) use registry::Credential;
#[allow(unused_imports, reason = "the provider of registries, which is to use it, comes with the pull")]
pub(crate) use registry::Registry;
