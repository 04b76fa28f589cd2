//! Conversion, up to the tree.

mod damage;
mod fuzz;
mod listing;
pub(crate) mod target;
mod umoci;
mod whiteouts;

use std::io::Cursor;

use super::*;
use crate::meta::{Meta, Node};
use crate::pack::CleanTar;

fn layer(bytes: &[u8]) -> Layer<'_> {
    Layer {
        name: "image, layer".to_owned(),
        open: Box::new(move || Ok(Box::new(Cursor::new(bytes)))),
        compression: None,
        diff_id: None,
    }
}

const LAYERS: Rules = Rules { whiteouts: true, max_bytes: 1 << 20, max_bytes_variable: "LIMIT" };
const ARCHIVE: Rules = Rules { whiteouts: false, ..LAYERS };

/// Applies these, and leaves nothing behind.
fn applied(layers: Vec<Layer<'_>>, rules: Rules) -> Result<Applied> {
    let dir = tempfile::tempdir().unwrap();
    let applied = apply(layers, rules, &Work::quiet(), dir.path());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "content is spilled without a name");
    applied
}

/// The defect of a layer or an archive.
fn refusal(error: ConvertError) -> ArchiveError {
    match error {
        ConvertError::Archive { source, .. } | ConvertError::Layer { source, .. } => source,
        other => panic!("{other}"),
    }
}
