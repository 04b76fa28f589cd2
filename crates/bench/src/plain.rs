//! Plain QEMU as the yardstick: the same kernel and machine, a busybox for an initramfs, and nothing of vmette.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use cpio::newc::{Builder, ModeFileType, trailer};
use vmette::{Accelerator, Config, DEFAULT_MEM_MIB, DEFAULT_VCPUS};

use crate::program::Program;

/// What the guest prints when it has reached a shell.
pub(crate) const MARKER: &[u8] = b"reached-a-shell";

/// The whole user space: a shell that says so, and an end that QEMU reports as a success.
const INIT: &[u8] = b"#!/busybox sh\n/busybox echo reached-a-shell\n/busybox poweroff -f\n";

/// The board that vmette uses.
const BOARD: &str = if cfg!(target_arch = "aarch64") {
    "virt,gic-version=max"
} else {
    "q35,vmport=off,smm=off,hpet=off,usb=off,sata=off"
};

/// The board's serial port, as the kernel calls it.
const CONSOLE: &str = if cfg!(target_arch = "aarch64") { "ttyAMA0" } else { "ttyS0" };

/// Major and minor number of `/dev/console`.
const CONSOLE_NODE: (u32, u32) = (5, 1);

/// The command that boots `kernel` in the shape of `config`. The initramfs is written to `folder`.
pub(crate) fn program(
    config: &Config,
    kernel: &Path,
    busybox: &Path,
    accelerator: Accelerator,
    folder: &Path,
) -> anyhow::Result<Program> {
    let initramfs = folder.join("initramfs.cpio");
    let content = fs::read(busybox).with_context(|| format!("read {}", busybox.display()))?;
    let out = File::create(&initramfs).with_context(|| format!("create {}", initramfs.display()))?;
    write_initramfs(BufWriter::new(out), &content).context("write the initramfs")?;
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Hvf => ("hvf", "host"),
        Accelerator::Tcg | Accelerator::None => ("tcg", "max"),
    };
    let mut args: Vec<OsString> =
        ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(Into::into).into();
    args.extend(["-machine", BOARD, "-accel", accel, "-cpu", cpu].map(OsString::from));
    args.extend(["-smp".into(), config.machine.vcpus.unwrap_or(DEFAULT_VCPUS).to_string().into()]);
    args.extend(["-m".into(), format!("{}M", config.machine.mem_mib.unwrap_or(DEFAULT_MEM_MIB)).into()]);
    args.extend(["-chardev", "stdio,id=console", "-serial", "chardev:console"].map(OsString::from));
    args.extend(["-kernel".into(), kernel.into(), "-initrd".into(), initramfs.into()]);
    args.extend(["-append".into(), format!("console={CONSOLE} panic=-1 quiet").into()]);
    Ok(Program::new(&qemu(), args))
}

/// The program that vmette runs as well.
fn qemu() -> PathBuf {
    let named = std::env::var_os("VMETTE_QEMU").filter(|value| !value.is_empty());
    named.map_or_else(|| format!("qemu-system-{}", vmette::assets::ARCH).into(), PathBuf::from)
}

fn write_initramfs(mut out: impl Write, busybox: &[u8]) -> io::Result<()> {
    add(&mut out, Builder::new("dev").mode(0o755).set_mode_file_type(ModeFileType::Directory), &[])?;
    let console = Builder::new("dev/console").mode(0o600).set_mode_file_type(ModeFileType::Char);
    add(&mut out, console.rdev_major(CONSOLE_NODE.0).rdev_minor(CONSOLE_NODE.1), &[])?;
    for (name, content) in [("busybox", busybox), ("init", INIT)] {
        add(&mut out, Builder::new(name).mode(0o755).set_mode_file_type(ModeFileType::Regular), content)?;
    }
    trailer(out)?.flush()
}

fn add(out: &mut impl Write, entry: Builder, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut file = entry.write(out, length);
    file.write_all(content)?;
    file.finish().map(drop)
}
