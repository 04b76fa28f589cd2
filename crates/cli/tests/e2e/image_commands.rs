//! `vmette image`: what a cache has is told, made, given away and removed. Each test has a cache of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::machine::{Outcome, Vmette, shared_cache};
use crate::roots::folder;
use crate::terminal::Terminal;

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self, args: &[&str]) -> Vmette {
        Vmette::new([&["image"], args].concat()).cache(&self.path("cache"))
    }

    fn archive(&self) -> PathBuf {
        let tree = self.path("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("hello"), "hello\n").unwrap();
        let archive = self.path("root.tar");
        tar(&tree, &archive);
        archive
    }

    /// The content of one that takes long enough for a bar: 2.00 MiB.
    fn large_archive(&self) -> Vec<u8> {
        fs::create_dir(self.path("big")).unwrap();
        fs::write(self.path("big/file"), vec![1; 2 << 20]).unwrap();
        let archive = self.path("big.tar");
        tar(&self.path("big"), &archive);
        fs::read(&archive).unwrap()
    }
}

fn tar(tree: &Path, archive: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--owner=7", "--group=8", "-cf"]).arg(archive).arg("-C").arg(tree).arg(".");
    assert!(tar.status().unwrap().success());
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome:?}"))
}

#[test]
fn what_was_imported_is_listed_inspected_and_removed() {
    let place = Place::new();
    let archive = place.archive();
    let imported = place.image(&["import", text(&archive), "-t", "mine:1"]).exits(0);
    let id = imported.text().to_owned();
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{imported:?}");
    imported.said(["[vmette] converting"]);

    let listed = json(&place.image(&["ls", "--json"]).exits(0));
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!((&listed[0]["name"], &listed[0]["id"]), (&"localhost/mine:1".into(), &id.clone().into()));
    assert_eq!(listed[0]["in_use"], false);
    let table = place.image(&["list"]).exits(0);
    table.showed(["NAME", "localhost/mine:1", &id[..12], "tar"]);
    place.image(&["ls", "-q"]).exits(0).printed(format!("{id}\n"));

    for name in ["mine:1", "localhost/mine:1", &id[..6], &id] {
        let shown = json(&place.image(&["inspect", "--json", name]).exits(0));
        assert_eq!(shown[0]["id"], id, "{name}: {shown}");
        assert_eq!(shown[0]["unpacked"], 6);
    }
    place.image(&["inspect", "mine:1"]).exits(0).showed(["kind        tar\n", "localhost/mine:1"]);

    // One that is not there does not keep the other.
    let removed = place.image(&["rm", "nonesuch:1", "mine:1"]).exits(1);
    removed.said(["no image nonesuch:1", "vmette image ls"]);
    assert!(String::from_utf8_lossy(&removed.stdout).starts_with("mine:1: removed"), "{removed:?}");
    place.image(&["ls", "-q"]).exits(0).printed("");
    place.image(&["inspect", "mine:1"]).exits(1).said(["no image mine:1"]);
}

#[test]
fn an_exported_image_is_the_same_when_it_comes_back() {
    let place = Place::new();
    let archive = place.archive();
    place.image(&["import", "--json", text(&archive), "-t", "a"]).exits(0);
    for format in ["oci", "tar", "squashfs"] {
        let (file, name) = (place.path(format), format!("back-{format}"));
        let exported =
            place.image(&["export", "a", "-o", text(&file), "--format", format, "--json"]).exits(0);
        assert_eq!(json(&exported)["bytes"], file.metadata().unwrap().len());
        let back = json(&place.image(&["import", "--json", text(&file), "-t", &name]).exits(0));
        let image = back["path"].as_str().unwrap();
        let listing = Command::new("unsquashfs").args(["-lln", image]).output().unwrap();
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        let line =
            listing.lines().find(|line| line.ends_with("/hello")).unwrap_or_else(|| panic!("{listing}"));
        assert!(line.starts_with("-rw-r--r-- 7/8") && line.contains(" 6 "), "{format}: {line}");
    }
    let skopeo = Command::new("skopeo")
        .args(["inspect", "--config", &format!("oci-archive:{}", place.path("oci").display())])
        .output()
        .unwrap();
    assert!(skopeo.status.success(), "{}", String::from_utf8_lossy(&skopeo.stderr));
    // Nothing is written half, and nothing that is no file is replaced.
    let refused = place.image(&["export", "a", "-o", text(place.dir.path())]).exits(1);
    refused.said(["no regular file"]);
}

/// The names of all members, except those that an image chose.
fn members(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| members(value, found)),
        Value::Object(object) => object.iter().for_each(|(name, value)| {
            found.insert(name.clone());
            if name != "labels" {
                members(value, found);
            }
        }),
        _ => {}
    }
}

#[test]
fn the_manual_has_every_member_of_the_json() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CLI.md")).unwrap();
    let (_, section) = manual.split_once("### The JSON of images").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let place = Place::new();
    let (archive, file) = (place.archive(), place.path("a.oci"));
    let mut found = BTreeSet::new();
    for command in [
        &["import", text(&archive), "-t", "a"][..],
        &["export", "a", "-o", text(&file)],
        &["import", text(&file), "-t", "b"],
        &["ls"],
        &["inspect", "a", "b"],
        &["rm", "a"],
        &["prune", "--all"],
    ] {
        members(&json(&place.image(&[command, &["--json"]].concat()).exits(0)), &mut found);
    }
    let missing: Vec<_> = found.iter().filter(|name| !section.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty() && found.len() >= 30, "{missing:?} of {found:?}");
}

#[test]
fn pruning_spares_what_cannot_be_had_again() {
    let place = Place::new();
    let archive = place.archive();
    place.image(&["import", text(&archive), "-t", "mine"]).exits(0);
    // The same content under another date is another image, which the file brings back.
    let copy = place.path("copy.tar");
    tar(&place.path("tree"), &copy);
    fs::write(place.path("tree/more"), "more").unwrap();
    tar(&place.path("tree"), &copy);
    let spec = format!("tar+file://{}", copy.display());
    let id = place.image(&["pull", &spec]).exits(0).text().to_owned();
    let pruned = json(&place.image(&["prune", "--all", "--json"]).exits(0));
    assert_eq!(pruned["images"], Value::from(vec![id]), "{pruned}");
    let left = json(&place.image(&["ls", "--json"]).exits(0));
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left[0]["name"], "localhost/mine:latest");
    place.image(&["prune", "--max-size", "1G"]).exits(0).showed(["removed 0 images and 0 layers"]);
}

#[test]
fn what_is_wrong_is_named_with_the_remedy() {
    let place = Place::new();
    let dir = text(place.dir.path()).to_owned();
    place.image(&["pull", &dir]).exits(1).said(["is a folder", "nothing to fetch"]);
    place.image(&["pull", "builtin"]).exits(1).said(["comes with vmette"]);
    place.image(&["pull", "--offline", "nonesuch:1"]).exits(1).said(["nonesuch:1 is not in the cache"]);
    place.image(&["import", "/etc/passwd", "-t", "x"]).exits(1).said(["neither a directory, nor a squashfs"]);
    place.image(&["import", "/no/such", "-t", "x"]).exits(1).said(["/no/such"]);
    place.image(&["import", "/etc/passwd", "-t", "UPPER case"]).exits(1).said(["UPPER case"]);
    place.image(&["build", "--debian", "-t", "-t", "x"]).exits(2);
    place
        .image(&["build", "--debian", "book worm", "-t", "x"])
        .exits(1)
        .said(["\"book worm\" is no Debian suite"]);
    place.image(&["prune", "--all", "--max-size", "1"]).exits(2).said(["cannot be used with"]);
    place.image(&["prune", "--max-size", "a lot"]).exits(2).said(["expects a number of bytes"]);
    place.image(&["rm"]).exits(2).said(["IMAGE"]);
    place.image(&["export", "nonesuch", "-o", "/dev/null"]).exits(1).said(["no image nonesuch"]);
}

#[test]
fn an_image_that_a_machine_uses_is_removed_by_force_only() {
    let (dir, root) = folder();
    let archive = dir.path().join("root.tar");
    tar(&root, &archive);
    // In the cache that has the kernel, under a name of its own.
    let image = |args: &[&str]| Vmette::new([&["image"], args].concat()).cache(&shared_cache());
    let name = format!("in-use-{}", std::process::id());
    image(&["import", "-q", text(&archive), "-t", &name]).exits(0);
    let script = "cat /etc/marker; read line; cat /etc/marker";
    let (stdin, mut keyboard) = std::io::pipe().unwrap();
    let mut running = Vmette::run([&name, "--", "sh", "-c", script]).stdin(stdin).start();
    running.has_printed("from the folder\n");
    let refused = image(&["rm", &name]).exits(1);
    refused.said([&name, "in use: a machine uses it", "force"]);
    let listed = json(&image(&["ls", "--json"]).exits(0));
    let entry =
        listed.as_array().unwrap().iter().find(|i| i["name"].as_str().unwrap_or_default().contains(&name));
    assert_eq!(entry.unwrap()["in_use"], true, "{listed}");
    image(&["rm", "--force", &name]).exits(0);
    image(&["inspect", &name]).exits(1);
    // The machine keeps what it has open.
    keyboard.write_all(b"\n").unwrap();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.printed("from the folder\nfrom the folder\n");
}

/// Serves one file once, and its second half when it is told to; not at all when nobody can tell it any more.
fn server(content: Vec<u8>) -> (u16, Sender<()>, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (go_on, told) = mpsc::channel();
    let serving = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        head(&mut client);
        write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).unwrap();
        let (first, second) = content.split_at(content.len() / 2);
        client.write_all(first).unwrap();
        // Nobody wants the rest when the pull is given up.
        if told.recv().is_ok() {
            client.write_all(second).unwrap();
        }
    });
    (port, go_on, serving)
}

/// Reads a request to the empty line at its end.
fn head(client: &mut TcpStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
}

#[test]
fn a_terminal_has_bars_and_a_pipe_has_lines() {
    let place = Place::new();
    let content = place.large_archive();
    let (port, go_on, serving) = server(content.clone());
    let spec = format!("tar+http://127.0.0.1:{port}/big.tar");
    let mut terminal = Terminal::open();
    let running = terminal.start_in(&["image", "pull", &spec], &place.path("cache"));
    terminal.shows("MiB of 2.00 MiB");
    go_on.send(()).unwrap();
    assert_eq!(running.wait().code, Some(0));
    serving.join().unwrap();

    let (port, go_on, serving) = server(content);
    go_on.send(()).unwrap();
    let spec = format!("tar+http://127.0.0.1:{port}/big.tar");
    let outcome = place.image(&["pull", &spec]).exits(0);
    serving.join().unwrap();
    outcome.said([&format!("127.0.0.1:{port}/big.tar: fetching, 2.00 MiB\n"), "big.tar: done\n"]);
    assert!(!outcome.stderr.contains(['\r', '\x1b']), "{outcome:?}");
}

#[test]
fn a_pull_that_is_given_up_leaves_nothing_on_the_screen() {
    let place = Place::new();
    let (port, go_on, serving) = server(place.large_archive());
    let spec = format!("tar+http://127.0.0.1:{port}/big.tar");
    let mut terminal = Terminal::open();
    let running = terminal.start_in(&["image", "pull", &spec], &place.path("cache"));
    terminal.shows("MiB of 2.00 MiB");
    // The terminal shows this as ^C, where the cursor is.
    terminal.types("\x03");
    assert_eq!(running.wait().code, Some(130));
    drop(go_on);
    serving.join().unwrap();
    let [rows @ .., last] = &terminal.screen_before("$ ")[..] else { panic!() };
    assert_eq!(last, "$ ", "{rows:?}");
    assert!(rows.iter().all(|row| row.starts_with("[vmette] ") && !row.contains("MiB of")), "{rows:?}");
}
