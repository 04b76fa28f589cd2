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

use vmette_http::Client;
use vmette_work::Work;

use super::limits::{self, SQUASHFS_MAX_VARIABLE, TAR_MAX_VARIABLE};
use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::layers::{self, Layer, Rules};
use crate::read_error::ReadError;
use crate::sniff::FileKind;
use crate::store::{Description, ImageKind, StoredImage};
use crate::superblock::Superblock;
use body::Body;
use cached::Fetch;
use remote::Remote;
pub(super) use remote::claims;

/// Part of every key. Counts up whenever the same file would become another image.
const SQUASHFS_CONVERTER: &str = "squashfs url 1";
/// The same of an archive; its beginning is that of [`TarProvider`](crate::TarProvider).
const TAR_CONVERTER: &str = "tar 4 url";
/// Bytes from whose kind it is told whether the rest is worth fetching: a tar archive says so 257 bytes in.
const HEAD: u64 = 512;
/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

/// The image of the archive that `tar+http://…` or `tar+https://…` names; of at most `max_bytes`, decompressed.
pub(super) fn tar(spec: &str, ctx: &Context, max_bytes: u64) -> Result<StoredImage> {
    let remote = Remote::parse("tar", spec)?;
    // The download ends with its conversion: a file that is refused is not waited for any longer.
    let attempt = ctx.work().child();
    tar_with(&ctx.client(attempt.cancel()), &remote, ctx, &attempt, max_bytes)
}

/// The image that `squashfs+http://…` or `squashfs+https://…` names.
pub(super) fn squashfs(spec: &str, ctx: &Context) -> Result<StoredImage> {
    let remote = Remote::parse("squashfs", spec)?;
    let max_bytes = limits::squashfs_max()?;
    squashfs_with(&ctx.client(ctx.work().cancel()), &remote, ctx, max_bytes)
}

fn tar_with(
    client: &Client,
    remote: &Remote,
    ctx: &Context,
    attempt: &Work,
    max_bytes: u64,
) -> Result<StoredImage> {
    let build = |body: Body, staging: &Path| {
        let archive = Layer {
            name: remote.shown(),
            open: Box::new(move || Ok(Box::new(body))),
            compression: None,
            diff_id: None,
        };
        let rules = Rules { whiteouts: false, max_bytes, max_bytes_variable: TAR_MAX_VARIABLE };
        let converted = layers::convert(vec![archive], rules, attempt, staging)?;
        Ok(converted.describe(ImageKind::Tar, remote.shown()))
    };
    let limit = (max_bytes, TAR_MAX_VARIABLE);
    Fetch { remote, client, ctx, converter: TAR_CONVERTER, limit, build: &build }.obtain()
}

fn squashfs_with(client: &Client, remote: &Remote, ctx: &Context, max_bytes: u64) -> Result<StoredImage> {
    let build = |body: Body, staging: &Path| {
        let bytes = save(body, &remote.shown(), staging)?;
        Ok(Description::of_rootfs(ImageKind::Squashfs, remote.shown(), bytes))
    };
    let limit = (max_bytes, SQUASHFS_MAX_VARIABLE);
    Fetch { remote, client, ctx, converter: SQUASHFS_CONVERTER, limit, build: &build }.obtain()
}

/// Writes the image to `staging` and checks that it is one, what its beginning says before anything else is fetched.
fn save(mut body: Body, shown: &str, staging: &Path) -> Result<u64> {
    let failed = |e: std::io::Error| ProviderError::from(ReadError::of(e));
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
    let unwritable =
        || ProviderError::cache("an image cannot be written to it", staging.parent().unwrap_or(staging));
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
