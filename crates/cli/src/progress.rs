//! Shows the progress of resolving, on a terminal and elsewhere: a bar for each download, or a plain line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmette::provider::{Item, Progress, Reporter};

use crate::screen::{self, Screen};
use crate::stdio::say;

/// Updates of the screen in a second: a slow line over ssh keeps up with it.
const REDRAWS: u8 = 10;
/// Digits of a layer's digest that are shown.
const SHORT: usize = 12;

/// Characters of a URL that are shown, its last ones: a bar has to fit beside it.
const NAME_MAX: usize = 48;

/// Columns of a window in which a bar may take what is left of its line; in a wider one that would be more than says
/// anything.
const NARROW: u16 = 110;

const WITH_TOTAL: &str =
    "[vmette] {prefix} [{bar:36}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}";
const WITH_TOTAL_NARROW: &str =
    "[vmette] {prefix} [{wide_bar}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}";
const WITHOUT_TOTAL: &str = "[vmette] {prefix} {spinner} {binary_bytes}, {binary_bytes_per_sec}";

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Nothing: errors are told elsewhere.
    Nothing,
    /// Only what the user should know.
    Warnings,
    /// All.
    All,
}

/// Where progress goes. Bars stay below the lines that are said meanwhile, and are gone in the end.
pub(crate) struct Display {
    verbosity: Verbosity,
    /// None where there is no terminal to draw on.
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    /// By what is shown in front of them.
    open: Mutex<HashMap<String, ProgressBar>>,
}

impl Display {
    /// On stderr.
    pub(crate) fn new(verbosity: Verbosity) -> Arc<Self> {
        let screen = if verbosity == Verbosity::All { Screen::of_stderr() } else { None };
        let bars =
            screen.map(|screen| Bars::on(ProgressDrawTarget::term_like_with_hz(Box::new(screen), REDRAWS)));
        Arc::new(Self { verbosity, bars })
    }

    /// The reporter to be given to a context.
    pub(crate) fn reporter(self: &Arc<Self>) -> Reporter {
        let display = self.clone();
        Arc::new(move |progress| display.tell(progress))
    }

    /// Takes the bars away for good: cancelled work may go on telling for a moment.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.bars {
            bars.clear();
        }
    }

    fn tell(&self, progress: &Progress<'_>) {
        match progress {
            Progress::Warning(text) if self.verbosity != Verbosity::Nothing => {
                self.line(&format!("warning: {text}"));
            }
            _ if self.verbosity != Verbosity::All => {}
            Progress::Step(text) => self.line(text),
            progress => match &self.bars {
                Some(bars) => bars.tell(progress),
                None => plain(progress).iter().for_each(|text| say(text)),
            },
        }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| say(text)),
            None => say(text),
        }
    }
}

impl Bars {
    fn on(target: ProgressDrawTarget) -> Self {
        Self { all: MultiProgress::with_draw_target(target), open: Mutex::default() }
    }

    fn clear(&self) {
        // All at once, and nothing is drawn any more: taken away one by one, each would draw those that are left.
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, ProgressBar>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, progress: &Progress<'_>) {
        match progress {
            Progress::Started { item, done, total } => {
                let name = title(item);
                let bar = self.all.add(bar(*total).with_prefix(name.clone()));
                // Bytes that were there before were not fetched just now, and have no part in the speed.
                bar.set_position(*done);
                bar.reset_eta();
                if let Some(before) = self.lock().insert(name, bar) {
                    before.finish_and_clear();
                }
            }
            Progress::Advanced { item, done, .. } => {
                if let Some(bar) = self.lock().get(&title(item)) {
                    bar.set_position(*done);
                }
            }
            Progress::Finished { item, .. } => {
                if let Some(bar) = self.lock().remove(&title(item)) {
                    bar.finish_and_clear();
                }
                self.all.suspend(|| plain(progress).iter().for_each(|text| say(text)));
            }
            _ => {}
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) if screen::size().1 > NARROW => (ProgressBar::new(total), WITH_TOTAL),
        Some(total) => (ProgressBar::new(total), WITH_TOTAL_NARROW),
        None => (ProgressBar::no_length(), WITHOUT_TOTAL),
    };
    // The templates are checked by a test.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The line for those who draw no bars.
fn plain(progress: &Progress<'_>) -> Option<String> {
    match progress {
        Progress::Started { item, done, total } => {
            let of = total.map(|total| format!(", {}", BinaryBytes(total))).unwrap_or_default();
            let from =
                if *done > 0 { format!(", going on at {}", BinaryBytes(*done)) } else { String::new() };
            Some(format!("{}: fetching{of}{from}", title(item)))
        }
        Progress::Finished { item, cached: true } => Some(format!("{}: in the cache", title(item))),
        Progress::Finished { item, cached: false } => Some(format!("{}: done", title(item))),
        _ => None,
    }
}

fn title(item: &Item<'_>) -> String {
    match item {
        Item::Layer { digest, index, count } => {
            let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
            format!("layer {} of {count} {}", index + 1, digits.get(..SHORT).unwrap_or_default())
        }
        Item::File { name } => {
            let surplus = name.chars().count().saturating_sub(NAME_MAX);
            let end: String = name.chars().skip(surplus).collect();
            if surplus > 0 { format!("…{end}") } else { end }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [WITH_TOTAL, WITH_TOTAL_NARROW, WITHOUT_TOTAL] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn lines_name_the_layer_and_its_size() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let item = Item::Layer { digest: &digest, index: 1, count: 3 };
        let started = Progress::Started { item, done: 1 << 20, total: Some(4 << 20) };
        let text = plain(&started).unwrap();
        assert_eq!(text, "layer 2 of 3 abababababab: fetching, 4.00 MiB, going on at 1.00 MiB");
        assert_eq!(plain(&Progress::Advanced { item, done: 2, total: None }), None);
        let text = plain(&Progress::Finished { item, cached: true }).unwrap();
        assert_eq!(text, "layer 2 of 3 abababababab: in the cache");
    }
}
