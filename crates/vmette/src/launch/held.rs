//! Things that have to outlive a session's machine.

use super::scratch::Scratch;

/// The scratch disk's file, and the claim on the image in the store.
#[derive(Default)]
pub(crate) struct Held {
    pub(super) scratch: Option<Scratch>,
    pub(super) rootfs: Option<vmette_image::StoreHold>,
}
