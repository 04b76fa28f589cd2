//! Requests, made with patience and within bounds.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::config::Config;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, RustlsConnector};
use ureq::{Agent, Timeout, http};

use super::connect::{Names, Tcp};
use super::error::{NetworkError, is_temporary_status};
use super::patience::Patience;
use super::proxy::Proxies;
use super::request::{Method, Request};
use super::response::{BodyFailure, Head, Response, Small};
use super::trust;
use super::url::Url;
use super::wait;
use crate::context::Context;
use crate::error::{ProviderError, Result};

/// Redirects of one request that are followed. Registries need one or two.
const REDIRECTS_MAX: usize = 10;
/// Bytes of a response's header. Content security policies of a large site take up to ten KiB.
const HEADER_MAX: usize = 64 << 10;
const USER_AGENT: &str = concat!("vmette/", env!("CARGO_PKG_VERSION"));

/// Makes requests. Any number of threads may use it and its clones, which share connections.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    ctx: Context,
    patience: Patience,
    proxies: Proxies,
    /// For plain requests and for TLS, each directly and through a proxy: made when first needed, because reading the
    /// system's authorities takes its time.
    agents: Mutex<[Option<Agent>; 4]>,
}

/// A failed attempt, and whether another one may fare better.
struct Failure {
    error: Box<ProviderError>,
    again: Again,
}

#[derive(Clone, Copy)]
enum Again {
    No,
    /// Nobody there: tried less often.
    NoConnection,
    /// After a while, which the server may have named.
    Later(Option<Duration>),
}

impl Failure {
    fn last(error: impl Into<ProviderError>) -> Self {
        Self { error: Box::new(error.into()), again: Again::No }
    }

    fn new(again: Again, error: NetworkError) -> Self {
        Self { error: Box::new(error.into()), again }
    }
}

impl Client {
    /// With the context's rules, the environment's proxies and the usual patience.
    pub(crate) fn new(ctx: &Context) -> Self {
        Self::with(ctx, Patience::default(), Proxies::from_env(&|name| std::env::var(name).ok()))
    }

    pub(super) fn with(ctx: &Context, patience: Patience, proxies: Proxies) -> Self {
        Self(Arc::new(Inner { ctx: ctx.clone(), patience, proxies, agents: Mutex::default() }))
    }

    /// Without waiting long for anything, and without a proxy.
    #[cfg(test)]
    pub(crate) fn impatient(ctx: &Context) -> Self {
        Self::with(ctx, super::tests::impatient(), Proxies::default())
    }

    pub(crate) fn context(&self) -> &Context {
        &self.0.ctx
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.0.patience
    }

    /// The response, whatever its status unless that is one that may pass: then it is tried again, and the last one is
    /// an error.
    pub(crate) fn send(&self, request: &Request) -> Result<Response> {
        self.retry(|| self.attempt(request))
    }

    /// As [`Client::send`], with the body: at most `max` bytes of it.
    pub(crate) fn send_small(&self, request: &Request, max: usize) -> Result<Small> {
        self.retry(|| {
            self.attempt(request)?.small(max, self.0.patience.small).map_err(|(error, failure)| match failure
            {
                BodyFailure::TooLarge => Failure::last(error),
                BodyFailure::Read(e) => match cancelled(e) {
                    Some(cancelled) => Failure::last(cancelled),
                    None => Failure::new(Again::Later(None), error),
                },
            })
        })
    }

    /// One single attempt, as it comes.
    pub(crate) fn send_once(&self, request: &Request, max: usize) -> Result<Small> {
        let response = self.exchange(request).map_err(|failure| *failure.error)?;
        response.small(max, self.0.patience.small).map_err(|(error, _)| error.into())
    }

    /// As an error, with what its body says.
    pub(crate) fn refusal(&self, response: Response) -> NetworkError {
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
            wait::pause(&self.0.ctx, patience.pause(failed, asked))?;
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
        let ctx = &self.0.ctx;
        ctx.check_cancelled().map_err(Failure::last)?;
        if ctx.is_offline() {
            return Err(Failure::last(ProviderError::OfflineCacheMiss(url.to_string())));
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
            head: Head { url: url.clone(), status: parts.status.as_u16(), headers: parts.headers },
            body: body.into_reader(),
            request: request.clone(),
        })
    }

    /// Whether a server may be talked to without TLS: it is this machine, or the user has named it.
    pub(crate) fn may_be_plain(&self, url: &Url) -> bool {
        let host = url.host();
        let named = |entry: &String| {
            let entry = entry.trim().to_ascii_lowercase();
            let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(&entry);
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            bare == host || entry == format!("{bracketed}:{}", url.port())
        };
        url.is_loopback() || self.0.ctx.network().plain_http.iter().any(named)
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
            // What is asked for is the file as it is: a digest is of that.
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
            config = config.tls_config(trust::tls_config(self.0.ctx.network().ca_certs.as_deref())?);
        }
        let ctx = &self.0.ctx;
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(Tcp(ctx.clone()))
                .chain(RustlsConnector::default());
        let agent = Agent::with_parts(config.proxy(proxy).build(), connector, Names(ctx.clone()));
        agents[slot] = Some(agent.clone());
        Ok(agent)
    }

    fn failure(&self, url: &Url, error: ureq::Error) -> Failure {
        if let Err(cancelled) = self.0.ctx.check_cancelled() {
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
                let problem = super::text::printable(&other.to_string(), 200);
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

/// The cause that an error of reading carries, when it is that the caller gave up.
pub(super) fn cancelled(error: io::Error) -> Option<ProviderError> {
    let inner = error.into_inner()?.downcast::<ProviderError>().ok()?;
    matches!(*inner, ProviderError::Cancelled).then_some(*inner)
}
