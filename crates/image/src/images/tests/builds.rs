//! Images of a distribution's packages, from its real mirrors: run by name.

use super::*;

#[test]
#[ignore = "downloads a Debian system"]
fn a_debian_system_is_built() {
    let place = place();
    let options = crate::BuildOptions {
        include: vec!["ca-certificates".to_owned()],
        ..crate::BuildOptions::new("bookworm", "mydeb")
    };
    let details = place.images.build_debian(&options).unwrap();
    assert_eq!(details.summary.name.as_deref(), Some("localhost/mydeb:latest"));
    assert!(details.unpacked.unwrap() > 50 << 20);
}

#[test]
#[ignore = "asks a Debian mirror"]
fn a_debian_system_that_cannot_be() {
    let place = place();
    let include = vec!["no-such-package".to_owned()];
    let options = crate::BuildOptions { include, ..crate::BuildOptions::new("bookworm", "x") };
    let e = place.images.build_debian(&options).unwrap_err().to_string();
    assert!(e.contains("Unable to locate package no-such-package"), "{e}");
    let mirrors = vec!["http://127.0.0.1:1/debian".to_owned()];
    let options = crate::BuildOptions { mirrors, ..crate::BuildOptions::new("bookworm", "x") };
    let e = place.images.build_debian(&options).unwrap_err().to_string();
    assert!(e.contains("Failed to fetch") && e.contains("refused"), "{e}");
    assert!(place.listed().is_empty());
}

#[test]
#[ignore = "asks a Debian mirror"]
fn a_cancelled_build_leaves_nothing() {
    let place = place();
    let cancel = vmette_work::Cancel::new();
    let folder = std::sync::Arc::new(std::sync::Mutex::new(None));
    let ctx = place.images.ctx.clone().with_work(Work::new(cancel.clone())).with_reporter({
        let folder = folder.clone();
        std::sync::Arc::new(move |progress| {
            let crate::Progress::Step(line) = progress else { return };
            if let Some((_, rest)) = line.split_once("using ") {
                *folder.lock().unwrap() = rest.split(' ').next().map(PathBuf::from);
            } else if line.contains("extracting") {
                cancel.cancel();
            }
        })
    });
    let images = Images::open(&ctx).unwrap();
    let e = images.build_debian(&crate::BuildOptions::new("bookworm", "x")).unwrap_err();
    assert!(matches!(e, ProviderError::Cancelled), "{e}");
    let folder = folder.lock().unwrap().take().unwrap();
    assert!(!folder.exists(), "{}", folder.display());
    assert_eq!(images.store.dir().read_dir().unwrap().count(), 0);
}
