//! Pulling an image and converting it, beside the same work of the tools that are made for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::memory::{self, Peaks};
use crate::peers::on_path;
use crate::phase::Phase;
use crate::program::Program;
use crate::registry::{CLIENT, Registry, ensure_compressed};
use crate::starts::milliseconds;
use crate::stats::Samples;

/// The peer's second half.
const PACKER: &str = "mksquashfs";
/// How vmette has its images packed. That it still does shows in the images' sizes, which are compared.
const PACKING: [&str; 6] = ["-comp", "zstd", "-Xcompression-level", "3", "-noI", "-no-exports"];
/// Most that the two images may differ in size, as a share of the peer's.
const SIZES_APART: f64 = 0.02;
/// An image that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// An image of the registry, and what it is made of.
pub(crate) struct Image<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) name: &'a str,
    /// All of its tree, as one archive.
    pub(crate) tree: &'a Path,
}

/// The figures of a pull.
#[derive(Debug, Default)]
pub(crate) struct Pulled {
    /// `vmette image pull` into an empty cache, in milliseconds.
    pub(crate) ours: Samples,
    /// The same work of the peer, in milliseconds.
    pub(crate) peer: Samples,
    /// The program's memory at its highest, in MiB.
    pub(crate) own_memory: Samples,
    /// That of what it started.
    pub(crate) tool_memory: Samples,
    /// Both added up.
    pub(crate) memory: Samples,
}

/// Pulls in turns with the peer, and then as often once more to look at the memory, which takes time.
pub(crate) fn measure(
    phase: Phase,
    vmette: &Path,
    image: &Image<'_>,
    folder: &Path,
) -> anyhow::Result<Pulled> {
    let packer = on_path(PACKER).with_context(|| format!("{PACKER} is not installed"))?;
    let cache = folder.join("pull-cache");
    let reference = image.registry.reference(image.name);
    let pull = Program::new(vmette, ["image", "pull", "--quiet", &reference]).env("VMETTE_CACHE_DIR", &cache);
    let mut pulled = Pulled::default();
    for _ in phase.rounds() {
        pulled.ours.push(milliseconds(pull.time_within(Stdio::null(), LIMIT)?));
        let ours = image_size(&cache)?;
        remove(&cache)?;
        let (elapsed, theirs) = peer(&packer, image, folder)?;
        pulled.peer.push(milliseconds(elapsed));
        ensure!(
            ((ours - theirs) / theirs).abs() <= SIZES_APART,
            "vmette's image has {ours} bytes and that of {PACKER} {theirs}: that is not the same work"
        );

        let Peaks { own, started } = memory::measure(&pull, LIMIT)?;
        remove(&cache)?;
        pulled.own_memory.push(own);
        pulled.tool_memory.push(started);
        pulled.memory.push(own + started);
    }
    Ok(pulled)
}

/// Copies the image with the one tool and packs its tree, which is unpacked already, with the other. How long both took,
/// and the bytes of the image.
fn peer(packer: &Path, image: &Image<'_>, folder: &Path) -> anyhow::Result<(Duration, f64)> {
    let (layout, packed) = (folder.join("pull-layout"), folder.join("pull-peer.sqfs"));
    let copying = image.registry.copy_to(image.name, &layout)?.time_within(Stdio::null(), LIMIT)?;
    let tree = File::open(image.tree).context("open a tree")?;
    let target = packed.display().to_string();
    let args = ["-", target.as_str(), "-tar", "-quiet", "-no-progress"];
    let packing =
        Program::new(packer, args.iter().copied().chain(PACKING)).time_within(tree.into(), LIMIT)?;
    ensure_compressed(&layout)?;
    let size = size(&packed)?;
    remove(&layout)?;
    fs::remove_file(&packed).context("remove an image")?;
    Ok((copying + packing, size))
}

/// How the peer was measured, as one would type it.
pub(crate) fn shown() -> String {
    format!("`{CLIENT} copy docker://… oci:…` and then `{PACKER} - IMAGE -tar {} <TREE`", PACKING.join(" "))
}

/// Bytes of the only image in a cache.
fn image_size(cache: &Path) -> anyhow::Result<f64> {
    let files = fs::read_dir(cache.join("images")).context("look for the image that was pulled")?;
    let paths = files.map(|file| file.map(|file| file.path())).collect::<Result<Vec<PathBuf>, _>>()?;
    let mut images = paths.iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "sqfs"));
    let image = images.next().context("no image was pulled")?;
    size(image)
}

fn size(path: &Path) -> anyhow::Result<f64> {
    let len = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.len();
    Ok(f64::from(u32::try_from(len).context("an image of more than 4 GiB")?))
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
}
