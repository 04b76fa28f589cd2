//! What every call from C goes through: no unwinding out of it, no signal from it, and its error's text kept.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use crate::broken_pipe::Blocked;
use crate::status::{Failure, VmetteStatus};

/// The last failure of a thread.
struct Last {
    message: CString,
    code: Option<CString>,
    exit_code: i32,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// Does the work of one call.
pub(crate) fn entry(work: impl FnOnce() -> Result<(), Failure>) -> VmetteStatus {
    match caught(work) {
        Ok(()) => VmetteStatus::Ok,
        Err(failure) => {
            let status = failure.status;
            remember(failure);
            status
        }
    }
}

/// As [`entry`], for calls that return something else than a status: `fallback` when they fail.
pub(crate) fn entry_or<T>(fallback: T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    caught(work).unwrap_or_else(|failure| {
        remember(failure);
        fallback
    })
}

fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let _blocked = Blocked::new();
    // What a panic left half done is in handles that the header says not to use any more.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = format!("internal error: {}", text_of(&*panic));
        Err(Failure::new(VmetteStatus::InternalError, message))
    })
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text")
}

fn remember(failure: Failure) {
    // A text of the guest's choosing may hold anything; C would see the end at the first NUL.
    let message = CString::new(failure.message.replace('\0', "\u{fffd}")).unwrap_or_default();
    let code = failure.code.and_then(|code| CString::new(code).ok());
    let last = Last { message, code, exit_code: failure.exit_code };
    // The thread may be ending, its storage already gone: then nobody can ask for the text any more either.
    let _ = LAST.try_with(|slot| *slot.borrow_mut() = Some(last));
}

/// The text of the last call of this thread that failed, meant for the person at the terminal; NULL when none has.
/// Valid until the next call of this thread that fails, or its end. A call that succeeds leaves it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_last_error_message() -> *const c_char {
    let pointer = LAST.try_with(|slot| slot.borrow().as_ref().map(|last| last.message.as_ptr()));
    pointer.ok().flatten().unwrap_or(ptr::null())
}

/// A name for the kind of error of the last call of this thread that failed; it stays the same from version to version,
/// and docs/API.md lists them all. NULL when none has failed, and when the status says everything: an argument that is NULL
/// or no UTF-8. Valid as long as vmette_last_error_message() is.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_last_error_code() -> *const c_char {
    let code = |last: &Last| last.code.as_ref().map(|code| code.as_ptr());
    LAST.try_with(|slot| slot.borrow().as_ref().and_then(code)).ok().flatten().unwrap_or(ptr::null())
}

/// The exit status that a shell would give to the last call of this thread that failed: 127 for a command that does
/// not exist, 126 for one that cannot be executed, 1 for everything else; 0 when none has failed.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_last_error_exit_code() -> i32 {
    LAST.try_with(|slot| slot.borrow().as_ref().map(|last| last.exit_code)).ok().flatten().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn text(pointer: *const c_char) -> Option<String> {
        // SAFETY: it is NULL or a string that is valid until the next failure of this thread, which comes later.
        (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_str().unwrap().to_owned())
    }

    fn last() -> Option<String> {
        text(vmette_last_error_message())
    }

    #[test]
    fn an_error_of_the_librarys_has_its_code_and_one_of_an_argument_has_none() {
        assert_eq!(text(vmette_last_error_code()), None);
        entry(|| Err(library::Error::Timeout(3).into()));
        assert_eq!(text(vmette_last_error_code()).as_deref(), Some("timeout"));
        entry(|| Err(Failure::null("path")));
        assert_eq!(text(vmette_last_error_code()), None, "not the one of the failure before");
    }

    #[test]
    fn a_panic_is_a_status() {
        assert_eq!(entry(|| panic!("it broke {}", 7)), VmetteStatus::InternalError);
        assert_eq!(last().unwrap(), "internal error: it broke 7");
        assert_eq!(entry_or(5, || panic!("again")), 5);
        assert_eq!(last().unwrap(), "internal error: again");
    }

    #[test]
    fn each_thread_has_its_own_last_error_and_success_leaves_it() {
        assert_eq!((last(), vmette_last_error_exit_code()), (None, 0));
        let failure = Failure { exit_code: 127, ..Failure::new(VmetteStatus::RequestFailed, "a\0b") };
        assert_eq!(entry(|| Err(failure)), VmetteStatus::RequestFailed);
        assert_eq!(entry(|| Ok(())), VmetteStatus::Ok);
        assert_eq!((last().unwrap().as_str(), vmette_last_error_exit_code()), ("a\u{fffd}b", 127));
        std::thread::spawn(|| assert_eq!(last(), None)).join().unwrap();
    }
}
