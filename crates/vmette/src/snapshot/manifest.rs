//! What a snapshot says of itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmette_image::ImageConfig;
use vmette_wire::{Boot, Root};

use crate::RootfsKind;

/// Version of the folder's layout and of this file.
pub(crate) const FORMAT: u32 = 2;

/// Written last: a folder without it is no snapshot.
pub(super) const MANIFEST: &str = "manifest.json";

/// The engine's own folder.
pub(crate) const MACHINE: &str = "machine";

/// What was on the scratch disk.
pub(crate) const SCRATCH: &str = "scratch";

/// Largest manifest that is read, in bytes. What images declare is in it.
const MANIFEST_MAX: u64 = 4 << 20;

/// The whole manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// The vmette that made it.
    pub(crate) vmette: String,
    /// Seconds since 1970.
    pub(crate) made: u64,
    /// The guest's architecture, as Rust names it.
    pub(crate) arch: String,
    pub(crate) engine: Engine,
    /// Version of the protocol that its agent speaks.
    pub(crate) protocol: u32,
    pub(crate) machine: Shape,
    pub(crate) kernel: BootFile,
    pub(crate) initramfs: BootFile,
    /// Modules beyond the usual ones in the initramfs.
    pub(crate) extra_modules: Vec<String>,
    pub(crate) rootfs: BaseImage,
    /// The set-up of the machine.
    pub(crate) boot: Boot,
    /// How its root was made.
    pub(crate) root: Root,
    /// Digest of the CA certificates that its root trusts beside its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_bundle: Option<String>,
    /// Size of its scratch disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scratch_mib: Option<u64>,
    /// How its image wants to be run.
    pub(crate) image: ImageConfig,
    /// All other files, by their path in the folder.
    pub(crate) files: BTreeMap<String, Content>,
}

/// What executed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Engine {
    /// As people write it.
    pub(crate) name: String,
    pub(crate) accelerator: String,
    /// All that a saved state depends on.
    pub(crate) fingerprint: String,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shape {
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u64,
    /// Places for disks and shares.
    pub(crate) slots: usize,
    /// Kernel command line.
    pub(crate) cmdline: String,
}

/// A kernel or an initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootFile {
    pub(crate) digest: String,
    /// Where it was, when the caller named it; vmette's own are found anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
}

/// The image that the root is built on; it stays outside of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BaseImage {
    pub(crate) kind: RootfsKind,
    /// As the caller named it.
    pub(crate) name: String,
    /// Its key in the store, if it is the store's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Where it was.
    pub(crate) path: PathBuf,
    pub(crate) fstype: String,
    pub(crate) content: Content,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) digest: String,
}

impl Manifest {
    /// Reads the manifest of the folder, if it is this user's and of a format that is known.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        let meta = fs::symlink_metadata(folder).map_err(|e| e.to_string())?;
        if !meta.is_dir() {
            return Err("it is no folder".into());
        }
        own(&meta, "it")?;
        let path = folder.join(MANIFEST);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(format!(
                    "it has no {MANIFEST}: it is no snapshot, or one that was never finished"
                ));
            }
            Err(e) => return Err(format!("{MANIFEST}: {e}")),
        };
        own(&meta, MANIFEST)?;
        if !meta.is_file() || meta.len() > MANIFEST_MAX {
            return Err(format!("its {MANIFEST} is damaged"));
        }
        let text = fs::read(&path).map_err(|e| format!("{MANIFEST}: {e}"))?;
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged = |e| format!("its {MANIFEST} is damaged: {e}");
        let Format { format } = serde_json::from_slice(text).map_err(damaged)?;
        if format != FORMAT {
            return Err(format!("it has format {format}, this version of vmette reads {FORMAT}"));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(damaged)?;
        let plain = |name: &String| {
            Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        match manifest.files.keys().find(|name| !plain(name)) {
            Some(name) => Err(format!("its {MANIFEST} is damaged: a file {name:?}")),
            None => Ok(manifest),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        if text.len() as u64 > MANIFEST_MAX {
            return Err(io::Error::other(format!("{MANIFEST} would have more than {MANIFEST_MAX} bytes")));
        }
        let mut file =
            File::options().write(true).create_new(true).mode(0o600).open(folder.join(MANIFEST))?;
        file.write_all(&text)?;
        file.sync_all()
    }
}

/// Who can write to a snapshot chooses the kernel that runs in it: it is taken from nobody but this user.
pub(super) fn own(meta: &fs::Metadata, what: &str) -> Result<(), String> {
    const OTHERS_WRITE: u32 = 0o022;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("{what} belongs to user {}, not to you", meta.uid()));
    }
    if meta.mode() & OTHERS_WRITE != 0 {
        return Err(format!(
            "{what} may be written by others (mode {:o}): take that permission away if you trust it",
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use vmette_wire::root::Base;

    fn manifest() -> Manifest {
        let file = || BootFile { digest: "0".repeat(64), path: None };
        let content = || Content { size: 1, digest: "1".repeat(64) };
        Manifest {
            format: FORMAT,
            vmette: "1.2.3".into(),
            made: 1,
            arch: "x86_64".into(),
            engine: Engine { name: "e".into(), accelerator: "tcg".into(), fingerprint: "f".into() },
            protocol: 1,
            machine: Shape { vcpus: 1, memory_mib: 512, slots: 0, cmdline: "quiet".into() },
            kernel: file(),
            initramfs: file(),
            extra_modules: Vec::new(),
            rootfs: BaseImage {
                kind: RootfsKind::Image,
                name: "alpine".into(),
                key: None,
                path: "/i".into(),
                fstype: "squashfs".into(),
                content: content(),
            },
            boot: Boot::default(),
            root: Root::new(Base::rootfs_disk("squashfs")),
            ca_bundle: None,
            scratch_mib: Some(64),
            image: ImageConfig::default(),
            files: BTreeMap::from([("machine/state".into(), content())]),
        }
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        manifest().write(dir.path()).unwrap();
        dir
    }

    fn refused(dir: &Path, word: &str) {
        let reason = Manifest::read(dir).unwrap_err();
        assert!(reason.contains(word), "{word}: {reason}");
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(Manifest::read(folder().path()).unwrap(), manifest());
    }

    #[test]
    fn damage_other_formats_and_paths_that_lead_elsewhere_are_refused() {
        let changed = |from: &str, to: &str, word: &str| {
            let dir = folder();
            let path = dir.path().join(MANIFEST);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            refused(dir.path(), word);
        };
        changed("\"format\": 2", "\"format\": 1, \"new\": 1", "format 1");
        changed("\"made\"", "\"made_by\"", "damaged");
        changed("}", "", "damaged");
        for path in ["../state", "/machine/state", "machine/../../state"] {
            changed("machine/state", path, "damaged");
        }
        let dir = folder();
        fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        refused(dir.path(), "never finished");
        fs::write(dir.path().join(MANIFEST), vec![b' '; usize::try_from(MANIFEST_MAX).unwrap() + 1]).unwrap();
        refused(dir.path(), "damaged");
        refused(&dir.path().join(MANIFEST), "no folder");
        refused(&dir.path().join("none"), "No such file");
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let dir = folder();
        let manifest = dir.path().join(MANIFEST);
        fs::set_permissions(&manifest, fs::Permissions::from_mode(0o666)).unwrap();
        refused(dir.path(), "may be written by others");
        fs::set_permissions(&manifest, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        refused(dir.path(), "may be written by others");
    }

    #[test]
    fn one_that_nobody_would_read_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut large = manifest();
        large.vmette = "x".repeat(usize::try_from(MANIFEST_MAX).unwrap());
        assert!(large.write(dir.path()).is_err());
    }
}
