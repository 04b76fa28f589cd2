//! Writing to a machine that has just ended raises `SIGPIPE`, which ends a program that has not arranged for it. Rust
//! programs ignore the signal; what a C program does with it is its own affair, so it is kept from seeing ours.

use std::mem::MaybeUninit;
use std::ptr;

/// `SIGPIPE` does not reach this thread while this lives, nor the threads that are started meanwhile, which inherit
/// the mask. Other programs start with an empty mask. Handlers are left alone.
pub(crate) struct Blocked {
    /// The thread's own mask, unless the signal was blocked already.
    before: Option<libc::sigset_t>,
}

impl Blocked {
    pub(crate) fn new() -> Self {
        let mut before = MaybeUninit::uninit();
        let pipe = only_pipe();
        // SAFETY: both pointers are to sets that live across the call; `before` is filled when it succeeds.
        let done = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, before.as_mut_ptr()) };
        if done != 0 {
            return Self { before: None };
        }
        // SAFETY: the call above succeeded, so it has written the set.
        let before = unsafe { before.assume_init() };
        Self { before: (!holds_pipe(&before)).then_some(before) }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        take_pending();
        // SAFETY: the set was filled by the system; where the old one goes is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    }
}

fn only_pipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, `sigaddset` gets an initialised one and a valid number.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

fn holds_pipe(set: &libc::sigset_t) -> bool {
    // SAFETY: an initialised set and a valid number.
    unsafe { libc::sigismember(set, libc::SIGPIPE) == 1 }
}

/// Takes a `SIGPIPE` that came while it was blocked: it was ours.
#[cfg(target_os = "linux")]
fn take_pending() {
    let (pipe, now) = (only_pipe(), libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both pointers are valid across the call; the signal's details are not asked for. It does not wait.
    unsafe { libc::sigtimedwait(&raw const pipe, ptr::null_mut(), &raw const now) };
}

#[cfg(not(target_os = "linux"))]
fn take_pending() {
    let pipe = only_pipe();
    let (mut pending, mut signal) = (MaybeUninit::uninit(), 0);
    // SAFETY: `sigpending` fills the set before it is read; `sigwait` gets valid pointers and returns at once, since the
    // signal is pending for this thread.
    unsafe {
        if libc::sigpending(pending.as_mut_ptr()) == 0 && holds_pipe(&pending.assume_init()) {
            libc::sigwait(&raw const pipe, &raw mut signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked() -> bool {
        let mut now = MaybeUninit::uninit();
        // SAFETY: asks for the mask and changes nothing.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), now.as_mut_ptr());
            holds_pipe(&now.assume_init())
        }
    }

    #[test]
    fn it_is_blocked_for_this_thread_and_its_children_taken_and_given_back() {
        // SAFETY: the default action would end this process: exactly what must not happen.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        assert!(!is_blocked());
        let outer = Blocked::new();
        let inner = Blocked::new();
        assert!(std::thread::spawn(is_blocked).join().unwrap());
        // SAFETY: a signal for this thread, which has it blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE) };
        drop(inner);
        assert!(is_blocked(), "the outer call goes on");
        drop(outer);
        assert!(!is_blocked());
    }
}
