//! The Rust sources of the workspace's own crates.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file, held in memory: every check looks at all of them.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// From the workspace's root, with `/` between the parts.
    pub(crate) path: String,
    /// Its whole text.
    pub(crate) text: String,
}

impl Source {
    /// True if it is below a crate's `src` and not a file of tests.
    pub(crate) fn ships(&self) -> bool {
        let mut parts = self.path.split('/').skip(2);
        parts.next() == Some("src")
            && parts.all(|part| part != "tests" && part != "tests.rs" && !part.ends_with("_tests.rs"))
    }
}

/// A file or folder that could not be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) source: std::io::Error,
}

/// Reads every `.rs` file below `crates/`, in a stable order. Build output and symbolic links are left alone.
pub(crate) fn read(root: &Path) -> Result<Vec<Source>, Unreadable> {
    let mut files = Vec::new();
    read_folder(root, &root.join("crates"), &mut files)?;
    files.sort_by(|a: &Source, b: &Source| a.path.cmp(&b.path));
    Ok(files)
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<Source>) -> Result<(), Unreadable> {
    let unreadable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Unreadable { path, source }
    };
    for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
        let entry = entry.map_err(unreadable(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(unreadable(&path))?;
        if kind.is_dir() && entry.file_name() != "target" {
            read_folder(root, &path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(unreadable(&path))?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.push(Source { path, text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_rust_files_in_order_and_skips_build_output() {
        let root = tempfile::tempdir().expect("a temp folder");
        for path in
            ["crates/b/src/lib.rs", "crates/a/tests/all.rs", "crates/a/target/x.rs", "crates/a/README.md"]
        {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            fs::write(path, "//! text\n").expect("written");
        }
        let found = read(root.path()).expect("readable");
        let paths: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["crates/a/tests/all.rs", "crates/b/src/lib.rs"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let root = tempfile::tempdir().expect("a temp folder");
        let error = read(root.path()).expect_err("there is no crates folder");
        assert!(error.path.ends_with("crates"), "{error:?}");
    }
}
