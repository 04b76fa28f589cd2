//! Output on its way to the caller, and what is kept of it.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use library::{Collected, Error, Output, Process};

use crate::entry::{entry, entry_or};

/// Which of a command's outputs.
/// cbindgen:prefix-with-name
/// cbindgen:rename-all=ScreamingSnakeCase
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmetteStream {
    /// Standard output, or the terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// Gets a piece of a command's output, on the thread that made the call; the bytes are valid until it returns. The
/// command is held back meanwhile. Returns whether to go on: after false the command is killed, and it is not called
/// again.
pub type VmetteOutputFn = Option<
    unsafe extern "C" fn(context: *mut c_void, stream: VmetteStream, data: *const u8, length: usize) -> bool,
>;

/// A callback with its context.
pub(crate) struct OutputSink {
    function: unsafe extern "C" fn(*mut c_void, VmetteStream, *const u8, usize) -> bool,
    context: *mut c_void,
}

impl OutputSink {
    pub(crate) fn new(function: VmetteOutputFn, context: *mut c_void) -> Option<Self> {
        function.map(|function| Self { function, context })
    }

    fn pass(&self, output: &Output) -> bool {
        let (stream, bytes) = split(output);
        // SAFETY: the caller vouches for function and context during the call; the bytes live here.
        unsafe { (self.function)(self.context, stream, bytes.as_ptr(), bytes.len()) }
    }

    /// Passes everything on, `first` before the rest, until the command ends, or until the callback has enough of it.
    pub(crate) fn drain(&self, mut first: Option<Output>, process: &Process) -> Result<(), Error> {
        let mut wanted = true;
        let mut next = || first.take().map_or_else(|| process.next_output(), |output| Ok(Some(output)));
        while let Some(output) = next()? {
            if wanted && !self.pass(&output) {
                wanted = false;
                process.signal(libc::SIGKILL)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn split(output: &Output) -> (VmetteStream, &[u8]) {
    match output {
        Output::Stdout(bytes) => (VmetteStream::Stdout, bytes),
        Output::Stderr(bytes) => (VmetteStream::Stderr, bytes),
    }
}

/// Bytes that C sees as a string: a NUL follows them.
pub(crate) struct Kept(Vec<u8>);

impl Kept {
    pub(crate) fn new(mut bytes: Vec<u8>) -> Self {
        bytes.push(0);
        Self(bytes)
    }

    /// The bytes; their number, without the NUL, goes to `length`.
    pub(crate) fn lend(&self, length: Option<&mut MaybeUninit<usize>>) -> *const c_char {
        if let Some(length) = length {
            length.write(self.0.len() - 1);
        }
        self.0.as_ptr().cast()
    }
}

/// What a command came to that vmette_process_collect() waited for.
pub struct VmetteCollected {
    exit_code: i32,
    stdout: Kept,
    stderr: Kept,
}

impl VmetteCollected {
    pub(crate) fn new(collected: Collected) -> Self {
        Self {
            exit_code: collected.status.code(),
            stdout: Kept::new(collected.stdout),
            stderr: Kept::new(collected.stderr),
        }
    }
}

/// Puts what was taken before in front of what was collected: `keep` bytes of a stream at most.
pub(crate) fn put_first(first: Output, collected: &mut Collected, keep: usize) {
    let (mut bytes, kept) = match first {
        Output::Stdout(bytes) => (bytes, &mut collected.stdout),
        Output::Stderr(bytes) => (bytes, &mut collected.stderr),
    };
    bytes.append(kept);
    bytes.truncate(keep);
    *kept = bytes;
}

fn lend<T>(
    handle: Option<&T>,
    length: Option<&mut MaybeUninit<usize>>,
    kept: impl FnOnce(&T) -> &Kept,
) -> *const c_char {
    entry_or(ptr::null(), || {
        Ok(match handle {
            Some(handle) => kept(handle).lend(length),
            None => {
                if let Some(length) = length {
                    length.write(0);
                }
                ptr::null()
            }
        })
    })
}

/// The command's exit status, 128 + n when signal n killed it; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_collected_exit_code(collected: Option<&VmetteCollected>) -> i32 {
    collected.map_or(0, |collected| collected.exit_code)
}

/// Its standard output: `length` bytes, if that is not NULL, and a NUL behind them. Valid until it is freed. NULL for
/// NULL.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_collected_stdout(
    collected: Option<&VmetteCollected>,
    length: Option<&mut MaybeUninit<usize>>,
) -> *const c_char {
    lend(collected, length, |collected| &collected.stdout)
}

/// Its standard error, in the same way.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_collected_stderr(
    collected: Option<&VmetteCollected>,
    length: Option<&mut MaybeUninit<usize>>,
) -> *const c_char {
    lend(collected, length, |collected| &collected.stderr)
}

/// Frees it. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_collected_free(collected: Option<Box<VmetteCollected>>) {
    entry(|| {
        drop(collected);
        Ok(())
    });
}

/// What a run came to.
pub struct VmetteRunOutput {
    pub(crate) exit_code: i32,
    pub(crate) text: Kept,
    pub(crate) report: Option<Kept>,
}

/// The command's exit status, 128 + n when signal n killed it; 124 for a timeout, 0 for a stop. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_run_output_exit_code(output: Option<&VmetteRunOutput>) -> i32 {
    output.map_or(0, |output| output.exit_code)
}

/// What vmette_config_set_capture_output() kept, stdout and stderr in the order of their arrival, as UTF-8 with `\n` at
/// the ends of lines, and a last line that says so if there was more than 1 MiB: `length` bytes, if that is not NULL,
/// and a NUL behind them. Empty unless captured. Valid until the output is freed. NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_run_output_text(
    output: Option<&VmetteRunOutput>,
    length: Option<&mut MaybeUninit<usize>>,
) -> *const c_char {
    lend(output, length, |output| &output.text)
}

/// What the run had, as JSON: engine, accelerator, isolation, grants, timings. Valid until the output is freed. NULL
/// for NULL, and for a run that ended before its machine was up.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_run_output_report(output: Option<&VmetteRunOutput>) -> *const c_char {
    output.and_then(|output| output.report.as_ref()).map_or(ptr::null(), |report| report.lend(None))
}

/// Frees it. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_run_output_free(output: Option<Box<VmetteRunOutput>>) {
    entry(|| {
        drop(output);
        Ok(())
    });
}
