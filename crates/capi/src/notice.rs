//! What is told while something takes long.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use library::provider::{Item, Progress, Reporter};
use library::{Notice, Observer};

/// What a notice is about.
/// cbindgen:prefix-with-name
/// cbindgen:rename-all=ScreamingSnakeCase
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmetteNoticeKind {
    /// A step that takes seconds begins.
    Progress = 0,
    /// Something went wrong and was worked around, or should be known.
    Warning = 1,
    /// Something is being downloaded; `text` is its name.
    Download = 2,
    /// What the guest sent to the port that answers with it: escaped, and bounded.
    Vsock = 3,
}

/// Something that a person may want to know while a root is resolved or a session starts.
#[repr(C)]
pub struct VmetteNotice {
    /// What it is about. There may be more kinds in a later version.
    pub kind: VmetteNoticeKind,
    /// One line.
    pub text: *const c_char,
    /// Bytes of a download so far.
    pub done: u64,
    /// Bytes of it in all; 0 when that is not known. Equal to `done` when it is complete.
    pub total: u64,
}

/// Is told what goes on: on the thread that makes the call, on other ones, on several at once. The notice is valid
/// until it returns. It must not block for long: vmette_session_free() and a start that fails wait for a call that is
/// under way on another thread, and no other one follows. On one of its session's threads it may free the session itself.
pub type VmetteNoticeFn = Option<unsafe extern "C" fn(context: *mut c_void, notice: *const VmetteNotice)>;

/// A callback with its context.
#[derive(Clone, Copy)]
pub(crate) struct NoticeSink {
    function: unsafe extern "C" fn(context: *mut c_void, notice: *const VmetteNotice),
    context: *mut c_void,
}

// SAFETY: the header says that the function is called from any thread, with this context.
unsafe impl Send for NoticeSink {}
// SAFETY: and from several at once.
unsafe impl Sync for NoticeSink {}

impl NoticeSink {
    pub(crate) fn new(function: VmetteNoticeFn, context: *mut c_void) -> Option<Self> {
        function.map(|function| Self { function, context })
    }

    fn tell(&self, kind: VmetteNoticeKind, text: &str, done: u64, total: u64) {
        let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
        let notice = VmetteNotice { kind, text: text.as_ptr(), done, total };
        // SAFETY: the caller vouches for function and context while the configuration is used; the notice lives here.
        unsafe { (self.function)(self.context, &raw const notice) };
    }
}

/// For the start of a session.
pub(crate) fn observer(sink: NoticeSink) -> Observer {
    Arc::new(move |notice: &Notice| match notice {
        Notice::Progress(text) => sink.tell(VmetteNoticeKind::Progress, text, 0, 0),
        Notice::Warning(text) => sink.tell(VmetteNoticeKind::Warning, text, 0, 0),
        Notice::Vsock(text) => sink.tell(VmetteNoticeKind::Vsock, text, 0, 0),
    })
}

/// For the resolving of a root.
pub(crate) fn reporter(sink: Option<NoticeSink>) -> Reporter {
    let Some(sink) = sink else { return Arc::new(|_| {}) };
    Arc::new(move |progress: &Progress<'_>| match progress {
        Progress::Step(text) => sink.tell(VmetteNoticeKind::Progress, text, 0, 0),
        Progress::Warning(text) => sink.tell(VmetteNoticeKind::Warning, text, 0, 0),
        Progress::Started { item, done, total } | Progress::Advanced { item, done, total } => {
            sink.tell(VmetteNoticeKind::Download, &name(item), *done, total.unwrap_or(0));
        }
        // What follows of it are steps of their own.
        _ => {}
    })
}

fn name(item: &Item<'_>) -> String {
    match item {
        Item::Layer { digest, index, count } => format!("layer {} of {count}, {digest}", index + 1),
        Item::File { name } => (*name).to_owned(),
    }
}
