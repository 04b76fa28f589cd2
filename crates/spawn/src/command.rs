//! A program to start, and the resources that it is given.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::{Limits, SYSTEM_PATH};

/// Variables that name the way to the network, for [`Command::pass_on`].
pub const NETWORK_VARIABLES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The end of a program whose owner is gone, also if the owner was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AtOurEnd {
    /// It is killed.
    #[default]
    Kill,
    /// It is asked to end, with `SIGTERM`: for a program that has something to clean up.
    Terminate,
}

/// Permissions that a program's new files do not get, unless it is told otherwise: nobody but their owner writes to them.
const UMASK: u32 = 0o022;

/// A program to start: its arguments, and everything that it gets of this process. Without more words it starts in `/`,
/// reads nothing, prints nowhere, and knows [`SYSTEM_PATH`] as its only variable.
#[derive(Debug)]
pub struct Command {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) folder: PathBuf,
    pub(crate) inherit: Vec<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) limits: Limits,
    pub(crate) umask: u32,
    pub(crate) at_our_end: AtOurEnd,
}

impl Command {
    /// The program at this path.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            environment: BTreeMap::from([("PATH".into(), SYSTEM_PATH.into())]),
            folder: "/".into(),
            inherit: Vec::new(),
            stdin: None,
            stdout: None,
            stderr: None,
            limits: Limits::default(),
            umask: UMASK,
            at_our_end: AtOurEnd::Kill,
        }
    }

    /// The program's path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.into(), value.as_ref().to_owned());
        self
    }

    /// Passes these variables on, as far as this process has them.
    #[must_use]
    pub fn pass_on(mut self, names: &[&str]) -> Self {
        let found = names.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)));
        self.environment.extend(found);
        self
    }

    /// Passes the whole environment on: for the user's own programs, which find the user's session by it.
    #[must_use]
    pub fn pass_on_everything(mut self) -> Self {
        self.environment = std::env::vars_os().collect();
        self
    }

    /// Starts in this folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// Keeps this descriptor open, under the same number.
    #[must_use]
    pub fn inherit(mut self, fd: OwnedFd) -> Self {
        self.inherit.push(fd);
        self
    }

    /// Reads from this descriptor.
    #[must_use]
    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(fd.into());
        self
    }

    /// Writes its standard output to this descriptor.
    #[must_use]
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(fd.into());
        self
    }

    /// Writes its standard error to this descriptor.
    #[must_use]
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(fd.into());
        self
    }

    /// Limits it.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the permissions that its new files do not get; 0o022 without this.
    #[must_use]
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = umask;
        self
    }

    /// Says how it ends when this process is gone.
    #[must_use]
    pub fn at_our_end(mut self, end: AtOurEnd) -> Self {
        self.at_our_end = end;
        self
    }
}
