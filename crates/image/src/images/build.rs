//! Making images of a distribution's packages.

use std::process;
use std::time::SystemTime;

use vmette_cache::Key;
use vmette_oci::Reference;

use super::{ImageDetails, Images};
use crate::error::Result;
use crate::providers::{BuildOptions, build_debian};
use crate::store::key_of;

impl Images {
    /// Makes an image of a Debian suite with `mmdebstrap`, under the options' name, which is moved if it is there. Takes
    /// from seconds to minutes, and needs a network unless all mirrors are folders. The image is never removed but by
    /// name.
    ///
    /// # Errors
    /// [`ProviderError::InvalidSpec`](crate::ProviderError::InvalidSpec) for malformed options;
    /// [`MissingTool`](crate::ProviderError::MissingTool); [`Tool`](crate::ProviderError::Tool) with what mmdebstrap
    /// says, such as that a package or the network is not there;
    /// [`OfflineCacheMiss`](crate::ProviderError::OfflineCacheMiss); [`Cancelled`](crate::ProviderError::Cancelled).
    pub fn build_debian(&self, options: &BuildOptions) -> Result<ImageDetails> {
        options.check()?;
        let name = Reference::of_local(&options.name)?.to_string();
        let image = self.store.obtain(&new_key(options), |staging| {
            self.ctx.work().step(&format!("building {name}"));
            build_debian(options, &self.ctx, staging)
        })?;
        self.name_local(image, &name)
    }
}

/// Packages change from day to day: what was built before is not what would be built now, so each build is its own.
fn new_key(options: &BuildOptions) -> Key {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (time, process) = (now.as_nanos().to_le_bytes(), process::id().to_le_bytes());
    key_of([&b"debian 1"[..], options.suite.as_bytes(), &time, &process])
}
