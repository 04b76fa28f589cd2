//! What a run would have on this host, and why not more. Nothing is fetched or changed.

mod fix;

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use vmette_cache::CacheRoot;

pub use fix::Fix;
use fix::{Lack, Package, fixes};

use crate::assets::Kernel;
use crate::config::Config;
use crate::error::Error;
use crate::launch::{asset_options, bare_spec};
use crate::resolved::Resolved;
use crate::rootfs::cache_of;
use crate::{engine, template};
use vmette_vmm::Support;

/// Free memory below which a machine of the default size would make the host swap, in MiB.
const SPARE_MEMORY_MIB: u64 = 128;

/// Free space in the cache below which neither kernel nor template fit, in MiB.
const SPARE_DISK_MIB: u64 = 512;

/// The emulator of this kind of machine.
const EMULATOR: &str =
    if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };

/// Programs of the distribution that are started, the package of each, and whether the first run needs it.
const TOOLS: [(&str, Package, &str, bool); 2] = [
    ("mksquashfs", Package::Squashfs, "roots cannot be converted to images", true),
    ("mke2fs", Package::Ext4, "a root's writes cannot go to a scratch disk", false),
];

/// The finding that only runs with shared folders depend on.
const SHARES: &str = "shares";

/// Everything that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// Whether a run would work.
    pub ok: bool,
    /// One for each thing that a run needs, in the order in which it needs them.
    pub findings: Vec<Finding>,
    /// The commands that would mend what is not [`Status::Ok`], as far as commands can, for this system's package manager.
    pub fixes: Vec<Fix>,
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is there, or will be made by the first run.
    Ok,
    /// It is not to be had, and runs that do not ask for it work.
    Off,
    /// Every run would fail.
    Failed,
}

/// One thing that a run needs.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What: `engine`, `accelerator`, `kernel`, …
    pub name: &'static str,
    /// Whether it can be had.
    pub ok: bool,
    /// The same, and whether runs work without it.
    pub status: Status,
    /// What was found, or what is wrong and what to do.
    pub value: String,
    /// Why it is so, and what would be better.
    pub details: Vec<String>,
    #[serde(skip)]
    lack: Option<Lack>,
}

impl Finding {
    fn new(name: &'static str, status: Status, value: String) -> Self {
        Self { name, ok: status == Status::Ok, status, value, details: Vec::new(), lack: None }
    }

    fn good(name: &'static str, value: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, value.into())
    }

    fn off(name: &'static str, value: impl ToString) -> Self {
        Self::new(name, Status::Off, value.to_string())
    }

    fn bad(name: &'static str, value: impl ToString) -> Self {
        Self::new(name, Status::Failed, value.to_string())
    }

    /// An ability of the engine, or why it has not got it. Runs without it work all the same.
    fn ability(name: &'static str, support: &Support, able: &str, unable: &str) -> Self {
        match support.refusal() {
            None => Self::good(name, able),
            Some(reason) => Self::off(name, format!("{unable}: {reason}")),
        }
    }

    fn lacking(mut self, lack: Lack) -> Self {
        self.lack = Some(lack);
        self
    }
}

impl Diagnosis {
    fn of(findings: Vec<Finding>) -> Self {
        let lacks: Vec<_> =
            findings.iter().filter_map(|finding| Some((finding.name, finding.lack.clone()?))).collect();
        let fixes = fixes(&lacks, |program| vmette_spawn::find(program).is_some());
        Self { ok: findings.iter().all(|finding| finding.status != Status::Failed), findings, fixes }
    }
}

/// Looks at everything that a run of `config` needs.
#[must_use]
pub fn examine(config: &Config) -> Diagnosis {
    let mut findings = Vec::new();
    // What a snapshot decides is not looked at: the session would be refused, or have the same needs.
    let resolved = match Resolved::new(config, None) {
        Ok(resolved) => resolved,
        Err(e) => {
            return Diagnosis::of(vec![Finding::bad("configuration", e)]);
        }
    };
    match cache_of(&config.host).and_then(|cache| cache.ensure().map(|()| cache).map_err(Error::from)) {
        Ok(cache) => {
            findings.extend(engine_findings(&resolved, &cache));
            findings.push(kernel(&resolved, &cache));
            findings.extend(TOOLS.map(|tool| tool_finding(tool, vmette_spawn::find(tool.0))));
            findings.push(templates(&cache));
            findings.push(disk(&cache));
        }
        Err(e) => findings.push(Finding::bad("cache", e)),
    }
    findings.push(memory(resolved.machine.mem_mib, fs::read_to_string("/proc/meminfo").ok().as_deref()));
    Diagnosis::of(findings)
}

fn engine_findings(config: &Resolved, cache: &CacheRoot) -> Vec<Finding> {
    let spec = bare_spec(config);
    let probed = engine::for_this_host(&config.host, cache).and_then(|engine| {
        let capabilities = engine.probe(&spec)?;
        Ok((engine, capabilities))
    });
    match probed {
        Ok((engine, capabilities)) => {
            let accelerator = capabilities.accelerator;
            let mut finding =
                Finding::good("accelerator", format!("{accelerator}: {}", accelerator.isolation()));
            finding.details = capabilities.reasons;
            finding
                .details
                .extend(capabilities.snapshots.refusal().map(|reason| format!("no templates: {reason}")));
            finding.lack = capabilities.remedy.map(Lack::Command);
            vec![
                Finding::good("engine", capabilities.engine),
                finding,
                shares(&engine.try_shares()),
                Finding::ability(
                    "vsock",
                    &capabilities.vsock,
                    "guests can talk to the host",
                    "guests cannot talk to the host",
                ),
                Finding::ability(
                    "network",
                    &capabilities.nat,
                    "guests can be granted a network",
                    "no guest is granted a network",
                ),
            ]
        }
        Err(e) if is_missing() => vec![Finding::bad("engine", e).lacking(Lack::Package(Package::Qemu))],
        Err(e) => vec![Finding::bad("engine", e)],
    }
}

/// Whether no emulator is installed. One that was named and does not work is not mended by a package.
fn is_missing() -> bool {
    let named = std::env::var_os("VMETTE_QEMU").is_some_and(|named| !named.is_empty());
    cfg!(target_os = "linux") && !named && vmette_spawn::find_on_path(EMULATOR).is_none()
}

/// A sandbox that this host does not allow is known only from trying.
fn shares(tried: &Support) -> Finding {
    let able = "host folders can be shared";
    let mut finding = Finding::ability(SHARES, tried, able, "host folders cannot be shared");
    if finding.status == Status::Off {
        let works = "runs without shared folders, and with an image instead of a folder as root, work";
        finding.details.push(works.into());
    }
    finding
}

fn kernel(config: &Resolved, cache: &CacheRoot) -> Finding {
    match Kernel::find(&asset_options(config, cache)) {
        Ok(Some(kernel)) => {
            let mut finding = Finding::good("kernel", kernel.version);
            finding.details.push(kernel.image.display().to_string());
            finding
        }
        Ok(None) if config.host.offline => Finding::bad(
            "kernel",
            "none, and offline mode rules out fetching one: name one for each run, or set VMETTE_ASSETS_DIR",
        ),
        Ok(None) if vmette_spawn::find("apt-get").is_none() => Finding::bad(
            "kernel",
            if cfg!(target_os = "linux") {
                "none, and no apt-get to fetch Debian's with: name one for each run (/usr/lib/modules/VERSION/vmlinuz on \
                 Fedora and Arch), or set VMETTE_ASSETS_DIR"
            } else {
                "none: name one for each run, or set VMETTE_ASSETS_DIR to a folder that has one"
            },
        ),
        Ok(None) => {
            Finding::good("kernel", "none yet; the first run fetches the distribution's with apt-get")
        }
        Err(e) => Finding::bad("kernel", e),
    }
}

/// A program that only some runs need is no fault when it is missing.
fn tool_finding(
    (name, package, without, needed): (&'static str, Package, &str, bool),
    found: Option<PathBuf>,
) -> Finding {
    match found {
        Some(path) => Finding::good(name, path.display().to_string()),
        None => {
            let value = format!("not installed, and {without} without it: install {}", package.debian());
            let status = if needed { Status::Failed } else { Status::Off };
            Finding::new(name, status, value).lacking(Lack::Package(package))
        }
    }
}

/// A missing template is no fault: the first run makes it.
fn templates(cache: &CacheRoot) -> Finding {
    match template::count(cache) {
        0 => Finding::good("templates", "none yet; the first run makes one"),
        n => Finding::good("templates", format!("{n} kept in {}", cache.path().display())),
    }
}

fn memory(wanted_mib: u64, meminfo: Option<&str>) -> Finding {
    let available = meminfo.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    match available {
        Some(kib) if kib >> 10 < wanted_mib.saturating_add(SPARE_MEMORY_MIB) => Finding::bad(
            "memory",
            format!(
                "{} MiB available; a machine of {wanted_mib} MiB needs {SPARE_MEMORY_MIB} MiB more than its own",
                kib >> 10
            ),
        ),
        Some(kib) => Finding::good("memory", format!("{} MiB available", kib >> 10)),
        None => Finding::good("memory", "unknown on this system"),
    }
}

fn disk(cache: &CacheRoot) -> Finding {
    match rustix::fs::statvfs(cache.path()) {
        Ok(stat) => {
            let mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
            let text = format!("{mib} MiB free in {}", cache.path().display());
            if mib < SPARE_DISK_MIB {
                Finding::bad(
                    "disk",
                    format!("{text}; {SPARE_DISK_MIB} MiB are needed (VMETTE_CACHE_DIR moves it)"),
                )
            } else {
                Finding::good("disk", text)
            }
        }
        Err(e) => Finding::bad("disk", format!("{}: {e}", cache.path().display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package_and_a_fault_only_where_every_run_needs_it() {
        for tool @ (name, package, ..) in TOOLS {
            let found = tool_finding(tool, Some("/usr/bin/x".into()));
            assert!(found.ok && found.value == "/usr/bin/x");
            let missing = tool_finding(tool, None);
            let status = if tool.3 { Status::Failed } else { Status::Off };
            assert_eq!((missing.name, missing.status), (name, status));
            assert!(missing.value.ends_with(&format!("install {}", package.debian())), "{}", missing.value);
            assert!(!missing.ok, "what is not there is not called so");
            assert_eq!(missing.lack, Some(Lack::Package(package)));
        }
    }

    #[test]
    fn what_is_refused_is_not_ok_and_says_why() {
        let refused = shares(&Support::No("user.max_user_namespaces is 0".into()));
        assert_eq!((refused.ok, refused.status), (false, Status::Off));
        assert!(refused.value.contains("cannot be shared: user.max_user_namespaces"), "{refused:?}");
        assert!(refused.details[0].contains("runs without shared folders"));
        let others = shares(&Support::Yes);
        assert!(others.ok);
        assert!(Diagnosis::of(vec![others, refused]).ok, "a run without shares works");
    }

    #[test]
    fn too_little_memory_is_a_fault_and_an_unknown_amount_is_not() {
        let info = |kib: u64| format!("MemTotal: 1 kB\nMemAvailable:   {kib} kB\n");
        assert!(memory(512, Some(&info(1 << 20))).ok);
        let finding = memory(512, Some(&info(100 << 10)));
        assert!(!finding.ok && finding.value.contains("100 MiB available"));
        assert!(memory(512, None).ok);
    }
}
