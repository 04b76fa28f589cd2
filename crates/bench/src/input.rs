//! The content of images: a tree as one archive, and the same entries cut into layers.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tar::EntryType;

use crate::program::Program;

/// Downloading and unpacking a distribution takes as long as its mirror does.
const BUILD_LIMIT: Duration = Duration::from_secs(600);
/// Folders that slim images leave out.
const LEFT_OUT: [&[u8]; 3] = [b"usr/share/doc/", b"usr/share/man/", b"usr/share/locale/"];
/// Files of the made-up tree, in bytes: as large as a shared library.
const FILE_LEN: usize = 1 << 20;
/// Layers of the made-up tree.
const MADE_LAYERS: usize = 4;
const BLOCK: usize = 512;
/// End of an archive: two empty blocks.
const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Archives in one folder.
pub(crate) struct Input {
    /// All of the tree.
    pub(crate) tree: PathBuf,
    /// The lowest first. No entry is in two of them.
    pub(crate) layers: Vec<PathBuf>,
    /// Length of the tree's archive, in MiB.
    pub(crate) mib: f64,
}

/// A Debian with Python, from where this machine has its own packages; without documentation and translations. The base,
/// Python and data are a layer each.
pub(crate) fn debian(vmette: &Path, folder: &Path) -> anyhow::Result<Input> {
    const NAME: &str = "debian-python:bench";
    let suite = host_suite(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    let cache = folder.join("debian-cache");
    let build =
        ["image", "build", "--debian", &suite, "--variant", "apt", "--include", "python3", "-t", NAME];
    let run = |args: &[&str]| {
        let program = Program::new(vmette, args).env("VMETTE_CACHE_DIR", &cache);
        program.time_within(Stdio::null(), BUILD_LIMIT).map(drop)
    };
    run(&build)?;
    let built = folder.join("built.tar");
    run(&["image", "export", NAME, "--format", "tar", "-o", &built.display().to_string()])?;
    fs::remove_dir_all(&cache).context("remove the cache of the build")?;
    let mut layers = Layers::create(folder, 3)?;
    let source = BufReader::new(File::open(&built).context("open what was built")?);
    layers.cut(source, debian_layer).context("cut a tree into layers")?;
    fs::remove_file(&built).context("remove what was built")?;
    layers.finish()
}

/// The suite of a host that is Debian, whose packages are near.
fn host_suite(os_release: &str) -> String {
    let value = |key: &str| {
        let mut values = os_release.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.next().map(|value| value.trim_matches('"').to_owned())
    };
    let suite = (value("ID").as_deref() == Some("debian")).then(|| value("VERSION_CODENAME"));
    suite.flatten().unwrap_or_else(|| "stable".to_owned())
}

/// Which layer an entry belongs to; None if it is left out.
fn debian_layer(path: &[u8]) -> Option<usize> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    if LEFT_OUT.iter().any(|folder| path.starts_with(folder)) {
        return None;
    }
    let is_python = [&b"usr/lib/python3"[..], b"usr/bin/python3"].iter().any(|start| path.starts_with(start));
    Some(if is_python { 1 } else { usize::from(path.starts_with(b"usr/share/")) * 2 })
}

/// `mib` MiB of files: each second one of random bytes, the others of text, in several layers.
pub(crate) fn made_up(mib: usize, folder: &Path) -> anyhow::Result<Input> {
    let mut layers = Layers::create(folder, MADE_LAYERS)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut content = Vec::with_capacity(FILE_LEN);
    for file in 0..mib {
        content.clear();
        if file % 2 == 0 {
            random.bytes(&mut content);
        } else {
            random.words(&mut content);
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("file-{file:06}"))?;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(FILE_LEN as u64);
        header.set_cksum();
        layers.write(file * MADE_LAYERS / mib, &[header.as_bytes(), &content]).context("write a file")?;
    }
    layers.finish()
}

/// Xorshift: what it gives does not compress, and is the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, content: &mut Vec<u8>) {
        while content.len() < FILE_LEN {
            content.extend_from_slice(&self.next().to_le_bytes());
        }
    }

    /// Numbers of a few digits, which compress to less than half, as programs and texts do.
    fn words(&mut self, content: &mut Vec<u8>) {
        while content.len() < FILE_LEN {
            content.extend_from_slice(
                format!("{:x} value = {};\n", self.next() >> 44, content.len()).as_bytes(),
            );
        }
        content.truncate(FILE_LEN);
    }
}

/// Archives that are being written: one of all entries, and one for each layer.
struct Layers {
    tree: (PathBuf, BufWriter<File>),
    layers: Vec<(PathBuf, BufWriter<File>)>,
}

impl Layers {
    fn create(folder: &Path, count: usize) -> anyhow::Result<Self> {
        let create = |name: String| {
            let path = folder.join(name);
            let file = File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
            anyhow::Ok((path, BufWriter::with_capacity(1 << 20, file)))
        };
        let tree = create("tree.tar".to_owned())?;
        let layers =
            (0..count).map(|layer| create(format!("layer-{layer}.tar"))).collect::<Result<_, _>>()?;
        Ok(Self { tree, layers })
    }

    /// Copies the entries, each with the headers that extend it, to the layers that `layer` says.
    fn cut(&mut self, source: impl Read, layer: impl Fn(&[u8]) -> Option<usize>) -> io::Result<()> {
        let mut entry_bytes = Vec::new();
        for entry in tar::Archive::new(source).entries()?.raw(true) {
            let mut entry = entry?;
            entry_bytes.extend_from_slice(entry.header().as_bytes());
            entry.read_to_end(&mut entry_bytes)?;
            entry_bytes.resize(entry_bytes.len().next_multiple_of(BLOCK), 0);
            let extends = [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink];
            if extends.contains(&entry.header().entry_type()) {
                continue;
            }
            // The beginning of a long name is in the header all the same.
            if let Some(layer) = layer(&entry.path_bytes()) {
                self.write(layer, &[&entry_bytes])?;
            }
            entry_bytes.clear();
        }
        Ok(())
    }

    fn write(&mut self, layer: usize, pieces: &[&[u8]]) -> io::Result<()> {
        pieces.iter().try_for_each(|piece| {
            self.tree.1.write_all(piece)?;
            self.layers[layer].1.write_all(piece)
        })
    }

    fn finish(self) -> anyhow::Result<Input> {
        let end = |(path, mut file): (PathBuf, BufWriter<File>)| {
            file.write_all(&END)?;
            file.flush()?;
            anyhow::Ok(path)
        };
        let layers = self.layers.into_iter().map(end).collect::<Result<_, _>>()?;
        let tree = end(self.tree)?;
        // Whole KiB; a tree is no larger than some TiB.
        let kib = u32::try_from(fs::metadata(&tree)?.len() / 1024).unwrap_or(u32::MAX);
        Ok(Input { tree, layers, mib: f64::from(kib) / 1024.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(archive: &Path) -> Vec<String> {
        let mut archive = tar::Archive::new(File::open(archive).unwrap());
        let name =
            |entry: io::Result<tar::Entry<'_, File>>| entry.unwrap().path().unwrap().display().to_string();
        archive.entries().unwrap().map(name).collect()
    }

    #[test]
    fn entries_go_to_their_layers_with_what_extends_them() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("usr/share/{}", "x".repeat(200));
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["bin/sh", "usr/lib/python3.11/os.py", &long, "usr/share/doc/sh", "usr/share/zoneinfo"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            builder.append_data(&mut header, name, &b"abc"[..]).unwrap();
        }
        let mut layers = Layers::create(folder.path(), 3).unwrap();
        layers.cut(&builder.into_inner().unwrap()[..], debian_layer).unwrap();
        let input = layers.finish().unwrap();
        let found: Vec<_> = input.layers.iter().map(|layer| names(layer)).collect();
        assert_eq!(found[0], ["bin/sh"]);
        assert_eq!(found[1], ["usr/lib/python3.11/os.py"]);
        assert_eq!(found[2], [long.as_str(), "usr/share/zoneinfo"]);
        assert_eq!(names(&input.tree).len(), 4);
    }

    #[test]
    fn what_is_made_up_is_as_large_as_it_should_be_and_in_all_layers() {
        let folder = tempfile::tempdir().unwrap();
        let input = made_up(8, folder.path()).unwrap();
        assert!((8.0..8.1).contains(&input.mib), "{}", input.mib);
        let count = |layer: &PathBuf| names(layer).len();
        assert_eq!(input.layers.iter().map(count).collect::<Vec<_>>(), [2, 2, 2, 2]);
        assert_eq!(names(&input.tree).len(), 8);
    }

    #[test]
    fn only_a_debian_has_a_suite_of_debian() {
        assert_eq!(host_suite("ID=debian\nVERSION_CODENAME=bookworm\n"), "bookworm");
        assert_eq!(host_suite("ID=\"ubuntu\"\nVERSION_CODENAME=noble\n"), "stable");
        assert_eq!(host_suite(""), "stable");
    }
}
