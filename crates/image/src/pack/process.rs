//! The `mksquashfs` that writes an image.

use std::io::{self, BufWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use super::channel::{CANCEL_CHECK, Channel};
use super::clean_tar::CleanTar;
use super::reroot::reroot;
use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::tool::{self, AtOurEnd, Limits};

const TOOL: &str = "mksquashfs";
const PACKAGE: &str = "squashfs-tools, version 4.5 or newer";

/// Threads of the tool: an image is made beside other work.
const PROCESSORS: &str = "2";
/// Its block cache, the smallest that it takes. More makes it no faster; what it takes beyond is about 0.8 KiB for each
/// entry.
const CACHE: &str = "16M";
/// Its address space in bytes: an image with the most entries and attributes that are let through needs about half.
const ADDRESS_SPACE_MAX: u64 = 4 << 30;
/// What an image may take beyond its content, in bytes: inodes, directories and attributes, which are not compressed.
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

/// What inodes are written to.
pub(crate) type Input = CleanTar<BufWriter<Channel>>;

/// A running tool. Ends it when dropped. Stays with the thread that started it.
pub(crate) struct Packer {
    child: Child,
    tar: Option<Input>,
    /// Gets the end of what it printed, once it has ended. A thread reads that all along, so that the tool never stops
    /// for want of a reader.
    printed: Receiver<Vec<u8>>,
    image: PathBuf,
    ctx: Context,
}

impl Packer {
    /// Starts the tool, which is to write `image`. `content_max` bounds what it may write. Once `ctx` is given up, all
    /// that waits for the tool fails with [`ProviderError::Cancelled`].
    pub(crate) fn start(
        image: &Path,
        compression: Compression,
        duplicates: Duplicates,
        content_max: u64,
        ctx: &Context,
    ) -> Result<Self> {
        let program = tool::require(TOOL, PACKAGE)?;
        let dir = image.parent().unwrap_or(image);
        let file_name = image.file_name().unwrap_or(image.as_os_str());
        // A socket, not a pipe: writing to a tool that has died must not raise SIGPIPE, which ends a C program that
        // embeds this library.
        let channel = || UnixStream::pair().and_then(|(input, stdin)| Ok((Channel::new(input, ctx)?, stdin)));
        let (input, stdin) = channel().map_err(ProviderError::io("cannot make a channel to", &program))?;
        let mut child = tool::contained(&program, AtOurEnd::Kill)
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
        let (sender, printed) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            // Nobody asks when all went well.
            thread::spawn(move || sender.send(tail(stderr)));
        }
        let packer = Self { child, tar, printed, image: image.to_owned(), ctx: ctx.clone() };
        // It waits for its first byte of input, so limits set now come in time.
        let limits =
            Limits { file: content_max.saturating_add(OVERHEAD_MAX), address_space: ADDRESS_SPACE_MAX };
        limits.set(&packer.child).map_err(ProviderError::io("cannot limit", &program))?;
        Ok(packer)
    }

    /// Writes inodes. When the tool has ended instead, the error says why.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Input) -> io::Result<()>) -> Result<()> {
        let tar = self.tar.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into());
        tar.and_then(write).map_err(|e| self.failed(e))
    }

    /// Ends the archive, waits for the image, and gives it its root.
    pub(crate) fn finish(mut self) -> Result<()> {
        // The channel closes here; the tool sees the end of its input.
        let finished =
            self.tar.take().map_or(Err(io::ErrorKind::BrokenPipe.into()), CleanTar::finish).map(drop);
        finished.map_err(|e| self.failed(e))?;
        let printed = self.wait_printed()?;
        let status =
            self.child.wait().map_err(ProviderError::io("cannot wait for mksquashfs on", &self.image))?;
        if !status.success() {
            return Err(self.told(&status.to_string(), &printed));
        }
        reroot(&self.image)
            .map_err(|e| ProviderError::Other(format!("the image {TOOL} made {e}: {}", self.image.display())))
    }

    /// Its last words, when it has ended.
    fn wait_printed(&self) -> Result<Vec<u8>> {
        loop {
            match self.printed.recv_timeout(CANCEL_CHECK) {
                Ok(printed) => return Ok(printed),
                Err(RecvTimeoutError::Timeout) => self.ctx.check_cancelled()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
            }
        }
    }

    /// Why the tool takes no more input.
    fn failed(&mut self, error: io::Error) -> ProviderError {
        if let Ok(cancelled) = error.downcast::<ProviderError>() {
            return cancelled;
        }
        self.tar = None;
        // With its input closed it ends by itself, if it has not already.
        let printed = match self.wait_printed() {
            Ok(printed) => printed,
            Err(cancelled) => return cancelled,
        };
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        self.told(&status, &printed)
    }

    fn told(&self, status: &str, printed: &[u8]) -> ProviderError {
        let message = tool::last_words(printed);
        if message.contains("No space left") {
            let dir = self.image.parent().unwrap_or(&self.image).to_owned();
            return ProviderError::no_space(dir);
        }
        ProviderError::Tool { tool: TOOL, path: self.image.clone(), status: status.to_owned(), message }
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
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::meta::Meta;

    /// Where the other process writes its image.
    const CHILD: &str = "VMETTE_PACK_TEST_IMAGE";
    /// Longer than anything here takes that goes well.
    const WAIT_MAX: Duration = Duration::from_secs(20);

    fn started(image: &Path) -> Packer {
        start(image, &Context::new("/nonexistent"))
    }

    fn start(image: &Path, ctx: &Context) -> Packer {
        Packer::start(image, Compression::Zstd, Duplicates::Find, 1 << 30, ctx).unwrap()
    }

    fn stop(packer: &Packer) {
        kill_process(Pid::from_child(&packer.child), Signal::STOP).unwrap();
    }

    /// A tool that never goes on, of which nobody need wait for anything.
    #[test]
    fn cancelling_ends_the_wait_for_the_tool() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Context::new("/nonexistent").with_cancel_flag(Arc::new(AtomicBool::new(true)));
        let waits: [fn(Packer) -> Result<()>; 2] =
            [|mut packer| packer.write(|tar| tar.zeros(64 << 20)), |packer| packer.finish()];
        for (n, wait) in waits.into_iter().enumerate() {
            let packer = start(&dir.path().join(n.to_string()), &ctx);
            stop(&packer);
            let pid = Pid::from_child(&packer.child);
            let (done, is_done) = mpsc::channel::<()>();
            let waited = thread::scope(|scope| {
                // Or else this test would never end.
                scope.spawn(move || {
                    if is_done.recv_timeout(WAIT_MAX) == Err(RecvTimeoutError::Timeout) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                });
                let waited = wait(packer);
                drop(done);
                waited
            });
            assert!(matches!(waited, Err(ProviderError::Cancelled)), "{waited:?}");
        }
    }

    /// What the other process of the next test does; nothing in the test run itself.
    #[test]
    fn child() {
        let Ok(image) = std::env::var(CHILD) else { return };
        let mut packer = started(Path::new(&image));
        packer.write(|tar| tar.begin_file(b"f", &Meta::root_owned(0o644), 1 << 30)).unwrap();
        // More than the channel holds: the tool runs, and reads.
        packer.write(|tar| tar.zeros(16 << 20)).unwrap();
        println!("pid={}", packer.child.id());
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_tool_goes_with_a_process_that_is_killed() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
        use std::io::{BufRead, BufReader};

        let dir = tempfile::tempdir().unwrap();
        let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pack::process::tests::child", "--nocapture"])
            .env(CHILD, dir.path().join("image"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        let pid = lines.find_map(|line| line.unwrap().split_once("pid=")?.1.parse().ok()).unwrap();
        let tool = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        // So that it does not notice the end of its input, as it would not while it is busy.
        pidfd_send_signal(&tool, Signal::STOP).unwrap();
        owner.kill().unwrap();
        owner.wait().unwrap();
        let limit = Timespec::try_from(WAIT_MAX).unwrap();
        let ended = poll(&mut [PollFd::new(&tool, PollFlags::IN)], Some(&limit)).unwrap();
        // It fails when the tool is gone, as it should be.
        let _ = pidfd_send_signal(&tool, Signal::KILL);
        assert_eq!(ended, 1, "the tool outlives who started it");
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
