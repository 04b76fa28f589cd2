//! A server on loopback that answers as a test wants it to, also wrongly.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// N of `Range: bytes=N-`.
    pub fn from(&self) -> usize {
        self.header("range").map_or(0, |range| {
            range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse().unwrap()
        })
    }
}

/// The part of a reply after its header.
#[derive(Debug, Clone)]
pub enum Then {
    Bytes(Vec<u8>),
    /// Nothing more, and the connection stays open until the server ends.
    Stall,
    /// The connection is closed.
    Cut,
    /// The same bytes until the client goes.
    Forever(Vec<u8>),
    /// One byte of it at a time.
    Drip(Vec<u8>),
}

/// An answer: a status line and headers, and what follows.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<String>,
    then: Vec<Then>,
}

impl Reply {
    /// With a `Content-Length`.
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        Self::bare(status).header("Content-Length", &body.len().to_string()).then(Then::Bytes(body))
    }

    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::new(200, body)
    }

    pub fn bare(status: u16) -> Self {
        Self { status, headers: Vec::new(), then: Vec::new() }
    }

    pub fn redirect(to: &str) -> Self {
        Self::new(307, "").header("Location", to)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(format!("{name}: {value}"));
        self
    }

    pub fn then(mut self, then: Then) -> Self {
        self.then.push(then);
        self
    }

    /// A good server's reply to a request for a file, or for a part of it.
    pub fn file(request: &Received, content: &[u8]) -> Self {
        match request.from() {
            0 => Self::ok(content),
            from if from >= content.len() => Self::new(416, ""),
            from => Self::new(206, &content[from..])
                .header("Content-Range", &format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
        }
    }

    /// That, cut after so many bytes of it.
    pub fn cut_after(mut self, bytes: usize) -> Self {
        if let Some(Then::Bytes(body)) = self.then.first_mut() {
            body.truncate(bytes);
        }
        self.then(Then::Cut)
    }
}

/// Ends with everything it has open when it is dropped.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

type Handler = Box<dyn Fn(&Received) -> Reply + Send + Sync>;

struct Shared {
    handler: Handler,
    received: Mutex<Vec<Received>>,
    sockets: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
    stalled: (Mutex<bool>, Condvar),
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A certificate authority of a test's own, and the file that holds its certificate.
pub struct Authority {
    key: rcgen::KeyPair,
    params: rcgen::CertificateParams,
    _dir: tempfile::TempDir,
    pub file: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { key, params, _dir: dir, file }
    }

    /// A certificate for this machine, and its key, in PEM.
    pub fn certificate(&self) -> (String, String) {
        let (certificate, key) = self.sign();
        (certificate.pem(), key.serialize_pem())
    }

    fn sign(&self) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = rcgen::CertificateParams::new(names).unwrap();
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap(), key)
    }

    fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let (certificate, key) = self.sign();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}

impl Server {
    pub fn start(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(None, Box::new(handler))
    }

    pub fn start_tls(
        authority: &Authority,
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(Some(authority.server_config()), Box::new(handler))
    }

    fn with(tls: Option<Arc<rustls::ServerConfig>>, handler: Handler) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            handler,
            received: Mutex::default(),
            sockets: Mutex::default(),
            ended: AtomicBool::new(false),
            stalled: (Mutex::new(false), Condvar::new()),
            tls,
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    break;
                }
                accepting.sockets.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&accepting);
                connections.push(thread::spawn(move || shared.serve(stream)));
            }
            for socket in accepting.sockets.lock().unwrap().iter() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Self { address, scheme, shared, acceptor: Some(acceptor) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub fn paths(&self) -> Vec<String> {
        self.received().into_iter().map(|request| request.path).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        *self.shared.stalled.0.lock().unwrap() = true;
        self.shared.stalled.1.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let socket = stream.try_clone().unwrap();
        // A client that goes is what some tests are about.
        let _ = match &self.tls {
            None => self.converse(stream),
            Some(config) => rustls::ServerConnection::new(Arc::clone(config))
                .map_err(io::Error::other)
                .and_then(|connection| self.converse(rustls::StreamOwned::new(connection, stream))),
        };
        let _ = socket.shutdown(Shutdown::Both);
    }

    fn converse(&self, mut stream: impl Read + Write) -> io::Result<()> {
        while let Some(request) = receive(&mut stream)? {
            self.received.lock().unwrap().push(request.clone());
            let reply = (self.handler)(&request);
            let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
            reply.headers.iter().for_each(|header| head += &format!("{header}\r\n"));
            stream.write_all(format!("{head}\r\n").as_bytes())?;
            let silent = request.method == "HEAD";
            for then in reply.then.into_iter().filter(|_| !silent) {
                match then {
                    Then::Bytes(bytes) => stream.write_all(&bytes)?,
                    Then::Forever(bytes) => loop {
                        stream.write_all(&bytes)?;
                    },
                    Then::Drip(bytes) => {
                        for byte in bytes {
                            stream.write_all(&[byte])?;
                            stream.flush()?;
                            let (ended, changed) = &self.stalled;
                            let pause = std::time::Duration::from_millis(20);
                            if *changed.wait_timeout(ended.lock().unwrap(), pause).unwrap().0 {
                                return Ok(());
                            }
                        }
                    }
                    Then::Cut => {
                        stream.flush()?;
                        return Ok(());
                    }
                    Then::Stall => {
                        stream.flush()?;
                        let (ended, changed) = &self.stalled;
                        drop(changed.wait_while(ended.lock().unwrap(), |ended| !*ended).unwrap());
                        return Ok(());
                    }
                }
            }
            stream.flush()?;
        }
        Ok(())
    }
}

fn receive(stream: &mut impl Read) -> io::Result<Option<Received>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
        // Bytes that are no HTTP are answered as common servers do.
        if head.len() == 1 && !head[0].is_ascii_uppercase() {
            return Ok(None);
        }
    }
    let text = String::from_utf8(head).unwrap();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap().split(' ');
    let mut next = || first.next().unwrap().to_owned();
    let (method, path) = (next(), next());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut request = Received { method, path, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    request.body = String::from_utf8(body).unwrap();
    Ok(Some(request))
}
