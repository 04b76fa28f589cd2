//! Devices that may be there already or be plugged in at any moment. The kernel's announcements (`uevents`) are
//! subscribed to before the first look, so none is missed and nothing is polled.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// How long a device may take to appear: it may be plugged in while the guest boots.
const DEVICE_DEADLINE: Duration = Duration::from_secs(20);

/// The group of the kernel's own announcements.
const KERNEL_GROUP: u32 = 1;

/// A device that is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(
        "no disk with the serial number {serial} appeared in the guest within {} s",
        DEVICE_DEADLINE.as_secs()
    )]
    NoDisk { serial: String },
    #[error(
        "no vsock device appeared in the guest within {} s; its kernel needs the modules vsock and \
         vmw_vsock_virtio_transport",
        DEVICE_DEADLINE.as_secs()
    )]
    NoVsock,
    #[error("no virtio-fs share with the tag {tag} appeared in the guest within {} s", DEVICE_DEADLINE.as_secs())]
    NoShare { tag: String },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> DeviceError {
    move |source| DeviceError::Io { what: what.into(), source }
}

/// A subscription to the kernel's announcements.
#[derive(Debug)]
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    /// Does what [`Uevents::subscribe`] does, with an error that names the purpose.
    pub(crate) fn of_kernel() -> Result<Self, DeviceError> {
        Self::subscribe().map_err(failed("listen for devices"))
    }

    pub(crate) fn subscribe() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// Looks again after each announcement until `look` finds something; `None` when `limit` has passed.
    pub(crate) fn wait_for<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            self.drain();
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for the disk of that serial number, and returns its path.
    pub(crate) fn disk(&self, serial: &str) -> Result<String, DeviceError> {
        self.wait_for(DEVICE_DEADLINE, || disk(serial))
            .map_err(failed("look for disks"))?
            .ok_or_else(|| DeviceError::NoDisk { serial: serial.to_owned() })
    }

    /// Waits for the vsock device.
    pub(crate) fn vsock(&self) -> Result<(), DeviceError> {
        self.wait_for(DEVICE_DEADLINE, vsock)
            .map_err(failed("look for the vsock device"))?
            .ok_or(DeviceError::NoVsock)
    }

    /// Waits for the share of that tag, and mounts it at `target`.
    pub(crate) fn mount_share(&self, tag: &str, target: &str, flags: MountFlags) -> Result<(), DeviceError> {
        let mounted = self.wait_for(DEVICE_DEADLINE, || match mount(tag, target, "virtiofs", flags, None) {
            Ok(()) => Ok(Some(())),
            // No device with this tag, so far.
            Err(Errno::INVAL) => Ok(None),
            Err(e) => Err(e.into()),
        });
        mounted
            .map_err(failed(format!("mount share {tag} at {target}")))?
            .ok_or_else(|| DeviceError::NoShare { tag: tag.to_owned() })
    }

    /// The announcements' contents do not matter: each is a reason to look again.
    fn drain(&self) {
        let mut buffer = [0u8; 64];
        // An overrun (ENOBUFS) is an announcement as well.
        while matches!(recv(&self.0, &mut buffer, RecvFlags::TRUNC), Ok(_) | Err(Errno::NOBUFS | Errno::INTR))
        {
        }
    }
}

/// The block device whose virtio serial number is `serial`, as `/dev/vdX`.
fn disk(serial: &str) -> io::Result<Option<String>> {
    disk_in(Path::new("/sys/block"), "/dev", serial)
}

/// A disk is there when it can be opened. Its attributes and its node come earlier, and opening it fails until the kernel
/// has brought it to life and announced it: `device_add_disk` in the kernel's `block/genhd.c`.
fn disk_in(sys: &Path, dev: &str, serial: &str) -> io::Result<Option<String>> {
    for entry in fs::read_dir(sys)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("vd")) else { continue };
        if fs::read(entry.path().join("serial")).is_ok_and(|found| is_serial(&found, serial)) {
            let node = format!("{dev}/{name}");
            return match rustix::fs::open(&node, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(_) => Ok(Some(node)),
                Err(Errno::NXIO | Errno::NODEV | Errno::NOENT) => Ok(None),
                Err(e) => Err(e.into()),
            };
        }
    }
    Ok(None)
}

/// The virtio-serial port of that name, as `/dev/vportXpY`.
pub(crate) fn port(name: &str) -> io::Result<Option<String>> {
    // The folder appears with the first port.
    let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") else { return Ok(None) };
    for entry in ports {
        let entry = entry?;
        if fs::read(entry.path().join("name")).is_ok_and(|found| is_serial(&found, name))
            && let Some(device) = entry.file_name().to_str()
        {
            return Ok(Some(format!("/dev/{device}")));
        }
    }
    Ok(None)
}

/// Finds out whether the guest's kernel drives a vsock device.
fn vsock() -> io::Result<Option<()>> {
    // The folder is the driver's: without the module there is none.
    let Ok(devices) = fs::read_dir("/sys/bus/virtio/drivers/vmw_vsock_virtio_transport") else {
        return Ok(None);
    };
    for device in devices {
        if device?.file_name().to_str().is_some_and(|name| name.starts_with("virtio")) {
            return Ok(Some(()));
        }
    }
    Ok(None)
}

/// Serial numbers are padded with NULs or blanks.
fn is_serial(found: &[u8], wanted: &str) -> bool {
    let end = found.iter().rposition(|b| *b != 0 && !b.is_ascii_whitespace()).map_or(0, |last| last + 1);
    &found[..end] == wanted.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A socket's node can be opened no more than that of a disk which is not live yet: both say ENXIO.
    #[test]
    fn a_disk_is_there_when_it_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (sys, dev) = (folder.path().join("sys"), folder.path().join("dev"));
        fs::create_dir_all(sys.join("vdb")).unwrap();
        fs::create_dir(&dev).unwrap();
        let node = dev.join("vdb");
        let found = |serial| disk_in(&sys, dev.to_str().unwrap(), serial).unwrap();
        assert_eq!(found("scratch"), None, "it has no serial number yet");
        fs::write(sys.join("vdb/serial"), "scratch").unwrap();
        assert_eq!(found("scratch"), None, "it has no node yet");
        let listener = UnixListener::bind(&node).unwrap();
        assert_eq!(found("scratch"), None, "it is not live yet");
        drop(listener);
        fs::remove_file(&node).unwrap();
        fs::write(&node, "").unwrap();
        assert_eq!(found("scratch").as_deref(), node.to_str());
        assert_eq!(found("other"), None);
    }

    #[test]
    fn serial_numbers_may_be_padded() {
        assert!(is_serial(b"rootfs", "rootfs"));
        assert!(is_serial(b"rootfs\0\0 \n", "rootfs"));
        assert!(!is_serial(b"rootfs2", "rootfs"));
        assert!(!is_serial(b"\0\0", "rootfs"));
    }
}
