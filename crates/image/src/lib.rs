//! A rootfs spec becomes an artifact that a machine can take as its root: a directory, or a block image.
//!
//! A [`Registry`] asks its [`RootfsProvider`]s in order; the first that claims a spec answers for it. Other formats (a tar
//! archive, the layers of an image, the built-in userland) are converted once and kept in the [`Store`]; nothing of an
//! archive is ever unpacked onto the host's file system.
//!
//! An image is hostile input: every count, length and path in it is bounded by a named constant. What containerd, docker
//! and podman take is taken, and what is mended or left out of it is noted.
//!
//! Modules, each using only those above it:
//!
//! | modules | subject |
//! |---|---|
//! | `limits`, `meta`, `notes`, `header`, `sniff`, `superblock`, `tool` | limits of the environment, inodes, what was left out, headers of archives, kinds of files, programs |
//! | `tar`, `outer` | archives: read as streams; read in place |
//! | `store`, `pack`, `read_error` | images on disk; making one; failures of readers |
//! | `layers` | layers become one image |
//! | `error`, `context`, `scratch` | a caller's errors and rules |
//! | `providers` | specs become artifacts |
//! | `images` | the images of a cache, for `vmette image` |
#![forbid(unsafe_code)]

mod context;
mod error;
#[cfg(test)]
mod fuzz;
mod header;
mod images;
mod layers;
mod limits;
mod meta;
mod notes;
mod outer;
mod pack;
mod providers;
mod read_error;
mod scratch;
mod sniff;
mod store;
mod superblock;
mod tar;
mod tool;

pub use context::{Context, PullPolicy};
pub use error::{ProviderError, Result};
pub use images::{
    ExportFormat, Exported, ImageDetails, ImageSummary, Images, PruneOptions, PruneReport, Removed,
};
pub use layers::{Unpackable, first_stream};
pub use limits::BadLimit;
pub use providers::{
    BUILTIN_SPEC, BlockFs, BuildOptions, BuiltinProvider, DebianVariant, DirProvider, LocalImageProvider,
    OciProvider, Registry, RootfsArtifact, RootfsProvider, SquashfsProvider, TarLimits, TarProvider,
    builtin_rootfs, default_registry, find_busybox, is_static_program,
};
pub use scratch::{SCRATCH_MAX_MIB, SCRATCH_MIN_MIB, format_scratch};
pub use store::{
    Description, ImageKind, LayerInfo, NameRecord, Origin, PruneRules, Pruned, Store, StoreError, StoreHold,
    StoredImage,
};
pub use superblock::SuperblockError;
pub use tar::{ArchiveError, Refusal};
pub use vmette_cache::{BadDigest, BadKey, Digest, Key};
pub use vmette_http::{NetworkError, NetworkOptions};
pub use vmette_oci::{FileError, ImageConfig, ImageError, Platform, VOLUMES_MAX};
pub use vmette_work::{Item, PROGRESS_STEP, Progress, Reporter, printable};
