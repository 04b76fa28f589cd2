//! A machine whose processor has hardware virtualisation: QEMU's software emulation emulates AMD's SVM, so a stock
//! kernel with `kvm-amd` has a `/dev/kvm` in it that is as good as bare metal's. The host's root is its root, so what
//! is built and installed here is there as well; the host stays unwritten.

use std::path::{Path, PathBuf};

use vmette::assets::{AssetOptions, CacheRoot, boot_assets, busybox};
use vmette::{
    AcceleratorChoice, Collected, Config, ExecOptions, Isolation, Rootfs, RootfsShare, Session, ShareMount,
    WorkloadStrategy, provider,
};

/// Room for the inner machine (512 MiB, touched sparsely), its template and the outer system.
const MEMORY_MIB: u64 = 2048;

/// One for the inner machine's processor, one for what goes on around it.
const VCPUS: u8 = 2;

/// Most output of one inner command that is looked at.
const KEEP: usize = 1 << 20;

/// Where the inner cache's changes go: memory.
const CHANGES: &str = "/run/cache";

/// The outer machine, and what was prepared for the inner one.
pub(crate) struct Outer {
    session: Session,
    cache: PathBuf,
    /// The version of the kernel that both machines boot.
    pub(crate) kernel: String,
}

impl Outer {
    /// Boots it with everything in its cache that an inner run needs but a template.
    pub(crate) fn boot() -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let kernel = prepare(&cache);
        let programs = Path::new(env!("CARGO_BIN_EXE_vmette")).parent().unwrap();
        let config = Config {
            rootfs: Some(Rootfs::Share(RootfsShare { path: "/".into(), read_only: false })),
            // At their own paths: a folder below `/tmp` is hidden by the guest's own, and files that are derived from
            // others are found again by the paths of those.
            shares: vec![shared("programs", programs), shared("cache", &cache)],
            accelerator: AcceleratorChoice::Tcg,
            extra_modules: vec!["kvm-amd".into()],
            workload: WorkloadStrategy::Agent,
            mem_mib: MEMORY_MIB,
            vcpus: VCPUS,
            // One boot is all it is for.
            template: false,
            cache_dir: Some(cache.clone()),
            ..Config::default()
        };
        let session = Session::start(&config).unwrap();
        let outer = Self { session, cache, kernel };
        assert_eq!(outer.session.report().unwrap().isolation, Isolation::Emulation);
        outer.make_cache_writable();
        outer
    }

    /// The inner vmette finds the host's kernel, initramfs and rootfs as they are, and no templates: those it makes
    /// itself.
    fn make_cache_writable(&self) {
        let cache = self.cache.to_str().unwrap();
        let script = format!(
            "set -e; mkdir -p {CHANGES}/upper {CHANGES}/work
             mount -t overlay -o 'lowerdir={cache},upperdir={CHANGES}/upper,workdir={CHANGES}/work' overlay '{cache}'
             mkdir -p '{cache}/templates'
             mount -t tmpfs -o mode=0700 tmpfs '{cache}/templates'"
        );
        self.shell(&script);
    }

    /// Runs a command of the outer system that must succeed; returns what it printed.
    pub(crate) fn shell(&self, script: &str) -> String {
        let done = self.exec(ExecOptions::shell(script));
        assert_eq!(done.status.code(), 0, "{script}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    /// Runs the real `vmette` in the outer machine.
    pub(crate) fn vmette(&self, args: &[&str]) -> Collected {
        let program = [env!("CARGO_BIN_EXE_vmette")];
        let options = ExecOptions::argv(program.iter().chain(args)).env("VMETTE_CACHE_DIR", &self.cache);
        let done = self.exec(options);
        eprintln!("vmette {}: {:?}\n{}", args.join(" "), done.status, text(&done.stderr));
        done
    }

    fn exec(&self, options: ExecOptions) -> Collected {
        let options = options.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        self.session.exec(&options).unwrap().collect(KEEP).unwrap()
    }
}

/// Fetches or derives what a run needs while it is fast; returns the kernel's version.
fn prepare(cache: &Path) -> String {
    let options = AssetOptions::from_env(CacheRoot::at(cache));
    let progress = |text: &str| eprintln!("{text}");
    let assets = boot_assets(&options, &progress).unwrap();
    let store = provider::Store::open(cache).unwrap();
    provider::builtin_rootfs(&store, &busybox(&options, &progress).unwrap()).unwrap();
    assets.version
}

fn shared(tag: &str, folder: &Path) -> ShareMount {
    let target = Some(folder.to_str().unwrap().to_owned());
    ShareMount { tag: tag.into(), path: folder.to_owned(), read_only: true, target }
}

/// Output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
