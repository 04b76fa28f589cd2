//! Which accelerator a machine gets, and why not a better one.

use vmette_vmm::{Accelerator, AcceleratorChoice};

use crate::host_facts::{HostFacts, KvmDevice, Modules, Os};

/// The decision, with the reasons in the words that the user reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The accelerator that will execute the guest.
    pub(crate) accelerator: Accelerator,
    /// Why it is this one and what would have to change to get a better one, one sentence each.
    pub(crate) reasons: Vec<String>,
    /// A command of root's that would allow a better one.
    pub(crate) remedy: Option<String>,
}

/// Decides. Pure: everything about the host is in `facts`.
///
/// # Errors
/// Why there is no accelerator of the wanted kind, and what to do.
pub(crate) fn decide(choice: AcceleratorChoice, facts: &HostFacts) -> Result<Decision, String> {
    if choice == AcceleratorChoice::Tcg {
        return Ok(tcg(vec!["software emulation was asked for".into()]));
    }
    match (choice, hardware(facts)) {
        (AcceleratorChoice::Kvm, Hardware::Usable(Accelerator::Hvf)) => {
            Err("KVM is a part of Linux; this host has Apple's Hypervisor.framework: choose `auto`".into())
        }
        (AcceleratorChoice::Auto, Hardware::Usable(accelerator)) => match &facts.remembered_failure {
            Some(failure) => Ok(tcg(vec![format!(
                "KVM was tried since this host booted and failed ({failure}); it is tried again after a reboot, or when chosen explicitly"
            )])),
            None => Ok(found(accelerator, vec![usable(accelerator, facts)])),
        },
        // A choice of the user's own is tried even after a failure: there is nothing to fall back to.
        (_, Hardware::Usable(accelerator)) => Ok(found(accelerator, vec![usable(accelerator, facts)])),
        (AcceleratorChoice::Kvm, Hardware::Unknown(doubt)) => {
            Ok(found(Accelerator::Kvm, vec!["KVM was asked for".into(), doubt]))
        }
        (AcceleratorChoice::Auto, Hardware::Unknown(why) | Hardware::Absent(why)) => {
            Ok(Decision { remedy: remedy(facts), ..tcg(vec![why]) })
        }
        (_, Hardware::Unknown(why) | Hardware::Absent(why)) => Err(why),
    }
}

fn tcg(reasons: Vec<String>) -> Decision {
    found(Accelerator::Tcg, reasons)
}

fn found(accelerator: Accelerator, reasons: Vec<String>) -> Decision {
    Decision { accelerator, reasons, remedy: None }
}

enum Hardware {
    Usable(Accelerator),
    /// It may be: nothing says that it is not.
    Unknown(String),
    Absent(String),
}

fn hardware(facts: &HostFacts) -> Hardware {
    match facts.os {
        Os::Linux => kvm(facts),
        Os::MacOs if facts.hypervisor_framework => Hardware::Usable(Accelerator::Hvf),
        Os::MacOs => Hardware::Absent(
            "Apple's Hypervisor.framework is not available (`sysctl kern.hv_support` is 0): this Mac is too old or is itself a virtual machine without nesting"
                .into(),
        ),
    }
}

fn kvm(facts: &HostFacts) -> Hardware {
    // Whoever may not open it would gain nothing by being allowed to.
    if facts.kvm != KvmDevice::Missing && facts.modules.is_pvm_alone() {
        return Hardware::Absent(PVM.into());
    }
    match &facts.kvm {
        KvmDevice::Missing => return Hardware::Absent(missing(facts)),
        KvmDevice::Denied { group } => return Hardware::Absent(denied(group.as_deref())),
        KvmDevice::Unusable(error) => {
            return Hardware::Absent(format!("/dev/kvm cannot be opened: {error}"));
        }
        KvmDevice::Ready => {}
    }
    if facts.arch != "x86_64" {
        // Elsewhere KVM is part of the kernel image and there is no other kind of it.
        return Hardware::Usable(Accelerator::Kvm);
    }
    match facts.modules {
        Modules { intel: true, .. } | Modules { amd: true, .. } => Hardware::Usable(Accelerator::Kvm),
        Modules { .. } => Hardware::Unknown(
            "/dev/kvm opens, but neither kvm_intel nor kvm_amd is in /sys/module, so nothing says that hardware is behind it; choose `kvm` to try it"
                .into(),
        ),
    }
}

const PVM: &str = "/dev/kvm is served by kvm_pvm, a paging-based KVM inside of a virtual machine that cannot run a stock guest kernel; hardware KVM needs a host with nested virtualisation turned on, or bare metal";

/// What lets this user open the device, from the next login on.
fn remedy(facts: &HostFacts) -> Option<String> {
    let KvmDevice::Denied { group: Some(group) } = &facts.kvm else { return None };
    let plain = group.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    (plain && group != "root" && !facts.modules.is_pvm_alone())
        .then(|| format!("usermod -aG {group} \"$USER\""))
}

fn missing(facts: &HostFacts) -> String {
    if facts.arch == "x86_64" && !facts.virtualisation_flag {
        "there is no /dev/kvm and the processor shows no virtualisation extension: turn VT-x or AMD-V on in the firmware, or nested virtualisation on if this is a virtual machine".into()
    } else {
        "there is no /dev/kvm: load the module (`sudo modprobe kvm_intel` or `kvm_amd`), or pass the device into this container (`--device /dev/kvm`)".into()
    }
}

fn denied(group: Option<&str>) -> String {
    match group {
        Some(group) if group != "root" => format!(
            "/dev/kvm may be used by the group `{group}` only: run `sudo usermod -aG {group} $USER` and log in again"
        ),
        _ => "/dev/kvm may be used by root only: run `sudo groupadd -f kvm; sudo chgrp kvm /dev/kvm; sudo chmod 660 /dev/kvm; sudo usermod -aG kvm $USER` and log in again".into(),
    }
}

fn usable(accelerator: Accelerator, facts: &HostFacts) -> String {
    match (accelerator, facts.modules) {
        (Accelerator::Hvf, _) => "Apple's Hypervisor.framework is available".into(),
        (_, Modules { intel: true, .. }) => "/dev/kvm is usable and kvm_intel is loaded".into(),
        (_, Modules { amd: true, .. }) => "/dev/kvm is usable and kvm_amd is loaded".into(),
        _ => "/dev/kvm is usable".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            os: Os::Linux,
            arch: "x86_64",
            kvm: KvmDevice::Ready,
            modules: Modules { intel: true, amd: false, pvm: false },
            virtualisation_flag: true,
            hypervisor_framework: false,
            remembered_failure: None,
        }
    }

    const PVM: Modules = Modules { intel: false, amd: false, pvm: true };
    const NONE: Modules = Modules { intel: false, amd: false, pvm: false };

    /// Checks the decisions of `auto`, `hardware` and `kvm`, and a word of the reason or error.
    fn check(facts: &HostFacts, expected: [Option<Accelerator>; 3], word: &str) {
        let choices = [AcceleratorChoice::Auto, AcceleratorChoice::Hardware, AcceleratorChoice::Kvm];
        for (choice, expected) in choices.into_iter().zip(expected) {
            let decision = decide(choice, facts);
            let accelerator = decision.as_ref().ok().map(|d| d.accelerator);
            assert_eq!(accelerator, expected, "{choice:?} on {facts:?}");
            let said = decision.map_or_else(|e| e, |d| d.reasons.join("; "));
            assert!(said.contains(word), "{choice:?}: {said}");
        }
        let asked = decide(AcceleratorChoice::Tcg, facts).unwrap();
        assert_eq!(asked.accelerator, Accelerator::Tcg);
    }

    const KVM: Option<Accelerator> = Some(Accelerator::Kvm);
    const TCG: Option<Accelerator> = Some(Accelerator::Tcg);
    const HVF: Option<Accelerator> = Some(Accelerator::Hvf);

    #[test]
    fn hardware_kvm_is_used() {
        check(&host(), [KVM, KVM, KVM], "kvm_intel");
        let amd = Modules { intel: false, amd: true, pvm: false };
        check(&HostFacts { modules: amd, ..host() }, [KVM, KVM, KVM], "kvm_amd");
        check(&HostFacts { arch: "aarch64", modules: NONE, ..host() }, [KVM, KVM, KVM], "/dev/kvm is usable");
    }

    #[test]
    fn paging_based_kvm_is_not() {
        check(&HostFacts { modules: PVM, ..host() }, [TCG, None, None], "kvm_pvm");
        // Nor is a membership in its group worth advising.
        let denied = KvmDevice::Denied { group: Some("kvm".into()) };
        let denied = HostFacts { modules: PVM, kvm: denied, ..host() };
        check(&denied, [TCG, None, None], "kvm_pvm");
        assert_eq!(decide(AcceleratorChoice::Auto, &denied).unwrap().remedy, None);
        let both = Modules { amd: true, ..PVM };
        check(&HostFacts { modules: both, ..host() }, [KVM, KVM, KVM], "kvm_amd");
    }

    #[test]
    fn an_unknown_kind_is_used_only_when_named() {
        check(&HostFacts { modules: NONE, ..host() }, [TCG, None, KVM], "neither");
    }

    #[test]
    fn a_missing_device_and_a_missing_permission_name_their_remedy() {
        check(&HostFacts { kvm: KvmDevice::Missing, ..host() }, [TCG, None, None], "modprobe");
        let off = HostFacts { kvm: KvmDevice::Missing, virtualisation_flag: false, ..host() };
        check(&off, [TCG, None, None], "firmware");
        let group = KvmDevice::Denied { group: Some("kvm".into()) };
        check(&HostFacts { kvm: group, ..host() }, [TCG, None, None], "usermod -aG kvm $USER");
        let remedy = |facts: &HostFacts| decide(AcceleratorChoice::Auto, facts).unwrap().remedy;
        let denied = |group: &str| KvmDevice::Denied { group: Some(group.into()) };
        assert_eq!(
            remedy(&HostFacts { kvm: denied("kvm"), ..host() }).as_deref(),
            Some("usermod -aG kvm \"$USER\"")
        );
        assert_eq!(remedy(&HostFacts { kvm: denied("a; b"), ..host() }), None);
        let root = KvmDevice::Denied { group: Some("root".into()) };
        check(&HostFacts { kvm: root, ..host() }, [TCG, None, None], "by root only");
        let broken = KvmDevice::Unusable("No such device".into());
        check(&HostFacts { kvm: broken, ..host() }, [TCG, None, None], "No such device");
    }

    #[test]
    fn a_remembered_failure_turns_auto_away_but_not_an_explicit_choice() {
        let failed = HostFacts { remembered_failure: Some("no answer".into()), ..host() };
        let auto = decide(AcceleratorChoice::Auto, &failed).unwrap();
        assert_eq!(auto.accelerator, Accelerator::Tcg);
        assert!(auto.reasons[0].contains("no answer"), "{auto:?}");
        for choice in [AcceleratorChoice::Hardware, AcceleratorChoice::Kvm] {
            assert_eq!(decide(choice, &failed).unwrap().accelerator, Accelerator::Kvm);
        }
    }

    #[test]
    fn a_mac_has_hvf_and_no_kvm() {
        let mac = HostFacts {
            os: Os::MacOs,
            kvm: KvmDevice::Missing,
            modules: NONE,
            hypervisor_framework: true,
            ..host()
        };
        check(&mac, [HVF, HVF, None], "Hypervisor.framework");
        let old = HostFacts { hypervisor_framework: false, ..mac };
        check(&old, [TCG, None, None], "kern.hv_support");
    }
}
