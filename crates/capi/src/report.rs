//! What a session had, and what one would have, as JSON.

use std::ffi::CString;
use std::mem::MaybeUninit;

use crate::arguments::{OwnString, required};
use crate::config::VmetteConfig;
use crate::entry::entry;
use crate::session::VmetteSession;
use crate::status::{Failure, VmetteStatus};

pub(crate) fn json_of<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::new(VmetteStatus::OtherError, format!("JSON: {e}")))
}

/// Hands a string over to C.
fn give(out: &mut MaybeUninit<OwnString>, json: String) -> Result<(), Failure> {
    // JSON has NUL as an escape sequence only.
    let json =
        CString::new(json).map_err(|e| Failure::new(VmetteStatus::OtherError, format!("JSON: {e}")))?;
    out.write(OwnString::give(json));
    Ok(())
}

/// Stores what the session had, as JSON: root, engine, accelerator, isolation, reasons, grants, timings. Free it with
/// vmette_string_free().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_report(
    session: Option<&VmetteSession>,
    json: Option<&mut MaybeUninit<OwnString>>,
) -> VmetteStatus {
    entry(|| {
        let session = required(session, "session")?;
        let json = required(json, "json")?;
        let report = session.running().map_err(|why| Failure {
            message: "the session ended before its machine was up: it has no report".into(),
            ..why
        })?;
        give(json, json_of(report.report())?)
    })
}

/// Stores what a session of this configuration would have here, and why not more, as JSON; nothing is started, fetched
/// or changed. `ok` in it says whether a session would start. Free it with vmette_string_free().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_doctor(
    config: Option<&VmetteConfig>,
    json: Option<&mut MaybeUninit<OwnString>>,
) -> VmetteStatus {
    entry(|| {
        let config = required(config, "config")?.ready()?;
        let json = required(json, "json")?;
        give(json, json_of(&library::doctor::examine(config))?)
    })
}

/// Frees a string that vmette stored. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_string_free(string: OwnString) {
    entry(|| {
        drop(string.take());
        Ok(())
    });
}
