//! The `mksquashfs` that writes an image.

use std::io::{self, BufWriter};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette_oci::FileError;
use vmette_spawn::{Command, Running, Tool};
use vmette_work::Work;

use super::channel::Channel;
use super::clean_tar::CleanTar;
use super::error::PackError;
use super::reroot::reroot;
use crate::tool::{self, ToolError};

type Result<T> = std::result::Result<T, PackError>;

const TOOL: &str = "mksquashfs";
const PACKAGE: &str = "squashfs-tools, version 4.5 or newer";

/// Threads of the tool: an image is made beside other work.
const PROCESSORS: &str = "2";
/// Its block cache, the smallest that it takes. More makes it no faster; what it takes beyond is about 0.8 KiB for each
/// entry.
const CACHE: &str = "16M";
/// Its address space in bytes: an image with the most entries and attributes that are let through needs about half.
const ADDRESS_SPACE_MAX: u64 = 4 << 30;
/// Bytes that an image may take beyond its content: inodes, directories and attributes, which are not compressed.
const OVERHEAD_MAX: u64 = 2 << 30;
/// Longest run of the program. It waits for its input, which has limits of its own, for as long as that takes; one that
/// hangs is ended.
const TIME_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// How file content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Uncompressed: for a small image that many machines read at start, where unpacking takes longer than reading.
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

/// Files of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// Each file is compared with all of its size.
    Find,
    /// For very many files of one size, where that would take minutes.
    Keep,
}

/// The archive that inodes are written to.
pub(crate) type Input = CleanTar<BufWriter<Channel>>;

/// A running program. Dropped before its end, it is killed.
pub(crate) struct Packer {
    /// Killed before its input closes: an early end of input must not look like a whole archive.
    running: Running,
    tar: Option<Input>,
    image: PathBuf,
    work: Work,
}

impl Packer {
    /// Starts the program, which is to write `image`. `content_max` bounds what it may write. Once `work` is cancelled,
    /// everything that waits for the program fails with [`PackError::Cancelled`].
    pub(crate) fn start(
        image: &Path,
        compression: Compression,
        duplicates: Duplicates,
        content_max: u64,
        work: &Work,
    ) -> Result<Self> {
        let program = tool::require(TOOL, PACKAGE)?;
        let dir = image.parent().unwrap_or(image);
        let file_name = image.file_name().unwrap_or(image.as_os_str());
        // A socket, not a pipe: writing to a program that has died must not raise SIGPIPE, which ends a C program that
        // embeds this library.
        let channel =
            || UnixStream::pair().and_then(|(input, stdin)| Ok((Channel::new(input, work)?, stdin)));
        let (input, stdin) = channel().map_err(FileError::new("cannot make a channel to", &program))?;
        let command = Command::new(program)
            .arg("-")
            .arg(file_name)
            .arg("-tar")
            .args(compression.arguments())
            .args((duplicates == Duplicates::Keep).then_some("-no-duplicates"))
            // Without compressed inodes the root can be chosen afterwards, and a guest finds files faster.
            .args(["-noI", "-no-exports", "-mkfs-time", "0", "-exit-on-error", "-quiet", "-no-progress"])
            .args(["-processors", PROCESSORS, "-mem", CACHE])
            .folder(dir)
            .stdin(OwnedFd::from(stdin))
            .limits(tool::limits(content_max.saturating_add(OVERHEAD_MAX), ADDRESS_SPACE_MAX));
        let running = Tool::new(TOOL, command, TIME_MAX).start(work).map_err(ToolError::on(image))?;
        let tar = Some(CleanTar::new(BufWriter::with_capacity(64 * 1024, input)));
        Ok(Self { running, tar, image: image.to_owned(), work: work.clone() })
    }

    /// Writes inodes. If the program has ended instead, the error says why.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Input) -> io::Result<()>) -> Result<()> {
        let tar = self.tar.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into());
        tar.and_then(write).map_err(|e| self.failed(e))
    }

    /// Ends the archive, waits for the image, and gives it its root.
    pub(crate) fn finish(mut self) -> Result<()> {
        // The channel closes here; the program sees the end of its input.
        let finished =
            self.tar.take().map_or(Err(io::ErrorKind::BrokenPipe.into()), CleanTar::finish).map(drop);
        finished.map_err(|e| self.failed(e))?;
        self.running.finish().map_err(|e| self.told(e))?;
        reroot(&self.image).map_err(|source| PackError::Reroot { image: self.image.clone(), source })
    }

    /// The reason for which the program takes no more input.
    fn failed(&mut self, error: io::Error) -> PackError {
        if let Err(cancelled) = self.work.check() {
            return cancelled.into();
        }
        self.tar = None;
        // With its input closed it ends by itself, if it has not already.
        match self.running.finish() {
            Err(e) => self.told(e),
            Ok(()) => FileError::new("mksquashfs takes no more input for", &self.image)(error).into(),
        }
    }

    fn told(&self, error: vmette_spawn::Error) -> PackError {
        match &error {
            vmette_spawn::Error::Failed { message, .. } if message.contains("No space left") => {
                let path = self.image.parent().unwrap_or(&self.image).to_owned();
                PackError::Cache(vmette_cache::Error::NoSpace { path })
            }
            _ => ToolError::on(&self.image)(error).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::thread;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::meta::Meta;

    /// Where the other process writes its image.
    const CHILD: &str = "VMETTE_PACK_TEST_IMAGE";
    /// Longer than anything here takes that goes well.
    const WAIT_MAX: Duration = Duration::from_secs(20);

    fn started(image: &Path) -> Packer {
        start(image, &Work::quiet())
    }

    fn start(image: &Path, work: &Work) -> Packer {
        Packer::start(image, Compression::Zstd, Duplicates::Find, 1 << 30, work).unwrap()
    }

    fn pid(packer: &Packer) -> Pid {
        Pid::from_raw(packer.running.pid().try_into().unwrap()).unwrap()
    }

    /// A tool that never goes on, of which nobody need wait for anything.
    #[test]
    fn cancelling_ends_the_wait_for_the_tool() {
        let dir = tempfile::tempdir().unwrap();
        let waits: [fn(Packer) -> Result<()>; 2] =
            [|mut packer| packer.write(|tar| tar.zeros(64 << 20)), |packer| packer.finish()];
        for (n, wait) in waits.into_iter().enumerate() {
            let work = Work::quiet();
            let packer = start(&dir.path().join(n.to_string()), &work);
            let pid = pid(&packer);
            kill_process(pid, Signal::STOP).unwrap();
            work.cancel().cancel();
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
            assert!(matches!(waited, Err(PackError::Cancelled(_))), "{waited:?}");
        }
    }

    #[test]
    #[ignore = "the other process of the next test"]
    fn an_owner() {
        let image = std::env::var(CHILD).unwrap();
        let mut packer = started(Path::new(&image));
        packer.write(|tar| tar.begin_file(b"f", &Meta::root_owned(0o644), 1 << 30)).unwrap();
        // More than the channel holds: the tool runs, and reads.
        packer.write(|tar| tar.zeros(16 << 20)).unwrap();
        println!("pid={}", packer.running.pid());
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
            .args(["--ignored", "--exact", "pack::process::tests::an_owner", "--nocapture"])
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
        kill_process(pid(&packer), Signal::KILL).unwrap();
        let error = (0..1 << 20).find_map(|_| packer.write(|tar| tar.zeros(1 << 20)).err()).unwrap();
        assert!(
            error.to_string().contains("mksquashfs failed") && error.to_string().contains("SIGKILL"),
            "{error}"
        );

        let mut packer = started(&dir.path().join("other"));
        packer.write(|tar| tar.dir(b"", &Meta::root_owned(0o755))).unwrap();
        kill_process(pid(&packer), Signal::KILL).unwrap();
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
