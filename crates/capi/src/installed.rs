//! Where this library lies, since the programs that it needs lie near.

use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The file that this code was loaded from: the shared library, or the program that has it linked in.
pub(crate) fn own_file() -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    let address: *const libc::c_void = (crate::vmette_version as *const ()).cast();
    // SAFETY: any address may be asked for; `info` is filled when the answer is not 0.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: the call above has filled it.
    let info = unsafe { info.assume_init() };
    if info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name is the dynamic linker's and stays as long as this code is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let file = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    // A relative name would be looked up in the working directory, which may hold an untrusted project.
    file.is_absolute().then_some(file)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_code_has_a_file() {
        let own = super::own_file().unwrap();
        assert_eq!(own.canonicalize().unwrap(), std::env::current_exe().unwrap().canonicalize().unwrap());
    }
}
