//! What a run would have on this host, and why not more. Nothing is started, fetched or changed.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use vmette_cache::CacheRoot;
use vmette_vmm::Support;

use crate::assets::Kernel;
use crate::config::Config;
use crate::error::Error;
use crate::launch::{asset_options, bare_spec};
use crate::resolved::Resolved;
use crate::rootfs::cache_of;
use crate::{engine, template};

/// Free memory below which a machine of the default size would make the host swap, in MiB.
const SPARE_MEMORY_MIB: u64 = 128;

/// Free space in the cache below which neither kernel nor template fit, in MiB.
const SPARE_DISK_MIB: u64 = 512;

/// Programs of the distribution that are started, the package of each, and whether the first run needs it.
const TOOLS: [(&str, &str, &str, bool); 2] = [
    ("mksquashfs", "squashfs-tools", "roots cannot be converted to images", true),
    ("mke2fs", "e2fsprogs", "a root's writes cannot go to a scratch disk", false),
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
}

/// One thing that a run needs.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What: `engine`, `accelerator`, `kernel`, …
    pub name: &'static str,
    /// Whether a run could go on.
    pub ok: bool,
    /// What was found, or what is wrong and what to do.
    pub value: String,
    /// Why it is so, and what would be better.
    pub details: Vec<String>,
}

impl Finding {
    fn good(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, ok: true, value: value.into(), details: Vec::new() }
    }

    fn bad(name: &'static str, value: impl ToString) -> Self {
        Self { name, ok: false, value: value.to_string(), details: Vec::new() }
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
            return Diagnosis { ok: false, findings: vec![Finding::bad("configuration", e)] };
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
    // A run that asks for no shared folder works without.
    Diagnosis { ok: findings.iter().all(|f| f.ok || f.name == SHARES), findings }
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
            let shares = shares(engine.try_shares());
            let mut vsock = Finding::good("vsock", "guests can talk to the host");
            if let Some(reason) = capabilities.vsock.refusal() {
                vsock.value = format!("guests cannot talk to the host: {reason}");
            }
            let mut network = Finding::good("network", "guests can be granted a network");
            if let Some(reason) = capabilities.nat.refusal() {
                network.value = format!("no guest is granted a network: {reason}");
            }
            vec![Finding::good("engine", capabilities.engine), finding, shares, vsock, network]
        }
        Err(e) => vec![Finding::bad("engine", e)],
    }
}

/// Runs without shared folders work all the same, but those that ask for one fail.
fn shares(tried: Support) -> Finding {
    match tried {
        Support::Yes => Finding::good(SHARES, "host folders can be shared"),
        Support::No(reason) => {
            let mut finding = Finding::bad(SHARES, reason);
            finding.details.push(
                "runs without shared folders, and with an image instead of a folder as root, work".into(),
            );
            finding
        }
    }
}

fn kernel(config: &Resolved, cache: &CacheRoot) -> Finding {
    match Kernel::find(&asset_options(config, cache)) {
        Ok(Some(kernel)) => {
            let mut finding = Finding::good("kernel", kernel.version);
            finding.details.push(kernel.image.display().to_string());
            finding
        }
        Ok(None) if config.host.offline || vmette_spawn::find("apt-get").is_none() => Finding::bad(
            "kernel",
            if cfg!(target_os = "linux") {
                "none: install linux-image-cloud-amd64, name one for each run, or set VMETTE_ASSETS_DIR"
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
    (name, package, without, needed): (&'static str, &str, &str, bool),
    found: Option<PathBuf>,
) -> Finding {
    match found {
        Some(path) => Finding::good(name, path.display().to_string()),
        None => {
            let value = format!("not installed, and {without} without it: install {package}");
            Finding { ok: !needed, ..Finding::bad(name, value) }
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
            assert_eq!((missing.name, missing.ok), (name, !tool.3));
            assert!(missing.value.ends_with(&format!("install {package}")), "{}", missing.value);
        }
    }

    #[test]
    fn a_host_that_can_share_nothing_is_told_so() {
        assert!(shares(Support::Yes).ok);
        let finding = shares(Support::No("user.max_user_namespaces is 0".into()));
        assert!(!finding.ok && finding.value.contains("user.max_user_namespaces"));
        assert!(finding.details[0].contains("runs without shared folders"));
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
