//! What a machine boots: a Linux kernel, and an initramfs with the guest's `/init` and the kernel's modules.
//!
//! The kernel is the distribution's, fetched once without privileges and without installing it; the guest is embedded
//! in this library; the rest is derived from both and kept in the cache. Nothing is ever taken from the current
//! folder: running inside of a hostile checkout must not boot its kernel.

mod apt;
mod boot;
mod busybox;
mod decompress;
mod elf;
mod error;
mod guest;
mod image;
mod initramfs;
mod kernel;
mod modules;
mod options;

pub use vmette_cache::CacheRoot;

pub use boot::{BootAssets, boot_assets};
pub use busybox::busybox;
pub use error::AssetError;
pub use guest::{GUEST, GUEST_SHA256};
pub use image::vmlinux_of;
pub use initramfs::initramfs;
pub use kernel::{Kernel, Origin};
pub use options::{ARCH, AssetOptions};

#[cfg(test)]
mod tests;
