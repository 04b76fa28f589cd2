//! A registry on the loopback interface: Debian's `docker-registry`, filled by `skopeo`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::layout;
use crate::peers::on_path;
use crate::program::Program;

const SERVER: &str = "docker-registry";
/// What fills it, and what is measured beside vmette.
pub(crate) const CLIENT: &str = "skopeo";
/// How long it may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long compressing and uploading a large image may take.
const PUSH_LIMIT: Duration = Duration::from_secs(600);
/// Another program may take a port between our look at it and the server's: then another one is tried.
const ATTEMPTS: usize = 5;

/// A running registry. Ended when dropped.
pub(crate) struct Registry {
    server: Child,
    /// Address and port, as they stand in a reference.
    host: String,
    client: PathBuf,
}

impl Registry {
    /// Starts one that keeps its content in `folder`. An error says what is missing.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        let client = on_path(CLIENT).with_context(|| format!("{CLIENT} is not installed"))?;
        let server = on_path(SERVER).with_context(|| format!("{SERVER} is not installed"))?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::attempt(&server, &client, folder) {
                Ok(registry) => return Ok(registry),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("{SERVER} was not started")))
    }

    fn attempt(server: &Path, client: &Path, folder: &Path) -> anyhow::Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {host}\n",
            folder.join("registry").display()
        );
        fs::write(&config, text).context("configure a registry")?;
        let server = Command::new(server)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {SERVER}"))?;
        let mut registry = Self { server, host, client: client.to_owned() };
        let log = registry.server.stderr.take().context("a registry without a log")?;
        let (sender, listening) = mpsc::channel();
        // Reads to the end, so that the server never waits for a reader.
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if line.contains("listening on") {
                    // Nobody waits for it any more when it comes too late.
                    let _ = sender.send(());
                }
            }
        });
        listening.recv_timeout(START_LIMIT).with_context(|| format!("{SERVER} does not listen"))?;
        Ok(registry)
    }

    /// What an image of this name is called for everybody.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/bench/{name}:latest", self.host)
    }

    /// Uploads the image of a layout, with its layers compressed by gzip.
    pub(crate) fn push(&self, layout: &Path, name: &str) -> anyhow::Result<()> {
        let from = format!("oci:{}:{}", layout.display(), layout::TAG);
        let to = format!("docker://{}", self.reference(name));
        let push = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        let program = Program::new(&self.client, push.iter().copied().chain([from.as_str(), to.as_str()]));
        program.time_within(Stdio::null(), PUSH_LIMIT)?;
        Ok(())
    }

    /// The program that copies an image from here to a new layout.
    pub(crate) fn copy_to(&self, name: &str, layout: &Path) -> Program {
        let from = format!("docker://{}", self.reference(name));
        let to = format!("oci:{}:{}", layout.display(), layout::TAG);
        let copy = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"];
        Program::new(&self.client, copy.iter().copied().chain([from.as_str(), to.as_str()]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// How often the layers of a layout are compressed, as a check of what was uploaded.
pub(crate) fn ensure_compressed(layout: &Path) -> anyhow::Result<()> {
    let blobs = layout.join("blobs/sha256");
    let mut compressed = 0;
    for blob in fs::read_dir(&blobs)? {
        compressed += usize::from(fs::read(blob?.path())?.starts_with(&[0x1f, 0x8b]));
    }
    ensure!(compressed > 0, "{CLIENT} has uploaded layers that are not compressed");
    Ok(())
}
