//! Output that is kept for whoever asks for it.

use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{CAPTURE_MAX, Error, Output, Process};

/// Pieces that wait for their receiver; what comes after them waits as one.
pub(crate) const PIECES: usize = 16;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutput {
    /// The command's exit status; 124 for a timeout, 0 for a stop, 1 for an error of the machine.
    pub exit_code: i32,
    /// The captured output; empty when the output was passed on.
    pub output: String,
}

/// Passes a command's output to a channel: [`CAPTURE_MAX`] bytes, then a line that says that there was more. A
/// receiver that is late or gone does not stop the command. Returns when everything was received, or nobody is there.
pub(crate) fn capture(process: &Process, sender: &SyncSender<Vec<u8>>) -> Result<(), Error> {
    capture_from(|| process.next_output(), sender)
}

fn capture_from(
    mut next: impl FnMut() -> Result<Option<Output>, Error>,
    sender: &SyncSender<Vec<u8>>,
) -> Result<(), Error> {
    let late = Late::default();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("vmette-capture".into());
        thread.spawn_scoped(scope, || late.pass_on(sender))?;
        let _end = EndOnDrop(&late);
        let mut room = CAPTURE_MAX;
        let mut cut = false;
        while let Some(output) = next()? {
            let (Output::Stdout(mut bytes) | Output::Stderr(mut bytes)) = output;
            if bytes.len() > room {
                bytes.truncate(room);
                cut = true;
            }
            room -= bytes.len();
            late.push(&bytes);
        }
        if cut {
            late.push(format!("\n[output truncated at {CAPTURE_MAX} bytes]\n").as_bytes());
        }
        Ok(())
    })
}

/// Output that the receiver has not come to, in one piece: a guest chooses how small its pieces are, and each costs more
/// than the bytes in it.
#[derive(Default)]
struct Late {
    state: Mutex<LateState>,
    changed: Condvar,
}

#[derive(Default)]
struct LateState {
    bytes: Vec<u8>,
    ended: bool,
}

impl Late {
    fn lock(&self) -> MutexGuard<'_, LateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        self.lock().bytes.extend_from_slice(bytes);
        self.changed.notify_all();
    }

    /// Hands on what there is whenever the channel has room, until the end.
    fn pass_on(&self, sender: &SyncSender<Vec<u8>>) {
        loop {
            let nothing_yet = |state: &mut LateState| state.bytes.is_empty() && !state.ended;
            let waited = self.changed.wait_while(self.lock(), nothing_yet);
            let piece = std::mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).bytes);
            if piece.is_empty() || sender.send(piece).is_err() {
                return;
            }
        }
    }
}

/// However the output ends, nobody waits for more of it.
struct EndOnDrop<'a>(&'a Late);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn single_bytes_that_nobody_receives_wait_as_a_few_pieces() {
        const BYTES: usize = 100_000;
        let (sender, receiver) = mpsc::sync_channel(PIECES);
        let (done, printed) = mpsc::channel();
        let capturing = std::thread::spawn(move || {
            let mut left = BYTES;
            let next = || {
                if left == 0 {
                    done.send(()).unwrap();
                    return Ok(None);
                }
                left -= 1;
                let byte = vec![u8::try_from(left % 251).unwrap()];
                Ok(Some(if left.is_multiple_of(2) { Output::Stdout(byte) } else { Output::Stderr(byte) }))
            };
            capture_from(next, &sender)
        });
        printed.recv().unwrap();
        let pieces: Vec<Vec<u8>> = receiver.iter().collect();
        capturing.join().unwrap().unwrap();
        // Those in the channel, the one on its way, and the rest.
        assert!(pieces.len() <= PIECES + 2, "{}", pieces.len());
        let expected = (0..BYTES).rev().map(|left| u8::try_from(left % 251).unwrap());
        assert!(pieces.concat().into_iter().eq(expected));
    }

    #[test]
    fn a_receiver_that_is_gone_does_not_stop_the_command() {
        let (sender, receiver) = mpsc::sync_channel(PIECES);
        drop(receiver);
        let mut left = 1000;
        let next = || {
            left -= 1;
            Ok((left > 0).then(|| Output::Stdout(vec![0; 4096])))
        };
        capture_from(next, &sender).unwrap();
        assert_eq!(left, 0);
    }
}
