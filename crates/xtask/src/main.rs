//! The checks of this workspace that no off-the-shelf tool makes: which crate may use which, that no modules use each
//! other in a circle, where `unsafe` may live, how files are named and sized, and whether the documentation names flags
//! that exist and limits as they are.
//!
//! `cargo run -p xtask -- architecture` and `cargo run -p xtask -- docs-flags target/debug/vmette docs/CLI.md`. Each
//! prints every violation with its remedy, not only the first, and exits 1 if there was one.
//!
//! `cargo run -p xtask -- header` writes the C header anew, and `map` the map of modules in the architecture's document;
//! tests here fail when that would change them.

mod attributes;
mod flags;
mod header;
mod layers;
mod layout;
mod limits;
mod modules;
mod sources;
mod unsafety;
mod violation;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cargo_metadata::MetadataCommand;

use crate::violation::Violation;

/// Exit code of a call that could not be understood, as opposed to a check that failed.
const USAGE: u8 = 2;

/// The document whose table says which crate may use which.
const LAYERS_DOCUMENT: &str = "docs/ARCHITECTURE.md";

/// The document that lists the limits.
const LIMITS_DOCUMENT: &str = "docs/SECURITY.md";

/// Why a check could not be made at all.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Printed with the usage when the arguments name no check.
    #[error(
        "usage: xtask architecture | xtask docs-flags VMETTE_BINARY CLI_MARKDOWN | xtask header | xtask map"
    )]
    Usage,
    /// Cargo did not describe the workspace.
    #[error("cannot read the workspace with `cargo metadata`: {0}; run this from inside the repository")]
    Metadata(#[from] cargo_metadata::Error),
    /// A file of the workspace could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A document could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The document has lost the two lines between which the map stands.
    #[error("{0} has no place for the map of modules")]
    NoMap(PathBuf),
    /// A source file is not Rust.
    #[error("cannot parse {path}: {source}")]
    Parse {
        /// The file.
        path: String,
        /// The parser's error.
        source: syn::Error,
    },
    /// The binary whose help is to be compared did not give any.
    #[error(transparent)]
    Help(#[from] flags::HelpError),
    /// The C header could not be made.
    #[error(transparent)]
    Header(#[from] header::HeaderError),
}

impl From<sources::Unreadable> for Error {
    fn from(sources::Unreadable { path, source }: sources::Unreadable) -> Self {
        Self::Read { path, source }
    }
}

impl From<modules::Unparsable> for Error {
    fn from(modules::Unparsable { path, source }: modules::Unparsable) -> Self {
        Self::Parse { path, source }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = match words.as_slice() {
        ["architecture"] => architecture(),
        ["docs-flags", binary, document] => docs_flags(Path::new(binary), Path::new(document)),
        ["map"] => write_map().map(|()| Vec::new()),
        ["header"] => write_header().map(|()| Vec::new()),
        _ => Err(Error::Usage),
    };
    match found {
        Ok(violations) if violations.is_empty() => {
            println!("{}: in order", words[0]);
            ExitCode::SUCCESS
        }
        Ok(violations) => {
            for violation in &violations {
                eprintln!("{violation}");
            }
            eprintln!("{}: {} found", words[0], violations.len());
            ExitCode::FAILURE
        }
        Err(error @ Error::Usage) => {
            eprintln!("{error}");
            ExitCode::from(USAGE)
        }
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn architecture() -> Result<Vec<Violation>, Error> {
    let metadata = MetadataCommand::new().no_deps().exec()?;
    let root = metadata.workspace_root.as_std_path();
    let files = sources::read(root)?;
    let text = |document: &str| read(&root.join(document));

    let mut violations = layers::check(&layers::edges(&metadata), LAYERS_DOCUMENT, &text(LAYERS_DOCUMENT)?);
    violations.extend(modules::check(&metadata, &files)?);
    violations.extend(layout::check(&files));
    violations.extend(unsafety::check(&files));
    violations.extend(unsafety::check_manifests(&metadata)?);
    violations.extend(limits::check(&files, LIMITS_DOCUMENT, &text(LIMITS_DOCUMENT)?));
    Ok(violations)
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })
}

fn write_map() -> Result<(), Error> {
    let metadata = MetadataCommand::new().no_deps().exec()?;
    let root = metadata.workspace_root.as_std_path();
    let (files, path) = (sources::read(root)?, root.join(LAYERS_DOCUMENT));
    let Some(renewed) = modules::map::renew(&metadata, &files, &read(&path)?)? else {
        return Err(Error::NoMap(path));
    };
    std::fs::write(&path, renewed).map_err(|source| Error::Write { path, source })
}

fn write_header() -> Result<(), Error> {
    let metadata = MetadataCommand::new().no_deps().exec()?;
    Ok(header::write(metadata.workspace_root.as_std_path())?)
}

fn docs_flags(binary: &Path, document: &Path) -> Result<Vec<Violation>, Error> {
    let text = read(document)?;
    let help = flags::Help::of(binary)?;
    Ok(flags::check(&help, &document.display().to_string(), &text))
}
