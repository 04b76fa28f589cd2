//! The workload's root.

use library::{BlockFs, Config, ImageConfig, Rootfs, RootfsBlock, RootfsShare, StopHandle};

use crate::arguments::{Text, required};
use crate::config::VmetteConfig;
use crate::entry::entry;
use crate::notice;
use crate::status::{Failure, VmetteStatus};
use crate::stop::VmetteStop;

/// All of them say what the root is: a success of one lifts the failure of another.
const SETTER: &str = "the root";

fn set(
    config: Option<&mut VmetteConfig>,
    work: impl FnOnce(&mut Config) -> Result<(), Failure>,
) -> VmetteStatus {
    entry(|| required(config, "config")?.set(SETTER, work))
}

/// A root that no image describes.
fn plain(config: &mut Config, rootfs: Rootfs) {
    config.root.rootfs = Some(rootfs);
    config.root.name = None;
    config.root.image = ImageConfig::default();
}

/// A host folder as the root; the guest never writes to it. A read-only root has no overlay that takes writes.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_rootfs_share(
    config: Option<&mut VmetteConfig>,
    path: Text,
    read_only: bool,
) -> VmetteStatus {
    set(config, |config| {
        let path = path.required("path")?.into();
        plain(config, Rootfs::Share(RootfsShare { path, read_only }));
        Ok(())
    })
}

/// A squashfs image as the root.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_rootfs_squashfs(
    config: Option<&mut VmetteConfig>,
    path: Text,
) -> VmetteStatus {
    set(config, |config| {
        let path = path.required("path")?.into();
        plain(config, Rootfs::Block(RootfsBlock { path, fstype: BlockFs::Squashfs }));
        Ok(())
    })
}

/// Whether the root is read-only, whatever it is: without an overlay that takes writes.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_rootfs_read_only(
    config: Option<&mut VmetteConfig>,
    read_only: bool,
) -> VmetteStatus {
    entry(|| {
        required(config, "config")?.set("vmette_config_set_rootfs_read_only", |config| {
            config.root.read_only = read_only;
            Ok(())
        })
    })
}

/// Resolves a spec such as `python:3.12-alpine`, `./rootfs`, `tar+file:///srv/root.tar.gz` or `builtin`, and makes it
/// the root, with how its image wants to be run. It uses what the configuration says by then: cache, offline, pull,
/// registry CA, plain HTTP, notices. It may download for minutes; `stop`, which may be NULL, calls that off from
/// another thread and is then of no more use. On failure the configuration cannot be used until a root is set.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_resolve_rootfs(
    config: Option<&mut VmetteConfig>,
    spec: Text,
    stop: Option<&VmetteStop>,
) -> VmetteStatus {
    entry(|| {
        let config = required(config, "config")?;
        let reporter = notice::reporter(config.notices());
        config.set(SETTER, |config| {
            let spec = spec.required("spec")?;
            let never = StopHandle::new();
            let stop = stop.map_or(&never, VmetteStop::handle);
            let artifact = library::resolve_rootfs_until(spec, &config.host, reporter, stop)?;
            config.root.set_artifact(artifact);
            config.root.name = Some(spec.to_owned());
            Ok(())
        })
    })
}
