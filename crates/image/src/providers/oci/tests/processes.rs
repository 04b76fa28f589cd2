//! Pulls of several processes, killed ones among them, and on a disk that is full: this test program starts itself.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use super::*;
use crate::store::CRASH_VARIABLE;
use vmette_http::testing::Then;

/// Where the child's cache is, and the registry that it asks.
const ROOT: &str = "VMETTE_PULL_TEST_ROOT";
const HOST: &str = "VMETTE_PULL_TEST_HOST";

/// Variables that would send the child's requests elsewhere.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

#[test]
#[ignore = "the other processes of the tests below"]
fn child() {
    let (root, host) = (std::env::var(ROOT).unwrap(), std::env::var(HOST).unwrap());
    let reporter = Arc::new(|progress: &Progress<'_>| match progress {
        Progress::Step(line) | Progress::Warning(line) => println!("- {line}"),
        Progress::Advanced { done, .. } => println!("- advanced to {done}"),
        _ => {}
    });
    let ctx = Context::new(PathBuf::from(root).join("cache")).with_cache_budget(0).with_reporter(reporter);
    let connect = |reference: &Reference, work: &Work| {
        let (host, repository) = (reference.host(), reference.repository());
        let registry = Registry::new(host, repository, &ctx.client(work.cancel()), ctx.credentials(), work)?;
        Ok(Box::new(registry) as Box<dyn Source>)
    };
    match pull::obtain(&format!("{host}/{NAME}"), &ctx, 1 << 30, &connect) {
        Ok(image) => println!("- pulled {}", image.path.display()),
        Err(e) => println!("- failed: {e}"),
    }
}

fn command(place: &Place, server: &Server) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "providers::oci::tests::processes::child", "--nocapture"]);
    command.env(ROOT, place.root.path()).env(HOST, server.host());
    for name in PROXIES {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn start(place: &Place, server: &Server) -> Child {
    command(place, server).spawn().unwrap()
}

#[test]
fn eight_processes_make_one_download() {
    let sample = Sample::new("1");
    let (place, server) = (Place::new(), sample.server());
    let children: Vec<_> = (0..8).map(|_| start(&place, &server)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("- pulled "), "{said}");
    }
    assert_eq!(downloads(&server, &sample), sample.layers.len(), "{:?}", server.paths());
    assert_is(&place.pull(&server).unwrap(), "1");
    place.holds(1, 2);
}

/// While a layer arrives; the registry knows how much of it had.
#[test]
fn a_pull_that_is_killed_while_it_downloads_is_gone_on_with() {
    let sample = Sample::new("1");
    let (large, serving) = (sample.layer_path(0), sample.clone());
    let stalling = Server::start(move |request| {
        if request.path == large {
            let length = serving.layers[0].len().to_string();
            let most = serving.layers[0][..NOISE * 3 / 4].to_vec();
            Reply::bare(200).header("Content-Length", &length).then(Then::Bytes(most)).then(Then::Stall)
        } else {
            serving.serve(request)
        }
    });
    let place = Place::new();
    let mut child = start(&place, &stalling);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("- advanced")), "it has downloaded something");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let partial = place.layer_file(&sample, 0).with_extension("partial");
    assert!(partial.metadata().unwrap().len() > 0);

    let good = sample.server();
    assert_is(&place.pull(&good).unwrap(), "1");
    place.holds(1, 2);
    let asked = good.received();
    let resumed = asked.iter().find(|request| request.path == sample.layer_path(0)).unwrap();
    assert!(resumed.from() > 0, "what had come was asked for again");
}

/// At each step between a complete layer and a name for the image.
#[test]
fn a_pull_that_is_killed_at_any_later_step_is_done_again() {
    let sample = Sample::new("1");
    for point in ["layer synced", "built", "synced", "renamed", "document staged"] {
        let (place, server) = (Place::new(), sample.server());
        let mut child = command(&place, &server).env(CRASH_VARIABLE, point).spawn().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(6), "it came to {point}");
        let before = downloads(&server, &sample);
        assert_is(&place.pull(&server).unwrap(), "1");
        place.holds(1, 2);
        if point != "layer synced" {
            assert_eq!(downloads(&server, &sample), before, "{point}: the layers were complete");
        }
    }
}

/// Others wait for a process that is killed, and go on without it.
#[test]
fn those_who_wait_for_a_killed_process_go_on() {
    let sample = Sample::new("1");
    let (large, serving) = (sample.layer_path(0), sample.clone());
    let length = sample.layers[0].len().to_string();
    let gate = Arc::new(Mutex::new(false));
    let open = Arc::clone(&gate);
    let server = Server::start(move |request| match request.path == large && !*open.lock().unwrap() {
        true => Reply::bare(200).header("Content-Length", &length).then(Then::Stall),
        false => serving.serve(request),
    });
    let place = Place::new();
    let mut first = start(&place, &server);
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("- converting")));
    let mut second = start(&place, &server);
    let mut lines = BufReader::new(second.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("- waiting for another process")));
    *gate.lock().unwrap() = true;
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(lines.any(|line| line.unwrap().contains("- pulled ")));
    second.wait().unwrap();
    place.holds(1, 2);
}

/// Runs as root only, who can make a small disk: it is one of the child's own. It is full, then larger.
#[test]
fn a_full_disk_is_told_and_more_space_is_all_that_it_takes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let sample = Sample::new("1");
    // There is no place for the layer, for what is in it. What is in it is given back while the image is written, so that
    // no size is certain to have a place for it and none for the image.
    for kib in [400, 1400] {
        let (place, server) = (Place::new(), sample.server());
        fs::create_dir(place.cache()).unwrap();
        let pull = command(&place, &server);
        let script = format!(
            "mount -t tmpfs -o size={kib}k,mode=0700 tmpfs {0} && \"$@\" && echo '- left:' && ls -R {0} && \
             mount -o remount,size=64m {0} && \"$@\"",
            place.cache().display()
        );
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "sh", "-c", &script, "sh"]).arg(pull.get_program()).args(pull.get_args());
        for (name, value) in pull.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        let output = inside.output().unwrap();
        let said =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let (full, larger) = said.split_once("- left:").unwrap_or_else(|| panic!("{kib} KiB: {said}"));
        assert!(full.contains("- failed: ") && full.contains("no space is left"), "{kib} KiB: {said}");
        assert!(full.contains(&place.cache().display().to_string()), "it names the place: {said}");
        let (left, larger) = larger.split_once("running 1 test").unwrap();
        assert!(!left.contains(".sqfs") && !left.contains(".staging."), "{kib} KiB: {said}");
        assert!(larger.contains("- pulled "), "{kib} KiB: {said}");
    }
}
