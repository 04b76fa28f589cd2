//! A registry with a folder of its own, and what its clients have to be told.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use vmette_testing::authority::Authority;
use vmette_testing::registry::{self, LOGIN};

use crate::machine::Vmette;

/// How its clients find it, and who they have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    Passwords,
    TlsAndPasswords,
}

/// A registry that runs. Ended when dropped.
pub(crate) struct Registry {
    server: registry::Registry,
    access: Access,
    dir: TempDir,
}

impl Registry {
    pub(crate) fn start(access: Access) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = (access == Access::TlsAndPasswords).then(|| Authority::new().unwrap());
        if let Some(authority) = &authority {
            fs::write(dir.path().join("ca.pem"), &authority.authority).unwrap();
        }
        let asked = registry::Access {
            tls: authority.as_ref().map(Authority::identity),
            passwords: access != Access::Open,
        };
        let server = registry::Registry::start(dir.path(), asked).unwrap();
        let login = format!(r#"{{"auths":{{"{}":{{"auth":"{LOGIN}"}}}}}}"#, server.host());
        fs::create_dir(dir.path().join("docker")).unwrap();
        fs::write(dir.path().join("docker/config.json"), login).unwrap();
        Self { server, access, dir }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> &str {
        self.server.host()
    }

    /// Puts an image of a layout there under this name, and gives the name that it has for everybody else.
    pub(crate) fn fill(&self, layout: &Path, tag: &str, name: &str, options: &[&str]) -> String {
        succeed(self.server.push(layout, tag, name, options));
        format!("{}/{name}", self.host())
    }

    /// The same program, told who it may trust and who it is.
    pub(crate) fn known_to(&self, vmette: Vmette) -> Vmette {
        vmette.env("DOCKER_CONFIG", self.dir.path().join("docker"))
    }

    /// The certificate of the authority that vouches for it; `None` without TLS.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        (self.access == Access::TlsAndPasswords).then(|| self.dir.path().join("ca.pem"))
    }
}

/// Runs a program of the set-up for tests, which has to succeed.
pub(crate) fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    succeed(command)
}

fn succeed(mut command: Command) -> Output {
    let output = command.output();
    let program = command.get_program();
    let output = output.unwrap_or_else(|e| panic!("{program:?}: {e}; `scripts/setup test` installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
