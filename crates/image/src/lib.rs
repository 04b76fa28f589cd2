//! A rootfs spec becomes an artifact that a machine can take as its root: a directory, or a block image.
//!
//! A [`Registry`] asks its [`RootfsProvider`]s in order; the first that claims a spec answers for it. What is made from
//! another format (a tar archive, the built-in userland) is converted once and kept in the [`Store`]; nothing of an
//! archive is ever unpacked onto the host's file system.
//!
//! An image is hostile input: every count, length and path in it is bounded by a named constant, and an entry that
//! cannot be kept exactly as it is makes the whole image fail.

mod builtin;
mod context;
mod debian;
mod digest;
mod dir;
mod error;
mod fetch;
#[cfg(test)]
mod fuzz;
mod http;
mod image_config;
mod images;
mod layers;
mod meta;
mod oci;
mod pack;
mod progress;
mod provider;
mod registry;
mod scratch;
mod sniff;
mod spec;
mod squashfs;
mod store;
mod superblock;
mod tar;
mod tool;

pub use builtin::{BUILTIN_SPEC, BuiltinProvider, builtin_rootfs, find_busybox};
pub use context::{Context, NetworkOptions, PullPolicy};
pub use debian::{BuildOptions, DebianVariant};
pub use digest::{BadDigest, Digest};
pub use dir::DirProvider;
pub use error::{ProviderError, Result};
pub use http::{NetworkError, printable};
pub use image_config::{ImageConfig, Platform, VOLUMES_MAX};
pub use images::{
    ExportFormat, Exported, ImageDetails, ImageSummary, Images, PruneOptions, PruneReport, Removed,
};
pub use oci::{ImageError, LocalImageProvider, OciProvider};
pub use progress::{Item, PROGRESS_STEP, Progress, Reporter};
pub use provider::{BlockFs, RootfsArtifact, RootfsProvider};
pub use registry::{Registry, default_registry};
pub use scratch::{SCRATCH_MAX_MIB, SCRATCH_MIN_MIB, format_scratch};
pub use squashfs::SquashfsProvider;
pub use store::{
    BadKey, Description, ImageKind, InUse, Key, LayerInfo, NameRecord, Origin, PruneRules, Pruned, Store,
    StoredImage,
};
pub use tar::{ArchiveError, Refusal, TarLimits, TarProvider};
