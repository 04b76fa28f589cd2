//! Listing a cache that has many images.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::peers::on_path;
use crate::phase::Phase;
use crate::program::Program;
use crate::starts::{Contender, Until, take_turns};
use crate::stats::Samples;

/// More images than most people have.
pub(crate) const IMAGES: usize = 200;

/// How long `vmette image ls` takes on a cache of [`IMAGES`] images, in milliseconds.
pub(crate) fn measure(phase: Phase, vmette: &Path, folder: &Path) -> anyhow::Result<Samples> {
    let cache = folder.join("listing-cache");
    let run = |args: &[&str]| Program::new(vmette, args).env("VMETTE_CACHE_DIR", &cache);
    let (image, mut bytes) = (folder.join("listed.sqfs").display().to_string(), empty_image(folder)?);
    let len = bytes.len();
    for number in 0..IMAGES {
        // Bytes behind the file system make it another image.
        bytes.truncate(len);
        bytes.extend_from_slice(&number.to_le_bytes());
        fs::write(&image, &bytes).context("write an image")?;
        run(&["image", "import", &image, "-t", &format!("listed-{number}:bench"), "--quiet"])
            .time_to_end()?;
    }
    let mut list = Contender::new(run(&["image", "ls"]), Until::End);
    take_turns(phase, &mut [&mut list], || Ok(()))?;
    fs::remove_dir_all(&cache).context("remove a cache")?;
    Ok(list.samples)
}

fn empty_image(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let (tree, image) = (folder.join("empty"), folder.join("empty.sqfs"));
    fs::create_dir(&tree).context("make a folder")?;
    let packer = on_path("mksquashfs").context("mksquashfs is not installed")?;
    Program::new(&packer, [&tree, &image]).time_to_end()?;
    fs::read(&image).context("read an image")
}
