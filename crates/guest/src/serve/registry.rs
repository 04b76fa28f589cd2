//! All streams of the agent, of whatever kind.

use std::collections::BTreeMap;
use std::time::Instant;

use vmette_wire::streams::Input;

use crate::child;
use crate::stream::{AGENT, Limit, Out, Progress, Role, Stream, StreamError};

/// The streams by their numbers, which are those of their descriptors' owners.
#[derive(Default)]
pub(super) struct Registry {
    /// Those of the present host.
    streams: BTreeMap<u32, Box<dyn Stream>>,
    /// Those that have outlived the host of a machine that was saved.
    orphans: BTreeMap<u32, Box<dyn Stream>>,
    last: u32,
}

impl Registry {
    /// A number for a new stream.
    pub(super) fn reserve(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != AGENT
                && !self.streams.contains_key(&self.last)
                && !self.orphans.contains_key(&self.last)
            {
                return self.last;
            }
        }
    }

    pub(super) fn insert(&mut self, number: u32, stream: Box<dyn Stream>) {
        self.streams.insert(number, stream);
    }

    /// Refuses a new stream where `limit` is reached. A process that was killed and has not ended counts, since a workload
    /// can put that end off.
    pub(super) fn admit(&self, limit: &'static Limit) -> Result<(), String> {
        let all = self.streams.values().chain(self.orphans.values());
        let alike = all.filter(|stream| std::ptr::eq(stream.limit(), limit)).count();
        if alike + child::reap_killed() < limit.max {
            return Ok(());
        }
        Err(format!(
            "{} {} are under way in this machine, which is the most: end one first",
            limit.max, limit.what
        ))
    }

    /// `true` while a stream has the request.
    pub(super) fn has(&self, id: u32) -> bool {
        self.streams.values().any(|stream| stream.id() == Some(id))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Hands a frame to the stream of that request. It may have ended while the frame was on its way.
    pub(super) fn input(
        &mut self,
        id: u32,
        input: Input,
        payload: &[u8],
        out: &mut Out,
    ) -> Result<(), StreamError> {
        let Some((number, stream)) = self.streams.iter_mut().find(|(_, stream)| stream.id() == Some(id))
        else {
            return Ok(());
        };
        let number = *number;
        if stream.input(input, payload, out)? == Progress::Finished {
            self.streams.remove(&number);
        }
        Ok(())
    }

    pub(super) fn wake(&mut self, number: u32, role: Role) -> Result<(), StreamError> {
        let stream = self.streams.get_mut(&number).or_else(|| self.orphans.get_mut(&number));
        stream.map_or(Ok(()), |stream| stream.wake(role))
    }

    /// Moves one chunk of each.
    pub(super) fn pump(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, StreamError> {
        let mut progress = Progress::Idle;
        let mut failure = None;
        for streams in [&mut self.streams, &mut self.orphans] {
            streams.retain(|_, stream| match stream.pump(out, scratch) {
                Ok(Progress::Finished) => false,
                Ok(one) => {
                    progress = progress.max(one);
                    true
                }
                Err(e) => {
                    failure.get_or_insert(e);
                    true
                }
            });
        }
        failure.map_or(Ok(progress), Err)
    }

    /// The next time at which there is something to do without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.streams.values().chain(self.orphans.values()).filter_map(|stream| stream.deadline()).min()
    }

    /// The host of a machine that was saved is gone: its commands go on without it, everything else is forgotten.
    pub(super) fn orphan(&mut self) {
        for (number, mut stream) in std::mem::take(&mut self.streams) {
            if stream.orphan() {
                self.orphans.insert(number, stream);
            }
        }
    }

    /// The host is gone: its streams end.
    pub(super) fn end(&mut self) {
        self.streams.clear();
        child::settle();
    }
}

impl Drop for Registry {
    /// When the host sees the end of the connection, its commands are gone.
    fn drop(&mut self) {
        self.orphans.clear();
        self.end();
    }
}
