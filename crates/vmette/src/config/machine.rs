//! The machine's shape once nothing is left open.

use std::path::PathBuf;

use vmette_vmm::AcceleratorChoice;

use super::MachineOptions;

/// Base of the kernel's command line, unless another one is named.
pub const DEFAULT_CMDLINE: &str = "console=hvc0 quiet";

/// Virtual CPUs of a machine, unless a number is named.
pub const DEFAULT_VCPUS: u8 = 1;

/// Memory of a machine in MiB, unless a size is named.
pub const DEFAULT_MEM_MIB: u64 = 512;

/// The machine's shape, and what it boots.
pub(crate) struct Machine {
    pub(crate) vcpus: u8,
    pub(crate) mem_mib: u64,
    pub(crate) accelerator: AcceleratorChoice,
    /// Whether a template may be used and made.
    pub(crate) template: bool,
    /// `None`: vmette's own.
    pub(crate) kernel: Option<PathBuf>,
    /// `None`: vmette's own.
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) cmdline: String,
    pub(crate) extra_modules: Vec<String>,
    /// Whether the caller chose what boots. That it does not boot says nothing of the host then.
    pub(crate) own_boot: bool,
}

impl Machine {
    pub(crate) fn new(asked: &MachineOptions) -> Self {
        let MachineOptions { kernel, initramfs, cmdline, .. } = asked;
        Self {
            vcpus: asked.vcpus.unwrap_or(DEFAULT_VCPUS),
            mem_mib: asked.mem_mib.unwrap_or(DEFAULT_MEM_MIB),
            accelerator: asked.accelerator,
            template: asked.template.unwrap_or(true),
            own_boot: kernel.is_some() || initramfs.is_some() || cmdline.is_some(),
            kernel: kernel.clone(),
            initramfs: initramfs.clone(),
            cmdline: cmdline.clone().unwrap_or_else(|| DEFAULT_CMDLINE.to_owned()),
            extra_modules: asked.extra_modules.clone(),
        }
    }
}
