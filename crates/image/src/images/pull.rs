//! Fetching images before a run needs them.

use super::find::Found;
use super::{ImageDetails, Images};
use crate::context::{Context, PullPolicy};
use crate::error::{ProviderError, Result};
use crate::providers::{BUILTIN_SPEC, RootfsArtifact, default_registry};
use crate::store::StoredImage;

impl Images {
    /// Brings what a spec names into the cache, as a run of it would; what is there already is asked for anew, and
    /// nothing of it is fetched twice.
    ///
    /// # Errors
    /// [`ProviderError::InvalidSpec`] for what a run takes from its place, such as a folder; what keeps the image from
    /// being had. [`ProviderError::OfflineCacheMiss`] when the network is ruled out and it is not there.
    pub fn pull(&self, spec: &str) -> Result<ImageDetails> {
        let ctx = self.ctx.clone().with_pull_policy(PullPolicy::Always);
        let image = self.resolve(spec, &ctx)?;
        let record = match self.find(spec) {
            Ok(Found::Named(record, _)) if record.key == image.key => Some(record),
            _ => None,
        };
        self.details(image, record)
    }

    /// The image of the store that a run of `spec` would have.
    pub(super) fn resolve(&self, spec: &str, ctx: &Context) -> Result<StoredImage> {
        let used_in_place = |why: &str| ProviderError::InvalidSpec(format!("{spec:?} {why}"));
        if spec == BUILTIN_SPEC {
            return Err(used_in_place("comes with vmette: there is nothing to fetch"));
        }
        match default_registry(None).resolve(spec, ctx)? {
            RootfsArtifact::BlockImage { path, .. } if path.parent() == Some(self.store.dir()) => {
                self.store.at(&path).ok_or_else(|| {
                    ProviderError::Other(format!(
                        "{spec} was removed from the cache at this moment; try again"
                    ))
                })
            }
            RootfsArtifact::BlockImage { .. } => Err(used_in_place(
                "is used where it is: there is nothing to fetch; import it to make an image of it",
            )),
            RootfsArtifact::Directory { .. } => {
                Err(used_in_place("is a folder, and used where it is: there is nothing to fetch"))
            }
        }
    }
}
