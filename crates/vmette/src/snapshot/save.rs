//! Saving the machine of a session.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmette_cache::{StagedFolder, sparse};
use vmette_vmm::Machine;
use vmette_wire::devices::Share;
use vmette_wire::root::{Attach, Detach};
use vmette_wire::{RootName, RootRequest};

use super::content::Digests;
use super::manifest::{Content, MACHINE, Manifest, SCRATCH};
use crate::connection::{Alone, Connection};
use crate::end::Shared;
use crate::error::{Error, SaveError};
use crate::{SessionEnd, identity};

/// How long the guest may take to mount or unmount its shares.
const SHARES_TIMEOUT: Duration = Duration::from_secs(60);

/// What happens to the session once it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It goes on.
    GoOn,
    /// It ends: nothing has to be given back to the guest.
    End,
}

/// The files that a manifest identifies and a snapshot does not hold.
#[derive(Debug, Clone)]
pub(crate) struct Outside {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) rootfs: PathBuf,
}

/// A session's machine with all that its snapshots say of it.
pub(crate) struct Saver {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) connection: Connection,
    /// Complete but for digests.
    pub(crate) manifest: Manifest,
    pub(crate) outside: Outside,
    pub(crate) scratch: Option<File>,
    /// Shares that the guest has mounted.
    pub(crate) shares: Vec<Share>,
    /// The root in which they are.
    pub(crate) root: RootName,
    pub(crate) digests: Digests,
    /// One at a time.
    pub(crate) turn: Mutex<()>,
}

impl Saver {
    /// Waits for a save under way, which fails soon when the session has ended: it removes what it has written.
    pub(crate) fn wait_idle(&self) {
        drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes a snapshot to the new folder `target`, unless the session ends first.
    pub(crate) fn save(&self, target: &Path, then: Then, session: &Shared) -> Result<(), Error> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        goes_on(session)?;
        let staging = StagedFolder::begin(target).map_err(SaveError::from)?;
        // What takes time and needs no machine comes first.
        let mut manifest = self.identified()?;
        let mut alone = self.connection.alone();
        self.give_up_shares(&mut alone, session)?;
        let saved = self.save_machine(&mut alone, staging.path(), then);
        if then == Then::GoOn {
            let taken_back = self.take_shares_back(&mut alone, session);
            saved.and(taken_back)?;
        } else {
            saved?;
        }
        drop(alone);
        manifest.files = self.seal(staging.path(), session)?;
        let failed = SaveError::file(target);
        manifest.write(staging.path()).map_err(&failed)?;
        goes_on(session)?;
        let folder = staging.publish().map_err(failed)?;
        for (name, content) in &manifest.files {
            self.digests.remember(&folder.join(name), &content.digest);
        }
        Ok(())
    }

    /// The manifest with the digests of what stays outside of the snapshot.
    fn identified(&self) -> Result<Manifest, Error> {
        let of = |path: &Path| self.digests.of(path).map_err(SaveError::file(path));
        let mut manifest = self.manifest.clone();
        manifest.kernel.digest = of(&self.outside.kernel)?;
        manifest.initramfs.digest = of(&self.outside.initramfs)?;
        let rootfs = &self.outside.rootfs;
        let size = fs::metadata(rootfs).map_err(SaveError::file(rootfs))?;
        manifest.rootfs.content = Content { size: size.len(), digest: of(rootfs)? };
        Ok(manifest)
    }

    /// No state can hold shares: the guest unmounts them, and the machine loses the devices. From here on the workload
    /// stands still, or it would write to its root what is meant for a share.
    fn give_up_shares(&self, alone: &mut Alone<'_>, session: &Shared) -> Result<(), Error> {
        if self.shares.is_empty() {
            return Ok(());
        }
        let detach = Detach { root: self.root.clone(), shares: self.shares.clone() };
        let answer = alone.request(RootRequest::Detach(detach), SHARES_TIMEOUT).inspect_err(|e| {
            // It may have done it, or be about to.
            session.finish(SessionEnd::Error(format!("the guest may have lost its shares: {e}")));
        })?;
        answer.map_err(|reason| SaveError::SharesInUse { reason })?;
        let unplugged = self.machine.unplug_shares();
        if unplugged.is_err() {
            // The caller is told of the first cause, the session's end of this one.
            let _ = self.take_shares_back(alone, session);
        }
        Ok(unplugged?)
    }

    /// Lets the workload go on with its shares. It is not to go on without them: the session ends when they are lost.
    fn take_shares_back(&self, alone: &mut Alone<'_>, session: &Shared) -> Result<(), Error> {
        if self.shares.is_empty() {
            return Ok(());
        }
        let plugged = self.machine.plug_shares().map_err(Error::from);
        let attached = plugged
            .and_then(|()| alone.request(RootRequest::Attach(self.attach()), SHARES_TIMEOUT))
            .and_then(|answer| answer.map_err(Error::Agent));
        attached.inspect_err(|e| {
            session.finish(SessionEnd::Error(format!("the guest has lost its shares: {e}")));
        })
    }

    fn attach(&self) -> Attach {
        Attach { root: self.root.clone(), shares: self.shares.clone(), ..Attach::default() }
    }

    /// Memory, devices and scratch disk, all of the same moment.
    fn save_machine(&self, alone: &mut Alone<'_>, folder: &Path, then: Then) -> Result<(), Error> {
        alone.hold()?;
        let saved = self.machine.pause().map_err(Error::from).and_then(|()| {
            self.machine.save(&folder.join(MACHINE)).map_err(SaveError::Engine)?;
            self.save_scratch(&folder.join(SCRATCH))
        });
        match then {
            Then::End => saved,
            Then::GoOn => saved.and(self.go_on(alone)),
        }
    }

    fn go_on(&self, alone: &mut Alone<'_>) -> Result<(), Error> {
        self.machine.resume()?;
        alone.release(identity::now_ns())
    }

    fn save_scratch(&self, path: &Path) -> Result<(), Error> {
        let Some(scratch) = &self.scratch else { return Ok(()) };
        let failed = SaveError::file(path);
        let mut options = File::options();
        let target =
            options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(&failed)?;
        Ok(sparse::duplicate(scratch, &target, || Ok(())).map_err(failed)?)
    }

    /// What is in the snapshot's files, which are on the disk when this returns.
    fn seal(&self, folder: &Path, session: &Shared) -> Result<BTreeMap<String, Content>, Error> {
        let mut files = BTreeMap::new();
        let names = fs::read_dir(folder.join(MACHINE))?
            .map(|entry| Ok(format!("{MACHINE}/{}", entry?.file_name().to_string_lossy())))
            .collect::<std::io::Result<Vec<_>>>()?;
        // The names of its files, too: the folder above is the last one that is written.
        File::open(folder.join(MACHINE))?.sync_all()?;
        let scratch = self.scratch.as_ref().map(|_| SCRATCH.to_owned());
        for name in names.into_iter().chain(scratch) {
            goes_on(session)?;
            let path = folder.join(&name);
            let failed = SaveError::file(&path);
            let file = File::open(&path).map_err(&failed)?;
            file.sync_all().map_err(&failed)?;
            let digest = super::content::digest_of(&file, session.cancel()).map_err(&failed)?;
            files.insert(name, Content { size: file.metadata().map_err(failed)?.size(), digest });
        }
        Ok(files)
    }
}

/// Whoever ends a session does not wait for more than what is under way.
fn goes_on(session: &Shared) -> Result<(), Error> {
    match session.ended() {
        Some(end) => Err(SaveError::SessionEnded(end).into()),
        None => Ok(()),
    }
}
