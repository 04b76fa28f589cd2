//! The part of the benchmark that is about images: pulling, converting, starting, listing.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{IMAGE_MORE_MS, Setting, TEMPLATE, step};
use crate::input::{self, Input};
use crate::layout;
use crate::listing;
use crate::phase::Phase;
use crate::pull::{self, Image, Pulled};
use crate::registry::Registry;
use crate::starts::{Contender, Until, take_turns};
use crate::table::{Target, Unit};

/// Most that pulling and converting may take, as a multiple of the peer's time.
const PULL_FACTOR: f64 = 1.3;
/// Most memory that it may need, in MiB, whatever the image's size.
const PULL_MIB: f64 = 200.0;
/// Most that listing may take, in milliseconds.
const LIST_MS: f64 = 100.0;

/// The images' names in the registry.
const DEBIAN: &str = "debian-python";
const MADE_UP: &str = "made-up";

impl Setting<'_> {
    /// All of it. What cannot be measured here is left out, and the table says why.
    pub(super) fn images(&mut self, folder: &Path) -> anyhow::Result<()> {
        let what = format!("`vmette image ls` of {} images", listing::IMAGES);
        step(&what);
        let listed = listing::measure(self.plan.listing, self.vmette, folder)?;
        let limit = Target::at_most(LIST_MS, Unit::Milliseconds, &listed);
        self.table.add(&what, Unit::Milliseconds, &listed).wants(limit);

        let registry = match Registry::start(folder) {
            Ok(registry) => registry,
            Err(error) => {
                self.table.skip("Pulling an image from a registry", &format!("{error:#}"));
                return Ok(());
            }
        };
        if self.plan.debian {
            step("a Debian image with Python, from this machine's mirror");
            let folder = subfolder(folder, DEBIAN)?;
            match input::debian(self.vmette, &folder) {
                Ok(input) => {
                    let name = format!("a Debian with Python ({:.0} MiB)", input.mib);
                    self.pull(self.plan.pull, &registry, DEBIAN, &name, &input, &folder)?;
                    self.cached_start(&registry)?;
                }
                Err(error) => self.table.skip("Pulling a Debian with Python", &format!("{error:#}")),
            }
            fs::remove_dir_all(&folder).context("remove a tree")?;
        }
        let mib = self.plan.large_mib;
        step(&format!("an image of {mib} MiB"));
        let folder = subfolder(folder, MADE_UP)?;
        let input = input::made_up(mib, &folder)?;
        let name = format!("an image of {mib} MiB, half of it random");
        self.pull(self.plan.large, &registry, MADE_UP, &name, &input, &folder)
    }

    /// Uploads the image, and measures how it comes back.
    fn pull(
        &mut self,
        phase: Phase,
        registry: &Registry,
        name: &str,
        shown: &str,
        input: &Input,
        folder: &Path,
    ) -> anyhow::Result<()> {
        let layout = folder.join("layout");
        layout::write(&layout, &input.layers)?;
        registry.push(&layout, name)?;
        fs::remove_dir_all(&layout).context("remove a layout")?;
        step(&format!("pulling {shown}"));
        let image = Image { registry, name, tree: &input.tree };
        let Pulled { ours, peer, own_memory, tool_memory, memory } =
            pull::measure(phase, self.vmette, &image, folder)?;

        let (table, ms, mib) = (&mut self.table, Unit::Milliseconds, Unit::Mib);
        let limit = Target::at_most_as(&format!("{PULL_FACTOR} × the tools"), PULL_FACTOR, &peer, &ours);
        table.add(&format!("`vmette image pull`, {shown}"), ms, &ours).against(&peer).wants(limit);
        table.add("… `skopeo copy` and `mksquashfs`", ms, &peer).against(&peer);
        table.add("… peak memory: vmette", mib, &own_memory);
        table.add("… peak memory: the `mksquashfs` that it runs", mib, &tool_memory);
        let limit = Target::at_most(PULL_MIB, mib, &memory);
        table.add("… peak memory: both", mib, &memory).wants(limit);
        Ok(())
    }

    /// A start of the image that is in the registry, from the user's cache, in turns with one of the built-in root.
    fn cached_start(&mut self, registry: &Registry) -> anyhow::Result<()> {
        let reference = registry.reference(DEBIAN);
        let mut image = Contender::new(self.vmette(&["run", &reference, "--", "true"]), Until::End);
        let mut builtin = Contender::new(self.vmette(&["run", "--", "true"]), Until::End);
        step("pulling it into the cache, and making its template");
        image.warm_up()?;
        let measured = take_turns(self.plan.short, &mut [&mut builtin, &mut image], || Ok(()));
        // Nobody else knows of this registry.
        self.vmette(&["image", "rm", "--force", &reference]).time_to_end()?;
        measured?;

        let ms = Unit::Milliseconds;
        self.table
            .add(&format!("{TEMPLATE}, in turns with the next"), ms, &builtin.samples)
            .against(&builtin.samples);
        let limit = Target::at_most_more(IMAGE_MORE_MS, ms, &builtin.samples, &image.samples);
        self.table
            .add("`vmette run REFERENCE -- true`, that Debian, from the cache", ms, &image.samples)
            .against(&builtin.samples)
            .wants(limit);
        Ok(())
    }
}

fn subfolder(folder: &Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let folder = folder.join(name);
    fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}
