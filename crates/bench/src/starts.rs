//! Contenders that are timed from the command line, in turns: what slows the machine down for a while slows them all.

use std::time::Duration;

use crate::phase::Phase;
use crate::program::Program;
use crate::stats::Samples;

/// The event that ends the measurement of a contender.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// Its end.
    End,
    /// Output that contains this; the first byte, when this is empty.
    Output(&'static [u8]),
}

/// One of several programs that are compared.
#[derive(Debug)]
pub(crate) struct Contender {
    program: Program,
    until: Until,
    /// Milliseconds.
    pub(crate) samples: Samples,
}

impl Contender {
    pub(crate) fn new(program: Program, until: Until) -> Self {
        Self { program, until, samples: Samples::default() }
    }

    /// The command line as one would type it.
    pub(crate) fn shown(&self) -> String {
        self.program.shown()
    }

    /// Runs it once: what is made once is there afterwards.
    pub(crate) fn warm_up(&self) -> anyhow::Result<()> {
        self.program.time_to_end().map(drop)
    }

    /// Runs it once and keeps how long it took.
    pub(crate) fn measure(&mut self) -> anyhow::Result<()> {
        let elapsed = match self.until {
            Until::End => self.program.time_to_end(),
            Until::Output(marker) => self.program.time_to_output(marker),
        }?;
        self.samples.push(milliseconds(elapsed));
        Ok(())
    }
}

/// Measures the contenders in turns, and `also` once a round.
pub(crate) fn take_turns(
    phase: Phase,
    contenders: &mut [&mut Contender],
    mut also: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for _ in phase.rounds() {
        contenders.iter_mut().try_for_each(|contender| contender.measure())?;
        also()?;
    }
    Ok(())
}

pub(crate) fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1000.0
}
