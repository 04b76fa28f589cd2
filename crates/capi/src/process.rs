//! A command in a session.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use library::{Output, Process};

use crate::arguments::{Bytes, Room, required};
use crate::entry::{entry, entry_or};
use crate::output::{OutputSink, VmetteCollected, VmetteOutputFn, VmetteStream, put_first, split};
use crate::status::{Failure, VmetteStatus};

/// A command in a session. Its functions may be called from any thread. Its output has to be taken: the guest holds it
/// back when about 1 MiB waits.
pub struct VmetteProcess {
    process: Arc<Process>,
    /// What `vmette_process_read` had no room for, from there on.
    rest: Mutex<Option<(Output, usize)>>,
}

impl VmetteProcess {
    pub(crate) fn new(process: Arc<Process>) -> Self {
        Self { process, rest: Mutex::new(None) }
    }

    fn rest(&self) -> MutexGuard<'_, Option<(Output, usize)>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `vmette_process_read` had no room for: it comes before whatever else there is.
    fn take_rest(&self) -> Option<Output> {
        let (mut output, from) = self.rest().take()?;
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = &mut output;
        bytes.drain(..from);
        Some(output)
    }
}

fn with(process: Option<&VmetteProcess>, work: impl FnOnce(&Process) -> Result<(), Failure>) -> VmetteStatus {
    entry(|| work(&required(process, "process")?.process))
}

/// Frees it. A command that still runs is killed, unless it is the session's own.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_free(process: Option<Box<VmetteProcess>>) {
    entry(|| {
        drop(process);
        Ok(())
    });
}

/// Its process id, as the workload sees it; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_pid(process: Option<&VmetteProcess>) -> u32 {
    entry_or(0, || Ok(process.map_or(0, |process| process.process.pid())))
}

/// Waits for output and stores up to `capacity` bytes of it in `buffer`, their number in `length`, and which output
/// they are from in `stream`. A `length` of 0 is the end. One thread at a time.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_read(
    process: Option<&VmetteProcess>,
    stream: Option<&mut MaybeUninit<VmetteStream>>,
    buffer: Room,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
) -> VmetteStatus {
    entry(|| {
        let process = required(process, "process")?;
        let (stream, length) = (required(stream, "stream")?, required(length, "length")?);
        if capacity == 0 {
            return Err(Failure::new(
                VmetteStatus::InvalidConfig,
                "a capacity of 0: that would look like the end",
            ));
        }
        // Before anything is taken, which would be lost.
        let buffer = buffer.required("buffer")?;
        let mut rest = process.rest();
        let (output, from) = match rest.take() {
            Some(rest) => rest,
            None => match next(&process.process)? {
                Some(output) => (output, 0),
                None => {
                    stream.write(VmetteStream::Stdout);
                    length.write(0);
                    return Ok(());
                }
            },
        };
        let (which, bytes) = split(&output);
        let left = &bytes[from..];
        let count = buffer.fill(capacity, left);
        stream.write(which);
        length.write(count);
        if count < left.len() {
            *rest = Some((output, from + count));
        }
        Ok(())
    })
}

/// The next piece of output that has any bytes.
fn next(process: &Process) -> Result<Option<Output>, Failure> {
    while let Some(output) = process.next_output()? {
        if !split(&output).1.is_empty() {
            return Ok(Some(output));
        }
    }
    Ok(None)
}

/// Passes all output that vmette_process_read() has not stored to `on_output`, on the calling thread, until the command
/// ends.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_stream(
    process: Option<&VmetteProcess>,
    on_output: VmetteOutputFn,
    context: *mut c_void,
) -> VmetteStatus {
    entry(|| {
        let process = required(process, "process")?;
        let sink = required(OutputSink::new(on_output, context), "on_output")?;
        Ok(sink.drain(process.take_rest(), &process.process)?)
    })
}

/// Takes all output that vmette_process_read() has not stored, until the command ends, and stores it, up to `keep` bytes
/// of each stream, in a new handle, which the caller frees with vmette_collected_free().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_collect(
    process: Option<&VmetteProcess>,
    keep: usize,
    out: Option<&mut MaybeUninit<Box<VmetteCollected>>>,
) -> VmetteStatus {
    entry(|| {
        let process = required(process, "process")?;
        let out = required(out, "out")?;
        let rest = process.take_rest();
        let mut collected = process.process.collect(keep)?;
        if let Some(rest) = rest {
            put_first(rest, &mut collected, keep);
        }
        out.write(Box::new(VmetteCollected::new(collected)));
        Ok(())
    })
}

/// Waits for the command to end and stores its exit status, 128 + n when signal n killed it. Its output must be taken
/// meanwhile, by this thread before or by another.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_wait(
    process: Option<&VmetteProcess>,
    exit_code: Option<&mut MaybeUninit<i32>>,
) -> VmetteStatus {
    with(process, |process| {
        let status = process.wait()?;
        if let Some(exit_code) = exit_code {
            exit_code.write(status.code());
        }
        Ok(())
    })
}

/// Feeds its stdin; blocks while the guest holds about 1 MiB that the command has not read. Io when it has ended.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_write_stdin(
    process: Option<&VmetteProcess>,
    data: Bytes,
    length: usize,
) -> VmetteStatus {
    with(process, |process| Ok(process.write_stdin(data.of_length(length, "data")?)?))
}

/// Ends its stdin.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_close_stdin(process: Option<&VmetteProcess>) -> VmetteStatus {
    with(process, |process| Ok(process.close_stdin()?))
}

/// Sends a signal (its Linux number) to the command's process group.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_signal(process: Option<&VmetteProcess>, signal: i32) -> VmetteStatus {
    with(process, |process| Ok(process.signal(signal)?))
}

/// Tells its terminal the new size.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_process_resize(
    process: Option<&VmetteProcess>,
    rows: u16,
    cols: u16,
) -> VmetteStatus {
    with(process, |process| Ok(process.resize(rows, cols)?))
}
