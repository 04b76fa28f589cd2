//! Requests, made with patience and within bounds.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::config::Config;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, RustlsConnector};
use ureq::{Agent, Timeout, http};
use vmette_work::Cancel;

use super::connect::{Names, Tcp};
use super::error::{Error, NetworkError, Result, is_temporary_status};
use super::patience::Patience;
use super::policy::Policy;
use super::proxy::Proxies;
use super::request::{Method, Request};
use super::response::{BodyFailure, Response, ResponseHead, SmallResponse};
use super::trust;
use super::url::Url;

/// Redirects of one request that are followed. Registries need one or two.
const REDIRECTS_MAX: usize = 10;
/// Bytes of a response's header. Content security policies of a large site take up to ten KiB.
const HEADER_MAX: usize = 64 << 10;
const USER_AGENT: &str = concat!("vmette/", env!("CARGO_PKG_VERSION"));

/// Makes requests until it is cancelled. Any number of threads may use it and its clones, which share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    policy: Policy,
    cancel: Cancel,
    patience: Patience,
    proxies: Proxies,
    /// Agents for plain requests and for TLS, each directly and through a proxy. Made when first needed, because
    /// reading the system's authorities takes its time.
    agents: Mutex<[Option<Agent>; 4]>,
}

/// A failed attempt, and whether another one may succeed.
struct Failure {
    error: Box<Error>,
    again: Again,
}

#[derive(Clone, Copy)]
enum Again {
    No,
    /// The server does not answer at all: fewer attempts.
    NoConnection,
    /// After a pause, which the server may have named.
    Later(Option<Duration>),
}

impl Failure {
    fn last(error: impl Into<Error>) -> Self {
        Self { error: Box::new(error.into()), again: Again::No }
    }

    fn new(again: Again, error: NetworkError) -> Self {
        Self { error: Box::new(error.into()), again }
    }
}

impl Client {
    /// A client with the environment's proxies and the usual patience.
    #[must_use]
    pub fn new(policy: &Policy, cancel: &Cancel) -> Self {
        Self::with(policy, cancel, Patience::default(), Proxies::from_env(&|name| std::env::var(name).ok()))
    }

    pub(super) fn with(policy: &Policy, cancel: &Cancel, patience: Patience, proxies: Proxies) -> Self {
        let (policy, cancel, agents) = (policy.clone(), cancel.clone(), Mutex::default());
        Self(Arc::new(Inner { policy, cancel, patience, proxies, agents }))
    }

    /// A client that does not wait long for anything, and uses no proxy.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn impatient(policy: &Policy, cancel: &Cancel) -> Self {
        Self::with(policy, cancel, super::testing::impatient(), Proxies::default())
    }

    pub(super) fn cancel(&self) -> &Cancel {
        &self.0.cancel
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.0.patience
    }

    /// Returns the response, whatever its status. A status that may pass is tried again, and is an error in the end.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send(&self, request: &Request) -> Result<Response> {
        self.retry(|| self.attempt(request))
    }

    /// Like [`Client::send`], with the body, of which at most `max` bytes are let through.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send_small(&self, request: &Request, max: usize) -> Result<SmallResponse> {
        self.retry(|| {
            let response = self.attempt(request)?;
            response.small(max, self.0.patience.small).map_err(|(error, failure)| {
                if let Err(cancelled) = self.0.cancel.check() {
                    return Failure::last(cancelled);
                }
                match failure {
                    BodyFailure::TooLarge => Failure::last(error),
                    BodyFailure::Read => Failure::new(Again::Later(None), error),
                }
            })
        })
    }

    /// Makes one single attempt. Returns the response, whatever its status.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send_once(&self, request: &Request, max: usize) -> Result<SmallResponse> {
        let response = self.exchange(request).map_err(|failure| *failure.error)?;
        response.small(max, self.0.patience.small).map_err(|(error, _)| error.into())
    }

    /// The response as an error, with its body's message.
    #[must_use]
    pub fn refusal(&self, response: Response) -> NetworkError {
        response.refusal(self.0.patience.small)
    }

    fn retry<T>(&self, mut attempt: impl FnMut() -> std::result::Result<T, Failure>) -> Result<T> {
        let patience = &self.0.patience;
        let mut failed = 0;
        loop {
            let failure = match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            failed += 1;
            let (most, asked) = match failure.again {
                Again::No => (0, None),
                Again::NoConnection => (patience.connect_attempts, None),
                Again::Later(asked) => (patience.attempts, asked),
            };
            if failed >= most {
                return Err(*failure.error);
            }
            self.0.cancel.wait(patience.pause(failed, asked))?;
        }
    }

    fn attempt(&self, request: &Request) -> std::result::Result<Response, Failure> {
        let response = self.exchange(request)?;
        if is_temporary_status(response.status) {
            let asked = response.header("retry-after").and_then(|value| value.trim().parse().ok());
            let asked = asked.map(Duration::from_secs);
            return Err(Failure::new(Again::Later(asked), self.refusal(response)));
        }
        Ok(response)
    }

    /// Follows redirects. Credentials stay with the origin that they were meant for.
    fn exchange(&self, request: &Request) -> std::result::Result<Response, Failure> {
        let mut url = request.url.clone();
        let mut request = request.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.once(&url, &request)?;
            let location = response.header("location").map(str::to_owned);
            let (301 | 302 | 303 | 307 | 308, Some(location)) = (response.status, location) else {
                return Ok(response);
            };
            let refuse = |problem: String| {
                Failure::last(NetworkError::Redirect { url: request.url.to_string(), problem })
            };
            let next = url.join(&location).map_err(|e| refuse(format!("to what {e}")))?;
            if matches!(request.method, Method::Post(_)) {
                return Err(refuse(format!("a request that holds credentials, to {next}")));
            }
            if url.is_tls() && !next.is_tls() {
                return Err(refuse(format!("from https to {next}, where anybody could exchange the answer")));
            }
            if next.origin() != url.origin() {
                // For good: a way back to the first origin would be the other server's choice.
                request.hidden = request.authorization.take().or(request.hidden);
            }
            url = next;
        }
        let problem = format!("more than {REDIRECTS_MAX} times");
        Err(Failure::last(NetworkError::Redirect { url: request.url.to_string(), problem }))
    }

    fn once(&self, url: &Url, request: &Request) -> std::result::Result<Response, Failure> {
        self.0.cancel.check().map_err(Failure::last)?;
        if self.0.policy.offline {
            return Err(Failure::last(Error::Offline { url: url.to_string() }));
        }
        if !url.is_tls() && !request.pinned && !self.may_be_plain(url) {
            let host = url.authority().to_owned();
            return Err(Failure::last(NetworkError::PlainHttp { url: url.to_string(), host }));
        }
        let agent = self.agent(url).map_err(Failure::last)?;
        let mut head = http::Request::builder().uri(url.uri().clone());
        for (name, value) in &request.headers {
            head = head.header(*name, value);
        }
        if let Some(authorization) = &request.authorization {
            head = head.header("authorization", authorization.header());
        }
        let bad = |e: http::Error| {
            Failure::last(NetworkError::Protocol { url: url.to_string(), problem: e.to_string() })
        };
        let sent = match &request.method {
            Method::Get => agent.run(head.method("GET").body(()).map_err(bad)?),
            Method::Head => agent.run(head.method("HEAD").body(()).map_err(bad)?),
            Method::Post(form) => agent.run(head.method("POST").body(form.as_bytes()).map_err(bad)?),
        };
        let (parts, body) = sent.map_err(|e| self.failure(url, e))?.into_parts();
        Ok(Response {
            head: ResponseHead { url: url.clone(), status: parts.status.as_u16(), headers: parts.headers },
            body: body.into_reader(),
            request: request.clone(),
        })
    }

    /// Returns whether the server may be talked to without TLS: it is this machine, or the user has named it.
    #[must_use]
    pub fn may_be_plain(&self, url: &Url) -> bool {
        let host = url.host();
        let named = |entry: &String| {
            let entry = entry.trim().to_ascii_lowercase();
            let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(&entry);
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            bare == host || entry == format!("{bracketed}:{}", url.port())
        };
        url.is_loopback() || self.0.policy.network.plain_http.iter().any(named)
    }

    fn agent(&self, url: &Url) -> std::result::Result<Agent, NetworkError> {
        let proxy = self.0.proxies.of(url)?;
        let slot = usize::from(url.is_tls()) * 2 + usize::from(proxy.is_some());
        let mut agents = self.0.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = &agents[slot] {
            return Ok(agent.clone());
        }
        let patience = &self.0.patience;
        let mut config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            // A digest is of the file as it is.
            .accept_encoding("identity")
            .max_response_header_size(HEADER_MAX)
            .timeout_resolve(Some(patience.resolve))
            .timeout_connect(Some(patience.connect))
            .timeout_send_request(Some(patience.stall))
            .timeout_recv_response(Some(patience.header))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall));
        // The way to a proxy may be TLS even when the way beyond it is not.
        if url.is_tls() || proxy.is_some() {
            config = config.tls_config(trust::tls_config(self.0.policy.network.ca_certs.as_deref())?);
        }
        let cancel = &self.0.cancel;
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(Tcp(cancel.clone()))
                .chain(RustlsConnector::default());
        let agent = Agent::with_parts(config.proxy(proxy).build(), connector, Names(cancel.clone()));
        agents[slot] = Some(agent.clone());
        Ok(agent)
    }

    fn failure(&self, url: &Url, error: ureq::Error) -> Failure {
        if let Err(cancelled) = self.0.cancel.check() {
            return Failure::last(cancelled);
        }
        let patience = &self.0.patience;
        let shown = url.to_string();
        let unreachable = |again, problem: String| {
            Failure::new(again, NetworkError::Unreachable { url: shown.clone(), problem })
        };
        let within = |limit: Duration| format!("within {} seconds", limit.as_secs_f32());
        match error {
            // TCP itself has tried several times by then.
            ureq::Error::Timeout(Timeout::Connect) => {
                unreachable(Again::No, format!("no connection {}", within(patience.connect)))
            }
            ureq::Error::Timeout(Timeout::Resolve) => unreachable(
                Again::No,
                format!("its name could not be looked up {}", within(patience.resolve)),
            ),
            ureq::Error::Timeout(_) => {
                unreachable(Again::Later(None), format!("it does not answer {}", within(patience.header)))
            }
            ureq::Error::HostNotFound => {
                unreachable(Again::NoConnection, "its name has no address".to_owned())
            }
            ureq::Error::ConnectProxyFailed(problem) => {
                unreachable(Again::Later(None), format!("the proxy: {problem}"))
            }
            ureq::Error::Rustls(e) => Failure::last(tls_error(url, &e)),
            ureq::Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => Failure::last(tls_error(url, tls)),
                None if e.kind() == io::ErrorKind::UnexpectedEof
                    || e.kind() == io::ErrorKind::ConnectionReset =>
                {
                    unreachable(Again::Later(None), "it closes the connection".to_owned())
                }
                None => unreachable(Again::NoConnection, e.to_string()),
            },
            other => {
                let problem = vmette_work::printable(&other.to_string(), 200);
                Failure::last(NetworkError::Protocol { url: shown, problem })
            }
        }
    }
}

fn tls_error(url: &Url, error: &rustls::Error) -> NetworkError {
    let shown = url.to_string();
    match error {
        rustls::Error::InvalidCertificate(reason) => {
            NetworkError::Certificate { url: shown, problem: reason.to_string() }
        }
        rustls::Error::InvalidMessage(_) => {
            let problem = "the server does not speak it".to_owned();
            NetworkError::Tls { url: shown, problem, host: url.authority().to_owned() }
        }
        other => {
            NetworkError::Tls { url: shown, problem: other.to_string(), host: url.authority().to_owned() }
        }
    }
}
