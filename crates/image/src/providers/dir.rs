//! A directory of the host as the rootfs.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::artifact::{RootfsArtifact, RootfsProvider};
use super::spec;
use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::sniff::FileKind;
use vmette_oci::ImageConfig;

/// Claims `/…`, `./…`, `../…`, `~/…`, `.`, `..`, and any spec that names a directory that is there, so that a local
/// directory comes before an image of the same name.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirProvider;

impl DirProvider {
    /// The provider.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl RootfsProvider for DirProvider {
    fn name(&self) -> &'static str {
        "dir"
    }

    fn form(&self) -> &'static str {
        "a directory (/PATH, ./PATH, ~/PATH)"
    }

    fn matches(&self, spec: &str) -> bool {
        let path_like = ["/", "./", "../", "~/"].iter().any(|prefix| spec.starts_with(prefix));
        path_like || spec == "." || spec == ".." || (!spec.is_empty() && Path::new(spec).is_dir())
    }

    fn provide(&self, spec: &str, _ctx: &Context) -> Result<RootfsArtifact> {
        let path = expand(spec)?;
        let metadata = fs::metadata(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                ProviderError::InvalidSpec(format!("rootfs {spec:?}: there is no {}", path.display()))
            }
            _ => ProviderError::io("cannot examine the rootfs", &path)(e),
        })?;
        if !metadata.is_dir() {
            return Err(not_a_directory(spec, &path));
        }
        let path = path.canonicalize().map_err(ProviderError::io("cannot resolve the rootfs", &path))?;
        fs::read_dir(&path).map_err(ProviderError::io("cannot list the rootfs", &path))?;
        rustix::fs::access(&path, rustix::fs::Access::EXEC_OK)
            .map_err(|e| ProviderError::io("cannot enter the rootfs", &path)(e.into()))?;
        Ok(RootfsArtifact::Directory { path, read_only: false, config: ImageConfig::default() })
    }
}

/// `~/` is the user's home.
fn expand(spec: &str) -> Result<PathBuf> {
    match spec.strip_prefix("~/") {
        None => Ok(PathBuf::from(spec)),
        Some(rest) => env::home_dir()
            .filter(|home| home.is_absolute())
            .map(|home| home.join(rest.trim_start_matches('/')))
            .ok_or_else(|| {
                ProviderError::InvalidSpec(format!("rootfs {spec:?}: HOME is not set, write the path out"))
            }),
    }
}

/// Says what the file is, and which spec takes it.
pub(crate) fn not_a_directory(spec: &str, path: &Path) -> ProviderError {
    let advice = spec::open_regular(path).and_then(|mut file| {
        let absolute = path.canonicalize().map_err(ProviderError::io("cannot resolve", path))?;
        let kind = FileKind::of(&mut file).map_err(ProviderError::io("cannot read", path))?;
        Ok(spec::advice(kind, &absolute))
    });
    ProviderError::InvalidSpec(match advice {
        Ok(advice) => format!("rootfs {spec:?} is not a directory but {advice}"),
        Err(e) => format!("rootfs {spec:?} is not a directory: {e}"),
    })
}
