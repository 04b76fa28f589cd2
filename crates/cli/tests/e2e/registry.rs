//! Debian's `docker-registry` on loopback, filled by `skopeo`.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::machine::Vmette;

/// `ann` with the password `s3cret`, as `htpasswd -nbB` writes it.
const PASSWORDS: &str = "ann:$2y$05$4yVlgUOMpi0P34g2CLeVyOcT6VffI/.ZwuhZziyQyVqDRSI2mOGIK\n";
const USER: &str = "ann:s3cret";
/// The same, as `docker login` writes it.
const USER_BASE64: &str = "YW5uOnMzY3JldA==";

/// How long it may take to listen on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How its clients find it, and who they have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    Passwords,
    TlsAndPasswords,
}

/// A registry that runs. Ended when dropped.
pub(crate) struct Registry {
    child: Child,
    log: Option<JoinHandle<()>>,
    access: Access,
    host: String,
    dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}

impl Registry {
    pub(crate) fn start(access: Access) -> Self {
        // A port that is free now may be taken a moment later, by another test: then there is another one.
        (0..10).find_map(|_| Self::try_start(access)).expect("docker-registry starts")
    }

    fn try_start(access: Access) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            at("storage")
        );
        if access == Access::TlsAndPasswords {
            write_certificates(dir.path());
            config += &format!("  tls:\n    certificate: {}\n    key: {}\n", at("cert.pem"), at("key.pem"));
        }
        if access != Access::Open {
            fs::write(at("htpasswd"), PASSWORDS).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", at("htpasswd"));
        }
        fs::write(at("config.yml"), config).unwrap();
        let login = format!(r#"{{"auths":{{"{host}":{{"auth":"{USER_BASE64}"}}}}}}"#);
        fs::create_dir(at("docker")).unwrap();
        fs::write(at("docker/config.json"), login).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("docker-registry: {e}; `scripts/setup test` installs it"));
        let (sender, listening) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        // To its end, or the registry would wait for somebody to read it.
        let log = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("listening on") {
                    let _ = sender.send(());
                }
            }
        });
        let registry = Self { child, log: Some(log), access, host, dir };
        listening.recv_timeout(START_LIMIT).ok().map(|()| registry)
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Puts an image of a layout there under this name, and gives the name that it has for everybody else.
    pub(crate) fn fill(&self, layout: &Path, tag: &str, name: &str, options: &[&str]) -> String {
        let reference = format!("{}/{name}", self.host);
        let mut args = vec!["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        args.extend(options);
        if self.access != Access::Open {
            args.extend(["--dest-creds", USER]);
        }
        let (source, target) = (format!("oci:{}:{tag}", layout.display()), format!("docker://{reference}"));
        args.extend([source.as_str(), target.as_str()]);
        run("skopeo", args);
        reference
    }

    /// The same program, told who it may trust and who it is.
    pub(crate) fn known_to(&self, vmette: Vmette) -> Vmette {
        vmette.env("DOCKER_CONFIG", self.dir.path().join("docker"))
    }

    /// Of the authority that vouches for it; `None` without TLS.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        (self.access == Access::TlsAndPasswords).then(|| self.dir.path().join("ca.pem"))
    }
}

/// An authority, and what it vouches for.
fn write_certificates(dir: &Path) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let authority_key = rcgen::KeyPair::generate().unwrap();
    fs::write(dir.join("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = server.signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

/// Runs a program of the set-up for tests, which has to succeed.
pub(crate) fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Output {
    let program = program.as_ref();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("{program:?}: {e}; `scripts/setup test` installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
