//! Debian's `docker-registry` on the loopback interface, filled by `skopeo`: a counterpart that was not made to fit.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::authority::Identity;

/// The server's program.
pub const SERVER: &str = "docker-registry";

/// The program that fills it.
pub const CLIENT: &str = "skopeo";

/// The one user of a registry with passwords.
pub const USER: &str = "ann";
/// The user's password.
pub const PASSWORD: &str = "s3cret";
/// Both as `docker login` writes them.
pub const LOGIN: &str = "YW5uOnMzY3JldA==";

/// Both as `htpasswd -nbB` writes them.
const PASSWORDS: &str = "ann:$2y$05$4yVlgUOMpi0P34g2CLeVyOcT6VffI/.ZwuhZziyQyVqDRSI2mOGIK\n";

/// How long it may take to listen on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Another program may take a port between our look at it and the server's: then another one is tried.
const ATTEMPTS: usize = 10;

/// The clients that a registry admits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access<'a> {
    /// Serves TLS with this certificate.
    pub tls: Option<Identity<'a>>,
    /// Lets in [`USER`] with [`PASSWORD`] and nobody else.
    pub passwords: bool,
}

/// A registry that runs. Ended when dropped.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    log: Option<JoinHandle<()>>,
    host: String,
    passwords: bool,
}

impl Registry {
    /// Starts one that keeps its content and its configuration in `folder`.
    ///
    /// # Errors
    /// The program is not installed, or does not listen in time.
    pub fn start(folder: &Path, access: Access<'_>) -> io::Result<Self> {
        let mut last = io::Error::other("no attempt was made");
        for _ in 0..ATTEMPTS {
            match Self::attempt(folder, access) {
                Ok(registry) => return Ok(registry),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn attempt(folder: &Path, access: Access<'_>) -> io::Result<Self> {
        let at = |name: &str| folder.join(name).display().to_string();
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {host}\n",
            at("registry")
        );
        if let Some(identity) = access.tls {
            fs::write(at("cert.pem"), identity.certificate)?;
            fs::write(at("key.pem"), identity.key)?;
            config += &format!("  tls:\n    certificate: {}\n    key: {}\n", at("cert.pem"), at("key.pem"));
        }
        if access.passwords {
            fs::write(at("htpasswd"), PASSWORDS)?;
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", at("htpasswd"));
        }
        fs::write(at("registry.yml"), config)?;
        let mut server = Command::new(SERVER)
            .args(["serve", &at("registry.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                io::Error::new(e.kind(), format!("{SERVER}: {e}; `scripts/setup test` installs it"))
            })?;
        let log = server.stderr.take();
        let mut registry = Self { server, log: None, host, passwords: access.passwords };
        let (sender, listening) = mpsc::channel();
        // Reads to the end, so that the server never waits for a reader.
        registry.log = Some(thread::spawn(move || {
            for line in BufReader::new(log.expect("it is piped")).lines().map_while(Result::ok) {
                if line.contains("listening on") {
                    // Fails when it comes too late and nobody waits any more.
                    let _ = sender.send(());
                }
            }
        }));
        let late = |_| io::Error::other(format!("{SERVER} does not listen"));
        listening.recv_timeout(START_LIMIT).map_err(late)?;
        Ok(registry)
    }

    /// Address and port, as they stand in a reference.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The program that copies an image of a layout to the name `name`, with further options of `skopeo copy`.
    #[must_use]
    pub fn push(&self, layout: &Path, tag: &str, name: &str, options: &[&str]) -> Command {
        let mut command = copy();
        command.arg("--dest-tls-verify=false").args(options);
        if self.passwords {
            command.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        }
        command.args([of_layout(layout, tag), self.image(name)]);
        command
    }

    /// The program that copies the image of that name to a new layout.
    #[must_use]
    pub fn pull(&self, name: &str, layout: &Path, tag: &str) -> Command {
        let mut command = copy();
        command.arg("--src-tls-verify=false").args([self.image(name), of_layout(layout, tag)]);
        command
    }

    fn image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.host)
    }
}

fn copy() -> Command {
    let mut command = Command::new(CLIENT);
    command.args(["--insecure-policy", "copy", "--quiet"]).stdin(Stdio::null());
    command
}

fn of_layout(layout: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", layout.display())
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
        if let Some(log) = self.log.take() {
            // It only reads; its end is the server's.
            let _ = log.join();
        }
    }
}
