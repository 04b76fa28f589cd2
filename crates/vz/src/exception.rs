//! Catches everything that is thrown on a machine's queue. Neither an exception of Objective-C nor a panic of ours may go on
//! into the frames of dispatch, which would end the process: a library does not do that to its program.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does the work; `Err` is the text of what was thrown meanwhile.
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    // In this order: to Rust an exception is a foreign one, and catching that would end the process as well. Panics pass
    // through what catches exceptions.
    catch_unwind(AssertUnwindSafe(|| caught_exception(work)))
        .unwrap_or_else(|panic| Err(format!("internal error: {}", text_of(&*panic))))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text")
}

#[cfg(target_vendor = "apple")]
fn caught_exception<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    objc2::exception::catch(AssertUnwindSafe(work)).map_err(|exception| {
        let text = exception.map(|exception| exception.to_string());
        format!("an exception: {}", text.unwrap_or_else(|| "none that has a text".into()))
    })
}

/// The same from the stand-in, which throws texts.
#[cfg(not(target_vendor = "apple"))]
fn caught_exception<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    use std::ffi::{CStr, c_char, c_void};

    // SAFETY: as `exception.cc` of the stand-in defines it.
    unsafe extern "C-unwind" {
        fn standin_catch(work: extern "C-unwind" fn(*mut c_void), context: *mut c_void) -> *const c_char;
    }

    struct Context<F, R> {
        work: Option<F>,
        result: Option<R>,
    }

    extern "C-unwind" fn run<F: FnOnce() -> R, R>(context: *mut c_void) {
        // SAFETY: the context below, which nobody else has while this runs.
        let context = unsafe { &mut *context.cast::<Context<F, R>>() };
        context.result = context.work.take().map(|work| work());
    }

    fn run_of<F: FnOnce() -> R, R>(_: &Context<F, R>) -> extern "C-unwind" fn(*mut c_void) {
        run::<F, R>
    }

    let mut context = Context { work: Some(work), result: None };
    let run = run_of(&context);
    // SAFETY: `run` gets its own context, which outlives the call.
    let thrown = unsafe { standin_catch(run, (&raw mut context).cast()) };
    if thrown.is_null() {
        return context.result.ok_or_else(|| "nothing was done".into());
    }
    // SAFETY: a string that stays until this thread catches the next one.
    Err(format!("an exception: {}", unsafe { CStr::from_ptr(thrown) }.to_string_lossy()))
}
