//! Saving a session's machine, and sessions that end with that.

use std::path::Path;
use std::sync::Arc;

use super::Session;
use crate::end::{SessionEnd, Shared};
use crate::error::{Error, SaveError};
use crate::launch::Launched;
use crate::snapshot::{Saver, Then};

impl Session {
    /// Saves the whole machine into the new folder `target`: memory, devices, and what was written to its root. The
    /// session goes on, after a pause of a fraction of a second. Needs
    /// [`SnapshotOptions::allow`](crate::SnapshotOptions::allow).
    ///
    /// Commands that run now run on in each machine that starts from the snapshot; nobody reads what they print there,
    /// and their input is at its end. They are frozen until that machine has its own randomness, clock and names, and the
    /// shares that it was started with. Shares are unmounted while the machine is saved, and are no part of it: a command
    /// that has one in use makes this fail. Commands are frozen as long as the shares are gone.
    ///
    /// # Errors
    /// [`Error::SaveFailed`]: the session cannot be saved, a share is in use, or there is no room; nothing is left at
    /// `target` then, and the session goes on. [`Error::Engine`] and [`Error::Agent`] when the machine did not come
    /// through; if it has lost its shares, the session has ended.
    pub fn snapshot(&self, target: impl AsRef<Path>) -> Result<(), Error> {
        self.root()?;
        saver(&self.launched)?.save(target.as_ref(), Then::GoOn, &self.handle.shared)
    }
}

pub(super) fn saver(launched: &Launched) -> Result<&Arc<Saver>, Error> {
    match &launched.saver {
        Ok(saver) => Ok(saver),
        Err(reason) => Err(SaveError::Impossible(reason.clone()).into()),
    }
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
