//! Registries that stall, cut, lie and redirect, and caches that forget: the image is right, or there is none.

use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::context::PullPolicy;
use crate::error::ProviderError;
use vmette_http::testing::Then;
use vmette_oci::ImageError;

/// Serves the sample, but the large layer's first reply is this one's.
fn once(sample: &Sample, fault: impl Fn(Reply) -> Reply + Send + Sync + 'static) -> Server {
    let (sample, asked) = (sample.clone(), AtomicUsize::new(0));
    let large = sample.layer_path(0);
    Server::start(move |request| {
        let reply = sample.serve(request);
        if request.path == large && asked.fetch_add(1, Ordering::SeqCst) == 0 { fault(reply) } else { reply }
    })
}

#[test]
fn a_download_that_stalls_or_is_cut_is_gone_on_with() {
    let sample = Sample::new("1");
    let half = sample.layers[0][..NOISE / 2].to_vec();
    let stall = half.clone();
    let length = sample.layers[0].len().to_string();
    let stalling = once(&sample, move |_| {
        Reply::bare(200).header("Content-Length", &length).then(Then::Bytes(stall.clone())).then(Then::Stall)
    });
    let cutting = once(&sample, |reply| reply.cut_after(NOISE / 2));
    for server in [stalling, cutting] {
        let place = Place::new();
        assert_is(&place.pull(&server).unwrap(), "1");
        place.holds(1, 2);
        let ranges: Vec<_> = server
            .received()
            .iter()
            .filter_map(|request| request.header("range").map(str::to_owned))
            .collect();
        assert_eq!(ranges, [format!("bytes={}-", half.len())], "what had come is not asked for again");
    }
}

#[test]
fn a_registry_that_only_stalls_ends_with_an_error_and_the_next_pull_goes_on() {
    let sample = Sample::new("1");
    let (large, length) = (sample.layer_path(0), sample.layers[0].len().to_string());
    let serving = sample.clone();
    let server = Server::start(move |request| match request.path == large && request.from() == 0 {
        true => Reply::bare(200)
            .header("Content-Length", &length)
            .then(Then::Bytes(serving.layers[0][..NOISE / 2].to_vec()))
            .then(Then::Stall),
        false if request.path == large => Reply::bare(206).then(Then::Stall),
        false => serving.serve(request),
    });
    let place = Place::new();
    let error = place.pull(&server).unwrap_err();
    assert!(matches!(error, ProviderError::Network(_)), "{error:?}");
    assert_eq!(place.files().get("partial"), Some(&1), "{:?}", place.files());
    assert_eq!(place.files().get("sqfs"), None);

    let good = sample.server();
    // The same cache, another port: the layer is known by its digest.
    assert_is(&place.pull(&good).unwrap(), "1");
    let asked = good.received();
    let resumed = asked.iter().find(|request| request.path == sample.layer_path(0)).unwrap();
    assert_eq!(resumed.from(), NOISE / 2);
}

/// One layer's failure is the pull's: nobody waits for what another layer waits for.
#[test]
fn a_bad_layer_ends_the_wait_for_the_others() {
    let sample = Sample::new("1");
    let (small, large) = (sample.layer_path(1), sample.layer_path(0));
    let (serving, length) = (sample.clone(), sample.layers[0].len().to_string());
    let server = Server::start(move |request| match &request.path {
        path if *path == small => Reply::ok(vec![7; serving.layers[1].len()]),
        path if *path == large => Reply::bare(200).header("Content-Length", &length).then(Then::Stall),
        _ => serving.serve(request),
    });
    let refused = |error: ProviderError| assert!(error.to_string().contains("layer 2"), "{error}");

    // For a server: a client with the usual patience would ask it several times in as many minutes.
    let place = Place::new();
    refused(pull_by(Client::new, &place.context(), &server.host()).unwrap_err());
    assert!(server.paths().iter().filter(|path| **path == sample.layer_path(0)).count() <= 1);

    // For another process.
    let place = Place::new();
    let layers = place.context().store().unwrap().layers();
    let _other = layers.lock(&Digest::of(&sample.layers[0]), &Work::quiet()).unwrap();
    refused(place.pull(&server).unwrap_err());
}

/// Nor for what else the layer itself would bring.
#[test]
fn a_refused_layer_ends_the_wait_for_its_rest() {
    let sample = Sample::new("1");
    let large = sample.layer_path(0);
    let (serving, length) = (sample.clone(), sample.layers[0].len().to_string());
    let mut fields = ::tar::Header::new_ustar();
    fields.as_old_mut().name[..7].copy_from_slice(b"../evil");
    fields.set_mode(0o644);
    fields.set_size(0);
    fields.set_cksum();
    let evil = [fields.as_bytes(), &vec![0; 140_000][..]].concat();
    let server = Server::start(move |request| match &request.path {
        path if *path == large && request.from() == 0 => Reply::bare(200)
            .header("Content-Length", &length)
            .then(Then::Bytes(evil.clone()))
            .then(Then::Stall),
        path if *path == large => Reply::bare(206).then(Then::Stall),
        _ => serving.serve(request),
    });
    let place = Place::new();
    let error = pull_by(Client::new, &place.context(), &server.host()).unwrap_err().to_string();
    assert!(error.contains("layer 1") && error.contains("evil"), "{error}");
    let asked = server.paths().iter().filter(|path| **path == sample.layer_path(0)).count();
    assert_eq!(asked, 1, "a client with the usual patience asks again when nothing comes");
}

/// A registry that sends something else than it promised is refused for that, without a trace, and the truth is taken later.
#[test]
fn lies_are_refused_by_name_and_leave_nothing() {
    let sample = Sample::new("1");
    let other = Sample::new("2");
    let wrong = |pick: fn(&Sample) -> (String, Vec<u8>), by: &[u8]| {
        let (serving, (path, _), by) = (sample.clone(), pick(&sample), by.to_vec());
        Server::start(move |request| {
            if request.path.ends_with(&path) { Reply::file(request, &by) } else { serving.serve(request) }
        })
    };
    let large: fn(&Sample) -> (String, Vec<u8>) = |s| (s.layer_path(0), s.layers[0].clone());
    let small: fn(&Sample) -> (String, Vec<u8>) = |s| (s.layer_path(1), s.layers[1].clone());
    let config: fn(&Sample) -> (String, Vec<u8>) = |s| (Digest::of(&s.config).to_string(), s.config.clone());
    let flipped = |pick: fn(&Sample) -> (String, Vec<u8>), at: usize| {
        let mut bytes = pick(&sample).1;
        bytes[at] ^= 1;
        bytes
    };
    let cases: [(Server, &str); 6] = [
        // Found out by the compression already, before the digest is known.
        (wrong(large, &flipped(large, NOISE / 2)), "layer 1 of 2"),
        (wrong(small, &flipped(small, 12)), "layer 2"),
        // Right in length, and another image's.
        (wrong(small, &other.layers[1]), "its layer 2"),
        (wrong(small, &sample.layers[1][..40]), "bytes"),
        (wrong(config, &flipped(config, 5)), "its configuration"),
        (wrong(config, &other.config[..10]), "bytes"),
    ];
    for (number, (server, reason)) in cases.into_iter().enumerate() {
        let place = Place::new();
        let error = place.pull(&server).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(reason), "{number}: expected {reason:?} in {message:?}");
        assert_eq!(place.files().get("sqfs"), None, "{number}");
        assert_eq!(place.files().get("json"), None, "{number}");
        assert!(
            !place.layer_file(&sample, if reason == "layer 1 of 2" { 0 } else { 1 }).exists(),
            "{number}: {message}"
        );
        assert_is(&place.pull(&sample.server()).unwrap(), "1");
        place.holds(1, 2);
    }
}

/// Each digest is right, and yet the layer is not the one that the configuration speaks of.
#[test]
fn diff_ids_that_lie_are_refused() {
    let (sample, other) = (Sample::new("1"), Sample::new("2"));
    let lying = Sample::with_config(sample.layers.clone(), other.config.clone());
    let place = Place::new();
    let error = place.pull(&lying.server()).unwrap_err();
    assert!(matches!(&error, ProviderError::Image { source: ImageError::Digest { .. }, .. }), "{error:?}");
    assert!(error.to_string().contains("layer 2"), "{error}");
    assert_eq!(place.files().get("sqfs"), None);
}

#[test]
fn media_types_that_are_unknown_are_refused_before_any_download() {
    let sample = Sample::new("1");
    let changed = |from: &str, to: &str| {
        let manifest = String::from_utf8(sample.manifest.clone()).unwrap().replace(from, to).into_bytes();
        Sample { manifest, ..sample.clone() }
    };
    for (sample, reason) in [
        (changed(LAYER, "application/vnd.example.layer"), "application/vnd.example.layer"),
        (changed(CONFIG, "application/vnd.cncf.helm.config.v1+json"), "not an image"),
        (changed("tar+gzip", "nondistributable.v1.tar+lz4"), "lz4"),
    ] {
        let (place, server) = (Place::new(), sample.server());
        let message = place.pull(&server).unwrap_err().to_string();
        assert!(message.contains(reason), "{reason}: {message}");
        assert_eq!(downloads(&server, &sample), 0);
        place.holds(0, 0);
    }
}

/// Manifests, configuration and layers all lie elsewhere; who asks is the registry's to know alone.
#[test]
fn credentials_do_not_follow_a_redirect() {
    let sample = Sample::new("1");
    let storage = {
        let sample = sample.clone();
        Server::start(move |request| {
            // Asks for them, too, where it is asked for nothing: that gets it nothing either.
            sample.serve(request).header("WWW-Authenticate", "Basic realm=storage")
        })
    };
    let (to, basic) = (storage.url(""), format!("Basic {}", STANDARD.encode("ann:s3cret")));
    let expected = basic.clone();
    let server = Server::start(move |request| {
        if request.header("authorization") != Some(&expected) {
            Reply::new(401, "").header("WWW-Authenticate", "Basic realm=registry")
        } else {
            Reply::redirect(&format!("{to}{}", request.path))
        }
    });
    let place = Place::new();
    let ctx = place.context().with_credentials(&server.host(), "ann", "s3cret").with_credentials(
        &storage.host(),
        "bob",
        "0ther",
    );
    assert_is(&pull_with(&ctx, &server.host()).unwrap(), "1");
    assert!(server.received().iter().any(|request| request.header("authorization") == Some(&basic)));
    assert!(storage.received().len() >= 4, "{:?}", storage.paths());
    for request in storage.received() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
        assert_eq!(request.header("cookie"), None, "{request:?}");
        assert!(!format!("{request:?}").contains("s3cret"), "{request:?}");
    }
}

#[test]
fn a_damaged_layer_of_the_cache_is_downloaded_again() {
    let (first, second) = (Sample::new("1"), Sample::new("2"));
    let place = Place::new();
    assert_is(&place.pull(&first.server()).unwrap(), "1");
    // The second image shares its large layer with the first one.
    let large = place.layer_file(&first, 0);
    let mut bytes = fs::read(&large).unwrap();
    bytes[NOISE / 3] ^= 0x10;
    fs::write(&large, bytes).unwrap();
    let server = second.server();
    assert_is(&place.pull(&server).unwrap(), "2");
    assert!(place.told().iter().any(|line| line.contains("is damaged")), "{:?}", place.told());
    assert_eq!(downloads(&server, &second), 2);
    place.holds(2, 3);
    assert_eq!(fs::read(&large).unwrap(), first.layers[0]);
}

/// A power cut may have left anything where a part of a layer was written.
#[test]
fn junk_where_a_partial_download_was_is_found_out() {
    let sample = Sample::new("1");
    for junk in [vec![0; NOISE / 2], vec![7; 2 * NOISE], [&sample.layers[0][..1000], &[9; 500]].concat()] {
        let place = Place::new();
        // Makes the folders.
        place.context().store().unwrap();
        fs::DirBuilder::new().mode(0o700).create(place.cache().join("layers")).unwrap();
        fs::write(place.layer_file(&sample, 0).with_extension("partial"), &junk).unwrap();
        assert_is(&place.pull(&sample.server()).unwrap(), "1");
        place.holds(1, 2);
    }
}

/// A file of the store that somebody changed is never run: it is made again, and that is said.
#[test]
fn a_damaged_image_is_made_again_from_the_layers() {
    let sample = Sample::new("1");
    let (place, server) = (Place::new(), sample.server());
    let image = place.pull(&server).unwrap();
    let whole = fs::read(&image.path).unwrap();
    for damage in [(whole.len() / 2, 1), (100, 0xff)] {
        let mut bytes = whole.clone();
        bytes[damage.0] ^= damage.1;
        fs::remove_file(&image.path).unwrap();
        fs::write(&image.path, bytes).unwrap();
        let again = place.pull(&server).unwrap();
        assert_is(&again, "1");
        assert!(fs::read(&again.path).unwrap() == whole);
        assert!(place.told().iter().any(|line| line.contains("damaged")));
    }
    assert_eq!(downloads(&server, &sample), 2, "the layers were still there");
    let offline = place.context().offline(true).with_pull_policy(PullPolicy::Never);
    fs::write(place.root.path().join("x"), b"").unwrap();
    fs::remove_file(&image.path).unwrap();
    fs::copy(place.root.path().join("x"), &image.path).unwrap();
    assert!(matches!(pull_with(&offline, &server.host()), Err(ProviderError::OfflineCacheMiss(_))));
}
