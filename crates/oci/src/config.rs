//! An image's configuration: its platform, its layers' diff ids, and how it wants to be run.

use std::collections::BTreeMap;

use super::bounded::{self, List, Members, Nothing, object};
use super::error::{ImageError, listed, shown};
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
    /// Lines on what was mended or left out, made fit for a message.
    pub notes: Vec<String>,
}

#[derive(Default)]
struct Document {
    os: String,
    architecture: String,
    variant: String,
    config: Execution,
    rootfs: RootFs,
}
object!(Document {
    os: "os",
    architecture: "architecture",
    variant: "variant",
    config: "config",
    rootfs: "rootfs",
});

#[derive(Default)]
struct RootFs {
    diff_ids: List<String, LAYERS_MAX>,
}
object!(RootFs { diff_ids: "diff_ids" });

#[derive(Default)]
struct Execution {
    env: List<String, STRINGS_MAX>,
    entrypoint: List<String, STRINGS_MAX>,
    cmd: List<String, STRINGS_MAX>,
    user: String,
    working_dir: String,
    volumes: Members<Nothing, VOLUMES_MAX>,
    stop_signal: String,
    labels: Members<Option<String>, STRINGS_MAX>,
}
object!(Execution {
    env: "Env",
    entrypoint: "Entrypoint",
    cmd: "Cmd",
    user: "User",
    working_dir: "WorkingDir",
    volumes: "Volumes",
    stop_signal: "StopSignal",
    labels: "Labels",
});

/// Parses a configuration.
///
/// # Errors
/// It is malformed, or beyond a limit.
pub fn parse(bytes: &[u8]) -> Result<Configuration, ImageError> {
    let document: Document = bounded::parse(WHAT, bytes)?;
    let (config, mut notes) = execution(document.config)?;
    if document.os.is_empty() || document.architecture.is_empty() {
        notes.push(
            "its configuration does not say for which machine it is; it is taken to be for this one"
                .to_owned(),
        );
    }
    let guest = Platform::of_guest();
    let or =
        |said: String, guest: String| if said.is_empty() { guest } else { shown(&select::normal(&said)) };
    let platform = Platform {
        os: or(document.os, guest.os),
        architecture: or(document.architecture, guest.architecture),
        variant: Some(document.variant).filter(|variant| !variant.is_empty()).map(|variant| shown(&variant)),
    };
    let diff_ids = document.rootfs.diff_ids.0.iter().map(|text| {
        text.parse().map_err(|_| {
            malformed(format!("diff id {} is not sha256: and 64 lower-case hexadecimal digits", shown(text)))
        })
    });
    let diff_ids = diff_ids.collect::<Result<Vec<Digest>, _>>()?;
    Ok(Configuration { platform, diff_ids, config, notes })
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
    if dropped.is_empty() {
        return Ok((config, Vec::new()));
    }
    let what = "entries of its environment that are not NAME=VALUE were left out";
    Ok((config, vec![format!("{what}: {}", listed(dropped))]))
}

/// Absolute, sorted, each once.
fn volumes_of(volumes: Members<Nothing, VOLUMES_MAX>) -> Result<Vec<String>, ImageError> {
    let mut paths = Vec::new();
    for (path, _) in volumes.0 {
        let path = name("a volume", path)?.ok_or_else(|| malformed("a volume has no path".to_owned()))?;
        paths.push(from_root(&path));
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// The path as containerd takes a volume's: from the root on, without `.` and `..`.
fn from_root(path: &str) -> String {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// `None` when it is empty, which Docker writes for what is not set.
fn name(what: &str, value: String) -> Result<Option<String>, ImageError> {
    if value.is_empty() {
        return Ok(None);
    }
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
        let notes = ["entries of its environment that are not NAME=VALUE were left out: =x, none"];
        assert_eq!(parsed.notes, notes);
    }

    #[test]
    fn keys_count_in_whatever_case() {
        let text = sample().to_string();
        let (lower, upper) = (text.to_ascii_lowercase(), {
            let keys =
                ["os", "architecture", "rootfs", "diff_ids", "config", "Env", "Cmd", "Entrypoint", "User"];
            keys.iter().fold(text.clone(), |text, key| {
                text.replace(&format!("\"{key}\":"), &format!("\"{}\":", key.to_ascii_uppercase()))
            })
        });
        let expected = parse(text.as_bytes()).unwrap();
        assert_eq!(parse(upper.as_bytes()).unwrap(), expected);
        let lower = parse(lower.as_bytes()).unwrap().config;
        assert_eq!((&lower.cmd, &lower.user), (&expected.config.cmd, &expected.config.user));
        assert_eq!((lower.env.len(), lower.volumes), (expected.config.env.len(), expected.config.volumes));
    }

    #[test]
    fn a_machine_that_is_not_named_is_this_one() {
        for (path, value) in [("/os", Value::Null), ("/os", json!("")), ("/architecture", Value::Null)] {
            let parsed = of(&with(path, value)).unwrap();
            let guest = Platform::of_guest();
            let expected = if path == "/os" { "amd64" } else { &guest.architecture };
            assert_eq!((&*parsed.platform.os, &*parsed.platform.architecture), ("linux", expected));
            assert!(parsed.notes.iter().any(|note| note.contains("for which machine")), "{:?}", parsed.notes);
        }
        let loud = parse(br#"{"os":"Linux","architecture":"X86_64"}"#).unwrap();
        assert_eq!(loud.platform.to_string(), "linux/amd64");
        assert!(loud.notes.is_empty());
    }

    #[test]
    fn volumes_begin_at_the_root() {
        let volumes = json!({"data": {}, "./a/../b": null, "/c/./d/": {}, "../e": {}, "/c/d": {}});
        let parsed = of(&with("/config/Volumes", volumes)).unwrap().config;
        assert_eq!(parsed.volumes, ["/b", "/c/d", "/data", "/e"]);
    }

    #[test]
    fn what_is_null_or_absent_is_not_set() {
        let nulls = json!({"Env": null, "Entrypoint": null, "Cmd": null, "User": "", "WorkingDir": "", "Volumes": null,
            "StopSignal": null, "Labels": null});
        for config in [nulls, json!({}), Value::Null] {
            assert_eq!(of(&with("/config", config)).unwrap().config, ImageConfig::default());
        }
        let elements =
            json!({"Env": [null, "A=b"], "Cmd": ["a", null], "Volumes": {"/v": null}, "Labels": {"k": null}});
        let parsed = of(&with("/config", elements)).unwrap().config;
        assert_eq!((parsed.env.len(), parsed.cmd.len(), parsed.volumes.len()), (1, 1, 1));
        for path in ["/rootfs", "/rootfs/diff_ids", "/history", "/created"] {
            assert!(of(&with(path, Value::Null)).is_ok(), "{path}");
        }
    }

    #[test]
    fn refusals() {
        let numbered = |count: usize| (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>();
        let set = |count| Value::Object(numbered(count).into_iter().map(|path| (path, json!({}))).collect());
        for (document, reason) in [
            (with("/rootfs/diff_ids", json!(["sha256:x"])), "diff id sha256:x"),
            (with("/config/Env", json!(vec!["A=b"; 4097])), "at most 4096"),
            (with("/config/Env", json!(["x".repeat(STRING_MAX + 1)])), "131072 is the most"),
            (with("/config/Cmd", json!(vec!["x".repeat(STRING_MAX); 9])), "1048576 bytes"),
            (with("/config/Cmd", json!(["a\0b"])), "NUL"),
            (with("/config/Cmd", json!("sh")), "malformed: config: Cmd: invalid type: string"),
            (
                with("/config/Entrypoint", json!("/bin/sh")),
                "malformed: config: Entrypoint: invalid type: string",
            ),
            (with("/config/User", json!(1000)), "malformed: config: User: invalid type: integer"),
            (with("/config/WorkingDir", json!("srv")), "not an absolute path"),
            (with("/config/User", json!("x".repeat(4097))), "its user has 4097"),
            (with("/config/Volumes", json!({"": {}})), "a volume has no path"),
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
