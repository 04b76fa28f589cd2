//! Who is told what, and from where it is known.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use vmette_work::{Cancel, Progress};

struct World {
    dir: tempfile::TempDir,
    env: HashMap<String, String>,
    warnings: Arc<Mutex<Vec<String>>>,
    known: Credentials,
    work: Work,
}

fn world(env: &[(&str, &str)]) -> World {
    let dir = tempfile::tempdir().unwrap();
    let mut env: HashMap<_, _> =
        env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    env.insert("HOME".to_owned(), dir.path().display().to_string());
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&warnings);
    let work = Work::quiet().reporting(Arc::new(move |progress: &Progress<'_>| {
        if let Progress::Warning(line) = progress {
            sink.lock().unwrap().push((*line).to_owned());
        }
    }));
    World { dir, env, warnings, known: Credentials::default(), work }
}

impl World {
    fn write(self, path: &str, text: &str) -> Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn docker(self, text: &str) -> Self {
        self.write(".docker/config.json", text)
    }

    fn find(&self, host: &str, repository: &str) -> Result<Found> {
        find(host, repository, &self.known, &self.work, &|name| self.env.get(name).cloned())
    }

    fn user(&self, host: &str) -> Option<String> {
        self.find(host, "owner/name").unwrap().credential.map(shown)
    }

    fn warned(&self) -> String {
        self.warnings.lock().unwrap().join("\n")
    }
}

fn shown(credential: Credential) -> String {
    match credential {
        Credential::Password { user, secret } => format!("{user}:{}", secret.expose()),
        Credential::IdentityToken(token) => format!("token {}", token.expose()),
    }
}

fn encoded(pair: &str) -> String {
    STANDARD.encode(pair)
}

#[test]
fn a_variable_is_one_hosts() {
    let world = world(&[
        ("VMETTE_OCI_AUTH_R_EXAMPLE", "ann:se:cret"),
        ("VMETTE_OCI_AUTH_LOCALHOST_5000", "bare"),
        ("VMETTE_OCI_AUTH_A__B_EXAMPLE", "dash:x"),
        ("VMETTE_OCI_AUTH_DOCKER_IO", "hub:x"),
    ]);
    assert_eq!(world.user("r.example").unwrap(), "ann:se:cret");
    assert_eq!(world.user("localhost:5000").unwrap(), "vmette:bare");
    assert_eq!(world.user("a-b.example").unwrap(), "dash:x");
    assert_eq!(world.user("docker.io").unwrap(), "hub:x");
    for other in ["a.b.example", "a.r.example", "r.example:5000", "example", "a.-b.example"] {
        assert_eq!(world.user(other), None, "{other}");
    }
    // What a stranger could register to be given it.
    assert_eq!(world.user("r-example"), None);
    assert!(
        world.warned().contains("call it VMETTE_OCI_AUTH_R__EXAMPLE") && !world.warned().contains("cret")
    );
    for bad in ["user:", ":secret", "a\nb"] {
        let world = self::world(&[("VMETTE_OCI_AUTH_R_EXAMPLE", bad)]);
        let message = world.find("r.example", "x").unwrap_err().to_string();
        assert!(message.contains("VMETTE_OCI_AUTH_R_EXAMPLE") && !message.contains("secret"), "{message}");
    }
}

#[test]
fn a_token_goes_to_no_host_that_is_not_named() {
    let unnamed = world(&[("VMETTE_OCI_TOKEN", "t0ken"), ("VMETTE_OCI_USER", "ann")]);
    assert_eq!(unnamed.user("evil.example"), None);
    assert!(
        unnamed.warned().contains("VMETTE_OCI_TOKEN_HOST=evil.example")
            && !unnamed.warned().contains("t0ken")
    );
    let named = world(&[("VMETTE_OCI_TOKEN", "t0ken"), ("VMETTE_OCI_TOKEN_HOST", "R.example")]);
    assert_eq!(named.user("r.example").unwrap(), "vmette:t0ken");
    assert_eq!(named.user("evil.example"), None);
    assert_eq!(named.warned(), "");
    let broken = world(&[("VMETTE_OCI_TOKEN", "t0ken\n"), ("VMETTE_OCI_TOKEN_HOST", "r.example")]);
    assert!(!broken.find("r.example", "x").unwrap_err().to_string().contains("t0ken"));
}

#[test]
fn the_program_comes_before_the_environment_and_that_before_files() {
    let auths = format!(
        r#"{{"auths":{{"a.example":{{"auth":"{0}"}},"b.example":{{"auth":"{0}"}},"c.example":{{"auth":"{0}"}}}}}}"#,
        encoded("file:x")
    );
    let mut world = world(&[("VMETTE_OCI_AUTH_A_EXAMPLE", "env:x"), ("VMETTE_OCI_AUTH_B_EXAMPLE", "env:x")])
        .docker(&auths);
    world.known.add("A.example", "program", "s3cret");
    assert_eq!(world.user("a.example").unwrap(), "program:s3cret");
    assert_eq!(world.user("b.example").unwrap(), "env:x");
    assert_eq!(world.user("c.example").unwrap(), "file:x");
    assert_eq!(world.user("d.example"), None);
    assert!(!format!("{:?}{:?}", world.known, world.find("a.example", "x")).contains("s3cret"));
}

#[test]
fn what_logins_leave_in_files() {
    let world = world(&[("XDG_RUNTIME_DIR", "/nonexistent")]);
    let home = world.dir.path().to_owned();
    let world = world
        .docker(&format!(
            r#"{{"auths":{{
                "https://index.docker.io/v1/":{{"auth":"{}"}},
                "https://url.example/v2/":{{"auth":"{}"}},
                "split.example":{{"username":"u","password":"p"}},
                "token.example":{{"auth":"{}","identitytoken":"idt"}},
                "empty.example":{{}},
                "bad.example":{{"auth":"%%%"}},
                "nopair.example":{{"auth":"{}"}}
            }},"HttpHeaders":{{}},"currentContext":"x"}}"#,
            encoded("hub:pass:word"),
            encoded("url:x"),
            encoded("00000000-0000-0000-0000-000000000000:"),
            encoded("nopair"),
        ))
        .write(
            ".config/containers/auth.json",
            &format!(
                r#"{{"auths":{{"pod.example":{{"auth":"{}"}},"pod.example/owner":{{"auth":"{}"}},"pod.example/own":{{"auth":"{}"}},"empty.example":{{"auth":"{}"}}}}}}"#,
                encoded("whole:x"),
                encoded("owner:x"),
                encoded("own:x"),
                encoded("podman:x")
            ),
        );
    assert_eq!(world.user("docker.io").unwrap(), "hub:pass:word");
    assert_eq!(world.user("url.example").unwrap(), "url:x");
    assert_eq!(world.user("split.example").unwrap(), "u:p");
    assert_eq!(world.user("token.example").unwrap(), "token idt");
    assert_eq!(world.user("pod.example").unwrap(), "owner:x");
    assert_eq!(shown(world.find("pod.example", "other/name").unwrap().credential.unwrap()), "whole:x");
    assert_eq!(world.user("empty.example").unwrap(), "podman:x", "the next file is asked");
    for host in ["url.example:5000", "v2", "example", "index.docker.io.evil.example"] {
        assert_eq!(world.user(host), None, "{host}");
    }
    for host in ["bad.example", "nopair.example"] {
        let found = world.find(host, "x").unwrap();
        assert!(found.credential.is_none() && found.advice(host).contains("is not the base64"), "{found:?}");
        assert!(found.advice(host).contains(&home.display().to_string()), "{}", found.advice(host));
    }
}

#[test]
fn a_file_of_ones_own_is_asked_first() {
    let dir = tempfile::tempdir().unwrap();
    let own = |name: &str| dir.path().join(name).display().to_string();
    let text = |user: &str| format!(r#"{{"auths":{{"r.example":{{"auth":"{}"}}}}}}"#, encoded(user));
    fs::write(own("auth.json"), text("first:x")).unwrap();
    fs::write(own("config.json"), text("docker:x")).unwrap();
    let env = [("REGISTRY_AUTH_FILE", own("auth.json")), ("DOCKER_CONFIG", own(""))];
    let world = world(&env.each_ref().map(|(key, value)| (*key, value.as_str()))).docker(&text("home:x"));
    assert_eq!(world.user("r.example").unwrap(), "first:x");
    fs::remove_file(own("auth.json")).unwrap();
    assert_eq!(world.user("r.example").unwrap(), "docker:x");
}

#[test]
fn a_file_that_cannot_be_used_is_told_when_it_matters() {
    let secret = r#"{"auths":{"r.example":{"auth":["hidden"]}}}"#;
    let big = format!("{}{{}}", " ".repeat(5 << 20));
    for (text, part) in [(secret, "not the JSON"), ("{", "not the JSON"), (big.as_str(), "larger than 4 MiB")]
    {
        let found = world(&[]).docker(text).find("r.example", "x").unwrap();
        let advice = found.advice("r.example");
        assert!(
            advice.contains(part) && advice.contains("config.json") && !advice.contains("hidden"),
            "{advice}"
        );
        assert!(
            advice.contains("docker login r.example") && advice.contains("VMETTE_OCI_AUTH_R_EXAMPLE"),
            "{advice}"
        );
    }
}

/// A helper that is this shell script.
fn script(dir: &Path, body: &str) -> std::path::PathBuf {
    let path = dir.join("helper");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn ask(body: &str, limit: Duration) -> std::result::Result<Option<Credential>, String> {
    let dir = tempfile::tempdir().unwrap();
    program::run(&script(dir.path(), body), "docker-credential-test", "r.example", &Work::quiet(), limit)
        .unwrap()
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_helper_is_asked() {
    let answer = ask(
        r#"read host; [ "$1" = get ] && echo "{\"ServerURL\":\"$host\",\"Username\":\"u-$host\",\"Secret\":\"s\"}""#,
        LONG,
    );
    assert_eq!(shown(answer.unwrap().unwrap()), "u-r.example:s");
    let token = ask(r#"echo '{"Username":"<token>","Secret":"idt"}'"#, LONG);
    assert_eq!(shown(token.unwrap().unwrap()), "token idt");
    assert_eq!(ask("echo 'credentials not found in native keychain'; exit 1", LONG), Ok(None));
    assert_eq!(ask(r#"echo '{"Username":"","Secret":""}'"#, LONG), Ok(None));
}

#[test]
fn a_helper_that_fails_is_named_without_what_it_printed() {
    for (body, part) in [
        ("echo s3cret; exit 3", "to see why"),
        ("echo s3cret", "not credentials"),
        ("while :; do echo s3crets3crets3cret; done", "more than 128 KiB"),
        ("exec >&-; sleep 1000", "did not answer within"),
        ("sleep 1000", "did not answer within"),
        ("sleep 1000 & sleep 1000", "did not answer within"),
    ] {
        let limit = if part.contains("within") { Duration::from_millis(200) } else { LONG };
        let problem = ask(body, limit).unwrap_err();
        assert!(problem.contains(part) && problem.contains("docker-credential-test"), "{problem}");
        assert!(!problem.contains("s3cret"), "{problem}");
    }
}

#[test]
fn a_helper_that_is_given_up_takes_what_it_started_along() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(dir.path(), r#"sleep 1000 & echo $! > "$0.pid"; exec >&-; wait"#);
    program::run(&program, "x", "r.example", &Work::quiet(), Duration::from_secs(3)).unwrap().unwrap_err();
    let pid = fs::read_to_string(dir.path().join("helper.pid")).unwrap();
    // Gone, or dead and not yet waited for by whoever inherits it.
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
    };
    let until = std::time::Instant::now() + LONG;
    while lives() {
        assert!(std::time::Instant::now() < until, "it is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_helper_is_a_name_and_not_a_path() {
    for name in ["../evil", "a/b", "", "a b", "$(x)", &"x".repeat(200)] {
        let text = format!(r#"{{"credsStore":{name:?}}}"#);
        let found = world(&[]).docker(&text).find("r.example", "x").unwrap();
        assert!(found.credential.is_none());
        assert_eq!(found.failures.len(), usize::from(!name.is_empty()), "{name}");
    }
    let text = r#"{"credHelpers":{"r.example":"surely-not-installed"},"credsStore":"neither-installed"}"#;
    let found = world(&[]).docker(text).find("r.example", "x").unwrap();
    assert!(found.advice("r.example").contains("docker-credential-surely-not-installed is not installed"));
    let found = world(&[]).docker(text).find("other.example", "x").unwrap();
    assert!(found.advice("other.example").contains("docker-credential-neither-installed is not installed"));
}

#[test]
fn a_helper_is_given_up_with_everything_else() {
    let cancel = Cancel::new();
    cancel.cancel();
    let dir = tempfile::tempdir().unwrap();
    let asked = program::run(&script(dir.path(), "sleep 1000"), "x", "r.example", &Work::new(cancel), LONG);
    assert!(matches!(asked.unwrap_err(), vmette_http::Error::Cancelled(_)));
}
