//! Sockets between the guest and the program, without a network.

use std::fmt::Display;
use std::mem::MaybeUninit;
use std::os::fd::IntoRawFd;
use std::time::{Duration, Instant};

use library::{Error, VsockListener, VsockStream, engine_api};

use crate::arguments::required;
use crate::entry::{entry, entry_or};
use crate::session::{VmetteSession, with};
use crate::status::{Failure, VmetteStatus};

/// A port of the host that is open to the guest of one session. Its functions may be called from any thread, but only
/// one at a time may wait for a connection.
pub struct VmetteVsockListener {
    listener: VsockListener,
}

/// What the header says of threads.
const _: () = {
    const fn from_any_thread<T: Send + Sync>() {}
    from_any_thread::<VmetteVsockListener>();
};

/// What a port could not do is vsock's failure, whichever part of the engine it was that said so.
fn of_port(port: u32) -> impl Fn(Error) -> Failure {
    let named = move |why: &dyn Display| format!("vsock port {port}: {why}");
    move |error| match &error {
        Error::Engine(why @ engine_api::Error::Timeout { .. }) => {
            Failure::new(VmetteStatus::Timeout, named(why))
        }
        Error::Engine(why) => Failure::new(VmetteStatus::Vsock, named(why)),
        _ => Failure::from(error),
    }
}

/// Hands a connection over to C, which closes it.
fn give(stream: VsockStream, fd: &mut MaybeUninit<i32>) {
    fd.write(stream.into_raw_fd());
}

/// Opens a port of the host to the session's guest (context id 2 there) and stores it in `out`; the caller frees it with
/// vmette_vsock_listener_free(). `port` is 1 to 4294967294, or 0 for one of 50000 to 59999 that is free. The guest may
/// connect from now on; up to 256 connections (64 on macOS) wait for being accepted, further ones are refused. Vsock
/// when the machine has no vsock device, see vmette_config_set_vsock(), or when the port is open already; AgentLost when
/// the session has ended.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_vsock_listen(
    session: Option<&VmetteSession>,
    port: u32,
    out: Option<&mut MaybeUninit<Box<VmetteVsockListener>>>,
) -> VmetteStatus {
    with(session, |session| {
        let out = required(out, "out")?;
        let listener = session.vsock_listen(port).map_err(of_port(port))?;
        out.write(Box::new(VmetteVsockListener { listener }));
        Ok(())
    })
}

/// Connects to a port of the guest, 1 to 4294967294, and stores the connection in `fd`: a socket that blocks and that is
/// closed on exec. The caller closes it, with close(). Shutting down either direction reaches the other side. Writing
/// to it once the guest is gone raises SIGPIPE as with any socket, unless MSG_NOSIGNAL says otherwise. Vsock when nobody
/// listens there, or when the machine has no vsock device; Timeout when the guest has not answered within 10 s; AgentLost
/// when the session has ended.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_vsock_connect(
    session: Option<&VmetteSession>,
    port: u32,
    fd: Option<&mut MaybeUninit<i32>>,
) -> VmetteStatus {
    with(session, |session| {
        let fd = required(fd, "fd")?;
        give(session.vsock_connect(port).map_err(of_port(port))?, fd);
        Ok(())
    })
}

/// The listener's port; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_vsock_listener_port(listener: Option<&VmetteVsockListener>) -> u32 {
    entry_or(0, || Ok(listener.map_or(0, |listener| listener.listener.port())))
}

/// Waits for the next connection of the guest and stores it in `fd`, as vmette_session_vsock_connect() does. AgentLost
/// when the session has ended: connections that came before are still handed out.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_vsock_listener_accept(
    listener: Option<&VmetteVsockListener>,
    fd: Option<&mut MaybeUninit<i32>>,
) -> VmetteStatus {
    accept(listener, fd, |listener| Ok(listener.accept()))
}

/// As vmette_vsock_listener_accept(), for up to `milliseconds`; Timeout when nobody has connected.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_vsock_listener_accept_for(
    listener: Option<&VmetteVsockListener>,
    milliseconds: u32,
    fd: Option<&mut MaybeUninit<i32>>,
) -> VmetteStatus {
    accept(listener, fd, |listener| {
        let deadline = Instant::now() + Duration::from_millis(milliseconds.into());
        listener.accept_until(deadline).map_err(|_| {
            Failure::new(VmetteStatus::Timeout, format!("no connection within {milliseconds} ms"))
        })
    })
}

fn accept(
    listener: Option<&VmetteVsockListener>,
    fd: Option<&mut MaybeUninit<i32>>,
    next: impl FnOnce(&VsockListener) -> Result<Option<VsockStream>, Failure>,
) -> VmetteStatus {
    entry(|| {
        let listener = &required(listener, "listener")?.listener;
        let fd = required(fd, "fd")?;
        let port = listener.port();
        let over =
            || Failure::new(VmetteStatus::AgentLost, format!("vsock port {port}: the session has ended"));
        give(next(listener)?.ok_or_else(over)?, fd);
        Ok(())
    })
}

/// Closes the port and frees the listener; connections that were accepted go on. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_vsock_listener_free(listener: Option<Box<VmetteVsockListener>>) {
    entry(|| {
        drop(listener);
        Ok(())
    });
}
