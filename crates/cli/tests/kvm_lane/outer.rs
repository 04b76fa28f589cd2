//! A machine whose processor has hardware virtualisation: QEMU's software emulation emulates AMD's SVM, so a stock
//! kernel with `kvm-amd` has a `/dev/kvm` in it like that of bare metal. The host's root is its root, so what is built
//! and installed here is there as well; the host stays unwritten.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use vmette::assets::{AssetOptions, BootAssets, CacheRoot, boot_assets, busybox};
use vmette::work::Work;
use vmette::{
    AcceleratorChoice, Collected, Config, Console, ExecOptions, Isolation, Rootfs, RootfsShare, Session,
    ShareMount, WorkloadStrategy, provider,
};

/// Room for the inner machine (512 MiB, touched sparsely), its template, and what [`Outer::fetch`] brings in.
const MEMORY_MIB: u64 = 2048;

/// Several would be no faster, since what runs in it waits for itself, and could stand still for ever: the translator of
/// QEMU before 8.1 misses what one processor writes while another translates it. The first machine on KVM makes a kernel
/// patch its scheduler, with a breakpoint on the way, and processors that keep that translated take it again and again.
const VCPUS: u8 = 1;

/// Most output of one inner command that is looked at.
const KEEP: usize = 1 << 20;

/// Longest that one inner command may take: ten times of what the slowest needs when nothing else runs.
const LIMIT: Duration = Duration::from_secs(240);

/// How long it may take to look around when one has not ended in time.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// How much of the end of the console is shown then.
const CONSOLE_TAIL: u64 = 16 << 10;

/// What runs, where in the kernel it waits, and what vmette has left of its runs.
const LOOK: &str = "ps -eo pid,ppid,stat,wchan:24,etimes,args; \
                    for task in $(ls /proc | grep '^[0-9]*$'); do \
                    grep -q qemu /proc/$task/cmdline 2>/dev/null && { echo \"stack of $task\"; cat /proc/$task/stack; }; \
                    done; dmesg | tail -n 30; df /run; cat /proc/meminfo | head -n 3";

/// Where the inner vmette is installed, and what changes in its cache: memory.
const PROGRAMS: &str = "/run/programs";
const CHANGES: &str = "/run/changes";

/// The outer machine, and what was prepared for the inner one.
pub(crate) struct Outer {
    session: Session,
    console: Arc<File>,
    cache: PathBuf,
    assets: BootAssets,
}

impl Outer {
    /// Boots it, with everything in its cache that an inner run needs but a template.
    pub(crate) fn boot() -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let assets = prepare(&cache);
        let console = Arc::new(tempfile::tempfile().unwrap());
        let programs = Path::new(env!("CARGO_BIN_EXE_vmette")).parent().unwrap();
        let config = Config::default().with(|c| {
            c.root.rootfs = Some(Rootfs::Share(RootfsShare { path: "/".into(), read_only: false }));
            c.grants.shares = vec![
                ShareMount { read_only: true, ..ShareMount::new("programs", programs) },
                // At its own path: derived files are found again by the paths of what they are derived from.
                ShareMount {
                    target: Some(name(&cache)),
                    read_only: true,
                    ..ShareMount::new("cache", &cache)
                },
            ];
            c.machine.accelerator = AcceleratorChoice::Tcg;
            c.machine.extra_modules = vec!["kvm-amd".into()];
            c.command.workload = WorkloadStrategy::Agent;
            c.machine.mem_mib = Some(MEMORY_MIB);
            c.machine.vcpus = Some(VCPUS);
            // One boot is all it is for.
            c.machine.template = Some(false);
            c.host.cache_dir = Some(cache.clone());
        });
        let builder = Session::builder(&config).console(Console::File(console.clone()));
        let session = builder.start().unwrap().running().unwrap();
        let outer = Self { session, console, cache, assets };
        assert_eq!(outer.session.report().isolation, Isolation::Emulation);
        outer.install();
        outer.fetch();
        outer
    }

    /// The inner vmette gets the host's kernel, initramfs and rootfs, writable for all it can see, and no templates:
    /// those it makes itself. `mount` is copied to lose its set-user-ID bit: where an ordinary user shares the root,
    /// root's files are nobody's, and it would run as that. The emulator finds a program's code that it has translated
    /// again only at the same address, so that random ones would cost more than all that a template saves.
    fn install(&self) {
        let cache = name(&self.cache);
        self.shell(&format!(
            "set -e
             echo 0 > /proc/sys/kernel/randomize_va_space
             mkdir -p {PROGRAMS} {CHANGES}/upper {CHANGES}/work
             cp /mnt/programs/vmette /mnt/programs/vmette-virtiofsd /mnt/programs/vmette-vsockd {PROGRAMS}
             cp \"$(command -v mount)\" {PROGRAMS}
             PATH={PROGRAMS}:$PATH
             mount -t overlay -o 'lowerdir={cache},upperdir={CHANGES}/upper,workdir={CHANGES}/work' overlay '{cache}'
             mkdir -p '{cache}/templates'
             mount -t tmpfs -o mode=0700 tmpfs '{cache}/templates'"
        ));
    }

    /// Brings QEMU and what it boots into memory, for a start of QEMU would read 100 MB through the emulated share each
    /// time. A change of mode, even to the same one, makes an overlay copy the file.
    fn fetch(&self) {
        let booted = [&self.assets.kernel, &self.assets.initramfs].map(|file| name(file));
        self.shell(&format!("chmod u+r '{}'", [qemu_files(), booted.into()].concat().join("' '")));
    }

    /// The version of the kernel that both machines boot, as in `uname -r`.
    pub(crate) fn kernel(&self) -> &str {
        &self.assets.version
    }

    /// The names of the templates that the inner vmette has.
    pub(crate) fn templates(&self) -> String {
        self.shell(&format!("ls '{}/templates'", name(&self.cache)))
    }

    /// Runs a command of the outer system that must succeed; returns what it printed.
    pub(crate) fn shell(&self, script: &str) -> String {
        let done = self.exec(ExecOptions::shell(script));
        assert_eq!(done.status.code(), 0, "{script}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    /// Runs the real `vmette` in the outer machine.
    pub(crate) fn vmette(&self, args: &[&str]) -> Collected {
        let program = [&format!("{PROGRAMS}/vmette")];
        let words = program.into_iter().map(String::as_str).chain(args.iter().copied());
        let done = self.exec(ExecOptions::argv(words).env("VMETTE_CACHE_DIR", &self.cache));
        eprint!("$ vmette {}\n{}", args.join(" "), text(&done.stderr));
        done
    }

    fn exec(&self, options: ExecOptions) -> Collected {
        self.ended_within(LIMIT, options).unwrap_or_else(|goings_on| panic!("{goings_on}"))
    }

    /// Runs a command that has to end in time. If it does not, what is going on in the machine is the error.
    pub(crate) fn ended_within(&self, limit: Duration, options: ExecOptions) -> Result<Collected, String> {
        let what = format!("{options:?}");
        self.within(limit, options).map_err(|why| {
            let around = match self.within(LOOK_LIMIT, ExecOptions::shell(LOOK)) {
                Ok(done) => text(&done.stdout),
                Err(why) => format!("the machine does not answer: {why}"),
            };
            let (processes, console) = (its_processes(), self.console_tail());
            format!("{why}: {what}\n{around}\n{processes}\nend of the console:\n{console}")
        })
    }

    /// One that has not ended goes on, and its machine with it, until the test ends.
    fn within(&self, limit: Duration, options: ExecOptions) -> Result<Collected, String> {
        let process = self.session.exec(&options.env("PATH", path())).map_err(|error| error.to_string())?;
        let (sender, outcome) = mpsc::channel();
        thread::spawn(move || sender.send(process.collect(KEEP)));
        let done = outcome.recv_timeout(limit).map_err(|_| format!("has not ended within {limit:?}"))?;
        done.map_err(|error| error.to_string())
    }

    fn console_tail(&self) -> String {
        let size = self.console.metadata().unwrap().len();
        let from = size.saturating_sub(CONSOLE_TAIL);
        let mut tail = vec![0; usize::try_from(size - from).unwrap()];
        self.console.read_exact_at(&mut tail, from).unwrap();
        text(&tail)
    }
}

/// Fetches or derives what an inner run needs while it is fast.
fn prepare(cache: &Path) -> BootAssets {
    let options = AssetOptions::from_env(CacheRoot::at(cache));
    let work = Work::quiet().reporting(Arc::new(|progress| eprintln!("{progress:?}")));
    let assets = boot_assets(&options, &work).unwrap();
    let store = provider::Store::open(cache).unwrap();
    provider::builtin_rootfs(&store, &busybox(&options, &work).unwrap()).unwrap();
    assets
}

/// The threads of the machine's processes on this host: which wait, for what, and which have run how long.
fn its_processes() -> String {
    let columns = "pid,tid,stat,etimes,cputimes,wchan:24,comm";
    let parent = std::process::id().to_string();
    let listed = Command::new("ps").args(["-L", "--ppid", &parent, "-o", columns]).output().unwrap();
    text(&listed.stdout)
}

/// QEMU and the libraries that it loads, by their real names, on the host as in the outer machine.
fn qemu_files() -> Vec<String> {
    let qemu = std::env::split_paths(&path())
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|program| program.is_file())
        .unwrap();
    let listed = Command::new("ldd").arg(&qemu).output().unwrap();
    let libraries = text(&listed.stdout);
    // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f…)`, and the loader without an arrow.
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let files = std::iter::once(qemu.clone()).chain(libraries);
    files.map(|file| name(&file.canonicalize().unwrap())).collect()
}

/// The same for both systems.
fn path() -> OsString {
    std::env::var_os("PATH").unwrap()
}

fn name(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
