//! The image that a name stands for, now and later, and when its registry is asked.

use std::sync::atomic::{AtomicU16, Ordering};

use super::*;
use crate::context::PullPolicy;
use crate::error::ProviderError;
use vmette_http::NetworkError;
use vmette_oci::ImageError;

/// Everything that was asked was asked long ago.
fn age(place: &Place) {
    for entry in fs::read_dir(place.cache().join("images/names")).unwrap() {
        let path = entry.unwrap().path();
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["checked"] = 1000.into();
        fs::write(&path, record.to_string()).unwrap();
    }
}

fn serving(current: &Arc<Mutex<Sample>>) -> Server {
    let current = Arc::clone(current);
    Server::start(move |request| current.lock().unwrap().serve(request))
}

#[test]
fn a_tag_is_asked_about_later_and_followed_when_it_moves() {
    let current = Arc::new(Mutex::new(Sample::new("1")));
    let (place, server) = (Place::new(), serving(&current));
    assert_is(&place.pull(&server).unwrap(), "1");
    let asked = server.received().len();
    assert_is(&place.pull(&server).unwrap(), "1");
    assert_eq!(server.received().len(), asked, "within an hour nobody is asked");

    age(&place);
    assert_is(&place.pull(&server).unwrap(), "1");
    assert_eq!(downloads(&server, &Sample::new("1")), 2, "it is the same: nothing is downloaded");
    assert_eq!(server.received().last().unwrap().method, "HEAD");

    *current.lock().unwrap() = Sample::new("2");
    assert_is(&place.pull(&server).unwrap(), "1");
    assert_is(
        &pull_with(&place.context().with_pull_policy(PullPolicy::Always), &server.host()).unwrap(),
        "2",
    );
    let large = Sample::new("2").layer_path(0);
    assert_eq!(server.paths().iter().filter(|path| **path == large).count(), 1, "layers are shared");
    place.holds(2, 3);
}

#[test]
fn what_is_there_serves_while_the_registry_is_down() {
    let sample = Sample::new("1");
    let (place, server) = (Place::new(), sample.server());
    place.pull(&server).unwrap();
    age(&place);
    let host = server.host();
    drop(server);
    assert_is(&pull_with(&place.context(), &host).unwrap(), "1");
    let told = place.told();
    assert!(told.iter().any(|line| line.contains("could not be asked")), "{told:?}");
    let always = place.context().with_pull_policy(PullPolicy::Always);
    assert!(matches!(pull_with(&always, &host), Err(ProviderError::Network(_))));
    assert_is(&pull_with(&place.context().offline(true), &host).unwrap(), "1");
    assert_eq!(place.told(), [""; 0], "offline is no news");
}

#[test]
fn a_refusal_is_no_reason_to_go_on_with_what_is_there() {
    let (sample, status) = (Sample::new("1"), Arc::new(AtomicU16::new(0)));
    let refusal = Arc::clone(&status);
    let server = Server::start(move |request| match refusal.load(Ordering::SeqCst) {
        status if status > 0 && request.path != "/v2/" => Reply::new(status, ""),
        _ => sample.serve(request),
    });
    let place = Place::new();
    place.pull(&server).unwrap();
    for refused in [401, 403, 404] {
        status.store(refused, Ordering::SeqCst);
        age(&place);
        let error = place.pull(&server).unwrap_err();
        let as_refused = matches!(
            error,
            ProviderError::Network(NetworkError::Denied { .. })
                | ProviderError::Image { source: ImageError::Missing { .. }, .. }
        );
        assert!(as_refused, "{refused}: {error:?}");
    }
}
