//! `include/vmette.h`, made from the crate that exports the C interface.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the header is, from the workspace's root.
pub(crate) const HEADER: &str = "include/vmette.h";

const CRATE: &str = "crates/capi";

/// The beginning of each status's name.
const STATUS: &str = "VMETTE_STATUS_";

/// The macro of those who want no names without a prefix.
const NO_SHORT_NAMES: &str = "VMETTE_NO_SHORT_NAMES";

/// The last lines of what cbindgen makes, before which there is room for more.
const END: &str = "#ifdef __cplusplus\n}  // extern \"C\"\n";

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
    /// cbindgen's output does not end as it used to.
    #[error("the header that was made does not end with {END:?}")]
    NoEnd,
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
    let header = header.replace(" * ", " *").replace("* *", "**");
    let (declarations, end) = header.rsplit_once(END).ok_or(HeaderError::NoEnd)?;
    Ok(format!("{declarations}{}{END}{end}", short_names(declarations)))
}

/// The statuses under the names without a prefix that the original's programs use. Each is declared as itself: as macros
/// they would change words of other headers, such as C++ libraries with an `Ok` of their own.
fn short_names(header: &str) -> String {
    let mut c = String::new();
    let mut cpp = String::new();
    for line in header.lines() {
        let name = line.trim_start().strip_prefix(STATUS).and_then(|rest| rest.split_once(" = "));
        let Some((name, _)) = name else { continue };
        let short: String = name.split('_').map(capitalised).collect();
        c.push_str(&format!("  {short} = {STATUS}{name},\n"));
        cpp.push_str(&format!("static constexpr VmetteStatus {short} = {STATUS}{name};\n"));
    }
    format!(
        "// The statuses without a prefix, for programs that know them so. Define {NO_SHORT_NAMES} before including\n\
         // this header to do without, when a name is already another's.\n\
         #ifndef {NO_SHORT_NAMES}\n#ifdef __cplusplus\n{cpp}#else\nenum {{\n{c}}};\n#endif  // __cplusplus\n\
         #endif  // {NO_SHORT_NAMES}\n\n"
    )
}

/// `INVALID` as `Invalid`.
fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    format!("{first}{}", rest.to_ascii_lowercase())
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
