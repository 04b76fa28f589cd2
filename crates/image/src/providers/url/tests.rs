//! Files from servers that are up, down, older, newer, and lying.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::context::PullPolicy;
use vmette_cache::Digest;
use vmette_http::Policy;
use vmette_http::testing::{Received, Reply, Server, Then};
use vmette_http::{Client, NetworkError};
use vmette_work::{Cancel, Item, Progress};

const MAX: u64 = 1 << 20;

struct Place {
    root: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), told: Arc::default() }
    }

    fn context(&self) -> Context {
        let told = Arc::clone(&self.told);
        Context::new(self.root.path().join("cache")).with_reporter(Arc::new(
            move |progress: &Progress<'_>| {
                let line = match progress {
                    Progress::Warning(line) => format!("warning {line}"),
                    Progress::Started { item: Item::File { name }, total, .. } => {
                        format!("started {name} {total:?}")
                    }
                    Progress::Finished { item: Item::File { name }, cached } => {
                        format!("finished {name} {cached}")
                    }
                    _ => return,
                };
                told.lock().unwrap().push(line);
            },
        ))
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    fn always(&self) -> Context {
        self.context().with_pull_policy(PullPolicy::Always)
    }

    /// Everything that was asked was asked long ago.
    fn age(&self) {
        for entry in fs::read_dir(self.root.path().join("cache/images/names")).unwrap() {
            let path = entry.unwrap().path();
            let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            record["checked"] = 1000.into();
            fs::write(&path, record.to_string()).unwrap();
        }
    }

    fn images(&self) -> usize {
        let entries = fs::read_dir(self.root.path().join("cache/images")).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|suffix| suffix == "sqfs"))
            .count()
    }
}

fn archive(content: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    builder.append_data(&mut header, "file", content).unwrap();
    builder.into_inner().unwrap()
}

fn get(ctx: &Context, spec: &str) -> Result<StoredImage> {
    get_by(Client::impatient, ctx, spec)
}

fn get_by(client: fn(&Policy, &Cancel) -> Client, ctx: &Context, spec: &str) -> Result<StoredImage> {
    let attempt = ctx.work().child();
    let client = client(ctx.policy(), attempt.cancel());
    tar_with(&client, &Remote::parse("tar", spec)?, ctx, &attempt, MAX)
}

fn get_squashfs(ctx: &Context, spec: &str, max: u64) -> Result<PathBuf> {
    let client = Client::impatient(ctx.policy(), ctx.work().cancel());
    squashfs_with(&client, &Remote::parse("squashfs", spec)?, ctx, max).map(|image| image.path)
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

/// A server of one file, which calls it `version` when asked with a condition.
fn serve(version: &'static str, content: Vec<u8>) -> impl Fn(&Received) -> Reply + Send + Sync {
    move |request| {
        if request.header("if-none-match") == Some(version) {
            Reply::bare(304).header("ETag", version)
        } else {
            Reply::file(request, &content).header("ETag", version)
        }
    }
}

/// A client with the usual patience would ask for the rest several times in as many minutes.
#[test]
fn a_refused_archive_ends_the_wait_for_its_rest() {
    let mut evil = archive(&vec![7; 300 << 10]);
    evil[..10].copy_from_slice(b"../etc/bad");
    let mut fields = ::tar::Header::new_old();
    fields.as_mut_bytes().copy_from_slice(&evil[..512]);
    fields.set_cksum();
    evil[..512].copy_from_slice(fields.as_bytes());
    let length = (evil.len() * 2).to_string();
    let server = Server::start(move |_| {
        let head = Reply::bare(200).header("Content-Length", &length).header("ETag", "\"1\"");
        head.then(Then::Bytes(evil.clone())).then(Then::Stall)
    });
    let spec = format!("tar+{}", server.url("/a.tar"));
    let told = message(get_by(Client::new, &Place::new().context(), &spec));
    assert!(told.contains("../etc/bad"), "{told}");
    assert_eq!(server.received().len(), 1);
}

#[test]
fn an_archive_is_fetched_once_and_asked_about_later() {
    let server = Server::start(serve("\"1\"", archive(b"one")));
    let place = Place::new();
    let spec = format!("tar+{}", server.url("/a.tar?key=hidden"));
    let image = get(&place.context(), &spec).unwrap();
    assert_eq!(image.description.unpacked, 3);
    assert_eq!(image.description.source, format!("tar+{}", server.url("/a.tar")));
    let shown = format!("tar+{}", server.url("/a.tar"));
    let length = archive(b"one").len();
    assert_eq!(place.told(), [format!("started {shown} Some({length})"), format!("finished {shown} false")]);

    for policy in [PullPolicy::Stale, PullPolicy::Missing, PullPolicy::Never] {
        let again = get(&place.context().with_pull_policy(policy), &spec).unwrap();
        assert_eq!(again.path, image.path);
    }
    assert_eq!(get(&place.context().offline(true), &spec).unwrap().path, image.path);
    assert_eq!(server.received().len(), 1, "nobody was asked");

    place.age();
    assert_eq!(get(&place.context(), &spec).unwrap().path, image.path);
    assert_eq!(server.received().len(), 2);
    assert_eq!(server.received()[1].header("if-none-match"), Some("\"1\""));
    assert_eq!(get(&place.context(), &spec).unwrap().path, image.path);
    assert_eq!(server.received().len(), 2, "it was checked just now");
    get(&place.always(), &spec).unwrap();
    assert_eq!(server.received().len(), 3);
}

#[test]
fn a_newer_file_takes_the_place_of_the_older() {
    let newer = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&newer);
    let server = Server::start(move |request| match asked.load(Ordering::SeqCst) {
        false => serve("\"1\"", archive(b"one"))(request),
        true => serve("\"2\"", archive(b"three"))(request),
    });
    let place = Place::new();
    let spec = format!("tar+{}", server.url("/a.tar"));
    let first = get(&place.context(), &spec).unwrap();
    newer.store(true, Ordering::SeqCst);
    assert_eq!(get(&place.context(), &spec).unwrap().path, first.path, "not asked yet");
    let second = get(&place.always(), &spec).unwrap();
    assert_eq!(second.description.unpacked, 5);
    assert_eq!(get(&place.context(), &spec).unwrap().path, second.path);
}

#[test]
fn dates_serve_as_well_and_nothing_means_anew() {
    let date = "Mon, 01 Jan 2024 00:00:00 GMT";
    let server = Server::start(move |request| match request.path.as_str() {
        "/dated" if request.header("if-modified-since") == Some(date) => Reply::bare(304),
        "/dated" => Reply::ok(archive(b"x")).header("Last-Modified", date),
        _ => Reply::ok(archive(b"x")),
    });
    let place = Place::new();
    let dated = format!("tar+{}", server.url("/dated"));
    assert_eq!(get(&place.context(), &dated).unwrap().path, get(&place.always(), &dated).unwrap().path);
    let bare = format!("tar+{}", server.url("/bare"));
    assert_ne!(get(&place.context(), &bare).unwrap().path, get(&place.always(), &bare).unwrap().path);
}

#[test]
fn what_is_there_serves_while_the_server_is_down() {
    let server = Server::start(serve("\"1\"", archive(b"one")));
    let place = Place::new();
    let spec = format!("tar+{}", server.url("/a.tar"));
    let image = get(&place.context(), &spec).unwrap();
    drop(server);
    place.age();
    place.told();
    assert_eq!(get(&place.context(), &spec).unwrap().path, image.path);
    let told = place.told();
    assert!(told.len() == 1 && told[0].contains("using what was fetched before"), "{told:?}");
    assert!(message(get(&place.always(), &spec)).contains("cannot be reached"));

    let other = spec.replace("a.tar", "b.tar");
    assert!(message(get(&place.context(), &other)).contains("cannot be reached"));
    assert!(message(get(&place.context().offline(true), &other)).contains("offline"));
    let never = place.context().with_pull_policy(PullPolicy::Never);
    assert!(message(get(&never, &other)).contains("the pull policy rules out"));
}

#[test]
fn a_refusal_is_no_reason_to_go_on_with_what_is_there() {
    let gone = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&gone);
    let server = Server::start(move |request| match asked.load(Ordering::SeqCst) {
        false => serve("\"1\"", archive(b"one"))(request),
        true => Reply::new(404, "no such file"),
    });
    let place = Place::new();
    let spec = format!("tar+{}", server.url("/a.tar"));
    get(&place.context(), &spec).unwrap();
    gone.store(true, Ordering::SeqCst);
    place.age();
    assert!(message(get(&place.context(), &spec)).contains("answers 404"));
}

#[test]
fn a_pinned_file_is_verified_and_never_asked_for_again() {
    let content = archive(b"pinned");
    let pin = Digest::of(&content).hex();
    let server = Server::start({
        let content = content.clone();
        move |request| Reply::file(request, &content).cut_after(600)
    });
    let place = Place::new();
    let spec = format!("tar+{}#sha256={pin}", server.url("/a.tar"));
    // Cut over and over, and mended without an ETag, because it cannot change.
    let image = get(&place.context(), &spec).unwrap();
    let asked = server.received().len();
    assert!(asked > 1);
    place.age();
    for ctx in [place.context(), place.always(), place.context().offline(true)] {
        assert_eq!(get(&ctx, &spec).unwrap().path, image.path);
    }
    // Nor when another URL has it.
    let elsewhere = format!("tar+http://192.0.2.1/b.tar#sha256={pin}");
    assert_eq!(get(&place.context(), &elsewhere).unwrap().path, image.path);
    assert_eq!(server.received().len(), asked);

    let wrong = format!("tar+{}#sha256={}", server.url("/a.tar"), Digest::of(b"other").hex());
    let e = get(&place.context(), &wrong).unwrap_err();
    assert!(matches!(e, ProviderError::Image { .. }) && e.to_string().contains(&pin), "{e}");
    assert_eq!(place.images(), 1, "nothing of what was wrong is kept");
}

#[test]
fn http_needs_a_pin_or_a_word_of_the_user() {
    let place = Place::new();
    let text = message(get(&place.context(), "tar+http://files.example/a.tar"));
    for part in ["plain HTTP for files.example", "#sha256=HEX"] {
        assert!(text.contains(part), "{text}");
    }
    // With a pin a redirect between plain servers is fine too.
    let content = archive(b"x");
    let pin = Digest::of(&content).hex();
    let server = Server::start(move |request| match request.path.as_str() {
        "/a" => Reply::redirect("/b"),
        _ => Reply::file(request, &content),
    });
    get(&place.context(), &format!("tar+{}#sha256={pin}", server.url("/a"))).unwrap();
}

#[test]
fn eight_at_once_make_one_download() {
    let bodies = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&bodies);
    let server = Server::start(move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        serve("\"1\"", archive(b"one"))(request)
    });
    let place = Place::new();
    let spec = format!("tar+{}", server.url("/a.tar"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| get(&place.context(), &spec).unwrap());
        }
    });
    let full = server.received().iter().filter(|request| request.header("if-none-match").is_none()).count();
    assert_eq!((full, place.images()), (1, 1));
}

#[test]
fn a_file_is_bounded_whatever_is_said_of_it() {
    let server = Server::start(|request| match request.path.as_str() {
        "/declared" => Reply::bare(200).header("Content-Length", "9999999").then(Then::Stall),
        // Gzip members without content: nothing comes out, and they never end.
        "/empty" => {
            use std::io::Write;
            let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            member.write_all(b"").unwrap();
            Reply::bare(200).then(Then::Forever(member.finish().unwrap().repeat(100)))
        }
        _ => Reply::bare(200).then(Then::Forever(vec![0; 4096])),
    });
    let place = Place::new();
    for path in ["/declared", "/empty"] {
        let e = get(&place.context(), &format!("tar+{}", server.url(path))).unwrap_err();
        assert!(matches!(e, ProviderError::Network(NetworkError::TooLarge { max: MAX, .. })), "{path}: {e}");
        assert!(e.to_string().contains("VMETTE_TAR_MAX_BYTES"), "{e}");
    }
    assert_eq!(place.images(), 0);
}

#[test]
fn a_broken_archive_leaves_nothing() {
    let server = Server::start(|request| match request.path.as_str() {
        "/text" => Reply::ok("<html>not found</html>"),
        // No length is declared, so that the cut looks like the end.
        _ => Reply::bare(200).then(Then::Bytes(archive(&[7; 5000])[..3000].to_vec())).then(Then::Cut),
    });
    let place = Place::new();
    for path in ["/text", "/cut"] {
        let e = get(&place.context(), &format!("tar+{}", server.url(path))).unwrap_err();
        assert!(matches!(e, ProviderError::Archive { .. }), "{path}: {e}");
        assert!(e.to_string().contains(&server.url(path)), "{e}");
    }
    assert_eq!(place.images(), 0);
    let store = place.context().store().unwrap();
    assert!(store.all_names().unwrap().is_empty());
}

/// An image as the store makes it, to be served.
fn squashfs() -> Vec<u8> {
    let server = Server::start(serve("\"1\"", archive(b"content")));
    let place = Place::new();
    fs::read(get(&place.context(), &format!("tar+{}", server.url("/a"))).unwrap().path).unwrap()
}

#[test]
fn a_squashfs_image_is_kept_as_it_is() {
    let content = squashfs();
    let served = content.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/short" => Reply::ok(&served[..100]),
        "/tar" => Reply::bare(200)
            .header("Content-Length", "999999")
            .then(Then::Bytes(archive(b"x")))
            .then(Then::Stall),
        "/html" => Reply::bare(200)
            .header("Content-Length", "999999")
            .then(Then::Bytes(vec![b'<'; 512]))
            .then(Then::Stall),
        _ => serve("\"1\"", served.clone())(request),
    });
    let place = Place::new();
    let spec = |path: &str| format!("squashfs+{}", server.url(path));
    let path = get_squashfs(&place.context(), &spec("/a.sqfs"), MAX).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(get_squashfs(&place.always(), &spec("/a.sqfs"), MAX).unwrap(), path);
    assert_eq!(server.received()[1].header("if-none-match"), Some("\"1\""));
    let pinned = format!("{}#sha256={}", spec("/a.sqfs"), Digest::of(&content).hex());
    assert_eq!(fs::read(get_squashfs(&place.context(), &pinned, MAX).unwrap()).unwrap(), content);

    for (path, part) in
        [("/short", "truncated"), ("/tar", "use tar+https://"), ("/html", "does not begin with hsqs")]
    {
        let text = message(get_squashfs(&place.context(), &spec(path), MAX));
        assert!(text.contains(part), "{path}: {text}");
    }
    let text = message(get_squashfs(&place.context(), &spec("/b.sqfs"), 100));
    assert!(text.contains("VMETTE_SQUASHFS_MAX_BYTES"), "{text}");
    assert_eq!(place.images(), 2);
}
