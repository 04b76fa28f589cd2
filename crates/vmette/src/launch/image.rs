//! What the guest is told of an image's wishes, and what people are told of the image.

use std::path::Path;

use vmette_image::{ImageConfig, Key, Store};

use crate::config::{RootOptions, Rootfs, ShareMount};
use crate::report::{RootfsKind, RootfsReport};

/// Digits of an image's identity that are shown: as many as container tools show.
const ID_DIGITS: usize = 12;

/// Folders whose file systems are the guest's own: nothing of the root is in them, and nobody writes to them.
const GUESTS_OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The folders that the guest has to give to the image's commands for writing: plain paths, sorted, each once, without
/// those that a share covers.
pub(super) fn volumes(image: &ImageConfig, shares: &[ShareMount]) -> Vec<String> {
    let mut volumes: Vec<String> = image.volumes.iter().map(|volume| plain(volume)).collect();
    volumes.sort_unstable();
    volumes.dedup();
    let taken = |volume: &str| {
        let covers = |folder: &str| Path::new(volume).starts_with(folder);
        volume == "/"
            || GUESTS_OWN.into_iter().any(covers)
            || shares.iter().any(|share| covers(&share.guest_path()))
    };
    volumes.retain(|volume| !taken(volume));
    volumes
}

/// The folder that the guest makes when it is missing.
pub(super) fn working_dir(image: &ImageConfig) -> Option<String> {
    start_of(image).filter(|dir| dir != "/")
}

/// Where the image's commands start, if it says so.
pub(crate) fn start_of(image: &ImageConfig) -> Option<String> {
    image.working_dir.as_deref().filter(|dir| !dir.is_empty()).map(plain)
}

/// An absolute path without empty components, single and double dots; none leads above the root.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// What the root is, where `store` knows it.
pub(super) fn rootfs_report(root: &RootOptions, store: &Store) -> RootfsReport {
    let (kind, path) = match &root.rootfs {
        None => (RootfsKind::Builtin, None),
        Some(Rootfs::Share(share)) => (RootfsKind::Directory, Some(&share.path)),
        Some(Rootfs::Block(block)) => (RootfsKind::Image, Some(&block.path)),
    };
    let shown = |path: &std::path::PathBuf| path.display().to_string();
    let name = root.name.clone().or_else(|| path.map(shown));
    let id = path.and_then(|path| id_in(store, path));
    RootfsReport { kind, name: name.unwrap_or_else(|| vmette_image::BUILTIN_SPEC.to_owned()), id }
}

/// The first digits of the identity that the store has for the image.
fn id_in(store: &Store, path: &Path) -> Option<String> {
    if path.parent() != Some(store.dir()) {
        return None;
    }
    let key: Key = path.file_stem()?.to_str()?.parse().ok()?;
    let id = store.peek(&key)?.id();
    id.get(..ID_DIGITS).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(volumes: &[&str]) -> ImageConfig {
        ImageConfig { volumes: volumes.iter().map(|v| (*v).to_owned()).collect(), ..ImageConfig::default() }
    }

    #[test]
    fn volumes_are_plain_sorted_and_each_once() {
        let declared = ["/b/", "//a/./b", "/a/b", "/", "/.", "/proc/x", "/sys", "/dev/shm", "/system"];
        assert_eq!(volumes(&image(&declared), &[]), ["/a/b", "/b", "/system"]);
    }

    #[test]
    fn shares_win() {
        let at = |target: &str| ShareMount { target: Some(target.into()), ..ShareMount::new("x", "/tmp") };
        let declared = ["/data", "/data/db", "/database"];
        assert_eq!(volumes(&image(&declared), &[at("/data")]), ["/database"]);
        assert_eq!(volumes(&image(&declared), &[at("/data/db/")]), ["/data", "/database"]);
    }

    #[test]
    fn a_working_directory_is_plain_too() {
        let of = |dir: &str| working_dir(&ImageConfig { working_dir: Some(dir.into()), ..image(&[]) });
        assert_eq!(of("/srv//app/"), Some("/srv/app".into()));
        assert_eq!(of("/srv/./../../app"), Some("/app".into()));
        assert_eq!(of("/srv/.."), None);
        assert_eq!(of("/"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn a_root_has_the_name_that_the_caller_gave_it_and_else_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut root = RootOptions::default();
        let builtin = rootfs_report(&root, &store);
        assert_eq!((builtin.kind, builtin.name.as_str(), builtin.id), (RootfsKind::Builtin, "builtin", None));
        let path = "/srv/image.sqfs".into();
        root.rootfs = Some(Rootfs::Block(crate::RootfsBlock { path, fstype: crate::BlockFs::Squashfs }));
        let image = rootfs_report(&root, &store);
        assert_eq!((image.kind, image.name.as_str(), image.id), (RootfsKind::Image, "/srv/image.sqfs", None));
        root.name = Some("alpine:3.20".into());
        assert_eq!(rootfs_report(&root, &store).name, "alpine:3.20");
    }
}
