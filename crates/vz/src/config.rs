//! From a checked spec to a configuration of VZ, on the machine's queue.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use objc2::AnyThread;
use objc2::rc::Retained;
use objc2_foundation::{NSArray, NSData, NSFileHandle, NSString, NSURL};
use objc2_virtualization::*;
use vmette_vmm::devices::{AGENT_VSOCK_WORD, ROOTFS_SERIAL};
use vmette_vmm::{Error, MachineSpec, Network, Result};

use crate::failure::Failure;
use crate::vsock::AGENT_PORT;

/// Bytes of one MiB.
const MIB: u64 = 1 << 20;

/// A machine, complete but for the objects that it is made of.
pub(crate) struct Plan {
    pub(crate) spec: MachineSpec,
    /// The image behind the rootfs's device, or the empty one.
    pub(crate) rootfs: PathBuf,
    /// Where the console's output goes.
    pub(crate) console: OwnedFd,
    /// The identity of the machine that a saved state is from.
    pub(crate) identifier: Option<Vec<u8>>,
}

/// A configuration that VZ accepts.
pub(crate) struct Configured {
    pub(crate) configuration: Retained<VZVirtualMachineConfiguration>,
    /// The machine's identity, which its saved states depend on.
    pub(crate) identifier: Vec<u8>,
}

/// What is added to the caller's command line: the console, an end instead of a standstill when the kernel gives up, and
/// the port at which the agent finds the host.
pub(crate) fn cmdline(spec: &MachineSpec) -> String {
    format!("console=hvc0 panic=-1 {} {AGENT_VSOCK_WORD}{AGENT_PORT}", spec.cmdline)
}

/// Makes it, and asks VZ whether it would run it.
pub(crate) fn build(plan: Plan) -> Result<Configured> {
    let Plan { spec, rootfs, console, identifier } = plan;
    // SAFETY: these are new objects that only this queue knows of; each class is there since macOS 13.
    unsafe {
        let configuration = VZVirtualMachineConfiguration::new();
        configuration.setBootLoader(Some(&*boot_loader(&spec)?));
        configuration.setCPUCount(spec.vcpus as usize);
        configuration.setMemorySize(spec.memory_mib * MIB);
        let (platform, identifier) = platform(identifier)?;
        configuration.setPlatform(&platform);
        configuration.setSerialPorts(&NSArray::from_retained_slice(&[serial_port(console)]));
        let entropy: Retained<VZEntropyDeviceConfiguration> =
            Retained::into_super(VZVirtioEntropyDeviceConfiguration::new());
        configuration.setEntropyDevices(&NSArray::from_retained_slice(&[entropy]));
        let balloon: Retained<VZMemoryBalloonDeviceConfiguration> =
            Retained::into_super(VZVirtioTraditionalMemoryBalloonDeviceConfiguration::new());
        configuration.setMemoryBalloonDevices(&NSArray::from_retained_slice(&[balloon]));
        let socket: Retained<VZSocketDeviceConfiguration> =
            Retained::into_super(VZVirtioSocketDeviceConfiguration::new());
        configuration.setSocketDevices(&NSArray::from_retained_slice(&[socket]));
        configuration.setStorageDevices(&NSArray::from_retained_slice(&disks(&spec, &rootfs)?));
        configuration.setDirectorySharingDevices(&NSArray::from_retained_slice(&shares(&spec)?));
        configuration.setNetworkDevices(&NSArray::from_retained_slice(&network(spec.network)));
        configuration.validateWithError().map_err(|error| {
            Failure::of(&error)
                .into_error(|text| Error::InvalidSpec(format!("VZ does not accept this machine: {text}")))
        })?;
        Ok(Configured { configuration, identifier })
    }
}

fn url(what: &'static str, path: &Path) -> Result<Retained<NSURL>> {
    // The checks let only paths through that are text.
    let text = path.to_str().ok_or_else(|| Error::File {
        what,
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "the path is not valid UTF-8"),
    })?;
    Ok(NSURL::fileURLWithPath(&NSString::from_str(text)))
}

/// # Safety
/// On the machine's queue.
unsafe fn boot_loader(spec: &MachineSpec) -> Result<Retained<VZBootLoader>> {
    let kernel = url("kernel", &spec.kernel)?;
    let initramfs = url("initramfs", &spec.initramfs)?;
    // SAFETY: the caller's, and a new object.
    unsafe {
        let loader = VZLinuxBootLoader::initWithKernelURL(VZLinuxBootLoader::alloc(), &kernel);
        loader.setInitialRamdiskURL(Some(&initramfs));
        loader.setCommandLine(&NSString::from_str(&cmdline(spec)));
        Ok(Retained::into_super(loader))
    }
}

/// # Safety
/// On the machine's queue.
unsafe fn platform(identifier: Option<Vec<u8>>) -> Result<(Retained<VZPlatformConfiguration>, Vec<u8>)> {
    // SAFETY: the caller's, and new objects.
    unsafe {
        let identifier = match identifier {
            None => VZGenericMachineIdentifier::new(),
            Some(bytes) => VZGenericMachineIdentifier::initWithDataRepresentation(
                VZGenericMachineIdentifier::alloc(),
                &NSData::with_bytes(&bytes),
            )
            .ok_or_else(|| Error::InvalidSpec("the identity of the saved machine is damaged".into()))?,
        };
        let platform = VZGenericPlatformConfiguration::new();
        platform.setMachineIdentifier(&identifier);
        Ok((Retained::into_super(platform), identifier.dataRepresentation().to_vec()))
    }
}

/// A console that the guest can write to and that never says anything to the guest.
///
/// # Safety
/// On the machine's queue.
unsafe fn serial_port(output: OwnedFd) -> Retained<VZSerialPortConfiguration> {
    // The handle owns the descriptor from here on.
    let handle = NSFileHandle::initWithFileDescriptor_closeOnDealloc(
        NSFileHandle::alloc(),
        output.into_raw_fd(),
        true,
    );
    // SAFETY: the caller's, and new objects.
    unsafe {
        let attachment = VZFileHandleSerialPortAttachment::initWithFileHandleForReading_fileHandleForWriting(
            VZFileHandleSerialPortAttachment::alloc(),
            None,
            Some(&handle),
        );
        let port = VZVirtioConsoleDeviceSerialPortConfiguration::new();
        port.setAttachment(Some(&attachment));
        Retained::into_super(port)
    }
}

/// The rootfs first, as in every machine, then the others in their order; the guest finds each by its name.
///
/// # Safety
/// On the machine's queue.
unsafe fn disks(spec: &MachineSpec, rootfs: &Path) -> Result<Vec<Retained<VZStorageDeviceConfiguration>>> {
    // SAFETY: the caller's.
    let mut devices = vec![unsafe { disk("rootfs image", rootfs, ROOTFS_SERIAL, true) }?];
    for one in &spec.disks {
        // SAFETY: the caller's.
        devices.push(unsafe { disk("disk image", &one.path, &one.serial, one.read_only) }?);
    }
    Ok(devices)
}

/// # Safety
/// On the machine's queue.
unsafe fn disk(
    what: &'static str,
    path: &Path,
    serial: &str,
    read_only: bool,
) -> Result<Retained<VZStorageDeviceConfiguration>> {
    let refused = |text| Error::File { what, path: path.to_owned(), source: io::Error::other(text) };
    let url = url(what, path)?;
    // SAFETY: the caller's, and new objects.
    unsafe {
        // Left to itself VZ reads past the host's cache, and a Linux guest then sees stale blocks and zeroes.
        let attachment =
            VZDiskImageStorageDeviceAttachment::initWithURL_readOnly_cachingMode_synchronizationMode_error(
                VZDiskImageStorageDeviceAttachment::alloc(),
                &url,
                read_only,
                VZDiskImageCachingMode::Cached,
                VZDiskImageSynchronizationMode::Fsync,
            )
            .map_err(|error| Failure::of(&error).into_error(refused))?;
        let serial = NSString::from_str(serial);
        VZVirtioBlockDeviceConfiguration::validateBlockDeviceIdentifier_error(&serial)
            .map_err(|error| Failure::of(&error).into_error(refused))?;
        let device = VZVirtioBlockDeviceConfiguration::initWithAttachment(
            VZVirtioBlockDeviceConfiguration::alloc(),
            &attachment,
        );
        device.setBlockDeviceIdentifier(&serial);
        Ok(Retained::into_super(device))
    }
}

/// Behind the Mac's address translation, with a link address that no other machine has: the Mac's DHCP server tells
/// machines apart by it.
///
/// # Safety
/// On the machine's queue.
unsafe fn network(wanted: Network) -> Vec<Retained<VZNetworkDeviceConfiguration>> {
    match wanted {
        Network::None => Vec::new(),
        // SAFETY: the caller's, and new objects.
        Network::Nat => unsafe {
            let device = VZVirtioNetworkDeviceConfiguration::new();
            device.setMACAddress(&VZMACAddress::randomLocallyAdministeredAddress());
            device.setAttachment(Some(&VZNATNetworkDeviceAttachment::new()));
            vec![Retained::into_super(device)]
        },
    }
}

/// # Safety
/// On the machine's queue.
unsafe fn shares(spec: &MachineSpec) -> Result<Vec<Retained<VZDirectorySharingDeviceConfiguration>>> {
    let share = |share: &vmette_vmm::Share| {
        let url = url("shared folder", &share.path)?;
        let tag = NSString::from_str(&share.tag);
        // SAFETY: the caller's, and new objects.
        unsafe {
            VZVirtioFileSystemDeviceConfiguration::validateTag_error(&tag).map_err(|error| {
                let tag = &share.tag;
                Failure::of(&error)
                    .into_error(|text| Error::InvalidSpec(format!("share tag {tag:?}: {text}")))
            })?;
            let directory = VZSharedDirectory::initWithURL_readOnly(
                VZSharedDirectory::alloc(),
                &url,
                // The framework's own server refuses writes then, whatever the guest does.
                share.read_only,
            );
            let single =
                VZSingleDirectoryShare::initWithDirectory(VZSingleDirectoryShare::alloc(), &directory);
            let device = VZVirtioFileSystemDeviceConfiguration::initWithTag(
                VZVirtioFileSystemDeviceConfiguration::alloc(),
                &tag,
            );
            device.setShare(Some(&single));
            Ok(Retained::into_super(device))
        }
    };
    spec.shares.iter().map(share).collect()
}
