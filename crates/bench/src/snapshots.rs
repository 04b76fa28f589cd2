//! Snapshots: making one, starting from it, many at once, and a Python that has its libraries imported beside a fresh one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use vmette::provider::{BuildOptions, Images};
use vmette::{ExecOptions, ExitStatus, Session, StopHandle};

use crate::live;
use crate::phase::Phase;
use crate::program::Program;
use crate::starts::milliseconds;
use crate::stats::Samples;

/// Machines that are resumed at once.
pub(crate) const FLEET: usize = 20;

/// Name of the image with Python in the store.
const IMAGE: &str = "vmette-bench-python";

/// What the resumed Python has imported: what a server or a data script begins with, from its own library.
const IMPORTS: &str = "import asyncio, decimal, email, http.client, json, logging, sqlite3, ssl, unittest, xml.etree.ElementTree";

/// Memory of the machines with Python, in MiB.
const MEMORY: &str = "512M";

/// Milliseconds that each save took, and the last snapshot.
pub(crate) struct Saved {
    pub(crate) save: Samples,
    pub(crate) path: PathBuf,
}

/// Saves one session as often as the phase says; it goes on between.
pub(crate) fn save(phase: Phase, folder: &Path) -> anyhow::Result<Saved> {
    let session = Session::start(&live::config().with(|c| c.snapshots.allow = true))?;
    let output = session.exec(&ExecOptions::argv(["true"]))?.collect(0)?;
    ensure!(output.status == ExitStatus::Code(0), "`true` in the guest ended with {:?}", output.status);
    let path = folder.join("snapshot");
    let mut save = Samples::default();
    for _ in phase.rounds() {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        let started = Instant::now();
        session.snapshot(&path)?;
        save.push(milliseconds(started.elapsed()));
    }
    Ok(Saved { save, path })
}

/// The programs of the comparison.
pub(crate) struct Python {
    /// Starts an interpreter in a fresh machine and has it import everything.
    pub(crate) fresh: Program,
    /// Asks the interpreter of a resumed machine, which has.
    pub(crate) resumed: Program,
}

/// What both print.
pub(crate) const ANSWER: &[u8] = b"answer 42";

/// Makes a snapshot of the image in which Python waits for something to run.
pub(crate) fn python(vmette: &Path, image: &Path, folder: &Path) -> anyhow::Result<Python> {
    let image = format!("squashfs+file://{}", image.display());
    let image = image.as_str();
    let fresh = format!("{IMPORTS}\nprint('answer', 42)");
    let fresh = Program::new(vmette, ["run", "-m", MEMORY, image, "--", "python3", "-c", &fresh]);
    fresh.time_to_output(ANSWER)?;
    // Each line is a statement; what it prints goes to whoever asked.
    let server = format!(
        "{IMPORTS}\nimport contextlib\nwhile True:\n    code = open('/ask').read()\n    \
         with open('/tell', 'w') as tell, contextlib.redirect_stdout(tell):\n        exec(code)"
    );
    let prepare = format!(
        "mkfifo /ask /tell; cat > /server.py <<'END'\n{server}\nEND\npython3 /server.py < /dev/null > /dev/null 2>&1 &\n\
         echo 'print(1)' > /ask; read line < /tell; [ \"$line\" = 1 ]"
    );
    let path = folder.join("python");
    let path = path.to_str().context("a path that is no text")?;
    let build = ["run", "-m", MEMORY, "--build-snapshot", path, image, "--", "sh", "-c", &prepare];
    Program::new(vmette, build).time_to_end()?;
    let ask = "echo \"print('answer', 42)\" > /ask; cat /tell";
    let resumed = Program::new(vmette, ["run", "--resume-snapshot", path, "--", "sh", "-c", ask]);
    Ok(Python { fresh, resumed })
}

/// A small Debian with Python, of the host's own suite, made once.
pub(crate) fn image() -> anyhow::Result<PathBuf> {
    let context = vmette::provider_context(&live::config().host, Arc::new(|_| {}), &StopHandle::new())?;
    let images = Images::open(&context)?;
    if let Ok(details) = images.inspect(IMAGE)
        && details.path.exists()
    {
        return Ok(details.path);
    }
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("this host is no Debian")?.trim_matches('"');
    let options = BuildOptions { include: vec!["python3".into()], ..BuildOptions::new(suite, IMAGE) };
    Ok(images.build_debian(&options)?.path)
}
