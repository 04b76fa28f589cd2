//! One request of the guest's: from a chain of buffers to the answer in it.
//!
//! Whatever is in the buffers, the request ends with an answer, and the server goes on. The library has no answer for
//! requests that it cannot read; here they get one.

use std::io::{self, Read, Write};
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vhost::vhost_user::Backend;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{FileLock, InHeader, LK_FLOCK, LkIn, LkOut, Opcode, OutHeader};
use virtiofsd::server::Server;
use vm_memory::{ByteValued, GuestMemoryLoadGuard, GuestMemoryMmap};

use crate::folder::{Files, Folder};
use crate::locks::{Request, Taken};

/// The guest's memory at one moment.
pub(crate) type Memory = GuestMemoryMmap<BitmapMmapRegion>;

/// Keeps it mapped.
pub(crate) type Guard = GuestMemoryLoadGuard<Memory>;

/// Buffers of the guest's.
pub(crate) type Chain = DescriptorChain<Guard>;

/// Time for which a process of the guest waits for a lock. Its kernel cannot interrupt the wait: neither a signal nor a
/// timer of the process ends it.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// An answer, or the promise of one.
pub(crate) enum Answer {
    /// So many bytes were written.
    Written(usize),
    /// The guest waits for a lock.
    Later(Waiting),
}

/// A request for a lock that cannot be granted yet.
#[derive(Clone)]
pub(crate) struct Waiting {
    header: InHeader,
    request: Request,
    /// It is not tried before.
    not_before: Instant,
    /// It fails when it is tried after.
    until: Instant,
    /// The error then.
    otherwise: Errno,
}

/// The guest's requests to one share.
pub(crate) struct Requests<P: Files> {
    folder: Folder<P>,
    server: Server<Folder<P>>,
}

impl<P: Files> Requests<P> {
    pub(crate) fn new(folder: Folder<P>) -> Self {
        Self { server: Server::new(folder.clone()), folder }
    }

    /// The guest's memory changed its size.
    pub(crate) fn set_files_max(&self, files: usize) {
        self.folder.set_files_max(files);
    }

    /// True if a request makes everything before it void.
    pub(crate) fn is_new_start(memory: &Memory, chain: &Chain) -> bool {
        header(memory, chain).is_some_and(|header| {
            matches!(Opcode::try_from(header.opcode), Ok(Opcode::Init | Opcode::Destroy))
        })
    }

    /// Serves a request. A lock is waited for only if there is room for one that waits.
    pub(crate) fn serve(&self, memory: &Memory, chain: &Chain, may_wait: bool) -> Answer {
        let Some(header) = header(memory, chain) else { return Answer::Written(0) };
        let opcode = Opcode::try_from(header.opcode).ok();
        if matches!(opcode, Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::Destroy))
        {
            // They have no answer, and what is wrong with them concerns nobody.
            let _ = self.pass_on(memory, chain);
            return Answer::Written(0);
        }
        if Writer::new(memory, chain.clone()).map_or(0, |w| w.available_bytes()) < size_of::<OutHeader>() {
            return Answer::Written(0);
        }
        let answer = match opcode {
            Some(Opcode::Getlk) => self.lock(memory, chain, &header, true, None),
            Some(Opcode::Setlk) => self.lock(memory, chain, &header, false, None),
            Some(Opcode::Setlkw) => {
                self.lock(memory, chain, &header, false, may_wait.then(|| Instant::now() + LOCK_LIMIT))
            }
            Some(Opcode::Readdirplus) => {
                self.folder.set_listing(true);
                let answer = self.pass_on(memory, chain).map(Answer::Written);
                self.folder.set_listing(false);
                answer
            }
            _ => self.pass_on(memory, chain).map(Answer::Written),
        };
        match answer {
            Ok(Answer::Later(_)) if !may_wait => Answer::Written(fail(memory, chain, &header, Errno::NOLCK)),
            Ok(answer) => answer,
            Err(error) => Answer::Written(fail(memory, chain, &header, error)),
        }
    }

    /// The library's way. An error is the one to answer with.
    fn pass_on(&self, memory: &Memory, chain: &Chain) -> Result<usize, Errno> {
        let reader = Reader::new(memory, chain.clone()).map_err(|_| Errno::INVAL)?;
        let writer = Writer::new(memory, chain.clone()).map_err(|_| Errno::INVAL)?;
        let served = catch_unwind(AssertUnwindSafe(|| {
            self.server.handle_message(reader, writer, None::<&mut Backend>)
        }));
        match served {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(_)) => Err(Errno::INVAL),
            Err(_) => Err(Errno::IO),
        }
    }

    fn lock(
        &self,
        memory: &Memory,
        chain: &Chain,
        header: &InHeader,
        test: bool,
        until: Option<Instant>,
    ) -> Result<Answer, Errno> {
        let mut reader = Reader::new(memory, chain.clone()).map_err(|_| Errno::INVAL)?;
        let mut skipped = [0; size_of::<InHeader>()];
        reader.read_exact(&mut skipped).map_err(|_| Errno::INVAL)?;
        let asked: LkIn = reader.read_obj().map_err(|_| Errno::INVAL)?;
        let request = Request {
            node: header.nodeid,
            handle: asked.fh,
            owner: asked.owner,
            whole: asked.lk_flags & LK_FLOCK != 0,
            kind: asked.lk.type_,
            start: asked.lk.start,
            end: asked.lk.end,
            test,
        };
        let now = Instant::now();
        let waiting = Waiting {
            header: *header,
            request,
            not_before: now,
            until: until.unwrap_or(now),
            otherwise: if until.is_some() { Errno::NOLCK } else { Errno::AGAIN },
        };
        Ok(match self.attempt(memory, chain, &waiting) {
            Attempt::Answered(written) => Answer::Written(written),
            Attempt::NotYet(waiting) => Answer::Later(waiting),
        })
    }

    /// Tries once more to serve a request that waits.
    pub(crate) fn attempt(&self, memory: &Memory, chain: &Chain, waiting: &Waiting) -> Attempt {
        let now = Instant::now();
        if now < waiting.not_before {
            return Attempt::NotYet(waiting.clone());
        }
        let header = &waiting.header;
        let taken =
            catch_unwind(AssertUnwindSafe(|| self.folder.lock(Context::from(*header), &waiting.request)))
                .unwrap_or_else(|_| Err(Errno::IO.into()));
        Attempt::Answered(match taken {
            Ok(Taken::Yes) => succeed(memory, chain, header, &[]),
            Ok(Taken::InTheWay { kind, start, end }) => {
                let lock = LkOut { lk: FileLock { start, end, type_: kind, pid: 0 } };
                succeed(memory, chain, header, lock.as_slice())
            }
            Ok(Taken::NotBefore(time)) => {
                return Attempt::NotYet(Waiting {
                    not_before: time,
                    until: waiting.until.max(time),
                    ..waiting.clone()
                });
            }
            Ok(Taken::No) if now < waiting.until => return Attempt::NotYet(waiting.clone()),
            Ok(Taken::No) => fail(memory, chain, header, waiting.otherwise),
            Err(e) => fail(memory, chain, header, Errno::from_io_error(&e).unwrap_or(Errno::IO)),
        })
    }
}

/// What another attempt came to.
pub(crate) enum Attempt {
    /// So many bytes were written.
    Answered(usize),
    /// It goes on waiting.
    NotYet(Waiting),
}

fn header(memory: &Memory, chain: &Chain) -> Option<InHeader> {
    Reader::new(memory, chain.clone()).ok()?.read_obj().ok()
}

fn succeed(memory: &Memory, chain: &Chain, header: &InHeader, payload: &[u8]) -> usize {
    answer(memory, chain, header, 0, payload)
}

fn fail(memory: &Memory, chain: &Chain, header: &InHeader, error: Errno) -> usize {
    answer(memory, chain, header, -error.raw_os_error(), &[])
}

/// Writes an answer. One that does not fit is none, which is the guest's own doing.
fn answer(memory: &Memory, chain: &Chain, header: &InHeader, error: i32, payload: &[u8]) -> usize {
    let len = size_of::<OutHeader>() + payload.len();
    let out = OutHeader { len: u32::try_from(len).unwrap_or(u32::MAX), error, unique: header.unique };
    let written = Writer::new(memory, chain.clone()).map_err(io::Error::other).and_then(|mut writer| {
        writer.write_all(out.as_slice())?;
        writer.write_all(payload)
    });
    if written.is_ok() { len } else { 0 }
}
