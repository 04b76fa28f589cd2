//! The `mksquashfs` that writes an image.

use std::io::{self, BufWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};

use super::clean_tar::CleanTar;
use super::reroot::reroot;
use crate::error::{ProviderError, Result};
use crate::tool;

const TOOL: &str = "mksquashfs";
const PACKAGE: &str = "squashfs-tools, version 4.5 or newer";

/// Threads of the tool: an image is made beside other work.
const PROCESSORS: &str = "2";
/// Its block cache, the smallest that it takes. More makes it no faster; what it takes beyond is about 0.8 KiB for each
/// entry.
const CACHE: &str = "16M";
/// Its address space in bytes: an image with the most entries and attributes that are let through needs about half.
#[cfg(target_os = "linux")]
const ADDRESS_SPACE_MAX: u64 = 4 << 30;
/// What an image may take beyond its content, in bytes: inodes, directories and attributes, which are not compressed.
#[cfg(target_os = "linux")]
const OVERHEAD_MAX: u64 = 2 << 30;
/// How much of what it printed is kept, in bytes: the end, where the cause is.
const PRINTED_MAX: usize = 4096;

/// How file content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// As it is: for a small image that many machines read at start, where unpacking takes longer than reading.
    None,
    /// zstd at a low level: conversion is waited for.
    Zstd,
}

impl Compression {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::None => &["-comp", "zstd", "-noD", "-noF", "-noX"],
            Self::Zstd => &["-comp", "zstd", "-Xcompression-level", "3"],
        }
    }
}

/// Whether files of the same content share it in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// Each file is compared with all of its size.
    Find,
    /// For very many files of one size, where that would take minutes.
    Keep,
}

/// A running tool. Ends it when dropped.
pub(crate) struct Packer {
    child: Child,
    tar: Option<CleanTar<BufWriter<UnixStream>>>,
    /// Reads what it prints, so that it never stops for want of a reader.
    printed: Option<JoinHandle<Vec<u8>>>,
    image: PathBuf,
}

impl Packer {
    /// Starts the tool, which is to write `image`. `content_max` bounds what it may write.
    pub(crate) fn start(
        image: &Path,
        compression: Compression,
        duplicates: Duplicates,
        content_max: u64,
    ) -> Result<Self> {
        let program = tool::require(TOOL, PACKAGE)?;
        let dir = image.parent().unwrap_or(image);
        let file_name = image.file_name().unwrap_or(image.as_os_str());
        // A socket, not a pipe: writing to a tool that has died must not raise SIGPIPE, which ends a C program that
        // embeds this library.
        let (input, stdin) =
            UnixStream::pair().map_err(ProviderError::io("cannot make a channel to", &program))?;
        let mut child = Command::new(&program)
            .arg("-")
            .arg(file_name)
            .arg("-tar")
            .args(compression.arguments())
            .args((duplicates == Duplicates::Keep).then_some("-no-duplicates"))
            // Without compressed inodes the root can be chosen afterwards, and a guest finds files faster.
            .args(["-noI", "-no-exports", "-mkfs-time", "0", "-exit-on-error", "-quiet", "-no-progress"])
            .args(["-processors", PROCESSORS, "-mem", CACHE])
            .env_clear()
            .env("PATH", tool::CHILD_PATH)
            .env("LC_ALL", "C")
            .current_dir(dir)
            .stdin(OwnedFd::from(stdin))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ProviderError::io("cannot start", &program))?;
        let tar = Some(CleanTar::new(BufWriter::with_capacity(64 * 1024, input)));
        let printed = child.stderr.take().map(|stderr| thread::spawn(move || tail(stderr)));
        let packer = Self { child, tar, printed, image: image.to_owned() };
        // It waits for its first byte of input, so limits set now come in time.
        packer.limit(content_max).map_err(ProviderError::io("cannot limit", &program))?;
        Ok(packer)
    }

    /// Writes inodes. When the tool has ended instead, the error says why.
    pub(crate) fn write(
        &mut self,
        write: impl FnOnce(&mut CleanTar<BufWriter<UnixStream>>) -> io::Result<()>,
    ) -> Result<()> {
        self.tar().and_then(write).map_err(|_| self.failure())
    }

    /// Where inodes go. An error of its methods means that the tool has ended: [`failure`](Self::failure) knows why.
    pub(crate) fn tar(&mut self) -> io::Result<&mut CleanTar<BufWriter<UnixStream>>> {
        self.tar.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the archive, waits for the image, and gives it its root.
    pub(crate) fn finish(mut self) -> Result<()> {
        let finished = self.tar.take().map(CleanTar::finish);
        if matches!(finished, Some(Err(_)) | None) {
            return Err(self.failure());
        }
        // The channel closes here; the tool sees the end of its input.
        drop(finished);
        let status =
            self.child.wait().map_err(ProviderError::io("cannot wait for mksquashfs on", &self.image))?;
        if !status.success() {
            return Err(self.failure());
        }
        reroot(&self.image)
            .map_err(|e| ProviderError::Other(format!("the image {TOOL} made {e}: {}", self.image.display())))
    }

    /// Why the tool takes no more input.
    pub(crate) fn failure(&mut self) -> ProviderError {
        self.tar = None;
        // With its input closed it ends by itself, if it has not already.
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let message =
            tool::last_words(&self.printed.take().and_then(|reader| reader.join().ok()).unwrap_or_default());
        if message.contains("No space left") {
            let dir = self.image.parent().unwrap_or(&self.image).to_owned();
            return ProviderError::no_space(dir);
        }
        ProviderError::Tool { tool: TOOL, path: self.image.clone(), status, message }
    }

    /// A defect in the tool must not take the machine's memory or disk.
    #[cfg(target_os = "linux")]
    fn limit(&self, content_max: u64) -> io::Result<()> {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let pid = Pid::from_child(&self.child);
        for (resource, limit) in [
            (Resource::Fsize, content_max.saturating_add(OVERHEAD_MAX)),
            (Resource::As, ADDRESS_SPACE_MAX),
            (Resource::Core, 0),
        ] {
            prlimit(Some(pid), resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        }
        Ok(())
    }

    /// Other systems cannot limit another process.
    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn limit(&self, _content_max: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        // Killed before its input closes: an early end of input must not look like a whole archive. Both fail only
        // when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last of what comes. Ends with the tool, which `Packer` sees to.
fn tail(mut from: ChildStderr) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0; PRINTED_MAX];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        kept.extend_from_slice(&chunk[..read]);
        kept.drain(..kept.len().saturating_sub(PRINTED_MAX));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Meta;

    fn started(image: &Path) -> Packer {
        Packer::start(image, Compression::Zstd, Duplicates::Find, 1 << 30).unwrap()
    }

    #[test]
    fn a_tool_that_is_killed_fails_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let mut packer = started(&dir.path().join("image"));
        packer.write(|tar| tar.begin_file(b"f", &Meta::root_owned(0o644), 1 << 30)).unwrap();
        packer.child.kill().unwrap();
        let error = (0..1 << 20).find_map(|_| packer.write(|tar| tar.zeros(1 << 20)).err()).unwrap();
        assert!(
            error.to_string().contains("mksquashfs failed") && error.to_string().contains("SIGKILL"),
            "{error}"
        );

        let mut packer = started(&dir.path().join("other"));
        packer.write(|tar| tar.dir(b"", &Meta::root_owned(0o755))).unwrap();
        packer.child.kill().unwrap();
        assert!(packer.finish().unwrap_err().to_string().contains("SIGKILL"));
    }

    /// Its writer is gone before the end: that must not look like a whole archive.
    #[test]
    fn an_image_that_is_given_up_is_not_completed() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut packer = started(&image);
        packer.write(|tar| tar.file(b"f", &Meta::root_owned(0o644), b"content")).unwrap();
        drop(packer);
        let whole =
            std::fs::File::open(&image).is_ok_and(|file| crate::superblock::Superblock::read(&file).is_ok());
        assert!(!whole);
    }
}
