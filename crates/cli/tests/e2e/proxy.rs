//! A connection to a server that can be held up, in front of a real one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Forwards connections to a server. Ends with all of them when dropped.
pub(crate) struct Proxy {
    address: String,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    server: String,
    /// How many bytes more come from the server.
    left: AtomicU64,
    ended: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// In front of `host:port`. So many bytes come from there, and then nothing more does.
    pub(crate) fn start(server: &str, bytes: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (left, ended) = (AtomicU64::new(bytes), AtomicBool::new(false));
        let shared = Arc::new(Shared { server: server.to_owned(), left, ended, sockets: Mutex::default() });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            let mut threads = Vec::new();
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    break;
                }
                threads.extend(accepting.connect(&client));
            }
            accepting.sockets.lock().unwrap().iter().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> &str {
        &self.address
    }

    /// From now on everything comes, on connections that are new.
    pub(crate) fn open(&self) {
        self.shared.left.store(u64::MAX, Ordering::SeqCst);
    }

    /// Whether nothing more comes.
    pub(crate) fn is_held_up(&self) -> bool {
        self.shared.left.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    /// Both directions of a connection. None when the server is gone, which the client then sees.
    fn connect(self: &Arc<Self>, client: &TcpStream) -> Vec<JoinHandle<()>> {
        let Ok(server) = TcpStream::connect(&self.server) else { return Vec::new() };
        let copy = |socket: &TcpStream| socket.try_clone().unwrap();
        self.sockets.lock().unwrap().extend([copy(client), copy(&server)]);
        let (mut to_server, mut from_client) = (copy(&server), copy(client));
        let (mut to_client, mut from_server) = (copy(client), server);
        let shared = Arc::clone(self);
        vec![
            thread::spawn(move || {
                // A client or a server that goes is what these tests are about.
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Write);
            }),
            thread::spawn(move || shared.forward(&mut from_server, &mut to_client)),
        ]
    }

    /// Until there is nothing left; then the connection stays, silent.
    fn forward(&self, from: &mut TcpStream, to: &mut TcpStream) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let take = |left: u64| (left != u64::MAX).then(|| left.saturating_sub(read as u64));
            let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).unwrap_or(u64::MAX);
            let allowed = usize::try_from(before).unwrap_or(usize::MAX).min(read);
            if to.write_all(&buffer[..allowed]).is_err() {
                return;
            }
            if allowed < read {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
