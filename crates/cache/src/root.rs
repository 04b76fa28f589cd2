//! The folder of everything that vmette keeps for its user.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Error, Result, Shelf, private_folder};

/// The folder that all of vmette's kept files live under: this user's alone, since any process that can write to it
/// chooses the kernel of every guest. Never relative to the current folder, which may be a stranger's checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRoot {
    path: PathBuf,
}

impl CacheRoot {
    /// The folder that this process's environment asks for: `$VMETTE_CACHE_DIR`, else `$XDG_CACHE_HOME/vmette`, else
    /// `~/.cache/vmette` (on macOS `~/Library/Caches/vmette`). It is not touched yet.
    ///
    /// # Errors
    /// [`Error::NoHome`], [`Error::Relative`].
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name), cfg!(target_os = "macos"))
    }

    /// The same over any environment.
    fn from_variables(env: impl Fn(&str) -> Option<OsString>, macos: bool) -> Result<Self> {
        let folder = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = folder("VMETTE_CACHE_DIR") {
            return if path.is_absolute() {
                Ok(Self { path })
            } else {
                Err(Error::Relative { variable: "VMETTE_CACHE_DIR", path })
            };
        }
        if macos {
            return Ok(Self { path: home(folder("HOME"))?.join("Library/Caches/vmette") });
        }
        // The XDG specification says that a relative path is to be ignored.
        let base = match folder("XDG_CACHE_HOME").filter(|path| path.is_absolute()) {
            Some(base) => base,
            None => home(folder("HOME"))?.join(".cache"),
        };
        Ok(Self { path: base.join("vmette") })
    }

    /// A given folder, which must be absolute.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder if it is not there, and checks that nobody else can write to it.
    ///
    /// # Errors
    /// See [`private_folder`].
    pub fn ensure(&self) -> Result<()> {
        private_folder(&self.path)
    }

    /// The folder of one kind of files, made and checked.
    ///
    /// # Errors
    /// See [`private_folder`].
    pub fn folder(&self, kind: &str) -> Result<PathBuf> {
        self.ensure()?;
        let path = self.path.join(kind);
        private_folder(&path)?;
        Ok(path)
    }

    /// The shelf of one kind of derived files.
    ///
    /// # Errors
    /// See [`private_folder`].
    pub fn shelf(&self, kind: &str) -> Result<Shelf> {
        Ok(Shelf::at(self.folder(kind)?))
    }
}

fn home(home: Option<PathBuf>) -> Result<PathBuf> {
    match home {
        Some(path) if path.is_absolute() => Ok(path),
        Some(path) => Err(Error::Relative { variable: "HOME", path }),
        None => Err(Error::NoHome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(env: &[(&str, &str)], macos: bool) -> Result<CacheRoot> {
        CacheRoot::from_variables(
            |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)),
            macos,
        )
    }

    #[test]
    fn the_environment_names_the_cache() {
        type Row<'a> = (&'a [(&'a str, &'a str)], bool, &'a str);
        let table: &[Row<'_>] = &[
            (&[("VMETTE_CACHE_DIR", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], false, "/c"),
            (&[("VMETTE_CACHE_DIR", "/c"), ("HOME", "/h")], true, "/c"),
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], false, "/x/vmette"),
            (&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")], false, "/h/.cache/vmette"),
            (&[("XDG_CACHE_HOME", ""), ("VMETTE_CACHE_DIR", ""), ("HOME", "/h")], false, "/h/.cache/vmette"),
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], true, "/h/Library/Caches/vmette"),
        ];
        for (env, macos, expected) in table {
            assert_eq!(root(env, *macos).unwrap().path(), Path::new(expected), "{env:?}");
        }
    }

    #[test]
    fn the_current_folder_is_never_the_cache() {
        for env in [[("VMETTE_CACHE_DIR", "cache")], [("HOME", ".")], [("HOME", "")]] {
            let error = root(&env, false).unwrap_err().to_string();
            assert!(error.contains(env[0].0), "{error}");
        }
        assert!(root(&[], true).unwrap_err().to_string().contains("VMETTE_CACHE_DIR"));
    }
}
