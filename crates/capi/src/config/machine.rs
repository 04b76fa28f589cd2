//! The machine, and how it runs.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use library::{AcceleratorChoice, PullPolicy};

use super::{VmetteConfig, add, set, set_own};
use crate::arguments::{Text, required};
use crate::entry::entry;
use crate::notice::{NoticeSink, VmetteNoticeFn};
use crate::status::{Failure, VmetteStatus};

/// What may execute the guest.
/// cbindgen:prefix-with-name
/// cbindgen:rename-all=ScreamingSnakeCase
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmetteAccelerator {
    /// The best there is; emulation where there is no better.
    Auto = 0,
    /// Hardware virtualisation or an error.
    Hardware = 1,
    /// KVM or an error.
    Kvm = 2,
    /// QEMU's emulation, even where there is better.
    Tcg = 3,
}

/// When the source of a root that is in the cache is asked for something newer.
/// cbindgen:prefix-with-name
/// cbindgen:rename-all=ScreamingSnakeCase
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmettePull {
    /// When it was asked longer ago than an hour; what is in the cache serves when it cannot be reached.
    Stale = 0,
    /// Each time; not reaching it is an error.
    Always = 1,
    /// Only when the root is not in the cache.
    Missing = 2,
    /// Not at all.
    Never = 3,
}

fn unknown(what: &str, number: i32) -> Failure {
    Failure::new(VmetteStatus::InvalidConfig, format!("{what} {number}: there is none of this number"))
}

/// The base of the kernel's command line.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_cmdline(
    config: Option<&mut VmetteConfig>,
    cmdline: Text,
) -> VmetteStatus {
    set(config, "vmette_config_set_cmdline", |config| {
        config.machine.cmdline = Some(cmdline.required("cmdline")?.to_owned());
        Ok(())
    })
}

/// Virtual CPUs, 1 or more.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_vcpus(config: Option<&mut VmetteConfig>, vcpus: u8) -> VmetteStatus {
    set(config, "vmette_config_set_vcpus", |config| {
        config.machine.vcpus = Some(vcpus);
        Ok(())
    })
}

/// Memory in MiB.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_mem_mib(config: Option<&mut VmetteConfig>, mib: u64) -> VmetteStatus {
    set(config, "vmette_config_set_mem_mib", |config| {
        config.machine.mem_mib = Some(mib);
        Ok(())
    })
}

/// Size in MiB of a scratch disk that takes the root's writes; 0: they go to the guest's memory.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_scratch_mib(config: Option<&mut VmetteConfig>, mib: u64) -> VmetteStatus {
    set(config, "vmette_config_set_scratch_mib", |config| {
        config.root.scratch_mib = (mib > 0).then_some(mib);
        Ok(())
    })
}

/// What may execute the guest: a VmetteAccelerator.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_accelerator(
    config: Option<&mut VmetteConfig>,
    accelerator: i32,
) -> VmetteStatus {
    set(config, "vmette_config_set_accelerator", |config| {
        const CHOICES: [(VmetteAccelerator, AcceleratorChoice); 4] = [
            (VmetteAccelerator::Auto, AcceleratorChoice::Auto),
            (VmetteAccelerator::Hardware, AcceleratorChoice::Hardware),
            (VmetteAccelerator::Kvm, AcceleratorChoice::Kvm),
            (VmetteAccelerator::Tcg, AcceleratorChoice::Tcg),
        ];
        let choice = CHOICES.iter().find(|(number, _)| *number as i32 == accelerator);
        config.machine.accelerator = choice.ok_or_else(|| unknown("accelerator", accelerator))?.1;
        Ok(())
    })
}

/// Whether a session may start from, and leave behind, a template of a booted machine: true unless set.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_template(
    config: Option<&mut VmetteConfig>,
    enabled: bool,
) -> VmetteStatus {
    set(config, "vmette_config_set_template", |config| {
        config.machine.template = Some(enabled);
        Ok(())
    })
}

/// The file that gets the guest kernel's messages. The descriptor is duplicated; a negative one is none.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_console_fd(config: Option<&mut VmetteConfig>, fd: i32) -> VmetteStatus {
    set_own(config, "vmette_config_set_console_fd", |config| {
        config.console = duplicate(fd)?.map(Arc::new);
        Ok(())
    })
}

/// A descriptor of our own for a file of the caller's; `None` for a negative number.
pub(crate) fn duplicate(fd: i32) -> Result<Option<File>, Failure> {
    if fd < 0 {
        return Ok(None);
    }
    // SAFETY: it is not negative, and used for the one system call that says whether it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(Some(File::from(borrowed.try_clone_to_owned()?)))
}

/// The cache folder; NULL: the user's.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_cache_dir(config: Option<&mut VmetteConfig>, path: Text) -> VmetteStatus {
    set(config, "vmette_config_set_cache_dir", |config| {
        config.host.cache_dir = path.optional("path")?.map(Into::into);
        Ok(())
    })
}

/// Whether nothing may be fetched over the network on the host.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_offline(
    config: Option<&mut VmetteConfig>,
    offline: bool,
) -> VmetteStatus {
    set(config, "vmette_config_set_offline", |config| {
        config.host.offline = offline;
        Ok(())
    })
}

/// When the source of a root that is in the cache is asked for something newer: a VmettePull.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_pull(config: Option<&mut VmetteConfig>, pull: i32) -> VmetteStatus {
    set(config, "vmette_config_set_pull", |config| {
        const POLICIES: [(VmettePull, PullPolicy); 4] = [
            (VmettePull::Stale, PullPolicy::Stale),
            (VmettePull::Always, PullPolicy::Always),
            (VmettePull::Missing, PullPolicy::Missing),
            (VmettePull::Never, PullPolicy::Never),
        ];
        let policy = POLICIES.iter().find(|(number, _)| *number as i32 == pull);
        config.host.pull = policy.ok_or_else(|| unknown("pull policy", pull))?.1;
        Ok(())
    })
}

/// PEM file, or folder of them, whose certificates are trusted beside the usual ones when registries and other servers
/// are talked to; NULL for none.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_registry_ca(
    config: Option<&mut VmetteConfig>,
    path: Text,
) -> VmetteStatus {
    set(config, "vmette_config_set_registry_ca", |config| {
        config.host.network.ca_certs = path.optional("path")?.map(Into::into);
        Ok(())
    })
}

/// Allows a server, `host` or `host:port`, to be talked to without TLS. Those on loopback may in any case.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_plain_http(
    config: Option<&mut VmetteConfig>,
    server: Text,
) -> VmetteStatus {
    add(config, "vmette_config_add_plain_http", |config| {
        config.host.network.plain_http.push(server.required("server")?.to_owned());
        Ok(())
    })
}

/// A further kernel module that the guest loads when it boots, for example `kvm-amd`.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_module(config: Option<&mut VmetteConfig>, module: Text) -> VmetteStatus {
    add(config, "vmette_config_add_module", |config| {
        config.machine.extra_modules.push(module.required("module")?.to_owned());
        Ok(())
    })
}

/// Who is told what goes on while a root is resolved and a session starts and runs; NULL for nobody. `context` is
/// passed on as it is. Both must stay valid until the configuration is freed and the sessions started with it are.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_notice_fn(
    config: Option<&mut VmetteConfig>,
    on_notice: VmetteNoticeFn,
    context: *mut c_void,
) -> VmetteStatus {
    entry(|| {
        required(config, "config")?.notices = NoticeSink::new(on_notice, context);
        Ok(())
    })
}
