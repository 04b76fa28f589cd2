//! The whole benchmark: what is measured, in which order, and what it should come to.

mod images;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use vmette::assets::{self, AssetOptions, BootAssets, CacheRoot};
use vmette::work::{Progress, Work};
use vmette::{Accelerator, Notice, Report, Session};

use crate::copy;
use crate::fleet;
use crate::host::{Host, load_average};
use crate::live::{self, Live};
use crate::nested::{self, Lane};
use crate::peers::{self, Peer};
use crate::phase::Plan;
use crate::plain;
use crate::program::Program;
use crate::pull;
use crate::share;
use crate::snapshots;
use crate::starts::{Contender, Until, take_turns};
use crate::stats::Samples;
use crate::table::{Table, Target, Unit};

/// Names of rows that other rows are compared with.
const TEMPLATE: &str = "`vmette run -- true`, from a template";
const RUNSC: &str = "`runsc do true`";
const PODMAN: &str = "`podman run --rootfs … true`";

/// What a start of an image of the cache may take longer than that of the built-in root, in milliseconds.
const IMAGE_MORE_MS: f64 = 15.0;

/// From the start of a resumed machine to its first output under emulation, in milliseconds.
const RESUMED_MS: f64 = 350.0;

/// What every part of the benchmark needs.
struct Setting<'a> {
    vmette: &'a Path,
    plan: Plan,
    report: Report,
    boot: BootAssets,
    /// A template start, which most rows are related to.
    template: Contender,
    table: Table,
    /// What peers were really run as, which may be more than their row says.
    commands: Vec<String>,
}

/// Measures everything and returns the document. `lane` is the file with the times of the KVM lane, if it has run.
pub(crate) fn run(vmette: &Path, plan: Plan, lane: Option<&Path>) -> anyhow::Result<String> {
    let started = Instant::now();
    let load_before = load_average();
    let folder = tempfile::tempdir().context("a folder for the measurements")?;
    let cache = CacheRoot::from_env()?;
    let options = AssetOptions::from_env(cache);
    let work = Work::quiet().reporting(Arc::new(|told| {
        if let Progress::Step(line) = told {
            step(line);
        }
    }));
    let boot = assets::boot_assets(&options, &work)?;
    let busybox = assets::busybox(&options, &work)?;
    step("making a template, if there is none yet");
    let report = first_session()?;
    let run_true = Program::new(vmette, ["run", "--", "true"]);
    let template = Contender::new(run_true.clone(), Until::End);
    let mut setting =
        Setting { vmette, plan, report, boot, template, table: Table::default(), commands: Vec::new() };

    let rootfs = folder.path().join("rootfs");
    peers::rootfs(&rootfs, &busybox)?;
    let live = setting.short_starts(&rootfs, &peers::archive(&rootfs)?)?;
    setting.cold_starts(&busybox, folder.path())?;
    setting.in_a_session(&live);
    setting.many(&run_true)?;
    setting.throughput(folder.path())?;
    setting.images(folder.path())?;
    setting.snapshots()?;

    setting.on_kvm(lane);

    let Setting { report, boot, table, mut commands, .. } = setting;
    commands.push(format!("- The tools' pull was measured as {}.", pull::shown()));
    for line in table.missed() {
        step(&format!("target missed: {line}"));
    }
    let machine = Host::here().to_markdown(&report, &boot.version, [&load_before, &load_average()]);
    Ok(document(&machine, &table, &commands, started.elapsed().as_secs()))
}

/// Makes the template and proves that it is used.
fn first_session() -> anyhow::Result<Report> {
    let observer = Arc::new(|notice: &Notice| match notice {
        Notice::Progress(line) | Notice::Vsock(line) => step(line),
        Notice::Warning(line) => step(&format!("warning: {line}")),
    });
    let session = Session::builder(&live::config()).observer(observer).start()?.running()?;
    live::ensure_from_template(&session)?;
    Ok(session.report().clone())
}

impl Setting<'_> {
    fn vmette(&self, args: &[&str]) -> Program {
        Program::new(self.vmette, args)
    }

    /// Everything that takes a fraction of a second, in turns.
    fn short_starts(&mut self, rootfs: &Path, archive: &Path) -> anyhow::Result<Live> {
        let image = format!("tar+file://{}", archive.display());
        let mut image = Contender::new(self.vmette(&["run", &image, "--", "true"]), Until::End);
        step("converting an image, and making its template");
        image.warm_up()?;
        let mut echo = Contender::new(self.vmette(&["run", "--", "echo", "hello"]), Until::Output(b""));
        let (mut runsc, mut podman) = (Measured::of(peers::runsc()), Measured::of(peers::podman(rootfs)));
        step("starts from a template, other sandboxes, live sessions");
        let mut live = Live::default();
        let mut contenders = vec![&mut self.template, &mut image, &mut echo];
        contenders.extend([&mut runsc, &mut podman].into_iter().filter_map(Measured::contender));
        take_turns(self.plan.short, &mut contenders, || live.measure())?;

        let template = &self.template.samples;
        let ms = Unit::Milliseconds;
        let limit = runsc.samples().and_then(|runsc| Target::at_most_as(RUNSC, 1.0, runsc, template));
        self.table.add(TEMPLATE, ms, template).against(template).wants(limit);
        let limit = Target::at_most_more(IMAGE_MORE_MS, ms, template, &image.samples);
        self.table
            .add("`vmette run IMAGE -- true`, from the cache", ms, &image.samples)
            .against(template)
            .wants(limit);
        self.table.add("`vmette run -- echo`, first output byte", ms, &echo.samples).against(template);
        runsc.add_to(&mut self.table, RUNSC, template);
        podman.add_to(&mut self.table, PODMAN, template);
        for (what, peer) in [(RUNSC, &runsc), (PODMAN, &podman)] {
            if let Measured::Here(contender) = peer {
                let command = contender.shown().replace(&rootfs.display().to_string(), "ROOTFS");
                self.commands.push(format!("- {what} was measured as `{command}`."));
            }
        }
        Ok(live)
    }

    /// Boots from power-on, in turns.
    fn cold_starts(&mut self, busybox: &Path, folder: &Path) -> anyhow::Result<()> {
        let mut cold = Contender::new(self.vmette(&["run", "--no-template", "--", "true"]), Until::End);
        let accelerator = self.report.accelerator;
        let plain = plain::program(&live::config(), &self.boot.kernel, busybox, accelerator, folder)?;
        let mut plain = Contender::new(plain, Until::Output(plain::MARKER));
        step("cold boots");
        take_turns(self.plan.cold, &mut [&mut cold, &mut plain], || Ok(()))?;

        let (template, ms) = (&self.template.samples, Unit::Milliseconds);
        let limit = match accelerator {
            Accelerator::Tcg => Target::at_most(4000.0, ms, &cold.samples),
            _ => None,
        };
        self.table
            .add("`vmette run --no-template -- true`, cold", ms, &cold.samples)
            .against(template)
            .wants(limit);
        self.table.add("Plain QEMU, same kernel, to a shell's echo", ms, &plain.samples).against(template);
        if accelerator != Accelerator::Tcg {
            let limit = Target::at_most_as("¼ of cold", 0.25, &cold.samples, template);
            self.table.add(TEMPLATE, ms, template).against(&cold.samples).wants(limit);
        }
        Ok(())
    }

    fn in_a_session(&mut self, live: &Live) {
        let (table, ms) = (&mut self.table, Unit::Milliseconds);
        table.add("Library: session from a template, ready", ms, &live.ready);
        table.add("Session: its first `true`", ms, &live.first_exec);
        table.add("Session: each later `true`", ms, &live.exec).wants(Target::at_most(15.0, ms, &live.exec));
        table.add("Session: ping of the agent", ms, &live.ping).wants(Target::at_most(1.0, ms, &live.ping));
        table.add("Session: from stop until its processes are gone", ms, &live.teardown);
        let memory = &live.private_memory;
        let limit = Target::at_most(30.0, Unit::Mib, memory);
        table.add("Session: private memory after its first `true`", Unit::Mib, memory).wants(limit);
    }

    fn many(&mut self, run_true: &Program) -> anyhow::Result<()> {
        self.at_once("`vmette run -- true`", run_true, fleet::SIZE)
    }

    fn at_once(&mut self, what: &str, program: &Program, size: usize) -> anyhow::Result<()> {
        step(&format!("{size} machines at once"));
        let fleet = fleet::measure(self.plan.fleet, program, size);
        ensure!(
            fleet.failures.is_empty(),
            "{} of {} machines that were started {size} at once failed; the first: {}",
            fleet.failures.len(),
            fleet.started,
            fleet.failures[0]
        );
        let what = format!("{size} × {what} at once, all done");
        self.table.add(&what, Unit::Milliseconds, &fleet.all_done).against(&self.template.samples);
        Ok(())
    }

    fn snapshots(&mut self) -> anyhow::Result<()> {
        step("saving a session, and starting from what was saved");
        // Beside the cache, on a disk: a folder for temporary files may be memory.
        let folder = tempfile::tempdir_in(CacheRoot::from_env()?.path()).context("a folder for snapshots")?;
        let snapshots::Saved { save, path } = snapshots::save(self.plan.short, folder.path())?;
        let path = path.to_str().context("a path that is no text")?;
        let echo = self.vmette(&["run", "--resume-snapshot", path, "--", "echo", "hello"]);
        let mut resumed = Contender::new(echo, Until::Output(b""));
        take_turns(self.plan.short, &mut [&mut resumed], || Ok(()))?;
        let (template, ms) = (&self.template.samples, Unit::Milliseconds);
        self.table.add("`Session::snapshot`, the session goes on", ms, &save).against(template);
        let limit = match self.report.accelerator {
            Accelerator::Tcg => Target::at_most(RESUMED_MS, ms, &resumed.samples),
            _ => None,
        };
        self.table
            .add("`vmette run --resume-snapshot … -- echo`, first output byte", ms, &resumed.samples)
            .against(template)
            .wants(limit);
        let run_true = self.vmette(&["run", "--resume-snapshot", path, "--", "true"]);
        self.at_once("`vmette run --resume-snapshot … -- true`", &run_true, snapshots::FLEET)?;
        self.python(folder.path())
    }

    fn python(&mut self, folder: &Path) -> anyhow::Result<()> {
        const FRESH: &str = "Python, fresh: imports, then an answer";
        const RESUMED: &str = "Python, resumed with its imports: an answer";
        step("a Python that has its libraries imported");
        let image = match snapshots::image() {
            Ok(image) => image,
            Err(error) => {
                self.table.skip(RESUMED, &format!("no image with Python: {error}"));
                return Ok(());
            }
        };
        let python = snapshots::python(self.vmette, &image, folder)?;
        let mut fresh = Contender::new(python.fresh, Until::Output(snapshots::ANSWER));
        let mut resumed = Contender::new(python.resumed, Until::Output(snapshots::ANSWER));
        take_turns(self.plan.short, &mut [&mut fresh, &mut resumed], || Ok(()))?;
        let (table, ms) = (&mut self.table, Unit::Milliseconds);
        table.add(FRESH, ms, &fresh.samples).against(&resumed.samples);
        table.add(RESUMED, ms, &resumed.samples).against(&resumed.samples);
        Ok(())
    }

    fn throughput(&mut self, folder: &Path) -> anyhow::Result<()> {
        let mib = self.plan.copy_mib;
        step(&format!("{mib} MiB through stdin and stdout"));
        let copied = copy::measure(self.plan.copy, &self.vmette(&["run", "--", "cat"]), mib)?;
        self.table.add(&format!("`vmette run -- cat`, {mib} MiB in and out"), Unit::MibPerSecond, &copied);

        step("reading and writing a share");
        let folder = folder.join("share");
        std::fs::create_dir(&folder).context("a folder to share")?;
        let share = share::measure(self.plan.share, &folder)?;
        self.table.add(&format!("Share: reading {} MiB", share::MIB), Unit::MibPerSecond, &share.read);
        self.table.add(
            &format!("Share: writing {} MiB, with fsync", share::MIB),
            Unit::MibPerSecond,
            &share.write,
        );
        Ok(())
    }

    /// What a template saves on hardware KVM, which is measured where the host has none: in the suite's outer machine.
    fn on_kvm(&mut self, lane: Option<&Path>) {
        const COLD: &str = "KVM in an emulated machine: cold, ready";
        const TEMPLATE: &str = "KVM in an emulated machine: from a template, ready";
        let (table, ms) = (&mut self.table, Unit::Milliseconds);
        match lane.map(nested::read) {
            Some(Ok(Lane { cold, template })) => {
                table.add(COLD, ms, &cold).against(&template);
                let limit = Target::at_most_as("¼ of cold", 0.25, &cold, &template);
                table.add(TEMPLATE, ms, &template).against(&template).wants(limit);
            }
            Some(Err(error)) => table.skip(TEMPLATE, &error.to_string()),
            None => table.skip(TEMPLATE, "the KVM lane of `make test` measures it, and has not run"),
        }
    }
}

/// A peer on its way through the measurement.
enum Measured {
    Here(Contender),
    Absent(String),
}

impl Measured {
    fn of(peer: Peer) -> Self {
        match peer {
            Peer::Here(program) => Self::Here(Contender::new(program, Until::End)),
            Peer::Absent(reason) => Self::Absent(reason),
        }
    }

    fn contender(&mut self) -> Option<&mut Contender> {
        match self {
            Self::Here(contender) => Some(contender),
            Self::Absent(_) => None,
        }
    }

    fn samples(&self) -> Option<&Samples> {
        match self {
            Self::Here(contender) => Some(&contender.samples),
            Self::Absent(_) => None,
        }
    }

    fn add_to(&self, table: &mut Table, what: &str, reference: &Samples) {
        match self {
            Self::Here(contender) => {
                table.add(what, Unit::Milliseconds, &contender.samples).against(reference);
            }
            Self::Absent(reason) => table.skip(what, reason),
        }
    }
}

/// What the table cannot say.
const NOTES: &str = "\
- Contenders take turns (A B A B …), so that what slows the machine down for a while slows all of them. A ratio is of
  medians, to the start from a template.
- The lines on KVM are of the test suite's last run in the same build folder: an outer machine under emulation, whose
  processor has AMD's virtualisation, runs vmette with KVM. Only their ratio says something.
- `vmette run`, `runsc do` and `podman run` are timed from the start of the process until it has ended; plain QEMU until
  its guest's shell has printed a line on the serial port. Plain QEMU has the same kernel file, board, CPU model and
  memory, and a static busybox for an initramfs.
- IMAGE is an archive of the same busybox, converted before.
- gVisor runs on the host's own root without a network, podman on a folder with the same busybox without a network.
- A snapshot is of a session that has run `true`. Both Pythons import the same modules of the standard library; the
  resumed one had done so when it was saved. Their ratio is to the resumed one.
- Private memory is `RssAnon` of the session's QEMU: pages that it does not share with the template or another machine.
- Copying is timed with the machine's start, and compared byte by byte. The share's files are new to the guest each time
  and in the host's page cache when they are read.
- Images are pulled from a `docker-registry` on the loopback interface, into an empty cache each time, in three or four
  layers that `skopeo` has compressed with gzip. Each pull downloads, verifies both digests of each layer, decompresses,
  applies and packs, and is on the disk when it ends. The tools do less: `skopeo` copies and verifies the compressed
  layers, and `mksquashfs` packs a tree that was unpacked before, in the page cache; neither waits for the disk. Both
  images are compressed alike, which their sizes are checked for. The ratio is to the tools' time.
- The Debian is made by `vmette image build` of this machine's suite, with `mmdebstrap`; base, Python and data are a layer
  each. The other image has files of a MiB, random bytes and text in turns.
- That Debian's `true` is linked dynamically and the built-in root's is not: what its start takes longer is, but for a few
  milliseconds, the guest's loader, which the emulator translates anew for each machine. An image of the built-in root's
  own programs starts from the cache as fast as the built-in root (second line).
- Peak memory is `VmHWM`, looked at every millisecond in runs of their own: of vmette, and of what it starts, each at its
  own highest moment; \"both\" adds them up. Pages of files that are not mapped are the kernel's, and do not count.
- `image ls` lists images of an empty tree, each under a name of its own.
";

fn document(machine: &str, table: &Table, commands: &[String], seconds: u64) -> String {
    format!(
        "# Benchmarks\n\nWritten by `make bench`; do not edit. All figures are from one run of {seconds} s on this \
         machine. It was not quiet unless\nthe load average says so: trust the ratios more than the times.\n\n\
         {machine}\n{}\n{NOTES}{}\n",
        table.to_markdown(),
        commands.join("\n")
    )
}

fn step(line: &str) {
    eprintln!("bench: {line}");
}
