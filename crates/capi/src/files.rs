//! Files into and out of a session.

use std::fs::File;
use std::mem::MaybeUninit;

use crate::arguments::Text;
use crate::config::duplicate;
use crate::session::{VmetteSession, with};
use crate::status::{Failure, VmetteStatus};

fn open(fd: i32) -> Result<File, Failure> {
    let file = duplicate(fd)?;
    file.ok_or_else(|| {
        Failure::new(VmetteStatus::InvalidConfig, format!("fd {fd}: no descriptor has that number"))
    })
}

/// Copies what can be read from `fd`, to its end, into a file of the guest: parent folders are made, an existing file
/// is replaced when everything has arrived. `mode` is its permission bits. The number of bytes goes to `copied`, if
/// that is not NULL. `fd` stays open.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_put(
    session: Option<&VmetteSession>,
    path: Text,
    mode: u32,
    fd: i32,
    copied: Option<&mut MaybeUninit<u64>>,
) -> VmetteStatus {
    with(session, |session| {
        let bytes = session.put(path.required("path")?, mode, &mut open(fd)?)?;
        if let Some(copied) = copied {
            copied.write(bytes);
        }
        Ok(())
    })
}

/// Copies a regular file of the guest to `fd`. Its permission bits go to `mode` and the number of bytes to `copied`,
/// where those are not NULL. `fd` stays open. The guest says how much there is: whoever calls this limits what `fd`
/// takes.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_get(
    session: Option<&VmetteSession>,
    path: Text,
    fd: i32,
    mode: Option<&mut MaybeUninit<u32>>,
    copied: Option<&mut MaybeUninit<u64>>,
) -> VmetteStatus {
    with(session, |session| {
        let info = session.get(path.required("path")?, &mut open(fd)?)?;
        if let Some(mode) = mode {
            mode.write(info.mode);
        }
        if let Some(copied) = copied {
            copied.write(info.size);
        }
        Ok(())
    })
}
