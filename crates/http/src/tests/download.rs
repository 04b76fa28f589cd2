//! Files that servers try not to give.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::impatient_client;
use crate::proxy::Proxies;
use crate::testing::{Received, Reply, Server, Then, impatient};
use crate::{Client, Download, Error, Kind, NetworkError, Policy, Request, Result, Url};
use vmette_work::Cancel;

/// Content of which no two parts are equal.
fn content() -> Vec<u8> {
    (0..50_000u32).flat_map(u32::to_le_bytes).collect()
}

fn start(client: &Client, server: &Server, kind: Kind, from: u64, expected: Option<u64>) -> Result<Download> {
    let request = Request::get(Url::parse(&server.url("/blob")).unwrap());
    let asking = client.clone();
    Download::start(client, server.url("/blob"), kind, from, expected, move |from, validator| {
        asking.send(&request.clone().starting_at(from, validator))
    })
}

fn read(mut download: Download) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match download.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) => Err(*e.into_inner().unwrap().downcast().unwrap()),
    }
}

fn fetch(server: &Server, kind: Kind, from: u64, expected: Option<u64>) -> Result<Vec<u8>> {
    start(&impatient_client(), server, kind, from, expected).and_then(read)
}

fn network(result: Result<Vec<u8>>) -> NetworkError {
    match result.unwrap_err() {
        Error::Network(e) => e,
        e => panic!("{e}"),
    }
}

/// Answers the requests in their order, the last one for all that follow.
fn in_turn(replies: Vec<fn(&Received) -> Reply>) -> Server {
    let times = AtomicUsize::new(0);
    Server::start(move |request| {
        let at = times.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1);
        replies[at](request)
    })
}

fn good(request: &Received) -> Reply {
    Reply::file(request, &content())
}

#[test]
fn a_cut_anywhere_is_mended() {
    let whole = content();
    for cut in [0, 1, 511, 65_536, 100_001, 199_999] {
        let times = AtomicUsize::new(0);
        let server = Server::start(move |request| match times.fetch_add(1, Ordering::SeqCst) {
            0 => good(request).cut_after(cut),
            _ => good(request),
        });
        assert_eq!(fetch(&server, Kind::Immutable, 0, Some(200_000)).unwrap(), whole, "{cut}");
        let froms: Vec<_> = server.received().iter().map(Received::from).collect();
        assert_eq!(froms, [0, cut]);
    }
}

#[test]
fn many_cuts_are_mended_as_long_as_it_gets_further() {
    let server = Server::start(|request| good(request).cut_after(70_000));
    assert_eq!(fetch(&server, Kind::Immutable, 0, Some(200_000)).unwrap(), content());

    // 40 connections, where 4 without progress are the most.
    let big: Arc<Vec<u8>> = Arc::new((0..700_000u32).flat_map(u32::to_le_bytes).collect());
    let served = Arc::clone(&big);
    let server = Server::start(move |request| Reply::file(request, &served).cut_after(70_000));
    assert_eq!(fetch(&server, Kind::Immutable, 0, Some(2_800_000)).unwrap(), *big);
    assert_eq!(server.received().len(), 40);
}

#[test]
fn a_byte_a_connection_is_not_progress() {
    let server = Server::start(|request| good(request).cut_after(1));
    let e = network(fetch(&server, Kind::Immutable, 0, Some(200_000)));
    assert!(
        matches!(e, NetworkError::Truncated { done: 4, total: Some(200_000), .. }) && e.is_temporary(),
        "{e:?}"
    );
    assert_eq!(server.received().len(), 4);
}

#[test]
fn a_stall_is_mended_and_a_crawl_too() {
    let server = in_turn(vec![
        |_| {
            Reply::bare(200)
                .header("Content-Length", "200000")
                .then(Then::Bytes(content()[..7].to_vec()))
                .then(Then::Stall)
        },
        good,
    ]);
    assert_eq!(fetch(&server, Kind::Immutable, 0, None).unwrap(), content());

    let server = in_turn(vec![
        |_| Reply::bare(200).header("Content-Length", "200000").then(Then::Drip(content()[..1000].to_vec())),
        good,
    ]);
    let mut patience = impatient();
    (patience.slow, patience.slow_bytes) = (Duration::from_millis(100), 1000);
    let client = Client::with(&Policy::default(), &Cancel::new(), patience, Proxies::default());
    let download = start(&client, &server, Kind::Immutable, 0, Some(200_000)).unwrap();
    assert_eq!(read(download).unwrap(), content());
    assert_eq!(server.received().len(), 2);
}

#[test]
fn a_later_part_is_had_also_of_a_server_without_ranges() {
    let server = Server::start(good);
    assert_eq!(fetch(&server, Kind::Immutable, 150_000, Some(200_000)).unwrap(), content()[150_000..]);
    assert_eq!(fetch(&server, Kind::Immutable, 200_000, Some(200_000)).unwrap(), b"");

    let without = Server::start(|_| Reply::ok(content()));
    assert_eq!(fetch(&without, Kind::Immutable, 150_000, Some(200_000)).unwrap(), content()[150_000..]);
    let cut = in_turn(vec![|_| Reply::ok(content()).cut_after(60_000), |_| Reply::ok(content())]);
    assert_eq!(fetch(&cut, Kind::Immutable, 0, Some(200_000)).unwrap(), content());
}

#[test]
fn what_comes_once_more_may_not_crawl_either() {
    let server = in_turn(vec![|_| Reply::bare(200).then(Then::Drip(content()[..1000].to_vec())), |_| {
        Reply::ok(content())
    }]);
    let mut patience = impatient();
    (patience.slow, patience.slow_bytes) = (Duration::from_millis(100), 1000);
    let client = Client::with(&Policy::default(), &Cancel::new(), patience, Proxies::default());
    let download = start(&client, &server, Kind::Immutable, 150_000, Some(200_000)).unwrap();
    assert_eq!(read(download).unwrap(), content()[150_000..]);
    assert_eq!(server.received().len(), 2);
}

#[test]
fn a_server_without_ranges_cannot_go_on_for_ever() {
    // Each time it sends everything again and a little more: for a large file that would be its size squared.
    let big = Arc::new(vec![7; 2_800_000]);
    let sent = Mutex::new(0);
    let server = Server::start(move |_| {
        let mut sent = sent.lock().unwrap();
        *sent += 70_000;
        Reply::ok(&*big).cut_after(*sent)
    });
    let e = network(fetch(&server, Kind::Immutable, 0, Some(2_800_000)));
    assert!(matches!(e, NetworkError::Truncated { .. }), "{e:?}");
    assert!(server.received().len() < 10, "{}", server.received().len());
}

#[test]
fn lengths_that_lie_are_noticed() {
    // The server says at once that it is not what was promised.
    let server = Server::start(good);
    for promised in [199_999, 200_001, 0] {
        let e = network(fetch(&server, Kind::Immutable, 0, Some(promised)));
        assert!(
            matches!(e, NetworkError::Length { expected, actual: 200_000, .. } if expected == promised),
            "{e:?}"
        );
    }
    // It does not say, and sends more, or without end.
    for body in [Then::Bytes(content()), Then::Forever(vec![1; 4096])] {
        let server = Server::start(move |_| Reply::bare(200).then(body.clone()).then(Then::Cut));
        let e = network(fetch(&server, Kind::Immutable, 0, Some(100_000)));
        assert!(matches!(e, NetworkError::Length { expected: 100_000, .. }), "{e:?}");
    }
    // It says more than it has.
    let server = Server::start(|request| {
        let rest = content()[request.from()..].to_vec();
        let reply = if request.from() == 0 {
            Reply::bare(200).header("Content-Length", "300000")
        } else {
            Reply::new(416, "")
        };
        reply.then(Then::Bytes(rest)).then(Then::Cut)
    });
    let e = network(fetch(&server, Kind::Immutable, 0, None));
    assert!(matches!(e, NetworkError::Status { status: 416, .. }), "{e:?}");
    // It has less, and says so when asked again.
    let server = in_turn(vec![
        |_| Reply::bare(200).header("Content-Length", "200000").then(Then::Bytes(vec![0; 9])).then(Then::Cut),
        |request| Reply::file(request, &content()[..100_000]),
    ]);
    let e = network(fetch(&server, Kind::Immutable, 0, None));
    assert!(matches!(e, NetworkError::Length { expected: 200_000, actual: 100_000, .. }), "{e:?}");
}

#[test]
fn a_range_that_is_not_the_one_asked_for_is_refused() {
    for range in [
        "bytes 0-199999/200000",
        "bytes 100001-199999/200000",
        "bytes 99999-199999/200000",
        "bytes 100000-99999/200000",
        "bytes 100000-200000/200000",
        "bytes 100000-199999",
        "octets 100000-199999/200000",
        "bytes 100000-199999/x",
        "",
    ] {
        let server =
            Server::start(move |_| Reply::new(206, &content()[100_000..]).header("Content-Range", range));
        let e = network(fetch(&server, Kind::Immutable, 100_000, Some(200_000)));
        assert!(matches!(e, NetworkError::Protocol { .. }), "{range}: {e:?}");
    }
    // A part that was not asked for.
    let server = Server::start(|_| Reply::new(206, "x").header("Content-Range", "bytes 0-0/200000"));
    let e = network(fetch(&server, Kind::Immutable, 0, None));
    assert!(matches!(e, NetworkError::Status { status: 206, .. }), "{e:?}");
    // An unknown total, and a part that ends early, are fine.
    let server = Server::start(|request| {
        let from = request.from().max(1);
        let to = (from + 90_000).min(200_000);
        Reply::new(206, &content()[from..to]).header("Content-Range", &format!("bytes {from}-{}/*", to - 1))
    });
    assert_eq!(fetch(&server, Kind::Immutable, 1, Some(200_000)).unwrap(), content()[1..]);
}

#[test]
fn a_mutable_file_is_gone_on_with_only_when_it_is_the_same() {
    fn cut(request: &Received) -> Reply {
        good(request).cut_after(100_000)
    }
    // Each with what the first and the second answer call their version.
    let served = |first: &'static [(&str, &str)], second: &'static [(&str, &str)], ranges: bool| {
        let times = AtomicUsize::new(0);
        let server = Server::start(move |request| {
            let (reply, headers) = match times.fetch_add(1, Ordering::SeqCst) {
                0 => (cut(request), first),
                _ if ranges => (good(request), second),
                _ => (Reply::ok(content()), second),
            };
            headers.iter().fold(reply, |reply, (name, value)| reply.header(name, value))
        });
        let fetched = fetch(&server, Kind::Mutable, 0, None);
        (fetched, server)
    };
    let strong = &[("ETag", "\"1\"")];
    let dated = &[("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")];
    for headers in [&strong[..], &dated[..]] {
        for ranges in [true, false] {
            let (fetched, server) = served(headers, headers, ranges);
            assert_eq!(fetched.unwrap(), content());
            assert_eq!(server.received()[1].header("if-range"), Some(headers[0].1));
        }
        let (fetched, _) = served(headers, &[("ETag", "\"2\"")], false);
        assert!(matches!(network(fetched), NetworkError::Changed { .. }));
    }
    // Nothing, or a weak mark, to go on by.
    for headers in [&[][..], &[("ETag", "W/\"1\"")]] {
        let (fetched, server) = served(headers, headers, true);
        assert!(matches!(network(fetched), NetworkError::Truncated { .. }));
        assert_eq!(server.received().len(), 1);
    }
    // Nothing had come: it is simply asked for again.
    let server = in_turn(vec![|request| good(request).cut_after(0), good]);
    assert_eq!(fetch(&server, Kind::Mutable, 0, None).unwrap(), content());
}

#[test]
fn a_server_that_is_gone_ends_it() {
    let server = Server::start(|request| good(request).cut_after(1000));
    let mut download = start(&impatient_client(), &server, Kind::Immutable, 0, Some(200_000)).unwrap();
    drop(server);
    let mut bytes = Vec::new();
    let e = download.read_to_end(&mut bytes).unwrap_err();
    let inner = e.get_ref().unwrap().downcast_ref::<Error>().unwrap();
    assert!(matches!(inner, Error::Network(e) if e.is_temporary()), "{inner:?}");
    assert!(download.read(&mut [0; 9]).is_err(), "and it does not look like its end");
}

#[test]
fn giving_up_is_what_the_reader_gets() {
    let server = Server::start(|_| {
        Reply::bare(200).header("Content-Length", "200000").then(Then::Bytes(vec![1; 10])).then(Then::Stall)
    });
    let cancel = Cancel::new();
    let mut patience = impatient();
    patience.stall = Duration::from_secs(60);
    let client = Client::with(&Policy::default(), &cancel, patience, Proxies::default());
    let mut download = start(&client, &server, Kind::Immutable, 0, None).unwrap();
    assert!(download.read(&mut [0; 10]).unwrap() > 0);
    thread::scope(|scope| {
        let reading = scope.spawn(|| read(download));
        cancel.cancel();
        assert!(matches!(reading.join().unwrap().unwrap_err(), Error::Cancelled(_)));
    });
}
