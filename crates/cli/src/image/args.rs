//! The command line of `vmette image`, as data.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vmette::provider::{DebianVariant, ExportFormat};

use crate::network_args::NetworkArgs;
use crate::values;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images of the cache
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Fetch images, so that a run needs not
    Pull(PullArgs),
    /// Show all that is known of images
    Inspect(InspectArgs),
    /// Remove images
    Rm(RemoveArgs),
    /// Make room: remove the longest unused images and layers
    Prune(PruneArgs),
    /// Make an image of a distribution's packages
    Build(BuildArgs),
    /// Make an image of an archive, a squashfs image or an OCI layout
    Import(ImportArgs),
    /// Write an image to a file
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print identities only
    #[arg(short = 'q', long, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

/// What a command prints that makes or fetches an image.
#[derive(Debug, Default, Args)]
pub(crate) struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print no progress
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Images (python:3.12-alpine), or other forms of `vmette providers`
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Names, or the beginnings of identities
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Remove images that have several names or that a machine uses
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Names, or the beginnings of identities
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Remove all that can be had again and is not in use
    #[arg(short = 'a', long, conflicts_with = "max_size")]
    pub(crate) all: bool,
    /// Remove until the cache takes no more than this: bytes, or with K, M, G or T behind it
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub(crate) max_size: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Of this Debian suite: bookworm, stable, sid
    #[arg(long, value_name = "SUITE", required = true)]
    pub(crate) debian: String,
    /// Call the image that
    #[arg(short = 't', long = "tag", value_name = "NAME", required = true)]
    pub(crate) tag: String,
    /// Add these packages
    #[arg(long, value_name = "PACKAGE,…", value_delimiter = ',')]
    pub(crate) include: Vec<String>,
    /// Which packages it has besides
    #[arg(long, value_name = "WHICH", default_value = "minbase")]
    pub(crate) variant: Variant,
    /// Take packages from these parts of the suite (default: main)
    #[arg(long, value_name = "COMPONENT,…", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Take packages from here (default: where this machine has its own from, else Debian's servers)
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Packages besides those that are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// Without which nothing works
    Essential,
    /// And apt
    Apt,
    /// And those of priority required
    Minbase,
    /// And compilers
    Buildd,
    /// And those of priority important
    Important,
    /// And those of priority standard
    Standard,
}

impl From<Variant> for DebianVariant {
    fn from(variant: Variant) -> Self {
        match variant {
            Variant::Essential => Self::Essential,
            Variant::Apt => Self::Apt,
            Variant::Minbase => Self::Minbase,
            Variant::Buildd => Self::Buildd,
            Variant::Important => Self::Important,
            Variant::Standard => Self::Standard,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A tar archive, a squashfs image, what `docker save` wrote, an OCI archive or layout folder
    pub(crate) path: PathBuf,
    /// Call the image that
    #[arg(short = 't', long = "tag", value_name = "NAME", required = true)]
    pub(crate) tag: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A name, or the beginning of an identity
    pub(crate) image: String,
    /// Write it there
    #[arg(short = 'o', long, value_name = "FILE", required = true)]
    pub(crate) output: PathBuf,
    /// As what
    #[arg(long, value_name = "FORMAT", default_value = "oci")]
    pub(crate) format: Format,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What an export writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// An archive that container tools read, with the image's configuration
    Oci,
    /// The squashfs image
    Squashfs,
    /// A tar archive of the tree
    Tar,
}

impl From<Format> for ExportFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Oci => Self::Oci,
            Format::Squashfs => Self::Squashfs,
            Format::Tar => Self::Tar,
        }
    }
}
