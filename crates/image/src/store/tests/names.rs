//! The names of images.

use std::sync::{Arc, Mutex};

use super::*;
use vmette_work::Cancel;

#[test]
fn names_that_look_alike_are_apart() {
    let cache = cache();
    let origin = Origin::Registry { manifest: Digest::of(b"") };
    let names = ["a/b:c", "a_b_c", "a_b:c", "../a", "", "A/b:c", "a/b:c "];
    for name in names {
        cache.store.set_name(name, &key(name), &origin).unwrap();
    }
    for name in names {
        let found = cache.store.name(name).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.key, found.origin), (name, key(name), origin.clone()));
    }
    assert_eq!(cache.store.names_of(&key("a_b_c")).unwrap().len(), 1);
    assert!(cache.store.remove_name("a_b_c").unwrap() && !cache.store.remove_name("a_b_c").unwrap());
    assert_eq!(cache.store.all_names().unwrap().len(), names.len() - 1);
    assert_eq!(cache.store.name("none").unwrap(), None);
    cache.store.touch_name("none").unwrap();
    assert_eq!(cache.store.name("none").unwrap(), None);
}

#[test]
fn touching_a_name_says_when_it_was_checked() {
    let cache = cache();
    cache.store.set_name("a", &key("a"), &Origin::Local).unwrap();
    let file = cache.store.names_dir().join(format!("{}.json", Digest::of(b"a").hex()));
    let text = fs::read_to_string(&file).unwrap();
    let now = cache.store.name("a").unwrap().unwrap().checked;
    let shown = format!("\"checked\":{}", seconds(now));
    assert!(text.contains(&shown), "{text}");
    fs::write(&file, text.replace(&shown, "\"checked\":5")).unwrap();
    assert_eq!(seconds(cache.store.name("a").unwrap().unwrap().checked), 5);
    cache.store.touch_name("a").unwrap();
    assert!(cache.store.name("a").unwrap().unwrap().checked >= now);
    fs::write(&file, text.replace(&shown, "\"checked\":18446744073709551615")).unwrap();
    assert!(cache.store.name("a").is_ok(), "a time that no clock has");
}

#[test]
fn a_name_under_another_ones_file_says_nothing() {
    let cache = cache();
    cache.store.set_name("a", &key("a"), &Origin::Local).unwrap();
    let file =
        |name: &str| cache.store.names_dir().join(format!("{}.json", Digest::of(name.as_bytes()).hex()));
    fs::copy(file("a"), file("b")).unwrap();
    assert_eq!(cache.store.name("b").unwrap(), None);
    assert_eq!(cache.store.all_names().unwrap().len(), 1);
}

#[test]
fn a_wait_for_names_is_told_and_can_be_given_up() {
    let cache = cache();
    let _held = cache.store.lock_names().unwrap();
    let (cancel, told) = (Cancel::new(), Arc::new(Mutex::new(String::new())));
    let (given_up, heard) = (cancel.clone(), Arc::clone(&told));
    let work = Work::new(cancel).reporting(Arc::new(move |progress| {
        if let Progress::Step(line) = progress {
            heard.lock().unwrap().push_str(line);
        }
        given_up.cancel();
    }));
    let ended = cache.within(&work).set_name("a", &key("a"), &Origin::Local);
    assert!(matches!(ended, Err(StoreError::Cancelled(_))), "{ended:?}");
    assert!(told.lock().unwrap().contains("changing the names"));
}
