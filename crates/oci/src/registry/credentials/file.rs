//! Credentials that `docker login` and `podman login` have left.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use super::{Credential, Secret};
use vmette_http::Lookup;

/// Largest such file. It has some hundred bytes for each registry.
const FILE_MAX: u64 = 4 << 20;
/// Names of docker's default registry in such files.
const DOCKER_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The part of such a file that matters.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Config {
    auths: HashMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Where such files are, the first to be asked first.
pub(super) fn places(env: Lookup<'_>) -> Vec<PathBuf> {
    let dir = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = dir("HOME");
    let docker = dir("DOCKER_CONFIG").or_else(|| Some(home.clone()?.join(".docker")));
    let podman = |base: Option<PathBuf>| Some(base?.join("containers/auth.json"));
    [
        dir("REGISTRY_AUTH_FILE"),
        docker.map(|dir| dir.join("config.json")),
        podman(dir("XDG_RUNTIME_DIR")),
        podman(dir("XDG_CONFIG_HOME").or_else(|| Some(home?.join(".config")))),
    ]
    .into_iter()
    .flatten()
    .filter(|path| path.is_absolute())
    .collect()
}

/// None when there is no such file. The problem holds nothing of the file's content.
pub(super) fn read(path: &Path) -> Result<Option<Config>, String> {
    let file = match vmette_http::open_regular(path) {
        Ok(file) => file,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err("it is larger than 4 MiB".to_owned());
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        // The parser's own words may repeat a value.
        format!("it is not the JSON of such a file, at line {} column {}", e.line(), e.column())
    })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The host and the path that an entry's key stands for: `host`, `host/owner/name` as podman has it, or a URL as docker
/// had it, of which only the host counts.
fn scope(key: &str) -> (&str, &str) {
    let url = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = url.unwrap_or(key).split_once('/').unwrap_or((url.unwrap_or(key), ""));
    (host, if url.is_some() { "" } else { path.trim_end_matches('/') })
}

/// Returns whether a key's host is the one of a reference.
fn same_host(key: &str, host: &str) -> bool {
    key.eq_ignore_ascii_case(host) || (DOCKER_HOSTS.contains(&host) && DOCKER_HOSTS.contains(&key))
}

impl Config {
    /// The name of the helper that knows the host's credentials.
    pub(super) fn helper(&self, host: &str) -> Option<&str> {
        let own = self.cred_helpers.iter().find(|(key, _)| same_host(scope(key).0, host));
        own.map(|(_, name)| name)
            .or(self.creds_store.as_ref())
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    /// The file's own credential for the host: of several entries the one that names most of the repository.
    pub(super) fn stored(&self, host: &str, repository: &str) -> Result<Option<Credential>, String> {
        let covers = |path: &str| {
            path.is_empty()
                || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut entries: Vec<_> = self
            .auths
            .iter()
            .filter(|(key, _)| same_host(scope(key).0, host) && covers(scope(key).1))
            .collect();
        // The longest key last but for its path; the key itself decides between two names of one host.
        entries.sort_by_key(|(key, _)| (scope(key).1.len(), key.as_str()));
        entries.iter().rev().find_map(|(key, entry)| entry.credential(key).transpose()).transpose()
    }
}

impl Entry {
    /// None when it holds nothing, as when a helper has it.
    fn credential(&self, key: &str) -> Result<Option<Credential>, String> {
        let set = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        let Some(auth) = set(&self.auth) else {
            return Ok(set(&self.username)
                .zip(set(&self.password))
                .map(|(user, secret)| Credential::password(&user, &secret)));
        };
        let key = vmette_work::printable(key, 100);
        let bad = || format!("`auth` of {key} is not the base64 of USER:PASSWORD");
        let auth = auth.trim();
        let decoded = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).map_err(|_| bad())?;
        let text = String::from_utf8(decoded).map_err(|_| bad())?;
        let (user, secret) = text.trim_end_matches('\0').split_once(':').ok_or_else(bad)?;
        Ok(Some(Credential::password(user, secret)))
    }
}
