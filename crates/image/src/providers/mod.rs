//! Providers: each claims some specs, and makes or finds their artifacts.

mod artifact;
mod builtin;
mod debian;
mod dir;
pub(crate) mod limits;
mod oci;
mod registry;
pub(crate) mod spec;
mod squashfs;
mod tar;
mod url;

pub use artifact::{BlockFs, RootfsArtifact, RootfsProvider};
pub use builtin::{BUILTIN_SPEC, BuiltinProvider, builtin_rootfs, find_busybox, is_static_program};
pub(crate) use debian::build as build_debian;
pub use debian::{BuildOptions, DebianVariant};
pub use dir::DirProvider;
pub use limits::TarLimits;
pub(crate) use oci::Form;
#[cfg(test)]
pub(crate) use oci::tests as oci_tests;
pub use oci::{LocalImageProvider, OciProvider};
pub use registry::{Registry, default_registry};
pub use squashfs::SquashfsProvider;
pub use tar::TarProvider;
