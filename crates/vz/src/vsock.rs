//! Connections between guest and host: VZ hands out descriptors of sockets, the machine passes on duplicates of them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use block2::RcBlock;
use objc2::rc::Retained;
use objc2::runtime::{NSObject, ProtocolObject};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSError, NSObjectProtocol};
use objc2_virtualization::{
    VZVirtioSocketConnection, VZVirtioSocketDevice, VZVirtioSocketListener, VZVirtioSocketListenerDelegate,
};
use vmette_vmm::VsockStream;

use crate::failure::Failure;

/// Connections that wait to be accepted; further ones are refused, so that a guest cannot fill the host's table of
/// descriptors.
pub(crate) const BACKLOG: usize = 64;

/// The host's port at which the agent of a machine that boots finds its host, and the guest's at which the host finds
/// the agent of a machine that was restored. Nobody else may open it.
pub(crate) const AGENT_PORT: u32 = 1024;

/// Where accepted connections go.
pub(crate) struct Ivars {
    accepted: SyncSender<VsockStream>,
}

define_class!(
    // SAFETY: NSObject has no rules for its subclasses, and there is no `Drop`.
    #[unsafe(super(NSObject))]
    #[ivars = Ivars]
    struct ListenerDelegate;

    // SAFETY: the protocol has no requirements.
    unsafe impl NSObjectProtocol for ListenerDelegate {}

    // SAFETY: selector and types are the protocol's: see below, and the tests.
    unsafe impl VZVirtioSocketListenerDelegate for ListenerDelegate {
        // SAFETY: the selector of the protocol's method of this type.
        #[unsafe(method(listener:shouldAcceptNewConnection:fromSocketDevice:))]
        fn should_accept(
            &self,
            listener: &VZVirtioSocketListener,
            connection: &VZVirtioSocketConnection,
            device: &VZVirtioSocketDevice,
        ) -> bool {
            self.accept(listener, connection, device)
        }
    }
);

impl ListenerDelegate {
    fn new(accepted: SyncSender<VsockStream>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(Ivars { accepted });
        // SAFETY: `init` of NSObject.
        unsafe { msg_send![super(this), init] }
    }

    fn accept(
        &self,
        _listener: &VZVirtioSocketListener,
        connection: &VZVirtioSocketConnection,
        _device: &VZVirtioSocketDevice,
    ) -> bool {
        // A host without descriptors and a listener that nobody serves refuse; the guest sees a reset.
        duplicate(connection).is_ok_and(|stream| self.ivars().accepted.try_send(stream).is_ok())
    }
}

/// The compiler does not compare the types of Objective-C methods with those of their protocol. Ours passes its arguments
/// on, and here that is given the type that the protocol's has.
const _: () = {
    type Accept = unsafe fn(
        &ListenerDelegate,
        &VZVirtioSocketListener,
        &VZVirtioSocketConnection,
        &VZVirtioSocketDevice,
    ) -> bool;
    let _: Accept =
        <ListenerDelegate as VZVirtioSocketListenerDelegate>::listener_shouldAcceptNewConnection_fromSocketDevice;
    let _: Accept = ListenerDelegate::accept;
};

/// VZ closes its descriptor with the connection's object, which nobody keeps.
fn duplicate(connection: &VZVirtioSocketConnection) -> io::Result<VsockStream> {
    // SAFETY: on the machine's queue.
    let fd = unsafe { connection.fileDescriptor() };
    if fd < 0 {
        // The guest has closed it meanwhile.
        return Err(io::ErrorKind::NotConnected.into());
    }
    // SAFETY: the connection owns the descriptor, and we hold the connection.
    let fd: OwnedFd = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    // A write to a connection that is gone is an error, and no signal to whatever program this library is part of.
    #[cfg(target_os = "macos")]
    rustix::net::sockopt::set_socket_nosigpipe(&fd, true)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A machine's ports of the host. Lives on its queue.
pub(crate) struct Ports {
    device: Retained<VZVirtioSocketDevice>,
    open: BTreeMap<u32, Open>,
}

/// VZ holds neither of them.
struct Open {
    _listener: Retained<VZVirtioSocketListener>,
    _delegate: Retained<ListenerDelegate>,
}

impl Ports {
    pub(crate) fn new(device: Retained<VZVirtioSocketDevice>) -> Self {
        Self { device, open: BTreeMap::new() }
    }

    /// Opens a port; `None` when it is open. Up to `backlog` connections wait. The receiver ends when the port is closed.
    pub(crate) fn open(&mut self, port: u32, backlog: usize) -> Option<Receiver<VsockStream>> {
        if self.open.contains_key(&port) {
            return None;
        }
        let (sender, receiver) = sync_channel(backlog);
        let delegate = ListenerDelegate::new(sender);
        // SAFETY: on the machine's queue; the delegate is kept beside the listener, and both as long as it is open.
        let listener = unsafe {
            let listener = VZVirtioSocketListener::new();
            listener.setDelegate(Some(ProtocolObject::from_ref(&*delegate)));
            self.device.setSocketListener_forPort(&listener, port);
            listener
        };
        self.open.insert(port, Open { _listener: listener, _delegate: delegate });
        Some(receiver)
    }

    /// Closes a port. Connections that were accepted go on.
    pub(crate) fn close(&mut self, port: u32) {
        if let Some(open) = self.open.remove(&port) {
            // SAFETY: on the machine's queue.
            unsafe { self.device.removeSocketListenerForPort(port) };
            drop(open);
        }
    }

    /// Connects to a port of the guest; the answer goes to `sender`, which has room for it.
    pub(crate) fn connect(&self, port: u32, sender: SyncSender<Result<VsockStream, Failure>>) {
        let handler = RcBlock::new(move |connection: *mut VZVirtioSocketConnection, error: *mut NSError| {
            let answer = Failure::check(error).and_then(|()| {
                // SAFETY: without an error VZ passes a connection that lives as long as this call.
                let connection = unsafe { connection.as_ref() };
                let connected = connection.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
                connected.and_then(duplicate).map_err(|e| Failure::from_text(e.to_string()))
            });
            // Fails when the waiter has given up; the descriptor is closed then.
            drop(sender.try_send(answer));
        });
        // SAFETY: on the machine's queue; VZ copies the block.
        unsafe { self.device.connectToPort_completionHandler(port, &handler) };
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        for port in self.open.keys() {
            // SAFETY: on the machine's queue, where everything that holds ports is dropped.
            unsafe { self.device.removeSocketListenerForPort(*port) };
        }
    }
}

#[cfg(all(test, not(target_vendor = "apple")))]
mod tests {
    use super::*;
    use objc2::ClassType;

    #[test]
    fn the_listeners_selector_is_the_protocols() {
        let (sender, receiver) = sync_channel(1);
        let delegate = ListenerDelegate::new(sender);
        // SAFETY: nothing looks at the device, and the other two are what they are said to be: a connection that was
        // closed is not accepted.
        let accepted = unsafe {
            let device = Retained::cast_unchecked::<VZVirtioSocketDevice>(NSObject::new());
            delegate.listener_shouldAcceptNewConnection_fromSocketDevice(
                &VZVirtioSocketListener::new(),
                &VZVirtioSocketConnection::new(),
                &device,
            )
        };
        assert!(!accepted && receiver.try_recv().is_err());
        let own = crate::delegate::tests::own_selectors(ListenerDelegate::class());
        assert_eq!(own, ["listener:shouldAcceptNewConnection:fromSocketDevice:"]);
    }
}
