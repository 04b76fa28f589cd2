//! Name resolution and TCP connections for ureq that end within a moment of a cancel.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};
use vmette_work::Cancel;

use super::wait::{SLICE, apart};

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// One address of several may take the remaining time divided by this: this machine may have no route to the first.
const SHARE: u32 = 2;

/// Asks the system for a name's addresses.
pub(super) struct Names(pub(super) Cancel);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let only_loopback = bare.eq_ignore_ascii_case("localhost");
        let found = match bare.parse() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => apart(&self.0, *timeout.after, move || {
                Ok((bare.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>())
            })
            .map_err(|e| timed_out(e, timeout.reason))?,
        };
        let mut addresses = self.empty();
        // The name `localhost` may go without TLS because it stays on this machine: a hosts file or a name server that
        // says otherwise must not lead it elsewhere.
        let wanted = found.into_iter().filter(|address| !only_loopback || address.ip().is_loopback());
        wanted.take(ADDRESSES_MAX).for_each(|address| addresses.push(address));
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}

/// Opens TCP connections.
pub(super) struct Tcp(pub(super) Cancel);

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Wire>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(proxied) = chained {
            return Ok(Some(Either::A(proxied)));
        }
        let until = Instant::now() + *details.timeout.after;
        let mut failure = Error::HostNotFound;
        for (at, &address) in details.addrs.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let limit = if at + 1 < details.addrs.len() { left / SHARE } else { left };
            if limit.is_zero() {
                break;
            }
            match apart(&self.0, limit, move || TcpStream::connect_timeout(&address, limit)) {
                Ok(stream) => {
                    let config = details.config;
                    let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(Either::B(Wire::new(stream, buffers, self.0.clone())?)));
                }
                Err(e) => {
                    self.0.check().map_err(io::Error::from)?;
                    failure = timed_out(e, details.timeout.reason);
                }
            }
        }
        Err(failure)
    }
}

fn timed_out(e: io::Error, reason: Timeout) -> Error {
    if e.kind() == io::ErrorKind::TimedOut { Error::Timeout(reason) } else { Error::Io(e) }
}

/// A TCP connection whose reads and writes end when the caller cancels, or when their time is over.
pub(super) struct Wire {
    stream: TcpStream,
    buffers: LazyBuffers,
    cancel: Cancel,
}

impl Wire {
    fn new(stream: TcpStream, buffers: LazyBuffers, cancel: Cancel) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(SLICE))?;
        Ok(Self { stream, buffers, cancel })
    }
}

/// Repeats `step`, which blocks for a [`SLICE`] at most, until it does something.
fn sliced<T>(
    cancel: &Cancel,
    after: Duration,
    reason: Timeout,
    mut step: impl FnMut() -> io::Result<T>,
) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        match step() {
            Ok(done) => return Ok(done),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if started.elapsed() >= after {
                    return Err(Error::Timeout(reason));
                }
            }
            Err(e) => return Err(e.into()),
        }
        cancel.check().map_err(io::Error::from)?;
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let Self { stream, buffers, cancel } = self;
        let mut rest = &buffers.output()[..amount];
        while !rest.is_empty() {
            let written = sliced(cancel, *timeout.after, timeout.reason, || stream.write(rest))?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            rest = &rest[written..];
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let Self { stream, buffers, cancel } = self;
        let input = buffers.input_append_buf();
        let read = sliced(cancel, *timeout.after, timeout.reason, || stream.read(input))?;
        buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Returns whether it can take another request: it is open, and nothing came unasked.
    fn is_open(&mut self) -> bool {
        let quiet = self.stream.set_nonblocking(true).is_ok()
            && matches!(self.stream.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        quiet && self.stream.set_nonblocking(false).is_ok()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tcp")
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({:?})", self.stream.peer_addr())
    }
}
