//! OCI and Docker images: references, manifests and configurations, and the places where they lie: registries, image
//! layouts, archives of `docker save`.
//!
//! An image is hostile input. Each document has a limit in bytes and in elements, every piece of content is verified
//! against its digest, and nothing is fetched from a place that an image names.
#![forbid(unsafe_code)]

mod bounded;
mod config;
mod error;
mod image_config;
mod layout;
mod manifest;
mod media_type;
mod member;
mod reference;
mod registry;
mod resolve;
mod saved;
mod select;
mod slice;
mod source;
mod verify;

pub use config::{Configuration, parse as parse_configuration};
pub use error::{Error, FileError, ImageError, Result, listed, shown};
pub use image_config::{ImageConfig, Platform, VOLUMES_MAX};
pub use layout::{Files, Folder, INDEX, Layout};
pub use manifest::{Descriptor, INDEX_ENTRIES_MAX, LAYERS_MAX, Manifest, Parsed, parse as parse_manifest};
pub use member::{LINKS_MAX as MEMBER_LINKS_MAX, member_name};
pub use reference::{BadReference, Reference, SCHEME, Which};
pub use registry::{Credentials, Registry};
pub use resolve::{Resolved, check, resolve};
pub use saved::{MANIFEST as SAVED_MANIFEST, Saved, saved};
pub use select::candidates;
pub use slice::Slice;
pub use source::{Blob, RawManifest, Source};
pub use verify::{Verified, read_small};
