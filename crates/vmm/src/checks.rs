//! Checks of a spec and of a device that all engines share, made before anything is started: missing files, names that no
//! device can carry.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use vmette_wire::devices;

use crate::{Device, Disk, Error, MachineSpec, Network, Result, Share};

/// The spec with absolute paths, since the machine may run in another folder. All of its files are there and of the right
/// kind, all of its names are unique and fit their devices. Sizes are the engine's to check.
///
/// # Errors
/// [`Error::File`] or [`Error::InvalidSpec`], naming what is wrong.
pub fn checked(mut spec: MachineSpec) -> Result<MachineSpec> {
    if spec.cmdline.contains(char::is_control) {
        return invalid("the kernel command line has a control character".into());
    }
    absolute(&mut spec.kernel)?;
    absolute(&mut spec.initramfs)?;
    file("kernel", &spec.kernel, true)?;
    file("initramfs", &spec.initramfs, true)?;
    if let Some(rootfs) = &mut spec.rootfs {
        absolute(rootfs)?;
        file("rootfs image", rootfs, true)?;
    }
    devices::check_serials(spec.disks.iter().map(|disk| disk.serial.as_str()))?;
    spec.disks.iter_mut().try_for_each(disk)?;
    devices::check_tags(spec.shares.iter().map(|share| share.tag.as_str()))?;
    spec.shares.iter_mut().try_for_each(share)?;
    network(&spec.network)?;
    Ok(spec)
}

/// The same for a device that is attached to a running machine.
///
/// # Errors
/// [`Error::File`] or [`Error::InvalidSpec`], naming what is wrong.
pub fn checked_device(mut device: Device) -> Result<Device> {
    match &mut device {
        Device::Share(one) => {
            devices::check_tags([one.tag.as_str()])?;
            share(one)?;
        }
        Device::Disk(one) => {
            devices::check_serials([one.serial.as_str()])?;
            disk(one)?;
        }
        Device::Network(one) => network(one)?,
        Device::Vsock => {}
    }
    Ok(device)
}

fn disk(disk: &mut Disk) -> Result<()> {
    absolute(&mut disk.path)?;
    file("disk image", &disk.path, disk.read_only)
}

fn share(share: &mut Share) -> Result<()> {
    // Its server opens it by itself, so that any bytes will do.
    share.path = std::path::absolute(&share.path).map_err(Error::io("make a path absolute"))?;
    folder(&share.path)
}

fn network(network: &Network) -> Result<()> {
    match network {
        Network::Frames(frames) if !frames.mac.is_unicast() => {
            invalid(format!("link address {}: it must be that of one device", frames.mac))
        }
        _ => Ok(()),
    }
}

/// Checks the number of a vsock port: 0 is nobody's, and the highest stands for any.
///
/// # Errors
/// [`Error::InvalidSpec`].
pub fn vsock_port(port: u32) -> Result<()> {
    Ok(devices::check_vsock_port(port)?)
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidSpec(message))
}

fn absolute(path: &mut PathBuf) -> Result<()> {
    *path = std::path::absolute(&*path).map_err(Error::io("make a path absolute"))?;
    if path.to_str().is_none() {
        return invalid(format!("the path {} is not valid UTF-8", path.display()));
    }
    Ok(())
}

/// Opens the file as the engine will, so that the error names the file and its purpose.
fn file(what: &'static str, path: &Path, read_only: bool) -> Result<()> {
    let error = |source| Error::File { what, path: path.to_owned(), source };
    // A named pipe would block in `open`, so its kind is looked at first.
    let kind = fs::metadata(path).map_err(error)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(error(io::Error::other("is neither a file nor a block device")));
    }
    OpenOptions::new().read(true).write(!read_only).open(path).map_err(error)?;
    Ok(())
}

fn folder(path: &Path) -> Result<()> {
    let error = |source| Error::File { what: "shared folder", path: path.to_owned(), source };
    fs::read_dir(path).map_err(error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Frames, Mac};
    use std::sync::Arc;

    fn spec(dir: &Path) -> MachineSpec {
        let file = dir.join("file");
        fs::write(&file, "x").unwrap();
        MachineSpec {
            cmdline: "quiet".into(),
            rootfs: Some(file.clone()),
            disks: vec![Disk { serial: "scratch".into(), path: file.clone(), read_only: false }],
            shares: vec![Share { tag: "work.1".into(), path: dir.into(), read_only: true, owner: None }],
            ..MachineSpec::new(file.clone(), file)
        }
    }

    fn refused(change: impl FnOnce(&mut MachineSpec), word: &str) {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(dir.path());
        change(&mut spec);
        let error = checked(spec).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn a_good_spec_passes_and_its_paths_become_absolute() {
        let dir = tempfile::tempdir().unwrap();
        checked(spec(dir.path())).unwrap();
        let mut relative = PathBuf::from("some/file");
        absolute(&mut relative).unwrap();
        assert!(relative.is_absolute());
    }

    #[test]
    fn a_command_line_is_one_line() {
        refused(
            |spec| {
                spec.cmdline = "a
b"
                .into()
            },
            "control character",
        );
    }

    #[test]
    fn files_must_be_there_and_be_files() {
        refused(|spec| spec.kernel = "/nonexistent/kernel".into(), "kernel /nonexistent/kernel");
        refused(|spec| spec.initramfs = "/".into(), "initramfs /: is neither");
        refused(|spec| spec.rootfs = Some("/nonexistent/image".into()), "rootfs image /nonexistent/image");
        refused(|spec| spec.disks[0].path = "/dev/null".into(), "disk image /dev/null");
        refused(|spec| spec.shares[0].path = spec.kernel.clone(), "shared folder");
    }

    #[test]
    fn names_are_those_of_the_contract_with_the_guest() {
        refused(|spec| spec.shares[0].tag = "a/b".into(), "share tag");
        refused(|spec| spec.shares.push(spec.shares[0].clone()), "two shares");
        refused(|spec| spec.disks[0].serial = "a-b".into(), "serial number");
        refused(|spec| spec.disks[0].serial = devices::ROOTFS_SERIAL.into(), "two disks");
    }

    #[test]
    fn a_device_that_comes_later_is_held_to_the_same() {
        let refused = |device, word: &str| {
            let error = checked_device(device).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        let share = |tag: &str, path: &str| Share {
            tag: tag.into(),
            path: path.into(),
            read_only: true,
            owner: None,
        };
        refused(Device::Share(share("a/b", "/")), "share tag");
        refused(Device::Share(share("a", "/nonexistent")), "shared folder /nonexistent");
        let disk = Disk { serial: devices::ROOTFS_SERIAL.into(), path: "/bin/sh".into(), read_only: true };
        refused(Device::Disk(disk), "two disks");
        let socket = Arc::new(std::os::unix::net::UnixStream::pair().unwrap().0.into());
        refused(
            Device::Network(Network::Frames(Frames { socket, mac: Mac([1, 0, 0, 0, 0, 1]) })),
            "link address",
        );
        assert!(matches!(checked_device(Device::Share(share("a", "/"))), Ok(Device::Share(_))));
    }
}
