//! Registries' behaviour, and the credentials that each gets.

mod counterpart;

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::session::Environment;
use super::*;
use vmette_http::testing::{Authority, Received, Reply, Server, Then, trusting};
use vmette_http::{NetworkOptions, Policy};
use vmette_work::Cancel;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The rules and the credentials of one caller.
#[derive(Default)]
struct Access {
    policy: Policy,
    known: Credentials,
}

impl Access {
    fn with_credentials(mut self, host: &str, user: &str, secret: &str) -> Self {
        self.known.add(host, user, secret);
        self
    }

    fn with_network(self, network: NetworkOptions) -> Self {
        Self { policy: Policy { network, ..self.policy }, ..self }
    }

    fn client(&self) -> Client {
        Client::impatient(&self.policy, &Cancel::new())
    }

    fn registry(&self, host: &str, env: Environment) -> Registry {
        let (client, known) = (self.client(), self.known.clone());
        let session = Session::new(client.clone(), host, "owner/name", known, env, Work::quiet());
        Registry::with(host, "owner/name", client, session).unwrap()
    }
}

fn anybody() -> Access {
    Access::default()
}

fn with_authority(authority: &Authority) -> Access {
    anybody().with_network(trusting(authority))
}

fn registry(host: &str, access: &Access) -> Registry {
    access.registry(host, Box::new(|_| None))
}

fn tag() -> Which {
    Which::Tag("latest".to_owned())
}

/// The refusal names the image, what the registry says, and what to look at.
fn is_told_to_be_missing(registry: &Registry, tag: &str) {
    let e = registry.manifest(&Which::Tag(tag.to_owned())).unwrap_err();
    let said = e.to_string();
    let name = format!("image {}/owner/name:{tag}: ", registry.0.host);
    assert!(
        said.starts_with(&name) && said.ends_with("404: manifest unknown; check the image's name and tag"),
        "{said}"
    );
}

fn network(error: Error) -> NetworkError {
    match error {
        Error::Http(vmette_http::Error::Network(e)) => e,
        e => panic!("{e}"),
    }
}

fn content() -> Vec<u8> {
    (0..50_000u32).flat_map(u32::to_le_bytes).collect()
}

/// A registry without any credentials.
fn serve(request: &Received) -> Reply {
    let blob = format!("/v2/owner/name/blobs/{}", Digest::of(&content()));
    match request.path.as_str() {
        "/v2/" => Reply::ok("{}"),
        "/v2/owner/name/manifests/latest" => Reply::ok(MANIFEST)
            .header("Content-Type", TYPE)
            .header("Docker-Content-Digest", &Digest::of(MANIFEST.as_bytes()).to_string()),
        path if path == format!("/v2/owner/name/manifests/{}", Digest::of(MANIFEST.as_bytes())) => {
            Reply::ok(MANIFEST).header("Content-Type", "application/json; charset=utf-8")
        }
        path if path == blob => Reply::file(request, &content()),
        _ => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
    }
}

fn wants(request: &Received, authorization: &str, challenge: &str) -> Option<Reply> {
    (request.header("authorization") != Some(authorization)).then(|| {
        Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
            .header("WWW-Authenticate", challenge)
    })
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn authorizations(server: &Server) -> Vec<Option<String>> {
    server.received().iter().map(|request| request.header("authorization").map(str::to_owned)).collect()
}

#[test]
fn manifests_digests_and_blobs() {
    let server = Server::start(serve);
    let registry = registry(&server.host(), &anybody());
    let digest = Digest::of(MANIFEST.as_bytes());
    let manifest = registry.manifest(&tag()).unwrap();
    assert_eq!((manifest.digest, manifest.media_type.as_deref()), (digest, Some(TYPE)));
    assert_eq!(manifest.bytes, MANIFEST.as_bytes());
    let manifest = registry.manifest(&Which::Digest(digest)).unwrap();
    assert_eq!(manifest.media_type.as_deref(), Some("application/json"));
    assert_eq!(registry.digest_of("latest").unwrap(), digest);

    let accept = server.received()[1].header("accept").unwrap().to_owned();
    for media_type in
        [TYPE, "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2", "oci.image.index"]
    {
        assert!(accept.contains(media_type), "{accept}");
    }
    let methods: Vec<_> = server.received().iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["GET", "GET", "GET", "HEAD"], "one look for TLS, and no more than that");

    let blob = Blob { digest: Digest::of(&content()), size: 200_000 };
    for offset in [0, 1, 199_999, 200_000] {
        let mut bytes = Vec::new();
        registry.open(&blob, offset as u64).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, content()[offset..]);
    }
    let smaller = Blob { size: 199_999, ..blob };
    assert!(matches!(network(registry.open(&smaller, 0).err().unwrap()), NetworkError::Length { .. }));

    is_told_to_be_missing(&registry, "other");
}

#[test]
fn a_digest_without_head_is_had_with_get() {
    for refuse in [404, 405, 401, 403] {
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => Reply::new(refuse, ""),
            _ => serve(request),
        });
        let registry = registry(&server.host(), &anybody());
        assert_eq!(registry.digest_of("latest").unwrap(), Digest::of(MANIFEST.as_bytes()));
    }
    let server = Server::start(|request| {
        if request.path == "/v2/" {
            Reply::ok("{}")
        } else {
            Reply::ok(MANIFEST).header("Docker-Content-Digest", "sha256:../x")
        }
    });
    let registry = registry(&server.host(), &anybody());
    assert_eq!(registry.digest_of("latest").unwrap(), Digest::of(MANIFEST.as_bytes()));
}

#[test]
fn a_manifest_that_is_another_one_is_refused() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/" => Reply::ok("{}"),
        path => Reply::ok(MANIFEST).header("Docker-Content-Digest", path.rsplit('/').next().unwrap()),
    });
    let wrong = Digest::of(b"other");
    let e = registry(&server.host(), &anybody()).manifest(&Which::Digest(wrong)).unwrap_err();
    assert!(matches!(&e, Error::Image { source: ImageError::Digest { .. }, .. }), "{e:?}");
    assert!(e.to_string().contains(&wrong.to_string()), "{e}");
}

#[test]
fn an_endless_manifest_ends() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/" => Reply::ok("{}"),
        _ => Reply::bare(200).then(Then::Forever(vec![b' '; 64 << 10])),
    });
    let e = network(registry(&server.host(), &anybody()).manifest(&tag()).unwrap_err());
    assert!(matches!(e, NetworkError::TooLarge { max, .. } if max == MANIFEST_MAX as u64), "{e:?}");
}

#[test]
fn what_is_no_part_of_a_url_is_refused() {
    let client = anybody().client();
    for (host, repository) in [
        ("h/x", "r"),
        ("h?x", "r"),
        ("u@h", "r"),
        ("h#", "r"),
        ("", "r"),
        ("h", ""),
        ("h", "../r"),
        ("h", "a//b"),
        ("h", "a?b"),
        ("h", "A"),
        ("h", "a/"),
        ("h:x", "r"),
    ] {
        let refused = Registry::new(host, repository, &client, &Credentials::default(), &Work::quiet()).err();
        assert!(matches!(refused, Some(Error::Reference(_))), "{host} {repository}");
    }
    let registry =
        Registry::new("docker.io", "library/alpine", &client, &Credentials::default(), &Work::quiet())
            .unwrap();
    for bad in ["", "../x", "a/b", "a?b", ".x", &"x".repeat(129)] {
        let refused = registry.manifest(&Which::Tag(bad.to_owned()));
        assert!(matches!(refused, Err(Error::Reference(_))), "{bad}");
    }
    let url = registry.0.manifest_request(&tag(), false).unwrap().url().to_string();
    assert_eq!(url, "https://registry-1.docker.io/v2/library/alpine/manifests/latest");
}

#[test]
fn tls_is_found_where_it_may_be_missing_and_asked_for_elsewhere() {
    let authority = Authority::new();
    let server = Server::start_tls(&authority, serve);
    let access = with_authority(&authority);
    registry(&server.host(), &access).manifest(&tag()).unwrap();
    assert_eq!(server.paths(), ["/v2/", "/v2/owner/name/manifests/latest"]);

    // A certificate that is not trusted is no reason to do without.
    let e =
        network(registry(&server.host(), &with_authority(&Authority::new())).manifest(&tag()).unwrap_err());
    assert!(matches!(e, NetworkError::Certificate { .. }), "{e:?}");

    let base = |host: &str, access: &Access| registry(host, access).0.url("manifests", "x").unwrap().is_tls();
    assert!(base("r.example", &anybody()), "without asking");
}

#[test]
fn basic_credentials_are_sent_when_they_are_asked_for() {
    let server = Server::start(|request| {
        wants(request, &basic("ann:s3cret"), r#"Basic realm="r""#).unwrap_or_else(|| serve(request))
    });
    let access = anybody().with_credentials(&server.host(), "ann", "s3cret");
    let registry = registry(&server.host(), &access);
    registry.manifest(&tag()).unwrap();
    registry.digest_of("latest").unwrap();
    let sent = Some(basic("ann:s3cret"));
    assert_eq!(
        authorizations(&server),
        [None, None, sent.clone(), sent],
        "not before, and not anew each time"
    );

    let wrong = anybody().with_credentials(&server.host(), "bob", "wr0ng");
    let e = network(self::registry(&server.host(), &wrong).manifest(&tag()).unwrap_err());
    let text = e.to_string();
    assert!(matches!(e, NetworkError::Denied { status: 401, .. }), "{e:?}");
    assert!(text.contains("user bob") && text.contains("authentication required"), "{text}");
    assert!(!text.contains("wr0ng") && !format!("{e:?}").contains("wr0ng"), "{text}");
    let e = network(self::registry(&server.host(), &anybody()).manifest(&tag()).unwrap_err());
    assert!(
        e.to_string().contains("no credentials for 127.0.0.1") && e.to_string().contains("docker login"),
        "{e}"
    );
}

/// A registry and its token server, which gives `tN` the Nth time; the registry takes those that `valid` says.
struct Guarded {
    registry: Server,
    tokens: Server,
}

type Answering = fn(usize, &Received) -> Reply;

fn guarded(
    valid: fn(&str) -> bool,
    token: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
) -> Guarded {
    let given = AtomicUsize::new(0);
    let tokens = Server::start(move |request| token(given.fetch_add(1, Ordering::SeqCst) + 1, request));
    let challenge = format!(
        r#"Bearer realm="{}",service="the service",scope="repository:x:pull,push""#,
        tokens.url("/token?a=b")
    );
    let registry = Server::start(move |request| {
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(valid) {
            serve(request)
        } else {
            Reply::new(401, "").header("WWW-Authenticate", &challenge)
        }
    });
    Guarded { registry, tokens }
}

fn give(number: usize, _: &Received) -> Reply {
    Reply::ok(format!(r#"{{"token":"t{number}","expires_in":300}}"#))
}

#[test]
fn a_token_is_fetched_once_and_used() {
    let guarded = guarded(|token| token == "t1", give);
    let access = anybody().with_credentials(&guarded.registry.host(), "ann", "s3cret");
    let registry = registry(&guarded.registry.host(), &access);
    registry.manifest(&tag()).unwrap();
    let blob = Blob { digest: Digest::of(&content()), size: 200_000 };
    registry.open(&blob, 0).unwrap().read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(
        guarded.tokens.paths(),
        ["/token?a=b&scope=repository%3Aowner%2Fname%3Apull&service=the%20service"]
    );
    assert_eq!(authorizations(&guarded.tokens), [Some(basic("ann:s3cret"))]);
    let bearer = Some("Bearer t1".to_owned());
    assert_eq!(authorizations(&guarded.registry), [None, None, bearer.clone(), bearer]);
}

#[test]
fn a_token_for_nobody() {
    for answer in [
        r#"{"access_token":"t1"}"#,
        r#"{"token":"","access_token":"t1"}"#,
        r#"{"token":null,"access_token":"t1"}"#,
        r#"{"Token":"t1","access_token":""}"#,
    ] {
        let guarded = guarded(|token| token == "t1", move |_, _| Reply::ok(answer));
        registry(&guarded.registry.host(), &anybody()).manifest(&tag()).unwrap();
        assert_eq!(authorizations(&guarded.tokens), [None], "{answer}");
    }
}

#[test]
fn a_token_that_has_run_out_is_replaced_once() {
    let guarded = guarded(|token| token == "t2", give);
    let registry = registry(&guarded.registry.host(), &anybody());
    let e = network(registry.manifest(&tag()).unwrap_err());
    assert!(matches!(e, NetworkError::Denied { status: 401, .. }), "{e:?}");
    assert_eq!(guarded.tokens.received().len(), 1, "a new token that is refused is no reason for another");
    registry.manifest(&tag()).unwrap();
    assert_eq!(guarded.tokens.received().len(), 2);
}

#[test]
fn many_threads_need_one_token() {
    let guarded = guarded(|token| token == "t1", give);
    let registry = registry(&guarded.registry.host(), &anybody());
    let blob = Blob { digest: Digest::of(&content()), size: 200_000 };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut bytes = Vec::new();
                registry.open(&blob, 0).unwrap().read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes.len(), 200_000);
            });
        }
    });
    assert_eq!(guarded.tokens.received().len(), 1);
}

#[test]
fn an_identity_token_is_sent_in_a_form() {
    let guarded = guarded(|token| token == "t1", give);
    let dir = tempfile::tempdir().unwrap();
    let host = guarded.registry.host();
    let auths = format!(r#"{{"auths":{{"{host}":{{"identitytoken":"id t&0ken"}}}}}}"#);
    std::fs::write(dir.path().join("config.json"), auths).unwrap();
    let docker = dir.path().display().to_string();
    let env = move |name: &str| (name == "DOCKER_CONFIG").then(|| docker.clone());
    let registry = anybody().registry(&host, Box::new(env));
    registry.manifest(&tag()).unwrap();
    let asked = guarded.tokens.received().remove(0);
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(
        asked.body,
        "grant_type=refresh_token&client_id=vmette&scope=repository%3Aowner%2Fname%3Apull&service=the%20service&refresh_token=id%20t%260ken"
    );
}

#[test]
fn token_servers_that_misbehave() {
    let cases: [(Answering, &str); 7] = [
        (|_, _| Reply::bare(200).then(Then::Forever(vec![b' '; 4096])), "is larger than"),
        (|_, _| Reply::ok("<html>"), "not a token's JSON"),
        (|_, _| Reply::ok("{}"), "holds no token"),
        (|_, _| Reply::ok(r#"{"token":"a\r\nX: y"}"#), "holds no token"),
        (|_, _| Reply::ok(format!(r#"{{"token":"{}"}}"#, "x".repeat(40 << 10))), "holds no token"),
        (|_, _| Reply::new(404, ""), "answers 404"),
        (
            |_, request| {
                let sent = request.header("authorization").unwrap();
                Reply::new(401, format!(r#"{{"details":"{sent} is ann:s3cret"}}"#))
            },
            "answers 401: Basic [hidden] is ann:[hidden]; it was told to be user ann",
        ),
    ];
    for (answer, part) in cases {
        let guarded = guarded(|_| true, answer);
        let challenge = format!(r#"Bearer realm="{}""#, guarded.tokens.url("/token"));
        let registry = Server::start(move |_| Reply::new(401, "").header("WWW-Authenticate", &challenge));
        let access = anybody().with_credentials(&registry.host(), "ann", "s3cret");
        let e = network(self::registry(&registry.host(), &access).manifest(&tag()).unwrap_err());
        assert!(e.to_string().contains(part), "{part}: {e}");
        assert!(!format!("{e:?}").contains("s3cret"));
    }
}

#[test]
fn a_realm_without_tls_is_not_used_by_a_registry_with_it() {
    let tokens = Server::start(|_| Reply::ok(r#"{"token":"t"}"#));
    let challenge = format!(r#"Bearer realm="{}""#, tokens.url("/token"));
    let authority = Authority::new();
    let server =
        Server::start_tls(&authority, move |_| Reply::new(401, "").header("WWW-Authenticate", &challenge));
    let access = with_authority(&authority).with_credentials(&server.host(), "ann", "s3cret");
    let e = network(registry(&server.host(), &access).manifest(&tag()).unwrap_err());
    assert!(matches!(e, NetworkError::Protocol { .. }) && e.to_string().contains("has no TLS"), "{e}");
    assert!(tokens.received().is_empty());
}

#[test]
fn a_realm_that_is_no_place_to_go_is_refused() {
    for realm in ["http://192.0.2.1/token", "ftp://h/token", "/token", "https://u:p@h/token"] {
        let challenge = format!(r#"Bearer realm="{realm}""#);
        let server = Server::start(move |_| Reply::new(401, "").header("WWW-Authenticate", &challenge));
        let access = anybody().with_credentials(&server.host(), "ann", "s3cret");
        let e = network(registry(&server.host(), &access).manifest(&tag()).unwrap_err());
        assert!(
            matches!(e, NetworkError::Protocol { .. } | NetworkError::PlainHttp { .. }),
            "{realm}: {e:?}"
        );
    }
}

#[test]
fn a_registry_that_nobody_vouches_for_names_no_other_host() {
    // The rule is about hosts elsewhere, of which a test has none: it is asked of the session itself.
    let network = NetworkOptions { ca_certs: None, plain_http: vec!["plain.example".to_owned()] };
    let access = anybody().with_network(network).with_credentials("plain.example", "ann", "s3cret");
    let registry = registry("plain.example", &access);
    let at = Url::parse("http://plain.example/v2/").unwrap();
    let refused = registry.0.session.try_token(&at, "https://evil.example/token").unwrap_err();
    assert!(refused.to_string().contains("https://evil.example/token"), "{refused}");
    assert!(matches!(refused, vmette_http::Error::Network(NetworkError::Credentials { .. })), "{refused:?}");
}

#[test]
fn a_blob_on_another_server_comes_without_credentials() {
    let storage = Server::start(|request| Reply::file(request, &content()));
    let to = storage.url("/storage?signature=x");
    let server = Server::start(move |request| {
        wants(request, &basic("ann:s3cret"), "Basic realm=r").unwrap_or_else(|| {
            if request.path.contains("/blobs/") { Reply::redirect(&to) } else { serve(request) }
        })
    });
    let access = anybody().with_credentials(&server.host(), "ann", "s3cret");
    let registry = registry(&server.host(), &access);
    let blob = Blob { digest: Digest::of(&content()), size: 200_000 };
    let mut bytes = Vec::new();
    registry.open(&blob, 100_000).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, content()[100_000..]);
    assert_eq!(authorizations(&storage), [None]);
    assert_eq!(storage.received()[0].header("range"), Some("bytes=100000-"));
}

#[test]
fn storage_that_refuses_is_not_told_who_asks() {
    // It challenges, as if it were the registry.
    let storage = Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=r"));
    let to = storage.url("/storage");
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/" => Reply::ok(""),
        _ => Reply::redirect(&to),
    });
    let access = anybody().with_credentials(&server.host(), "ann", "s3cret").with_credentials(
        &storage.host(),
        "bob",
        "x",
    );
    let blob = Blob { digest: Digest::of(&content()), size: 200_000 };
    let e = network(registry(&server.host(), &access).open(&blob, 0).err().unwrap());
    assert!(matches!(e, NetworkError::Status { status: 401, .. }), "{e:?}");
    assert_eq!(authorizations(&storage), [None]);
}

#[test]
fn two_registries_get_each_their_own() {
    let start = || {
        Server::start(|request| match request.header("authorization") {
            None => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=r"),
            Some(_) => serve(request),
        })
    };
    let (first, second, third) = (start(), start(), start());
    let access =
        anybody().with_credentials(&first.host(), "ann", "1").with_credentials(&second.host(), "bob", "2");
    registry(&first.host(), &access).manifest(&tag()).unwrap();
    registry(&second.host(), &access).manifest(&tag()).unwrap();
    registry(&third.host(), &access).manifest(&tag()).unwrap_err();
    assert_eq!(authorizations(&first).into_iter().flatten().collect::<Vec<_>>(), [basic("ann:1")]);
    assert_eq!(authorizations(&second).into_iter().flatten().collect::<Vec<_>>(), [basic("bob:2")]);
    assert_eq!(authorizations(&third).into_iter().flatten().count(), 0);
}

#[test]
fn a_registry_that_is_down_is_a_temporary_fault() {
    let server = Server::start(serve);
    let host = server.host();
    drop(server);
    assert!(network(registry(&host, &anybody()).manifest(&tag()).unwrap_err()).is_temporary());
    assert!(network(registry(&host, &anybody()).digest_of("latest").unwrap_err()).is_temporary());
    let busy = Server::start(|_| Reply::new(503, ""));
    assert!(network(registry(&busy.host(), &anybody()).manifest(&tag()).unwrap_err()).is_temporary());
}
