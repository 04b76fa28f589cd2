//! The shortest way: one configuration, one command, one answer.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use library::{Report, SessionEnd, Started};

use crate::arguments::required;
use crate::config::VmetteConfig;
use crate::entry::entry;
use crate::output::{Kept, OutputSink, VmetteOutputFn, VmetteRunOutput};
use crate::report::json_of;
use crate::start::{Streams, result_of, start};
use crate::status::{Failure, VmetteStatus};
use crate::stop::VmetteStop;

/// Runs the configuration's command to its end and stores a new output in `out`, which the caller frees with
/// vmette_run_output_free(); on failure `out` is left alone. The command's output goes to this process's stdout and
/// stderr unless it is captured. A configuration that has neither a command nor a timeout is refused: it would never
/// end.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_run(
    config: Option<&VmetteConfig>,
    out: Option<&mut MaybeUninit<Box<VmetteRunOutput>>>,
) -> VmetteStatus {
    entry(|| run(config, None, None, out))
}

/// As vmette_run(), with the command's output passed to `on_output`, if that is not NULL, on the calling thread. `stop`,
/// if that is not NULL, ends the run from another thread; its exit code is 0 then.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_run_streaming(
    config: Option<&VmetteConfig>,
    stop: Option<&VmetteStop>,
    on_output: VmetteOutputFn,
    context: *mut c_void,
    out: Option<&mut MaybeUninit<Box<VmetteRunOutput>>>,
) -> VmetteStatus {
    entry(|| run(config, stop, OutputSink::new(on_output, context), out))
}

fn run(
    handle: Option<&VmetteConfig>,
    stop: Option<&VmetteStop>,
    sink: Option<OutputSink>,
    out: Option<&mut MaybeUninit<Box<VmetteRunOutput>>>,
) -> Result<(), Failure> {
    let config = required(handle, "config")?;
    let out = required(out, "out")?;
    config.ready()?.check_it_ends()?;
    let streams = if sink.is_some() { Streams::Caller(None) } else { Streams::Library };
    let output = match (start(config, stop, streams)?, sink) {
        (Started::Ended(end), _) => finished(end, Vec::new(), None)?,
        (Started::Running(session), None) => {
            let text = session.wait_captured().output.into_bytes();
            finished(session.wait(), text, Some(session.report()))?
        }
        (Started::Running(session), Some(sink)) => {
            if let Some(process) = session.process() {
                // The connection's end is the session's, which says why.
                match sink.drain(None, process) {
                    Ok(()) | Err(library::Error::Agent(_) | library::Error::Ended(_)) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            finished(session.wait(), Vec::new(), Some(session.report()))?
        }
    };
    out.write(Box::new(output));
    Ok(())
}

fn finished(end: SessionEnd, text: Vec<u8>, report: Option<&Report>) -> Result<VmetteRunOutput, Failure> {
    let exit_code = result_of(end)?;
    let report = report.map(json_of).transpose()?;
    Ok(VmetteRunOutput {
        exit_code,
        text: Kept::new(text),
        report: report.map(|json| Kept::new(json.into())),
    })
}
