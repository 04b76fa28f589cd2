//! Files that URLs name: `tar+https://…` and `squashfs+https://…`, kept as images of the store.
//!
//! With a pin, `#sha256=HEX`, a file is what its digest says and is never asked for again. Without one it may change:
//! its server is asked an hour after it was last asked, and answers in a word when it is still the same.

mod body;
mod cached;
mod remote;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::context::{Attempt, Context};
use crate::error::{ProviderError, Result};
use crate::http::Client;
use crate::layers::{self, Layer, Rules};
use crate::sniff::FileKind;
use crate::store::{ImageKind, StoredImage};
use crate::superblock::Superblock;
use crate::tar::{self, MAX_BYTES_VARIABLE};
use body::Body;
use cached::Fetch;
use remote::Remote;
pub(crate) use remote::claims;

/// The variable that raises the limit of a downloaded squashfs image.
const SQUASHFS_MAX_VARIABLE: &str = "VMETTE_SQUASHFS_MAX_BYTES";
const SQUASHFS_MAX_DEFAULT: u64 = 4 << 30;
/// Part of every key. Counts up whenever the same file would become another image.
const SQUASHFS_CONVERTER: &str = "squashfs url 1";
/// Bytes from whose kind it is told whether the rest is worth fetching: a tar archive says so 257 bytes in.
const HEAD: u64 = 512;
/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

/// The image of the archive that `tar+http://…` or `tar+https://…` names; of at most `max_bytes`, decompressed.
pub(crate) fn tar(spec: &str, ctx: &Context, max_bytes: u64) -> Result<StoredImage> {
    let remote = Remote::parse(tar::SCHEME, spec)?;
    // What is refused is not waited for any longer.
    let attempt = Attempt::of(ctx);
    tar_with(&Client::new(&attempt), &remote, &attempt, max_bytes)
}

/// The image that `squashfs+http://…` or `squashfs+https://…` names.
pub(crate) fn squashfs(spec: &str, ctx: &Context) -> Result<StoredImage> {
    let remote = Remote::parse("squashfs", spec)?;
    let max_bytes = squashfs_max(|name| std::env::var(name).ok())?;
    squashfs_with(&Client::new(ctx), &remote, ctx, max_bytes)
}

fn tar_with(client: &Client, remote: &Remote, ctx: &Attempt, max_bytes: u64) -> Result<StoredImage> {
    let build = |body: Body, staging: &Path| {
        let archive = Layer {
            name: remote.shown(),
            open: Box::new(move || Ok(Box::new(body))),
            compression: None,
            diff_id: None,
        };
        let rules = Rules { whiteouts: false, max_bytes, max_bytes_variable: MAX_BYTES_VARIABLE };
        Ok(layers::convert(vec![archive], rules, ctx, staging)?.unpacked)
    };
    let converter = format!("{} url", tar::CONVERTER);
    let (kind, limit) = (ImageKind::Tar, (max_bytes, MAX_BYTES_VARIABLE));
    Fetch { remote, client, ctx, converter: &converter, kind, limit, build: &build }.obtain()
}

fn squashfs_with(client: &Client, remote: &Remote, ctx: &Context, max_bytes: u64) -> Result<StoredImage> {
    let build = |body: Body, staging: &Path| save(body, &remote.shown(), staging);
    let (kind, limit) = (ImageKind::Squashfs, (max_bytes, SQUASHFS_MAX_VARIABLE));
    Fetch { remote, client, ctx, converter: SQUASHFS_CONVERTER, kind, limit, build: &build }.obtain()
}

/// Writes the image to `staging` and checks that it is one, what its beginning says before anything else is fetched.
fn save(mut body: Body, shown: &str, staging: &Path) -> Result<u64> {
    let failed = |e: std::io::Error| {
        e.downcast().unwrap_or_else(|e| ProviderError::Other(format!("{shown} cannot be read: {e}")))
    };
    let no_image = |problem: String| ProviderError::InvalidSpec(format!("{shown} {problem}"));
    let mut head = Vec::new();
    body.by_ref().take(HEAD).read_to_end(&mut head).map_err(failed)?;
    match FileKind::of_bytes(&head) {
        FileKind::Squashfs => {}
        FileKind::Gzip | FileKind::Zstd | FileKind::Xz | FileKind::Tar => {
            return Err(no_image(
                "is not a squashfs image; if it is a tar archive, use tar+https://".to_owned(),
            ));
        }
        _ => return Err(no_image("is not a squashfs image: it does not begin with hsqs".to_owned())),
    }
    let unwritable = || ProviderError::write(staging.parent().unwrap_or(staging), "cannot write an image in");
    let mut file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(staging)
        .map_err(unwritable())?;
    let mut bytes = head.len() as u64;
    file.write_all(&head).map_err(unwritable())?;
    let mut piece = vec![0; PIECE];
    loop {
        let read = body.read(&mut piece).map_err(failed)?;
        if read == 0 {
            break;
        }
        file.write_all(&piece[..read]).map_err(unwritable())?;
        bytes += read as u64;
    }
    Superblock::read(&file).map_err(|e| no_image(e.to_string()))?;
    Ok(bytes)
}

fn squashfs_max(env: impl Fn(&str) -> Option<String>) -> Result<u64> {
    let Some(value) = env(SQUASHFS_MAX_VARIABLE) else { return Ok(SQUASHFS_MAX_DEFAULT) };
    match value.parse() {
        Ok(max_bytes @ 1..) => Ok(max_bytes),
        _ => Err(ProviderError::Other(format!(
            "{SQUASHFS_MAX_VARIABLE}={value:?} must be a number of bytes, at least 1"
        ))),
    }
}
