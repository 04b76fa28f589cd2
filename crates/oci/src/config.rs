//! An image's configuration: its platform, its layers' diff ids, and how it wants to be run.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bounded::{self, List, Members, Nothing};
use super::error::{ImageError, shown};
use super::manifest::LAYERS_MAX;
use super::select;
use crate::image_config::{ImageConfig, Platform, VOLUMES_MAX};
use vmette_cache::Digest;

/// Longest configuration in bytes. Histories and labels of build tools make some of a few hundred KiB.
pub(super) const CONFIG_MAX: u64 = 8 << 20;
/// Most variables, arguments or labels.
const STRINGS_MAX: usize = 4096;
/// Longest variable or argument: `execve` takes none longer.
const STRING_MAX: usize = 128 << 10;
/// Longest path, user or signal.
const NAME_MAX: usize = 4096;
/// Bytes of environment and arguments together: half of what `execve` takes by default, as the caller adds some.
const EXEC_MAX: usize = 1 << 20;
/// Bytes of labels together. They are kept with the image and shown, nothing else.
const LABELS_MAX: usize = 1 << 20;
const WHAT: &str = "its configuration";

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The machine it is for.
    pub platform: Platform,
    /// The digests of the layers' uncompressed bytes, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// How the image wants to be run.
    pub config: ImageConfig,
    /// Entries of its environment that are no variables and were left out, made fit for a message.
    pub dropped: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<Execution>,
    #[serde(default)]
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: List<String, LAYERS_MAX>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    env: List<String, STRINGS_MAX>,
    entrypoint: List<String, STRINGS_MAX>,
    cmd: List<String, STRINGS_MAX>,
    user: Option<String>,
    working_dir: Option<String>,
    volumes: Members<Nothing, VOLUMES_MAX>,
    stop_signal: Option<String>,
    labels: Members<Option<String>, STRINGS_MAX>,
}

/// Parses a configuration.
///
/// # Errors
/// It is malformed, or beyond a limit.
pub fn parse(bytes: &[u8]) -> Result<Configuration, ImageError> {
    let document: Document = bounded::parse(WHAT, bytes)?;
    let said = |value: Option<String>, what: &str| {
        value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| malformed(format!("it does not say for which {what} it is")))
    };
    let platform = Platform {
        os: shown(&said(document.os, "operating system")?),
        architecture: shown(select::architecture(&said(document.architecture, "architecture")?)),
        variant: document.variant.filter(|variant| !variant.is_empty()).map(|variant| shown(&variant)),
    };
    let diff_ids = document.rootfs.map(|rootfs| rootfs.diff_ids.0).unwrap_or_default();
    let diff_ids = diff_ids.iter().map(|text| {
        text.parse().map_err(|_| {
            malformed(format!("diff id {} is not sha256: and 64 lower-case hexadecimal digits", shown(text)))
        })
    });
    let diff_ids = diff_ids.collect::<Result<Vec<Digest>, _>>()?;
    let (config, dropped) = execution(document.config.unwrap_or_default())?;
    Ok(Configuration { platform, diff_ids, config, dropped })
}

fn execution(said: Execution) -> Result<(ImageConfig, Vec<String>), ImageError> {
    let Execution { env, entrypoint, cmd, user, working_dir, volumes, stop_signal, labels } = said;
    let strings = || env.0.iter().chain(&entrypoint.0).chain(&cmd.0);
    for string in strings() {
        check("a variable or argument", string, STRING_MAX)?;
    }
    if strings().map(String::len).sum::<usize>() > EXEC_MAX {
        return Err(malformed(format!("its environment and arguments have more than {EXEC_MAX} bytes")));
    }
    let labels: BTreeMap<_, _> =
        labels.0.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect();
    if labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > LABELS_MAX {
        return Err(malformed(format!("its labels have more than {LABELS_MAX} bytes")));
    }
    let mut dropped = Vec::new();
    let env = env.0.into_iter().filter_map(|entry| match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Some((name.to_owned(), value.to_owned())),
        _ => {
            dropped.push(shown(&entry));
            None
        }
    });
    let config = ImageConfig {
        env: env.collect(),
        entrypoint: entrypoint.0,
        cmd: cmd.0,
        user: name("its user", user)?,
        working_dir: name("its working directory", working_dir)?
            .map(|path| absolute("its working directory", path))
            .transpose()?,
        volumes: volumes_of(volumes)?,
        stop_signal: name("its stop signal", stop_signal)?,
        labels,
    };
    Ok((config, dropped))
}

/// Sorted, each once.
fn volumes_of(volumes: Members<Nothing, VOLUMES_MAX>) -> Result<Vec<String>, ImageError> {
    let mut paths = Vec::new();
    for (path, _) in volumes.0 {
        let path = name("a volume", Some(path))?
            .ok_or_else(|| malformed("a volume has no path".to_owned()))
            .and_then(|path| absolute("a volume", path))?;
        if path.split('/').any(|part| part == "..") {
            return Err(malformed(format!("the volume {} leads upwards", shown(&path))));
        }
        paths.push(path);
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// None when it is empty, which Docker writes for what is not set.
fn name(what: &str, value: Option<String>) -> Result<Option<String>, ImageError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    check(what, &value, NAME_MAX)?;
    Ok(Some(value))
}

fn absolute(what: &str, path: String) -> Result<String, ImageError> {
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(malformed(format!("{what} is {}, which is not an absolute path", shown(&path))))
}

fn check(what: &str, value: &str, max: usize) -> Result<(), ImageError> {
    if value.len() > max {
        return Err(malformed(format!("{what} has {} bytes, and {max} is the most", value.len())));
    }
    if value.contains('\0') {
        return Err(malformed(format!("{what} holds a NUL: {}", shown(value))));
    }
    Ok(())
}

fn malformed(problem: String) -> ImageError {
    ImageError::Malformed { what: WHAT.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn sample() -> Value {
        json!({
            "os": "linux", "architecture": "amd64", "created": "2024-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"one")]},
            "history": [{"created_by": "x"}],
            "config": {
                "Env": ["PATH=/bin:/usr/bin", "A=b=c", "E=", "with.dot=1", "none", "=x"],
                "Entrypoint": ["/entry"], "Cmd": ["a", "b"], "User": "www-data:www-data", "WorkingDir": "/srv",
                "Volumes": {"/var/lib/b": {}, "/data": null}, "StopSignal": "SIGQUIT",
                "Labels": {"k": "v", "empty": null}, "ExposedPorts": {"80/tcp": {}}, "OnBuild": null,
            },
        })
    }

    fn with(path: &str, value: Value) -> Value {
        let mut document = sample();
        *document.pointer_mut(path).unwrap() = value;
        document
    }

    fn of(document: &Value) -> Result<Configuration, ImageError> {
        parse(&serde_json::to_vec(document).unwrap())
    }

    #[test]
    fn everything_that_a_run_honours_is_read() {
        let parsed = of(&sample()).unwrap();
        assert_eq!(parsed.platform.to_string(), "linux/amd64");
        assert_eq!(parsed.diff_ids, [Digest::of(b"one")]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            parsed.config,
            ImageConfig {
                env: vec![
                    pair("PATH", "/bin:/usr/bin"),
                    pair("A", "b=c"),
                    pair("E", ""),
                    pair("with.dot", "1")
                ],
                entrypoint: vec!["/entry".to_owned()],
                cmd: vec!["a".to_owned(), "b".to_owned()],
                user: Some("www-data:www-data".to_owned()),
                working_dir: Some("/srv".to_owned()),
                volumes: vec!["/data".to_owned(), "/var/lib/b".to_owned()],
                stop_signal: Some("SIGQUIT".to_owned()),
                labels: [pair("empty", ""), pair("k", "v")].into(),
            }
        );
        assert_eq!(parsed.dropped, ["none", "=x"]);
    }

    #[test]
    fn what_is_null_or_absent_is_not_set() {
        let nulls = json!({"Env": null, "Entrypoint": null, "Cmd": null, "User": "", "WorkingDir": "", "Volumes": null,
            "StopSignal": null, "Labels": null});
        for config in [nulls, json!({}), Value::Null] {
            assert_eq!(of(&with("/config", config)).unwrap().config, ImageConfig::default());
        }
    }

    #[test]
    fn refusals() {
        let numbered = |count: usize| (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>();
        let set = |count| Value::Object(numbered(count).into_iter().map(|path| (path, json!({}))).collect());
        for (document, reason) in [
            (with("/os", Value::Null), "which operating system"),
            (with("/architecture", json!("")), "which architecture"),
            (with("/rootfs/diff_ids", json!(["sha256:x"])), "diff id sha256:x"),
            (with("/config/Env", json!(vec!["A=b"; 4097])), "at most 4096"),
            (with("/config/Env", json!(["x".repeat(STRING_MAX + 1)])), "131072 is the most"),
            (with("/config/Cmd", json!(vec!["x".repeat(STRING_MAX); 9])), "1048576 bytes"),
            (with("/config/Cmd", json!(["a\0b"])), "NUL"),
            (with("/config/Cmd", json!("sh")), "malformed"),
            (with("/config/WorkingDir", json!("srv")), "not an absolute path"),
            (with("/config/User", json!("x".repeat(4097))), "its user has 4097"),
            (with("/config/Volumes", json!({"": {}})), "a volume has no path"),
            (with("/config/Volumes", json!({"data": {}})), "not an absolute path"),
            (with("/config/Volumes", json!({"/a/../b": {}})), "leads upwards"),
            (with("/config/Volumes", set(VOLUMES_MAX + 1)), "at most 64"),
            (with("/config/Labels", json!({"k": "x".repeat(LABELS_MAX)})), "labels"),
            (json!("text"), "malformed"),
        ] {
            let message = of(&document).unwrap_err().to_string();
            assert!(message.contains(reason), "{reason}: {message}");
        }
        assert!(
            !of(&with("/config/WorkingDir", json!("\u{1b}c"))).unwrap_err().to_string().contains('\u{1b}')
        );
    }

    proptest! {
        #[test]
        fn no_damage_panics(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut damaged = serde_json::to_vec(&sample()).unwrap();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            let _ = parse(&damaged);
            damaged.truncate(cut.index(damaged.len()));
            prop_assert!(parse(&damaged).is_err());
        }
    }
}
