//! Saving a session's machine, and sessions that end with that.

use std::path::Path;
use std::sync::Arc;

use super::Session;
use crate::end::{SessionEnd, Shared};
use crate::error::{Error, SaveError};
use crate::launch::Launched;
use crate::snapshot::{Saver, Then};

pub(super) fn saver(launched: &Launched) -> Result<&Arc<Saver>, Error> {
    match &launched.saver {
        Ok(saver) => Ok(saver),
        Err(reason) => Err(SaveError::Impossible(reason.clone()).into()),
    }
}

/// Saves the machine, which goes on.
pub(super) fn save(launched: &Launched, target: &Path, shared: &Shared) -> Result<(), Error> {
    saver(launched)?.save(target, Then::GoOn, shared)
}

/// Saves the machine in a thread, and ends the session.
pub(super) fn save_and_end(session: &Session, target: &Path) -> Result<(), Error> {
    let (saver, shared) = (saver(&session.launched)?.clone(), session.handle.shared.clone());
    let target = target.to_owned();
    std::thread::Builder::new().name("vmette-save".into()).spawn(move || {
        let end = end_of_save(&saver, &target, &shared);
        shared.finish(end);
    })?;
    Ok(())
}

/// How a session ends that is saved when its command has succeeded.
pub(super) fn end_of_save(saver: &Saver, target: &Path, shared: &Shared) -> SessionEnd {
    match saver.save(target, Then::End, shared) {
        Ok(()) => SessionEnd::Exited(0),
        Err(e) => SessionEnd::Error(e.to_string()),
    }
}
