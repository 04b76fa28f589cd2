//! The places of the programs that this engine starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vmette_backend::{VIRTIOFSD, VSOCKD};
use vmette_spawn::find_on_path;
use vmette_vmm::{Device, Error, Result};

use crate::ENGINE;

/// Names the QEMU program.
pub(crate) const QEMU_VARIABLE: &str = "VMETTE_QEMU";

/// Names the folder with vmette's own helper programs.
pub(crate) const LIBEXEC_VARIABLE: &str = "VMETTE_LIBEXEC_DIR";

const QEMU: &str = if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };

const QEMU_REMEDY: &str = if cfg!(target_os = "macos") {
    "brew install qemu"
} else if cfg!(target_arch = "aarch64") {
    "sudo apt-get install qemu-system-arm"
} else {
    "sudo apt-get install qemu-system-x86"
};

/// The QEMU program: the one that was named, or the first on `PATH`.
pub(crate) fn qemu(option: Option<&Path>) -> Result<PathBuf> {
    let unavailable = |reason| Error::Unavailable { engine: ENGINE, reason };
    let variable = std::env::var_os(QEMU_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = option.map(|path| (path.to_owned(), "given to this engine"));
    match named.or(variable.map(|path| (path, QEMU_VARIABLE))) {
        Some((path, by)) if !is_program(&path) => {
            Err(unavailable(format!("{} ({by}) is not a program that can be run", path.display())))
        }
        Some((path, _)) => std::path::absolute(path).map_err(Error::io("make a path absolute")),
        None => find_on_path(QEMU)
            .ok_or_else(|| unavailable(format!("{QEMU} is not on PATH: install it with `{QEMU_REMEDY}`"))),
    }
}

/// The programs that serve devices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programs {
    /// The share server, if it was named.
    pub(crate) virtiofsd: Option<PathBuf>,
    /// The vsock server, if it was named.
    pub(crate) vsockd: Option<PathBuf>,
    /// A file of the installation, if that is not the running program's.
    pub(crate) installed_at: Option<PathBuf>,
}

impl Programs {
    /// The program that serves such a device: the one that was named, or where the installation and the running program
    /// suggest. `None` for a device that QEMU serves by itself.
    pub(crate) fn for_device(&self, device: &Device) -> Result<Option<PathBuf>> {
        match device {
            Device::Share(_) => self.virtiofsd().map(Some),
            Device::Vsock => self.vsockd().map(Some),
            Device::Disk(_) | Device::Network(_) => Ok(None),
        }
    }

    /// The program that serves host folders.
    pub(crate) fn virtiofsd(&self) -> Result<PathBuf> {
        self.find(VIRTIOFSD, "serves host folders", self.virtiofsd.as_deref())
    }

    /// The program that serves vsock devices.
    pub(crate) fn vsockd(&self) -> Result<PathBuf> {
        self.find(VSOCKD, "serves vsock", self.vsockd.as_deref())
    }

    fn find(&self, name: &str, task: &'static str, named: Option<&Path>) -> Result<PathBuf> {
        if cfg!(target_os = "linux") {
            return server(name, task, named, self.installed_at.as_deref());
        }
        let reason = format!("the program that {task}, {name}, runs on Linux only");
        Err(Error::Unsupported { engine: ENGINE, operation: "sharing folders and vsock", reason })
    }
}

fn server(name: &str, task: &str, option: Option<&Path>, installed_at: Option<&Path>) -> Result<PathBuf> {
    let program = std::env::current_exe().ok();
    let places = match option {
        Some(path) => vec![path.to_owned()],
        None => server_places(
            name,
            std::env::var_os(LIBEXEC_VARIABLE).map(PathBuf::from).as_deref(),
            installed_at.into_iter().chain(program.as_deref()),
        ),
    };
    let found = places.iter().find(|path| is_program(path)).cloned();
    let found = found.or_else(|| option.is_none().then(|| find_on_path(name)).flatten());
    let Some(found) = found else {
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::Unavailable {
            engine: ENGINE,
            reason: format!(
                "the program that {task}, {name}, is in none of {} and not on PATH: \
                 install it with vmette, or name its folder in {LIBEXEC_VARIABLE}",
                places.join(", ")
            ),
        });
    };
    std::path::absolute(found).map_err(Error::io("make a path absolute"))
}

/// Around each file: beside it, one folder up (test programs live in `target/<profile>/deps`), and in the `libexec` of
/// the prefix it is installed in.
fn server_places<'a>(
    name: &str,
    libexec: Option<&Path>,
    files: impl IntoIterator<Item = &'a Path>,
) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = libexec.into_iter().map(Path::to_owned).collect();
    for file in files {
        // Installations link one file under several names.
        let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let Some(folder) = file.parent() else { continue };
        folders.push(folder.to_owned());
        if let Some(parent) = folder.parent() {
            folders.push(parent.to_owned());
            folders.push(parent.join("libexec/vmette"));
        }
    }
    folders.into_iter().map(|folder| folder.join(name)).collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_must_be_one() {
        let error = qemu(Some(Path::new("/etc/passwd"))).unwrap_err().to_string();
        assert!(error.contains("/etc/passwd"), "{error}");
        assert_eq!(qemu(Some(Path::new("/bin/sh"))).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn the_share_server_is_looked_for_around_the_installation_and_every_place_is_named() {
        let files = ["/there/lib/libvmette.so", "/nowhere/bin/vmette"].map(Path::new);
        let places = server_places(VIRTIOFSD, Some(Path::new("/x")), files);
        let around_library = ["/there/lib", "/there", "/there/libexec/vmette"];
        let around_program = ["/nowhere/bin", "/nowhere", "/nowhere/libexec/vmette"];
        let expected = ["/x"].into_iter().chain(around_library).chain(around_program);
        let expected: Vec<PathBuf> = expected.map(|dir| Path::new(dir).join(VIRTIOFSD)).collect();
        assert_eq!(places, expected);
        let programs = Programs { virtiofsd: Some("/nowhere/server".into()), ..Programs::default() };
        let error = programs.virtiofsd().unwrap_err().to_string();
        assert!(error.contains("/nowhere/server") && error.contains(LIBEXEC_VARIABLE), "{error}");
    }
}
