//! The store's promises across processes: this test program starts itself.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use support::{Archive, LIMITS, Place};
use vmette_cache::{Key, KeyBuilder};
use vmette_image::{Context, Description, ImageKind, RootfsProvider, Store, StoreError, TarProvider};

const ROLE: &str = "VMETTE_IMAGE_TEST_ROLE";
const ROOT: &str = "VMETTE_IMAGE_TEST_ROOT";

fn child(role: &str, place: &Place) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "role", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, place.root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn key() -> Key {
    KeyBuilder::new().text("killed").finish()
}

fn description() -> Description {
    Description::of_rootfs(ImageKind::Tar, "test".to_owned(), 0)
}

#[test]
#[ignore = "the other processes of the tests below"]
fn role() {
    let (role, root) = (env::var(ROLE).unwrap(), env::var(ROOT).unwrap());
    let context = Context::new(format!("{root}/cache")).with_reporter(std::sync::Arc::new(|progress| {
        if let vmette_image::Progress::Step(line) = progress {
            println!("- {line}");
        }
    }));
    if role == "convert" {
        let spec = format!("tar+file://{root}/archive");
        TarProvider::with_limits(LIMITS).provide(&spec, &context).unwrap();
    } else {
        let _ = context.store().unwrap().obtain::<StoreError>(&key(), |staging| {
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
    let built = store.obtain::<vmette_image::ProviderError>(&key(), |staging| {
        let other = Place::new();
        fs::copy(other.convert(&Archive::default().file("f", b"x").end())?, staging).unwrap();
        Ok(description())
    });
    assert!(built.unwrap().path.exists());
    assert_eq!(place.names().len(), 2, "image and record: {:?}", place.names());
}
