//! QEMU's command line. Pure: a plan and the numbers of inherited descriptors go in, arguments come out.

use std::ffi::OsString;

use vmette_vmm::Accelerator;
use vmette_vmm::devices::{AGENT_PORT_NAME, ROOTFS_SERIAL};

use crate::plan::{Arch, Plan};

/// Most memory for translated guest code, in MiB. The guest decides how much of it is filled; QEMU's own limit is 1 GiB.
const TRANSLATION_MIB: u32 = 256;

/// Functions of one PCI device: that many root ports share a slot.
const FUNCTIONS: usize = 8;

/// First PCI slot of the root ports, of which there are four at most; those before are the devices that every machine has.
const PORTS_SLOT: usize = 4;

/// PCI slot of the network device, behind the root ports.
const NETWORK_SLOT: usize = 8;

/// QEMU's own sandbox. Once it is set up QEMU may start no programs, gain no privileges, change no limits of its own and
/// use no system calls of the past.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Numbers under which QEMU finds what it inherits.
#[derive(Debug, Clone)]
pub(crate) struct Fds {
    /// The guest's memory.
    pub(crate) memory: i32,
    /// Writes to the memory reach the descriptor; otherwise the memory is copied on write.
    pub(crate) memory_shared: bool,
    pub(crate) agent: i32,
    pub(crate) console: i32,
    pub(crate) qmp: i32,
    /// Connections to the servers of devices, with the names of the back ends.
    pub(crate) servers: Vec<(String, i32)>,
    /// The socket for the network device's frames.
    pub(crate) network: Option<i32>,
}

/// The arguments, without the program's name.
pub(crate) fn build(plan: &Plan, fds: &Fds) -> Vec<OsString> {
    let mut args = Args::default();
    args.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot");
    args.option("-display", "none");
    if plan.seccomp {
        args.option("-sandbox", SANDBOX);
    }
    machine(&mut args, plan, fds);
    args.option("-kernel", &plan.kernel).option("-initrd", &plan.initramfs);
    args.option("-append", cmdline(plan));
    base_devices(&mut args, plan, fds);
    root_ports(&mut args, plan);
    for (name, fd) in &fds.servers {
        args.option("-chardev", format!("socket,id={name},fd={fd}"));
    }
    for plugged in &plan.at_start {
        if let Some(blockdev) = plugged.blockdev() {
            args.option("-blockdev", blockdev.to_string());
        }
        args.option("-device", plugged.front().to_string());
    }
    network(&mut args, plan, fds);
    if plan.restores {
        args.option("-incoming", "defer");
    }
    args.0
}

fn machine(args: &mut Args, plan: &Plan, fds: &Fds) {
    let board = match plan.arch {
        Arch::X86_64 => "q35,vmport=off,smm=off,hpet=off,usb=off,sata=off",
        Arch::Aarch64 => "virt,gic-version=max",
    };
    args.option("-machine", format!("{board},memory-backend=mem,dump-guest-core=off,mem-merge=off"));
    // `max` has what the translator can emulate, RDRAND for the first random numbers of the guest's kernel among it. A
    // kernel that is told of fast string instructions copies with `rep movsb`, which the translator takes byte by byte. Pointer
    // authentication by the architecture's own cipher makes an emulated arm64 several times slower than by a hash of QEMU's.
    let (accelerator, cpu) = match (plan.accelerator, plan.arch) {
        (Accelerator::Kvm, _) => ("kvm".to_owned(), "host"),
        (Accelerator::Hvf, _) => ("hvf".to_owned(), "host"),
        (Accelerator::Tcg | Accelerator::None, arch) => (
            format!("tcg,tb-size={TRANSLATION_MIB}"),
            if arch == Arch::X86_64 { "max,erms=off,fsrm=off" } else { "max,pauth-impdef=on" },
        ),
    };
    args.option("-accel", accelerator).option("-cpu", cpu);
    args.option("-smp", plan.vcpus.to_string()).option("-m", format!("{}M", plan.memory_mib));
    let share = if fds.memory_shared { "on" } else { "off" };
    args.option(
        "-object",
        format!(
            "memory-backend-file,id=mem,size={}M,mem-path=/dev/fd/{},share={share}",
            plan.memory_mib, fds.memory
        ),
    );
}

/// The console is the serial port although that is 0.1 s slower than a virtio console in a quiet cold boot: what a
/// kernel says that gives up before its virtio drivers are loaded must not be lost. A panic ends the machine.
fn cmdline(plan: &Plan) -> String {
    let console = match plan.arch {
        Arch::X86_64 => "ttyS0",
        Arch::Aarch64 => "ttyAMA0",
    };
    format!("console={console} panic=-1 {}", plan.cmdline).trim_end().to_owned()
}

/// What every machine has, in fixed places.
fn base_devices(args: &mut Args, plan: &Plan, fds: &Fds) {
    args.option("-chardev", format!("socket,id=qmp,fd={}", fds.qmp));
    args.option("-mon", "chardev=qmp,mode=control");
    args.option("-chardev", format!("socket,id=console,fd={}", fds.console));
    args.option("-serial", "chardev:console");
    args.option("-chardev", format!("socket,id=agent,fd={}", fds.agent));
    args.option("-device", "virtio-serial-pci,id=serial,addr=0x2,max_ports=2");
    args.option("-device", format!("virtserialport,bus=serial.0,chardev=agent,name={AGENT_PORT_NAME}"));
    args.option("-blockdev", plan.rootfs.to_string());
    args.option(
        "-device",
        format!("virtio-blk-pci,addr=0x3,drive=rootfs,serial={ROOTFS_SERIAL},rerror=report,werror=report"),
    );
}

/// A restored machine has the device before its state is loaded, in the same place.
fn network(args: &mut Args, plan: &Plan, fds: &Fds) {
    let (Some(mac), Some(fd)) = (plan.network, fds.network) else { return };
    args.option("-netdev", format!("stream,id=net,server=off,addr.type=fd,addr.str={fd}"));
    args.option("-device", format!("virtio-net-pci,addr={NETWORK_SLOT:#x},netdev=net,mac={mac},romfile="));
}

fn root_ports(args: &mut Args, plan: &Plan) {
    for port in 0..plan.ports {
        let (slot, function) = (PORTS_SLOT + port / FUNCTIONS, port % FUNCTIONS);
        let multifunction = if function == 0 { ",multifunction=on" } else { "" };
        args.option(
            "-device",
            format!(
                "pcie-root-port,id=port{port},chassis={},addr={slot:#x}.{function},io-reserve=0{multifunction}",
                port + 1
            ),
        );
    }
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::path::Path;
    use std::sync::Arc;
    use vmette_vmm::{Disk, Frames, Mac, MachineSpec, Network, Origin, Saved, SavedState, Share};

    use crate::plan::Plugged;

    fn spec() -> MachineSpec {
        MachineSpec {
            cmdline: "quiet".into(),
            vcpus: 2,
            memory_mib: 512,
            ..MachineSpec::new("/k/vmlinux", "/k/initramfs")
        }
    }

    fn full_spec() -> MachineSpec {
        let share = |tag: &str| Share { tag: tag.into(), path: "/s".into(), read_only: true, owner: None };
        MachineSpec {
            rootfs: Some("/images/a,b \"c\".squashfs".into()),
            disks: vec![Disk { serial: "scratch".into(), path: "/images/scratch".into(), read_only: false }],
            shares: (0..4).map(|i| share(&format!("tag{i}"))).collect(),
            vsock: true,
            ..spec()
        }
    }

    fn fds(plan: &Plan, memory_shared: bool) -> Fds {
        let served = plan.devices().filter(|plugged| plugged.blockdev().is_none()).map(Plugged::backend);
        Fds {
            memory: 10,
            memory_shared,
            agent: 11,
            console: 12,
            qmp: 13,
            servers: served.zip(20..).collect(),
            network: plan.network.map(|_| 14),
        }
    }

    /// One argument of an option per line. With `UPDATE_GOLDEN` in the environment the file is written instead.
    fn check(name: &str, plan: &Plan, memory_shared: bool) {
        let mut text = String::new();
        for arg in build(plan, &fds(plan, memory_shared)) {
            let arg = arg.into_string().unwrap();
            let separator = if text.is_empty() || arg.starts_with('-') { "\n" } else { " " };
            write!(text, "{separator}{arg}").unwrap();
        }
        let text = format!("{}\n", text.trim_start());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{name}");
    }

    fn plan(spec: &MachineSpec, accelerator: Accelerator) -> Plan {
        Plan { arch: Arch::X86_64, seccomp: true, ..Plan::new(spec, accelerator).unwrap() }
    }

    /// The machine restored from a state that knows of these disks.
    fn restored(spec: MachineSpec, disks: &[(&str, usize)]) -> Plan {
        let disks: BTreeMap<_, _> = disks.iter().map(|(serial, place)| ((*serial).into(), *place)).collect();
        let state = SavedState { disks, ..SavedState::default() };
        let origin = Origin::Saved(Saved { folder: "/saved".into(), state });
        plan(&MachineSpec { origin, ..spec }, Accelerator::Tcg)
    }

    #[test]
    fn a_small_machine_under_emulation() {
        check("cold-tcg.args", &plan(&spec(), Accelerator::Tcg), true);
    }

    #[test]
    fn a_full_machine_on_kvm() {
        check("cold-kvm-full.args", &plan(&full_spec(), Accelerator::Kvm), true);
    }

    #[test]
    fn a_restored_machine_gets_its_devices_later() {
        check("restore-tcg.args", &restored(spec(), &[]), false);
        check("restore-tcg-full.args", &restored(full_spec(), &[]), true);
    }

    #[test]
    fn a_disk_that_the_saved_state_knows_is_there_before_it() {
        check("restore-tcg-disk.args", &restored(full_spec(), &[("scratch", 0)]), true);
    }

    #[test]
    fn a_network_device_is_there_before_a_saved_state() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let frames = Frames { socket: Arc::new(socket.into()), mac: Mac([2, 0, 0, 0, 0, 7]) };
        let spec = MachineSpec { network: Network::Frames(frames), ..spec() };
        check("cold-tcg-network.args", &plan(&spec, Accelerator::Tcg), true);
        check("restore-tcg-network.args", &restored(spec, &[]), false);
    }

    #[test]
    fn a_machine_on_a_mac_with_an_arm_processor() {
        let plan = Plan { arch: Arch::Aarch64, seccomp: false, ..plan(&spec(), Accelerator::Hvf) };
        check("cold-hvf-arm.args", &plan, true);
    }

    #[test]
    fn an_arm_machine_under_emulation() {
        let plan = Plan { arch: Arch::Aarch64, ..plan(&spec(), Accelerator::Tcg) };
        check("cold-tcg-arm.args", &plan, true);
    }

    #[test]
    fn a_path_cannot_add_options() {
        let text = plan(&full_spec(), Accelerator::Tcg).rootfs.to_string();
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["file"]["filename"], "/images/a,b \"c\".squashfs");
    }
}
