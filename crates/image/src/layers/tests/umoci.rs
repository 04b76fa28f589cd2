//! Stacks of layers, of a few names so that much collides, come to what `umoci unpack` extracts.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use serde_json::json;

use super::listing::{self, Listing};
use super::*;
use crate::meta::Device;
use crate::notes::{Note, Notes};

#[derive(Debug, Clone)]
enum Op {
    File(u8),
    Dir,
    Symlink(&'static str),
    HardLink(String),
    Fifo,
    Char,
    Whiteout,
    Opaque,
}

#[derive(Debug, Clone)]
struct Change {
    path: String,
    op: Op,
    /// From which all its attributes come.
    seed: u32,
}

fn paths() -> impl Strategy<Value = String> {
    let names = proptest::collection::vec(prop_oneof!["[abc]", Just("a".to_owned())], 1..4);
    let root = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => Just("//")];
    (root, names).prop_map(|(root, names)| format!("{root}{}", names.join("/")))
}

fn changes() -> impl Strategy<Value = Change> {
    let target = prop_oneof![
        Just("a"),
        Just("b/c"),
        Just("/a"),
        Just("../b"),
        Just("/"),
        Just(".."),
        Just("./../a/./b"),
        Just("missing/../c"),
        Just("/missing"),
    ];
    let op = prop_oneof![
        4 => any::<u8>().prop_map(Op::File),
        4 => Just(Op::Dir),
        2 => target.prop_map(Op::Symlink),
        2 => paths().prop_map(Op::HardLink),
        1 => Just(Op::Fifo),
        1 => Just(Op::Char),
        2 => Just(Op::Whiteout),
        1 => Just(Op::Opaque),
    ];
    (paths(), op, 1..1000u32).prop_map(|(path, op, seed)| Change { path, op, seed })
}

fn pack(changes: &[Change]) -> Vec<u8> {
    let mut tar = CleanTar::without_root(Vec::new());
    for Change { path, op, seed } in changes {
        let as_root = rustix::process::geteuid().is_root();
        let mut meta = Meta { mode: 0o700 | (seed % 0o100), mtime: *seed, ..Meta::root_owned(0) };
        if as_root {
            (meta.uid, meta.gid) = (seed % 7, seed % 5);
            if seed % 3 == 0 && matches!(op, Op::File(_) | Op::Dir) {
                // Not a directory's group: what a kernel makes in one takes after it, and no layer says so.
                meta.mode |= if matches!(op, Op::Dir) { 0o5000 } else { 0o6000 };
                meta.xattrs.insert(b"user.seed".to_vec(), seed.to_string().into_bytes());
            }
            if seed % 4 == 0 && matches!(op, Op::File(_)) {
                let capability = b"\x01\0\0\x02\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
                meta.xattrs.insert(b"security.capability".to_vec(), capability);
            }
        }
        let (dir, name) =
            path.rsplit_once('/').map_or((String::new(), &**path), |(dir, name)| (format!("{dir}/"), name));
        let at = path.as_bytes();
        match op {
            Op::File(byte) => tar.file(at, &meta, &vec![*byte; usize::from(*byte)]),
            Op::Dir => tar.dir(at, &meta),
            Op::Symlink(target) => tar.node(at, &meta, Node::Symlink(target.as_bytes())),
            Op::HardLink(target) => tar.node(at, &meta, Node::HardLink(target.as_bytes())),
            Op::Fifo => tar.node(at, &meta, Node::Fifo),
            Op::Char if as_root => tar.node(at, &meta, Node::Char(Device { major: 1, minor: 3 })),
            Op::Char => tar.node(at, &meta, Node::Fifo),
            Op::Whiteout => tar.file(format!("{dir}.wh.{name}").as_bytes(), &Meta::root_owned(0o644), b""),
            Op::Opaque => tar.file(format!("{path}/.wh..wh..opq").as_bytes(), &Meta::root_owned(0o644), b""),
        }
        .unwrap();
    }
    tar.finish().unwrap()
}

/// An OCI layout of these layers, as umoci unpacks it; None when it refuses.
fn unpacked(layers: &[Vec<u8>], umoci: &Path) -> Option<Listing> {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let layers: Vec<_> =
        layers.iter().map(|layer| blob("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let mut manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "it" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();

    let bundle = dir.path().join("bundle");
    let mut command = Command::new(umoci);
    command.arg("unpack").args((!rustix::process::geteuid().is_root()).then_some("--rootless"));
    let output =
        command.arg("--image").arg(format!("{}:it", layout.display())).arg(&bundle).output().unwrap();
    output.status.success().then(|| listing::of_dir(&bundle.join("rootfs")))
}

/// Times that entries here have are below; those of the present are directories' that umoci made, or made one in.
const PRESENT: i64 = 1000;

/// Makes it comparable with ours: with our times where no entry gave one.
fn comparable(mut theirs: Listing, ours: &Listing) -> Listing {
    for (path, fact) in &mut theirs {
        let Some(our) = ours.get(path) else { continue };
        if fact.what == "dir" && fact.mtime >= PRESENT {
            fact.mtime = our.mtime;
        }
        if !rustix::process::geteuid().is_root() {
            fact.owner = our.owner;
        }
    }
    theirs
}

fn ours(stack: &[Vec<Change>]) -> Result<(Listing, Notes)> {
    let packed: Vec<_> = stack.iter().map(|changes| pack(changes)).collect();
    applied(packed.iter().map(|bytes| layer(bytes)).collect(), LAYERS)
        .map(|applied| (listing::of(&applied), applied.notes))
}

fn theirs(stack: &[Vec<Change>], umoci: &Path) -> Option<Listing> {
    unpacked(&stack.iter().map(|changes| pack(changes)).collect::<Vec<_>>(), umoci)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn stacks_are_what_umoci_extracts(
        drawn in proptest::collection::vec(proptest::collection::vec(changes(), 0..9), 1..5),
    ) {
        let umoci = vmette_spawn::find("umoci").expect("`scripts/setup test` installs it");
        // Refused changes are left out, once umoci has refused the first of them as well.
        let mut stack: Vec<Vec<Change>> = Vec::new();
        let mut refused = false;
        for changes in drawn {
            stack.push(Vec::new());
            for change in changes {
                let top = stack.len() - 1;
                stack[top].push(change);
                match ours(&stack) {
                    Ok((_, notes)) if notes.count(Note::GaveWay) == 0 => continue,
                    // umoci refuses an entry below a file, and containerd does not.
                    Ok(_) => {}
                    Err(_) => {
                        prop_assert!(refused || theirs(&stack, &umoci).is_none(), "{:?}", stack);
                        refused = true;
                    }
                }
                stack[top].pop();
            }
        }
        let (ours, _) = ours(&stack).unwrap();
        let theirs = theirs(&stack, &umoci).expect("umoci refuses what was let through");
        prop_assert_eq!(comparable(theirs, &ours), ours);
    }
}
