//! Importing files as images of the store.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::ImageDetails;
use super::Images;
use crate::error::{ProviderError, Result};
use crate::images::content::Content;
use crate::providers::Form;
use crate::providers::spec;
use crate::read_error::ReadError;
use crate::store::{Description, ImageKind, Origin, StoredImage, key_of};
use crate::superblock::Superblock;
use vmette_cache::{Digest, Key, hash};
use vmette_oci::Reference;

/// Part of a squashfs image's key. Counts up whenever the same file would become another image.
const CONVERTER: &str = "squashfs 1";
/// Bytes copied between two looks at whether it was cancelled.
const PIECE: usize = 1 << 20;

impl Images {
    /// Makes an image of what is at `path`, under `name`, which is moved if it is there: a tar archive of a root file
    /// system, a squashfs image, an OCI or Docker archive of an image, a folder with an OCI layout. What it is shows in
    /// its content. The image needs the file no longer, and is never removed but by name.
    ///
    /// # Errors
    /// [`ProviderError::InvalidSpec`] for a malformed name and for a file of none of these kinds; otherwise its defect.
    pub fn import(&self, path: &Path, name: &str) -> Result<ImageDetails> {
        let name = Reference::of_local(name)?.to_string();
        let path = path.canonicalize().map_err(ProviderError::io("cannot open", path))?;
        // The spec that a run would have, so that both have one image.
        let spec = match Content::of(&path)? {
            Content::Squashfs => return self.name_local(self.import_squashfs(&path)?, &name),
            Content::Tar => format!("tar+file://{}", spec::encode_path(&path)),
            Content::OciLayout => of_path(Form::Layout, &path)?,
            Content::OciArchive => of_path(Form::OciArchive, &path)?,
            Content::DockerArchive => of_path(Form::DockerArchive, &path)?,
        };
        let was_known = self.store.name(&spec)?.is_some();
        let image = self.resolve(&spec, &self.ctx)?;
        self.name_local(image, &name)?;
        // The name that a run of the file itself gives: the image goes with the name that was given here. No other name is
        // touched: another process may have given it meanwhile.
        if !was_known {
            self.store.remove_name(&spec)?;
        }
        self.inspect(&name)
    }

    /// Gives an image that was made here its name.
    pub(crate) fn name_local(&self, image: StoredImage, name: &str) -> Result<ImageDetails> {
        self.store.set_name(name, &image.key, &Origin::Local)?;
        let record = self.store.name(name)?;
        self.details(image, record)
    }

    fn import_squashfs(&self, path: &Path) -> Result<StoredImage> {
        let source = spec::open_regular(path)?;
        Superblock::read(&source)
            .map_err(|e| ProviderError::InvalidSpec(format!("{} {e}", path.display())))?;
        let failed = |e: io::Error| match ReadError::of(e) {
            ReadError::System(e) => ProviderError::io("cannot read", path)(e),
            failure => failure.into(),
        };
        let goes_on = || Ok(self.ctx.work().check()?);
        let digest = hash(&source, goes_on).map_err(failed)?;
        let key: Key = key_of([CONVERTER.as_bytes(), digest.hex().as_bytes()]);
        self.store.obtain(&key, |staging| {
            self.ctx.work().step(&format!("copying {}", path.display()));
            let (copied, bytes) = self.copy(path, staging)?;
            if copied != digest {
                return Err(ProviderError::Other(format!(
                    "{} was written to while it was being read; try again when it is complete",
                    path.display()
                )));
            }
            let source = format!("squashfs+file://{}", spec::encode_path(path));
            Ok(Description::of_rootfs(ImageKind::Squashfs, source, bytes))
        })
    }

    /// The digest of what was copied, and its length.
    fn copy(&self, path: &Path, to: &Path) -> Result<(Digest, u64)> {
        let mut source = spec::open_regular(path)?;
        let failed = || ProviderError::cache("the image cannot be copied into it", self.store.dir());
        let mut copy = File::create_new(to).map_err(failed())?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            self.ctx.work().check()?;
            match source.read(&mut piece) {
                Ok(0) => return Ok((Digest::finish(hasher), bytes)),
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    copy.write_all(&piece[..read]).map_err(failed())?;
                    bytes += read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ProviderError::io("cannot read", path)(e)),
            }
        }
    }
}

/// The spec of a source that takes a path as it is.
fn of_path(form: Form, path: &Path) -> Result<String> {
    path.to_str().map(|path| format!("{}:{path}", form.name())).ok_or_else(|| {
        ProviderError::InvalidSpec(format!("{}: the path is not UTF-8; rename it", path.display()))
    })
}
