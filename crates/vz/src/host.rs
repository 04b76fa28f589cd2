//! The abilities of this Mac, decided from its version and processor.

use objc2::rc::autoreleasepool;
use objc2_foundation::NSProcessInfo;
use objc2_virtualization::{VZVirtualMachine, VZVirtualMachineConfiguration};
use vmette_vmm::{AcceleratorChoice, Error, Result};

use crate::ENGINE;

/// The first macOS whose VZ has everything that a machine needs: virtio-fs, consoles, names of disks.
const MACOS_MIN: u32 = 13;

/// The first macOS that saves and restores machines.
const MACOS_SAVES: u32 = 14;

/// The facts that decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Major and minor version of macOS.
    pub(crate) macos: (u32, u32),
    /// With the build, as the system writes it.
    pub(crate) version: String,
    /// True if the processor is Apple's.
    pub(crate) apple_silicon: bool,
    /// True if VZ finds the processor features that it needs.
    pub(crate) supported: bool,
}

impl Host {
    pub(crate) fn look() -> Self {
        // The caller's thread need not have a pool, and may ask for as long as it lives.
        let (version, text) = autoreleasepool(|_| {
            let info = NSProcessInfo::processInfo();
            (info.operatingSystemVersion(), info.operatingSystemVersionString().to_string())
        });
        let number = |n: isize| u32::try_from(n).unwrap_or(0);
        Self {
            macos: (number(version.majorVersion), number(version.minorVersion)),
            version: text,
            // The stand-in's processor is Apple's, wherever it runs.
            apple_silicon: cfg!(any(target_arch = "aarch64", not(target_vendor = "apple"))),
            // SAFETY: a question to the class, which any thread may ask.
            supported: unsafe { VZVirtualMachine::isSupported() },
        }
    }

    /// Checks that machines run here, on the accelerator that the spec asks for.
    pub(crate) fn check(&self, choice: AcceleratorChoice) -> Result<()> {
        let unavailable = |reason: String| Err(Error::Unavailable { engine: ENGINE, reason });
        let (major, minor) = self.macos;
        if major < MACOS_MIN {
            return unavailable(format!("it needs macOS {MACOS_MIN} or newer, this is {major}.{minor}"));
        }
        if !self.supported {
            return unavailable(
                "this Mac's processor offers no virtualisation (inside of a virtual machine it must be passed on)".into(),
            );
        }
        match choice {
            AcceleratorChoice::Auto | AcceleratorChoice::Hardware => Ok(()),
            AcceleratorChoice::Kvm => {
                unavailable("KVM is Linux's; leave the choice of the accelerator out".into())
            }
            AcceleratorChoice::Tcg => unavailable("it cannot emulate; it runs on the hardware only".into()),
        }
    }

    /// Why machines cannot be saved and restored here; `None` when they can.
    pub(crate) fn no_snapshots(&self) -> Option<String> {
        let (major, minor) = self.macos;
        if !self.apple_silicon {
            return Some("machines are saved on Apple silicon only, this Mac has an Intel processor".into());
        }
        (major < MACOS_SAVES)
            .then(|| format!("machines are saved by macOS {MACOS_SAVES} or newer, this is {major}.{minor}"))
    }
}

/// Most virtual CPUs of one machine.
pub(crate) fn max_vcpus() -> u32 {
    // SAFETY: a question to the class, which any thread may ask.
    u32::try_from(unsafe { VZVirtualMachineConfiguration::maximumAllowedCPUCount() }).unwrap_or(u32::MAX)
}

/// Least and most memory of one machine, in MiB.
pub(crate) fn memory_mib() -> (u64, u64) {
    // SAFETY: questions to the class, which any thread may ask.
    unsafe {
        (
            VZVirtualMachineConfiguration::minimumAllowedMemorySize().div_ceil(1 << 20),
            VZVirtualMachineConfiguration::maximumAllowedMemorySize() >> 20,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(macos: (u32, u32), apple_silicon: bool) -> Host {
        Host { macos, version: String::new(), apple_silicon, supported: true }
    }

    #[test]
    fn an_old_macos_is_refused_with_the_one_it_takes() {
        let error = host((12, 6), true).check(AcceleratorChoice::Auto).unwrap_err().to_string();
        assert!(error.contains("macOS 13") && error.contains("12.6"), "{error}");
        host((13, 0), false).check(AcceleratorChoice::Hardware).unwrap();
    }

    #[test]
    fn a_mac_without_virtualisation_is_refused() {
        let host = Host { supported: false, ..host((15, 0), true) };
        assert!(matches!(host.check(AcceleratorChoice::Auto), Err(Error::Unavailable { .. })));
    }

    #[test]
    fn what_only_linux_has_is_refused() {
        for choice in [AcceleratorChoice::Kvm, AcceleratorChoice::Tcg] {
            assert!(
                matches!(host((15, 0), true).check(choice), Err(Error::Unavailable { .. })),
                "{choice:?}"
            );
        }
    }

    #[test]
    fn saving_takes_macos_14_on_apple_silicon() {
        assert_eq!(host((14, 0), true).no_snapshots(), None);
        assert_eq!(host((26, 1), true).no_snapshots(), None);
        assert!(host((13, 6), true).no_snapshots().unwrap().contains("macOS 14"));
        assert!(host((15, 0), false).no_snapshots().unwrap().contains("Apple silicon"));
    }
}
