//! Bytes through a share, between a guest and a host folder.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use vmette::{ExecOptions, ExitStatus, Session, ShareMount};

use crate::live;
use crate::phase::Phase;
use crate::stats::Samples;

/// How much is read and written each time.
pub(crate) const MIB: u32 = 256;

/// What a failed command's stderr may add to the error.
const STDERR_MAX: usize = 400;

/// MiB a second, as the guest's `dd` has it.
#[derive(Debug, Default)]
pub(crate) struct Share {
    pub(crate) read: Samples,
    pub(crate) write: Samples,
}

/// Grants `folder` to one session and copies files through it in both directions. Each file is new to the guest, whose
/// page cache would otherwise answer.
pub(crate) fn measure(phase: Phase, folder: &Path) -> anyhow::Result<Share> {
    let config = live::config().with(|c| c.grants.shares = vec![ShareMount::new("bench", folder)]);
    let session = Session::start(&config)?;
    let content = vec![0x5a; usize::try_from(MIB).context("too large for this machine")? << 20];
    let mut share = Share::default();
    for round in phase.rounds() {
        let given = folder.join(format!("given-{round}"));
        fs::write(&given, &content).with_context(|| format!("write {}", given.display()))?;
        let rate = dd(&session, &format!("if=/mnt/bench/given-{round} of=/dev/null bs=1M"))?;
        share.read.push(rate);
        fs::remove_file(&given).with_context(|| format!("remove {}", given.display()))?;

        let taken = folder.join(format!("taken-{round}"));
        let what = format!("if=/dev/zero of=/mnt/bench/taken-{round} bs=1M count={MIB} conv=fsync");
        let rate = dd(&session, &what)?;
        let length = fs::metadata(&taken).with_context(|| format!("look at {}", taken.display()))?.len();
        ensure!(length == u64::from(MIB) << 20, "the guest wrote {length} bytes through the share");
        share.write.push(rate);
        fs::remove_file(&taken).with_context(|| format!("remove {}", taken.display()))?;
    }
    Ok(share)
}

/// MiB a second of one `dd` of [`MIB`] MiB, its start included.
fn dd(session: &Session, operands: &str) -> anyhow::Result<f64> {
    let words = std::iter::once("dd").chain(operands.split(' '));
    let started = Instant::now();
    let output = session.exec(&ExecOptions::argv(words))?.collect(STDERR_MAX)?;
    let elapsed = started.elapsed();
    ensure!(
        output.status == ExitStatus::Code(0),
        "dd {operands} in the guest ended with {:?}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(f64::from(MIB) / elapsed.as_secs_f64())
}
