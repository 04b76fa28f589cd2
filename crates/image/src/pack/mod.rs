//! A stream of checked inodes becomes a squashfs image, through the distribution's `mksquashfs`.
//!
//! Inodes go to its standard input as a tar archive that this module writes itself, so that the program never parses a
//! stranger's bytes. Nothing touches the host's file system but the image.

mod channel;
mod clean_tar;
mod error;
mod process;
mod reroot;

#[cfg(test)]
pub(crate) use clean_tar::CleanTar;
pub(crate) use error::PackError;
pub(crate) use process::{Compression, Duplicates, Input, Packer};
