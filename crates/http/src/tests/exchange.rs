//! Single requests: redirects, retries, limits, TLS.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{impatient_client, with_network};
use crate::proxy::Proxies;
use crate::testing::{Authority, Reply, Server, Then, impatient, with_authority};
use crate::{
    Authorization, Client, Error, NetworkError, NetworkOptions, Policy, Request, Result, SmallResponse, Url,
};
use vmette_work::Cancel;

const MAX: usize = 1000;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn get(policy: &Policy, at: &str) -> Result<SmallResponse> {
    Client::impatient(policy, &Cancel::new()).send_small(&Request::get(url(at)), MAX)
}

fn body(result: Result<SmallResponse>) -> String {
    let small = result.unwrap();
    assert!(small.is_success(), "{}", small.status());
    String::from_utf8(small.into_bytes()).unwrap()
}

fn error(result: Result<SmallResponse>) -> NetworkError {
    match result.err().unwrap() {
        Error::Network(e) => e,
        e => panic!("{e}"),
    }
}

fn secret() -> Request {
    Request::get(url("http://127.0.0.1/")).authorized(Some(Authorization::bearer("s3cr3t")))
}

#[test]
fn a_request_says_who_asks_and_takes_the_file_as_it_is() {
    let server = Server::start(|_| Reply::ok("hello"));
    assert_eq!(body(get(&Policy::default(), &server.url("/a?b=c"))), "hello");
    let request = server.received().remove(0);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/a?b=c"));
    assert_eq!(request.header("user-agent"), Some(concat!("vmette/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("authorization"), None);
}

#[test]
fn a_redirect_on_one_server_keeps_credentials() {
    let server = Server::start(|request| match request.path.as_str() {
        "/1" => Reply::redirect("2"),
        _ => Reply::ok("there"),
    });
    let request = Request { url: url(&server.url("/1")), ..secret() };
    assert_eq!(body(impatient_client().send_small(&request, MAX)), "there");
    let authorization: Vec<_> =
        server.received().iter().map(|r| r.header("authorization").map(str::to_owned)).collect();
    assert_eq!(authorization, vec![Some("Bearer s3cr3t".to_owned()); 2]);
}

#[test]
fn a_redirect_to_another_server_drops_credentials_for_good() {
    let back = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let target = std::sync::Arc::clone(&back);
    let other = Server::start(move |_| Reply::redirect(target.get().unwrap()));
    let away = other.url("/away");
    let first = Server::start(move |request| match request.path.as_str() {
        "/1" => Reply::redirect(&away),
        _ => Reply::ok("back"),
    });
    back.set(first.url("/2")).unwrap();
    let request = Request { url: url(&first.url("/1")), ..secret() };
    assert_eq!(body(impatient_client().send_small(&request, MAX)), "back");
    assert_eq!(first.received()[0].header("authorization"), Some("Bearer s3cr3t"));
    assert_eq!(other.received()[0].header("authorization"), None);
    assert_eq!(first.received()[1].header("authorization"), None, "not for who comes from elsewhere");
}

#[test]
fn redirects_out_of_tls_to_other_schemes_and_without_end_are_refused() {
    let plain = Server::start(|_| Reply::ok("plain"));
    let target = plain.url("/x?signature=hidden");
    let authority = Authority::new();
    let server = Server::start_tls(&authority, move |request| match request.path.as_str() {
        "/plain" => Reply::redirect(&target),
        "/file" => Reply::redirect("file:///etc/passwd"),
        "/user" => Reply::redirect("https://u:hidden@127.0.0.1/"),
        _ => Reply::redirect("/loop"),
    });
    for (path, part) in [
        ("/plain", "from https to http://127.0.0.1"),
        ("/file", "not a URL"),
        ("/user", "user name or password"),
        ("/loop", "more than 10 times"),
    ] {
        let e = error(get(&with_authority(&authority), &server.url(path)));
        assert!(matches!(e, NetworkError::Redirect { .. }) && !e.is_temporary(), "{e:?}");
        assert!(e.to_string().contains(part) && !e.to_string().contains("hidden"), "{e}");
    }
    assert!(plain.received().is_empty());
    assert_eq!(server.paths().iter().filter(|path| *path == "/loop").count(), 11);
}

#[test]
fn plain_http_needs_loopback_or_a_word_of_the_user() {
    let e = error(get(&Policy::default(), "http://registry.example/v2/"));
    assert!(matches!(&e, NetworkError::PlainHttp { host, .. } if host == "registry.example"), "{e:?}");
    assert!(e.to_string().contains("plain HTTP for registry.example"), "{e}");

    let server = Server::start(|_| Reply::redirect("http://192.0.2.1:81/x"));
    let e = error(get(&Policy::default(), &server.url("/")));
    assert!(matches!(&e, NetworkError::PlainHttp { host, .. } if host == "192.0.2.1:81"), "{e:?}");

    let allowed = |entry: &str, at: &str| {
        let network = NetworkOptions { plain_http: vec![entry.to_owned()], ca_certs: None };
        Client::impatient(&with_network(network), &Cancel::new()).may_be_plain(&url(at))
    };
    assert!(allowed("h.example", "http://H.example:81/"));
    assert!(allowed("H.example:81", "http://h.example:81/"));
    assert!(allowed("h.example:80", "http://h.example/"));
    assert!(allowed("[fe80::1]:81", "http://[fe80::1]:81/"));
    assert!(allowed("fe80::1", "http://[fe80::1]:81/"));
    assert!(!allowed("h.example:81", "http://h.example:82/"));
    assert!(!allowed("h.example", "http://a.h.example/"));
    assert!(!allowed("", "http://h.example/"));
}

#[test]
fn offline_asks_nobody() {
    let server = Server::start(|_| Reply::ok(""));
    let refused = get(&Policy { offline: true, ..Policy::default() }, &server.url("/"));
    assert!(matches!(refused.err().unwrap(), Error::Offline { .. }));
    assert!(server.received().is_empty());
}

#[test]
fn a_busy_server_is_asked_again() {
    for status in [429, 500, 502, 503, 504] {
        let times = AtomicUsize::new(0);
        let server = Server::start(move |_| match times.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Reply::new(status, "busy").header("Retry-After", "0"),
            _ => Reply::ok("now"),
        });
        assert_eq!(body(get(&Policy::default(), &server.url("/"))), "now");
        assert_eq!(server.received().len(), 3);
    }
}

#[test]
fn a_retry_after_is_obeyed_within_bounds() {
    let times = AtomicUsize::new(0);
    let server = Server::start(move |_| match times.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(503, "").header("Retry-After", "86400"),
        _ => Reply::ok("now"),
    });
    let started = Instant::now();
    assert_eq!(body(get(&Policy::default(), &server.url("/"))), "now");
    assert!(started.elapsed() >= impatient().retry_after);
}

#[test]
fn attempts_end() {
    let server = Server::start(|_| Reply::new(503, r#"{"errors":[{"message":"\u001b[2Jtoo busy"}]}"#));
    let e = error(get(&Policy::default(), &server.url("/?secret=hidden")));
    assert!(e.is_temporary(), "{e:?}");
    assert!(e.to_string().ends_with("the server answers 503: \u{fffd}[2Jtoo busy"), "{e}");
    assert!(!e.to_string().contains("hidden"));
    assert_eq!(server.received().len(), 4);
}

#[test]
fn a_refusal_is_not_tried_again() {
    for status in [400, 401, 403, 404, 501] {
        let server = Server::start(move |_| Reply::new(status, "no"));
        assert_eq!(get(&Policy::default(), &server.url("/")).unwrap().status(), status);
        assert_eq!(server.received().len(), 1);
    }
}

#[test]
fn nobody_there_is_told_soon() {
    let server = Server::start(|_| Reply::ok(""));
    let at = server.url("/x");
    drop(server);
    let e = error(get(&Policy::default(), &at));
    assert!(matches!(e, NetworkError::Unreachable { .. }) && e.is_temporary(), "{e:?}");
    let e = error(get(&with_authority(&Authority::new()), "https://no-such-host.invalid/"));
    assert!(matches!(e, NetworkError::Unreachable { .. }), "{e:?}");
}

#[test]
fn a_small_body_is_bounded_in_size_and_time() {
    let server = Server::start(|request| match request.path.as_str() {
        "/declared" => {
            Reply::bare(200).header("Content-Length", "100000").then(Then::Forever(vec![b'x'; 4096]))
        }
        "/endless" => Reply::bare(200).then(Then::Forever(vec![b'x'; 4096])),
        _ => Reply::bare(200).header("Content-Length", "900").then(Then::Drip(vec![b'x'; 900])),
    });
    for path in ["/declared", "/endless"] {
        let e = error(get(&Policy::default(), &server.url(path)));
        assert!(matches!(e, NetworkError::TooLarge { max: 1000, .. }) && !e.is_temporary(), "{e:?}");
    }
    let mut patience = impatient();
    (patience.small, patience.attempts) = (Duration::from_millis(200), 1);
    let client = Client::with(&Policy::default(), &Cancel::new(), patience, Proxies::default());
    let e = error(client.send_small(&Request::get(url(&server.url("/drip"))), MAX));
    assert!(matches!(e, NetworkError::Truncated { .. }), "{e:?}");
}

#[test]
fn an_errors_body_and_a_header_are_bounded() {
    let server = Server::start(|request| match request.path.as_str() {
        "/error" => {
            Reply::bare(404).header("Content-Type", "text/plain").then(Then::Forever(vec![b'x'; 4096]))
        }
        "/header" => Reply::bare(200).header("X", &"x".repeat(200 << 10)),
        _ => (0..200).fold(Reply::bare(200), |reply, n| reply.header(&format!("X-{n}"), "x")),
    });
    let refused = get(&Policy::default(), &server.url("/error")).unwrap().refusal().to_string();
    assert!(refused.len() < 500 && refused.contains("404: xxx"), "{refused}");
    for path in ["/header", "/headers"] {
        let e = error(get(&Policy::default(), &server.url(path)));
        assert!(matches!(e, NetworkError::Protocol { .. }), "{e:?}");
    }
}

#[test]
fn a_cut_or_stalled_small_body_is_fetched_again() {
    let times = AtomicUsize::new(0);
    let server = Server::start(move |_| match times.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok("hello").cut_after(2),
        1 => Reply::bare(200).header("Content-Length", "5").then(Then::Stall),
        2 => Reply::bare(200).header("Content-Length", "x").then(Then::Cut),
        _ => Reply::ok("hello"),
    });
    let client = impatient_client();
    let request = Request::get(url(&server.url("/")));
    // The third answer is no HTTP: that is told at once.
    assert!(matches!(error(client.send_small(&request, MAX)), NetworkError::Protocol { .. }));
    assert_eq!(body(client.send_small(&request, MAX)), "hello");
}

#[test]
fn a_server_that_repeats_a_secret_does_not_spread_it() {
    let server = Server::start(|request| {
        let sent = request.header("authorization").unwrap().to_owned();
        Reply::new(403, format!("{{\"message\":\"you sent {sent}\"}}"))
    });
    let request = Request { url: url(&server.url("/")), ..secret() };
    let refused = impatient_client().send_small(&request, MAX).unwrap().refusal().to_string();
    assert!(refused.contains("you sent Bearer [hidden]"), "{refused}");
    assert!(!format!("{request:?} {:?}", request.authorization).contains("s3cr3t"));
}

#[test]
fn a_certificate_is_trusted_when_its_authority_is() {
    let authority = Authority::new();
    let server = Server::start_tls(&authority, |_| Reply::ok("secure"));
    assert_eq!(body(get(&with_authority(&authority), &server.url("/"))), "secure");
    let dir = NetworkOptions {
        ca_certs: Some(authority.file.parent().unwrap().to_owned()),
        plain_http: Vec::new(),
    };
    assert_eq!(body(get(&with_network(dir), &server.url("/"))), "secure");

    let e = error(get(&with_authority(&Authority::new()), &server.url("/")));
    assert!(matches!(e, NetworkError::Certificate { .. }) && !e.is_temporary(), "{e:?}");
    assert!(e.to_string().contains("name its authority"), "{e}");
}

#[test]
fn authorities_that_cannot_be_read_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, damaged) = (dir.path().join("empty"), dir.path().join("damaged.pem"));
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(&damaged, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for path in [&empty, &damaged, &dir.path().join("missing"), &std::path::PathBuf::from("/dev/null")] {
        let network = NetworkOptions { ca_certs: Some(path.clone()), plain_http: Vec::new() };
        let e = error(get(&with_network(network), "https://127.0.0.1:1/"));
        assert!(e.to_string().contains(&path.display().to_string()), "{e}");
        assert!(matches!(e, NetworkError::TrustStore { .. }), "{e:?}");
    }
}

#[test]
fn a_server_without_tls_is_told_apart() {
    let server = Server::start(|_| Reply::ok(""));
    let e = error(get(&with_authority(&Authority::new()), &format!("https://{}/", server.host())));
    assert!(matches!(e, NetworkError::Unreachable { .. } | NetworkError::Tls { .. }), "{e:?}");
}

#[test]
fn giving_up_is_noticed_while_a_server_is_silent() {
    let server = Server::start(|_| Reply::bare(200).header("Content-Length", "9").then(Then::Stall));
    let cancel = Cancel::new();
    let mut patience = impatient();
    patience.stall = Duration::from_secs(60);
    let client = Client::with(&Policy::default(), &cancel, patience, Proxies::default());
    let request = Request::get(url(&server.url("/")));
    thread::scope(|scope| {
        let asked = scope.spawn(|| client.send_small(&request, MAX));
        while server.received().is_empty() {
            thread::yield_now();
        }
        let started = Instant::now();
        cancel.cancel();
        assert!(matches!(asked.join().unwrap().err().unwrap(), Error::Cancelled(_)));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    });
}

#[test]
fn giving_up_is_noticed_between_attempts() {
    let server = Server::start(|_| Reply::new(503, ""));
    let cancel = Cancel::new();
    let mut patience = impatient();
    (patience.first_delay, patience.longest_delay) = (Duration::from_secs(600), Duration::from_secs(600));
    let client = Client::with(&Policy::default(), &cancel, patience, Proxies::default());
    thread::scope(|scope| {
        let asked = scope.spawn(|| client.send_small(&Request::get(url(&server.url("/"))), MAX));
        while server.received().is_empty() {
            thread::yield_now();
        }
        cancel.cancel();
        assert!(matches!(asked.join().unwrap().err().unwrap(), Error::Cancelled(_)));
    });
}

#[test]
fn a_proxy_is_asked_for_a_tunnel() {
    let proxy = Server::start(|_| Reply::new(403, ""));
    let at = format!("http://user:pass@{}", proxy.host());
    let proxies = Proxies::from_env(&|name| (name == "https_proxy").then(|| at.clone()));
    let mut patience = impatient();
    patience.attempts = 1;
    let authority = Authority::new();
    let client = Client::with(&with_authority(&authority), &Cancel::new(), patience, proxies);
    let e = error(client.send_small(&Request::get(url("https://registry.example/v2/")), MAX));
    assert!(e.to_string().contains("the proxy") && !e.to_string().contains("pass"), "{e}");
    let request = proxy.received().remove(0);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("CONNECT", "registry.example:443"));
}
