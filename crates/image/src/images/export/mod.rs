//! Writing images to files that other programs read.

mod oci;
mod tree;

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use vmette_work::Work;

use super::{ExportFormat, Exported, Images};
use crate::error::{ProviderError, Result};
use crate::read_error::ReadError;
use crate::store::Store;
use tree::Archive;

/// Bytes copied between two looks at whether it was cancelled.
const PIECE: u64 = 16 << 20;

impl Images {
    /// Writes an image to a file, which is replaced if it is there, and whole or as it was before. Counts as use.
    ///
    /// # Errors
    /// [`ProviderError::NoSuchImage`]; the file cannot be written, or is there and no regular file;
    /// [`ProviderError::MissingTool`] for the formats that need `sqfs2tar`; [`ProviderError::Cancelled`].
    pub fn export(&self, name: &str, to: &Path, format: ExportFormat) -> Result<Exported> {
        let (record, image) = self.find_image(name)?;
        let image = self
            .store
            .find(&image.key)
            .ok_or_else(|| ProviderError::NoSuchImage { name: name.to_owned() })?;
        let held = Store::hold(&image.path).map_err(ProviderError::io("cannot open", &image.path))?;
        let mut target = Target::new(to)?;
        match format {
            ExportFormat::Squashfs => {
                copy(held.file(), target.file(), self.ctx.work()).map_err(|e| target.failed(e))?;
            }
            ExportFormat::Tar => {
                let mut tree = Archive::of(&image, self.ctx.work())?;
                copy(&mut tree, target.file(), self.ctx.work()).map_err(|e| target.failed(e))?;
            }
            ExportFormat::Oci => {
                let tree = Archive::of(&image, self.ctx.work())?;
                let name = record.map(|record| record.name);
                oci::write(tree, &image.description, name.as_deref(), target.file(), self.ctx.work())
                    .map_err(|e| target.failed(e))?;
            }
        }
        target.publish()
    }
}

/// A file in the making, beside the one that it becomes. Gone when this is, unless it was published.
struct Target {
    path: PathBuf,
    staging: NamedTempFile,
}

impl Target {
    fn new(to: &Path) -> Result<Self> {
        // A link is followed, as a program that opens the file would.
        let path = match fs::metadata(to) {
            Ok(metadata) if metadata.is_file() => {
                to.canonicalize().map_err(ProviderError::io("cannot resolve", to))?
            }
            Ok(_) => {
                return Err(ProviderError::InvalidSpec(format!(
                    "{} is there and no regular file: name a file to write",
                    to.display()
                )));
            }
            Err(_) => std::path::absolute(to).map_err(ProviderError::io("cannot resolve", to))?,
        };
        let failed = ProviderError::io("cannot write", &path);
        let dir = path.parent().unwrap_or(&path);
        // The mode of any new file of the user, less their umask.
        let staging = tempfile::Builder::new()
            .prefix(".vmette-export-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .map_err(failed)?;
        Ok(Self { path, staging })
    }

    fn file(&mut self) -> &mut File {
        self.staging.as_file_mut()
    }

    /// The failure of the reader, or else of writing.
    fn failed(&self, e: io::Error) -> ProviderError {
        match ReadError::of(e) {
            ReadError::System(e) => ProviderError::io("cannot write", &self.path)(e),
            failure => failure.into(),
        }
    }

    fn publish(self) -> Result<Exported> {
        let failed = |e| ProviderError::io("cannot write", &self.path)(e);
        let file = self.staging.as_file();
        let bytes = file.metadata().map_err(failed)?.len();
        file.sync_all().map_err(failed)?;
        let failed = ProviderError::io("cannot write", &self.path);
        self.staging.persist(&self.path).map_err(|e| failed(e.error))?;
        Ok(Exported { path: self.path, bytes })
    }
}

fn copy(from: impl Read, to: &mut impl Write, work: &Work) -> io::Result<u64> {
    let mut from = from;
    let mut copied = 0;
    loop {
        work.check()?;
        match io::copy(&mut from.by_ref().take(PIECE), to)? {
            0 => return Ok(copied),
            piece => copied += piece,
        }
    }
}
