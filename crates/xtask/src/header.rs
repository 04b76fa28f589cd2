//! `include/vmette.h`, made from the crate that exports the C interface.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the header is, from the workspace's root.
pub(crate) const HEADER: &str = "include/vmette.h";

const CRATE: &str = "crates/capi";

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// cbindgen's configuration is wrong.
    #[error("{path}: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// cbindgen's error.
        problem: String,
    },
    /// The crate cannot be understood.
    #[error("cannot make a header of {CRATE}: {0}")]
    Generate(#[from] cbindgen::Error),
    /// cbindgen's output is no text.
    #[error("the header that was made is not UTF-8")]
    NotText,
    /// A source or the header.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The header that the crate's sources make now.
pub(crate) fn generate(root: &Path) -> Result<String, HeaderError> {
    let folder = root.join(CRATE);
    let path = folder.join("cbindgen.toml");
    let config =
        cbindgen::Config::from_file(&path).map_err(|problem| HeaderError::Config { path, problem })?;
    let builder = cbindgen::Builder::new().with_config(config).with_src(folder.join("src/lib.rs"));
    let mut header = Vec::new();
    builder.generate()?.write(&mut header);
    let header = String::from_utf8(header).map_err(|_| HeaderError::NotText)?;
    // It sets off the names of types that are pointers as it does those of others.
    Ok(header.replace(" * ", " *").replace("* *", "**"))
}

/// Writes the header anew.
pub(crate) fn write(root: &Path) -> Result<(), HeaderError> {
    let path = root.join(HEADER);
    let text = generate(root)?;
    let unwritten = |source| HeaderError::File { path: path.clone(), source };
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(unwritten)?;
    fs::write(&path, text).map_err(unwritten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_the_sources_make() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let there = fs::read_to_string(root.join(HEADER)).expect("the header is there");
        let made = generate(&root).expect("the crate can be understood");
        assert!(there == made, "{HEADER} is out of date: run `cargo run -p xtask -- header`");
    }
}
