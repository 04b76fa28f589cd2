//! Opening an archive that may be compressed.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use vmette_oci::ImageError;

use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::layers;
use crate::outer::Outer;
use crate::providers::limits::OCI_MAX_VARIABLE;

use crate::sniff::FileKind;
use crate::tar::ArchiveError;

/// Bytes that are decompressed at once.
const CHUNK: usize = 256 << 10;

/// Opens an archive to be read in place. One that is compressed is decompressed into a nameless file of the cache first.
/// `name` is for messages.
pub(super) fn open(mut file: File, path: &Path, name: &str, ctx: &Context, max_bytes: u64) -> Result<Outer> {
    let kind = FileKind::of(&mut file).map_err(ProviderError::io("cannot read", path))?;
    match kind {
        FileKind::Gzip | FileKind::Zstd | FileKind::Xz => {
            ctx.work().step(&format!("decompressing {}", path.display()));
            Ok(Outer::index(decompress(file, kind, path, name, ctx, max_bytes)?, name)?)
        }
        _ => Ok(Outer::index(file, name)?),
    }
}

fn decompress(
    file: File,
    kind: FileKind,
    path: &Path,
    name: &str,
    ctx: &Context,
    max_bytes: u64,
) -> Result<File> {
    let store = ctx.store()?;
    let spilled = |e| ProviderError::cache("the archive cannot be decompressed into it", store.dir())(e);
    let refused = |source| ProviderError::Archive { path: path.to_owned(), source };
    let mut spill = tempfile::tempfile_in(store.dir()).map_err(spilled)?;
    let mut decoder = layers::decoder(BufReader::with_capacity(CHUNK, file), kind).map_err(refused)?;
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    loop {
        ctx.work().check()?;
        let read = decoder.read(&mut chunk).map_err(|e| refused(ArchiveError::Read(e)))?;
        size += read as u64;
        if size > max_bytes {
            let source = ImageError::LayersTooLarge { size, limit: max_bytes, variable: OCI_MAX_VARIABLE };
            return Err(ProviderError::Image { name: name.to_owned(), source });
        }
        if read == 0 {
            return Ok(spill);
        }
        spill.write_all(&chunk[..read]).map_err(spilled)?;
    }
}
