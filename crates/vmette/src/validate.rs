//! What a configuration may contain. Everything is checked before anything is made.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vmette_image::ImageConfig;
use vmette_wire::devices;
use vmette_wire::path::{self, PATH_MAX};
use vmette_wire::root::VOLUMES_MAX;

use crate::config::{
    Config, Machine, RootOptions, Rootfs, ShareMount, SnapshotOptions, VsockOptions, VsockPort,
};
use crate::error::{ConfigError, Quantity};
use crate::stop_signal;

/// What can be pulled can be run.
const _: () = assert!(vmette_image::VOLUMES_MAX == VOLUMES_MAX);

/// Least memory with which the guest's kernel boots and its initramfs unpacks, in MiB.
pub const MEM_MIB_MIN: u64 = 128;

/// Most memory of a machine, in MiB (1 TiB).
pub const MEM_MIB_MAX: u64 = 1 << 20;

/// Most virtual CPUs of a machine.
pub const VCPUS_MAX: u8 = 64;

pub use vmette_image::{SCRATCH_MAX_MIB as SCRATCH_MIB_MAX, SCRATCH_MIN_MIB as SCRATCH_MIB_MIN};

/// Tags that vmette, or the original, uses for itself.
pub(crate) const RESERVED_TAGS: [&str; 4] = ["ctl", "rootfs", "certs", "agent"];

/// Most ports of one machine that lead to UNIX sockets: each has a thread.
const FORWARDS_MAX: usize = 32;

/// Most disks of one machine.
pub(crate) const DISKS_MAX: usize = 8;

/// Whether `key` can be the name of an environment variable: it is not empty, and contains neither `=` nor a NUL byte. Shells
/// take fewer names than that, and other programs read variables of any name: `discovery.type`.
#[must_use]
pub fn is_valid_env_key(key: impl AsRef<OsStr>) -> bool {
    let key = key.as_ref().as_bytes();
    !key.is_empty() && !key.contains(&b'=') && !key.contains(&0)
}

/// Checks what was asked for, as far as that can be known without a machine and without the snapshot.
pub(crate) fn asked(config: &Config) -> Result<(), ConfigError> {
    snapshots(config)?;
    shares(&config.grants.shares)?;
    disks(&config.grants.disks)?;
    rootfs(config.root.rootfs.as_ref())?;
    for (key, value) in &config.command.env {
        if !is_valid_env_key(key) {
            let problem = "it must not be empty, nor contain = or a NUL byte";
            return malformed("environment variable name", &key.to_string_lossy(), problem);
        }
        if value.as_bytes().contains(&0) {
            let problem = "its value contains a NUL byte";
            return malformed("environment variable", &key.to_string_lossy(), problem);
        }
    }
    if let Some(cwd) = &config.command.cwd
        && !cwd.starts_with('/')
    {
        return malformed("working directory", cwd, "a path in the guest, starting with /");
    }
    vsock(&config.vsock)
}

fn vsock(config: &VsockOptions) -> Result<(), ConfigError> {
    let check_port = |port: u32| Ok::<_, ConfigError>(devices::check_vsock_port(port)?);
    match config.port {
        VsockPort::Fixed(port) => check_port(port)?,
        VsockPort::Disabled
            if config.device || !config.forwards.is_empty() || !config.connects.is_empty() =>
        {
            return contradiction("vsock is disabled and asked for at the same time");
        }
        VsockPort::Disabled | VsockPort::Auto => {}
    }
    let ports = config.forwards.len() + config.connects.len();
    at_most("vsock ports", ports, FORWARDS_MAX)?;
    for (i, forward) in config.forwards.iter().enumerate() {
        check_port(forward.port)?;
        if config.forwards[..i].iter().any(|other| other.port == forward.port) {
            return twice("vsock port", forward.port);
        }
        use std::os::unix::fs::FileTypeExt;
        let what = "vsock socket";
        let meta = fs::metadata(&forward.path).map_err(ConfigError::file(what, &forward.path))?;
        if !meta.file_type().is_socket() {
            return wrong_file(what, &forward.path, "not a UNIX socket");
        }
        // A path that is too long for an address would only be refused to the guest.
        socket_path(what, &forward.path)?;
    }
    for (i, connect) in config.connects.iter().enumerate() {
        check_port(connect.port)?;
        let path = socket_path("vsock socket", &connect.path)?;
        if config.connects[..i].iter().any(|other| other.path == connect.path) {
            return twice("vsock socket", connect.path.display());
        }
        readable_dir("folder of the vsock socket", path.parent().unwrap_or(Path::new("/")))?;
    }
    Ok(())
}

/// The path as an address has it: whole, and not too long for one.
fn socket_path(what: &'static str, path: &Path) -> Result<std::path::PathBuf, ConfigError> {
    std::path::absolute(path)
        .and_then(|path| std::os::unix::net::SocketAddr::from_pathname(&path).map(|_| path))
        .map_err(ConfigError::file(what, path))
}

fn snapshots(config: &Config) -> Result<(), ConfigError> {
    let SnapshotOptions { build, resume, .. } = &config.snapshots;
    if build.is_some() && resume.is_some() {
        return contradiction(
            "a snapshot is either made or started from; Session::snapshot saves a machine that was started from one",
        );
    }
    if resume.is_some() && !config.grants.disks.is_empty() {
        return contradiction("a machine that starts from a snapshot takes shares, and no further disks");
    }
    if resume.is_some() && config.grants.net {
        let reason = "a machine that starts from a snapshot has none, since it was saved without one";
        return Err(ConfigError::NoNetwork { reason: reason.to_owned() });
    }
    let Some(target) = build else { return Ok(()) };
    if config.command.switch_root {
        return contradiction(
            "a command that is PID 1 takes its machine with it when it ends: nothing is left to save",
        );
    }
    if target.symlink_metadata().is_ok() {
        return wrong_file("snapshot", target, "it exists already");
    }
    let target = std::path::absolute(target).map_err(ConfigError::file("snapshot", target))?;
    match target.parent().filter(|_| target.file_name().is_some()) {
        Some(parent) => readable_dir("folder for the snapshot", parent),
        None => wrong_file("snapshot", &target, "a new folder is needed"),
    }
}

/// Checks the shape that a machine is to have, whoever decided it, and the image's wishes.
pub(crate) fn shape(machine: &Machine, root: &RootOptions) -> Result<(), ConfigError> {
    in_range(Quantity::VirtualCpus, machine.vcpus.into(), (1, VCPUS_MAX.into()))?;
    in_range(Quantity::Memory, machine.mem_mib, (MEM_MIB_MIN, MEM_MIB_MAX))?;
    if let Some(mib) = root.scratch_mib {
        in_range(Quantity::Scratch, mib, (SCRATCH_MIB_MIN, SCRATCH_MIB_MAX))?;
        if root.read_only {
            return contradiction("a scratch disk takes the root's writes, and this root is read-only");
        }
    }
    if machine.cmdline.contains(['\0', '\n']) {
        return malformed("kernel command line", &machine.cmdline, "it contains a NUL or a line break");
    }
    image(&root.image)
}

fn shares(shares: &[ShareMount]) -> Result<(), ConfigError> {
    let told: Vec<devices::Share> = shares.iter().map(Into::into).collect();
    devices::check_shares(&told)?;
    for share in shares {
        if RESERVED_TAGS.contains(&share.tag.as_str()) {
            return malformed("share tag", &share.tag, "it is reserved; choose another name");
        }
        readable_dir("share", &share.path)?;
    }
    Ok(())
}

fn disks(disks: &[PathBuf]) -> Result<(), ConfigError> {
    at_most("disks", disks.len(), DISKS_MAX)?;
    for (i, disk) in disks.iter().enumerate() {
        let meta = fs::metadata(disk).map_err(ConfigError::file("disk", disk))?;
        use std::os::unix::fs::FileTypeExt;
        if !meta.is_file() && !meta.file_type().is_block_device() {
            return wrong_file("disk", disk, "not a raw image or block device");
        }
        fs::OpenOptions::new().read(true).write(true).open(disk).map_err(ConfigError::file("disk", disk))?;
        if disks[..i].contains(disk) {
            return twice("disk", disk.display());
        }
    }
    Ok(())
}

fn rootfs(rootfs: Option<&Rootfs>) -> Result<(), ConfigError> {
    match rootfs {
        Some(Rootfs::Share(share)) => readable_dir("rootfs", &share.path),
        Some(Rootfs::Block(block)) => {
            let meta = fs::metadata(&block.path).map_err(ConfigError::file("rootfs", &block.path))?;
            if !meta.is_file() {
                return wrong_file("rootfs", &block.path, "not an image file");
            }
            fs::File::open(&block.path).map(drop).map_err(ConfigError::file("rootfs", &block.path))
        }
        None => Ok(()),
    }
}

/// What an image says of itself is a stranger's text. What only costs the workload something is left to the guest.
fn image(image: &ImageConfig) -> Result<(), ConfigError> {
    for (key, value) in &image.env {
        if !is_valid_env_key(key) || value.contains('\0') {
            return malformed("the image's environment variable", key, "it cannot be set");
        }
    }
    if let Some(dir) = image.working_dir.as_ref().filter(|dir| !dir.is_empty())
        && !is_absolute(dir)
    {
        return malformed("the image's working directory", dir, "not an absolute path");
    }
    if let Some(signal) = &image.stop_signal
        && stop_signal::parse(signal).is_none()
    {
        return malformed("the image's stop signal", signal, "there is no such signal");
    }
    at_most("volumes of the image", image.volumes.len(), VOLUMES_MAX)?;
    match image.volumes.iter().find(|volume| !path::is_plain(volume)) {
        Some(volume) => malformed("the image's volume", volume, "not an absolute path without .."),
        None => Ok(()),
    }
}

/// Dots are taken out later.
fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && path.len() < PATH_MAX && !path.contains('\0')
}

fn readable_dir(what: &'static str, path: &Path) -> Result<(), ConfigError> {
    let meta = fs::metadata(path).map_err(ConfigError::file(what, path))?;
    if !meta.is_dir() {
        return wrong_file(what, path, "not a directory");
    }
    fs::read_dir(path).map(drop).map_err(ConfigError::file(what, path))
}

fn in_range(what: Quantity, value: u64, (min, max): (u64, u64)) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange { what, value, min, max })
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), ConfigError> {
    if count <= max { Ok(()) } else { Err(ConfigError::TooMany { what, count, max }) }
}

fn malformed(what: &'static str, value: &str, problem: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError::Malformed { what, value: value.to_owned(), problem: problem.into() })
}

fn wrong_file(what: &'static str, path: &Path, problem: &'static str) -> Result<(), ConfigError> {
    Err(ConfigError::WrongFile { what, path: path.to_owned(), problem })
}

fn twice(what: &'static str, name: impl ToString) -> Result<(), ConfigError> {
    Err(ConfigError::Twice { what, name: name.to_string() })
}

fn contradiction(what: &'static str) -> Result<(), ConfigError> {
    Err(ConfigError::Contradiction(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolved::Resolved;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        check(&config).expect_err("the configuration is wrong").to_string()
    }

    fn check(config: &Config) -> Result<(), crate::Error> {
        Resolved::new(config, None).map(drop)
    }

    #[test]
    fn the_default_is_valid() {
        check(&Config::default()).unwrap();
    }

    #[test]
    fn absurd_shapes_are_refused_with_the_range() {
        assert!(refused(|c| c.machine.vcpus = Some(0)).contains("choose 1 to 64"));
        assert!(refused(|c| c.machine.vcpus = Some(65)).contains("choose 1 to 64"));
        assert!(refused(|c| c.machine.mem_mib = Some(0)).contains("choose 128 to"));
        assert!(refused(|c| c.machine.mem_mib = Some(u64::MAX)).contains("choose 128 to"));
        assert!(refused(|c| c.root.scratch_mib = Some(0)).contains("choose 16 to"));
        assert!(refused(|c| c.root.scratch_mib = Some(u64::MAX)).contains("choose 16 to"));
    }

    #[test]
    fn shares_keep_the_contract_with_the_guest_and_leave_its_own_names() {
        let share = |tag: &str, target: &str| ShareMount {
            target: Some(target.into()),
            ..ShareMount::new(tag, "/tmp")
        };
        for reserved in RESERVED_TAGS {
            assert!(refused(|c| c.grants.shares = vec![share(reserved, "/a")]).contains("reserved"));
        }
        assert!(refused(|c| c.grants.shares = vec![share("a/b", "/a")]).contains("share tag"));
        assert!(
            refused(|c| c.grants.shares = vec![share("a", "/a"), share("a", "/b")])
                .contains("share tag a is named twice")
        );
        assert!(refused(|c| c.grants.shares = vec![share("a", "/proc")]).contains("share target"));
        assert!(
            refused(|c| c.grants.shares = vec![share("a", "/w"), share("b", "/w")])
                .contains("target /w is named twice")
        );
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_kind_is_named() {
        let missing = refused(|c| c.grants.shares = vec![ShareMount::new("a", "/nonexistent/folder")]);
        assert!(missing.contains("share /nonexistent/folder") && missing.contains("No such file"));
        let file = refused(|c| c.grants.shares = vec![ShareMount::new("a", "/etc/passwd")]);
        assert!(file.contains("share /etc/passwd: not a directory"));
        assert!(refused(|c| c.grants.disks = vec!["/tmp".into()]).contains("disk /tmp"));
        for wrong in ["", "A=", "A\0"] {
            assert!(refused(|c| c.command.env = vec![(wrong.into(), "".into())]).contains("variable name"));
        }
        assert!(refused(|c| c.command.env = vec![("A".into(), "\0".into())]).contains("\"A\""));
        assert!(refused(|c| c.command.cwd = Some("work".into())).contains("starting with /"));
    }

    #[test]
    fn what_an_image_says_of_itself_is_checked() {
        let of = |change: fn(&mut ImageConfig)| refused(|c| change(&mut c.root.image));
        assert!(of(|i| i.env = vec![("A=B".into(), String::new())]).contains("\"A=B\""));
        assert!(of(|i| i.env = vec![("A".into(), "\0".into())]).contains("\"A\""));
        assert!(of(|i| i.working_dir = Some("srv".into())).contains("working directory"));
        assert!(of(|i| i.stop_signal = Some("SIGFOO".into())).contains("SIGFOO"));
        assert!(of(|i| i.volumes = vec!["/a/../b".into()]).contains("/a/../b"));
        assert!(of(|i| i.volumes = vec!["data".into()]).contains("data"));
        assert!(of(|i| i.volumes = vec!["/v".into(); VOLUMES_MAX + 1]).contains("up to 64"));
        let mut fine = Config::default();
        fine.command.env = vec![("discovery.type".into(), "x".into()), ("1-b c".into(), "".into())];
        fine.root.image.env = vec![("some.name-with_signs".into(), String::new())];
        fine.root.image.working_dir = Some(String::new());
        fine.root.image.volumes = vec!["/data".into(), "/proc".into()];
        check(&fine).unwrap();
    }

    #[test]
    fn vsock_ports_and_sockets_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let to = |port, path: &Path| crate::VsockForward { port, path: path.to_owned() };
        let mut fine = Config::default();
        fine.vsock.forwards = vec![to(1, &path), to(u32::MAX - 1, &path)];
        check(&fine).unwrap();
        for port in [0, u32::MAX] {
            assert!(refused(|c| c.vsock.port = VsockPort::Fixed(port)).contains("choose 1 to 4294967294"));
            assert!(refused(|c| c.vsock.forwards = vec![to(port, &path)]).contains("choose 1 to 4294967294"));
        }
        assert!(refused(|c| c.vsock.forwards = vec![to(1, &path), to(1, &path)]).contains("named twice"));
        assert!(refused(|c| c.vsock.forwards = vec![to(1, Path::new("/tmp"))]).contains("not a UNIX socket"));
        assert!(refused(|c| c.vsock.forwards = vec![to(1, &dir.path().join("x"))]).contains("No such file"));
        let many = || (1..=33).map(|port| to(port, &path)).collect();
        assert!(refused(|c| c.vsock.forwards = many()).contains("up to 32"));
        let from = |port, path: &Path| crate::VsockConnect { port, path: path.to_owned() };
        let new = dir.path().join("new");
        let mut fine = Config::default();
        fine.vsock.connects = vec![from(1, &new)];
        check(&fine).unwrap();
        assert!(refused(|c| c.vsock.connects = vec![from(0, &new)]).contains("choose 1 to"));
        assert!(refused(|c| c.vsock.connects = vec![from(1, &new), from(2, &new)]).contains("named twice"));
        assert!(refused(|c| c.vsock.connects = vec![from(1, &path.join("x"))]).contains("vsock socket"));
        let long = dir.path().join("x".repeat(200));
        assert!(refused(|c| c.vsock.connects = vec![from(1, &long)]).contains("vsock socket"));
        let disabled = |c: &mut Config| {
            (c.vsock.connects, c.vsock.port) = (vec![from(1, &new)], VsockPort::Disabled);
        };
        assert!(refused(disabled).contains("disabled"));
        assert!(
            refused(|c| (c.vsock.device, c.vsock.port) = (true, VsockPort::Disabled)).contains("disabled")
        );
    }

    #[test]
    fn a_snapshot_is_new_or_there_and_not_both() {
        assert!(refused(|c| c.snapshots.build = Some("/tmp".into())).contains("exists already"));
        assert!(refused(|c| c.snapshots.build = Some("/nonexistent/x".into())).contains("/nonexistent"));
        assert!(refused(|c| c.snapshots.build = Some("/etc/passwd/x".into())).contains("/etc/passwd"));
        let both = |c: &mut Config| {
            c.snapshots.build = Some("/tmp/new".into());
            c.snapshots.resume = Some("/tmp/old".into());
        };
        assert!(refused(both).contains("either"));
        let disks = |c: &mut Config| {
            c.snapshots.resume = Some("/tmp/old".into());
            c.grants.disks = vec!["/etc/passwd".into()];
        };
        assert!(refused(disks).contains("no further disks"));
        let net = |c: &mut Config| {
            c.snapshots.resume = Some("/tmp/old".into());
            c.grants.net = true;
        };
        assert!(refused(net).contains("saved without one"));
    }
}
