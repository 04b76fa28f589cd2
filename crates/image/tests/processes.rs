//! The store's promises across processes: this test program starts itself.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use support::{Archive, LIMITS, Place};
use vmette_image::{Context, Description, ImageConfig, ImageKind, Key, RootfsProvider, Store, TarProvider};

const ROLE: &str = "VMETTE_IMAGE_TEST_ROLE";
const ROOT: &str = "VMETTE_IMAGE_TEST_ROOT";

fn child(role: &str, place: &Place) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, place.root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn key() -> Key {
    Key::of_parts([&b"killed"[..]])
}

fn description() -> Description {
    Description {
        kind: ImageKind::Tar,
        source: "test".to_owned(),
        id: None,
        platform: None,
        config: ImageConfig::default(),
        layers: Vec::new(),
        unpacked: 0,
    }
}

/// What a child does; nothing in the test run itself.
#[test]
fn role() {
    let (Ok(role), Ok(root)) = (env::var(ROLE), env::var(ROOT)) else { return };
    let context = Context::new(format!("{root}/cache")).with_reporter(std::sync::Arc::new(|progress| {
        if let vmette_image::Progress::Step(line) = progress {
            println!("- {line}");
        }
    }));
    if role == "convert" {
        let spec = format!("tar+file://{root}/archive");
        TarProvider::with_limits(LIMITS).provide(&spec, &context).unwrap();
    } else {
        let _ = context.store().unwrap().obtain(&key(), &context, |staging| {
            fs::write(staging, b"half an image").unwrap();
            println!("- writing");
            // Until killed.
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            Ok(description())
        });
    }
}

#[test]
fn eight_processes_convert_once() {
    let place = Place::new();
    let archive = (0..200).fold(Archive::default(), |archive, n| archive.file(&format!("f{n}"), &[n; 9999]));
    fs::write(place.archive(), archive.end()).unwrap();
    let children: Vec<_> = (0..8).map(|_| child("convert", &place)).collect();
    let converted = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap().matches("- converting").count()
        })
        .sum::<usize>();
    assert_eq!(converted, 1);
    let names = place.names();
    assert!(names.len() == 4 && names[2].ends_with(".sqfs"), "{names:?}");
}

#[test]
fn a_killed_process_is_recovered_from() {
    let place = Place::new();
    let mut victim = child("hang", &place);
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("- writing")));
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!(place.names().len(), 2, "its staging and lock files are there: {:?}", place.names());

    let store = Store::open(&place.cache()).unwrap();
    let built = store.obtain(&key(), &place.context(), |staging| {
        let other = Place::new();
        fs::copy(other.convert(&Archive::default().file("f", b"x").end())?, staging).unwrap();
        Ok(description())
    });
    assert!(built.unwrap().path.exists());
    assert_eq!(place.names().len(), 2, "image and record: {:?}", place.names());
}
