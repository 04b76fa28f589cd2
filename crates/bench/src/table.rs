//! The table of results: the same text for a terminal and for Markdown.

use std::fmt::Write as _;

use crate::stats::{Samples, Summary};

/// The unit of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Mib,
    MibPerSecond,
}

impl Unit {
    /// With as many digits as mean something.
    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds if value >= 1000.0 => format!("{:.2} s", value / 1000.0),
            Self::Milliseconds if value >= 100.0 => format!("{value:.0} ms"),
            Self::Milliseconds if value >= 10.0 => format!("{value:.1} ms"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Mib => format!("{value:.1} MiB"),
            Self::MibPerSecond => format!("{value:.0} MiB/s"),
        }
    }
}

/// The promise about a median.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// In words.
    text: String,
    met: bool,
}

impl Target {
    /// A limit in the unit of its row.
    pub(crate) fn at_most(limit: f64, unit: Unit, measured: &Samples) -> Option<Self> {
        let median = measured.summary()?.median;
        Some(Self { text: format!("≤ {}", unit.show(limit)), met: median <= limit })
    }

    /// No more than another row, and `more` in its unit.
    pub(crate) fn at_most_more(more: f64, unit: Unit, other: &Samples, measured: &Samples) -> Option<Self> {
        let (limit, median) = (other.summary()?.median + more, measured.summary()?.median);
        Some(Self { text: format!("≤ {} more", unit.show(more)), met: median <= limit })
    }

    /// No more than another row, times `factor`.
    pub(crate) fn at_most_as(text: &str, factor: f64, other: &Samples, measured: &Samples) -> Option<Self> {
        let (limit, median) = (other.summary()?.median * factor, measured.summary()?.median);
        Some(Self { text: format!("≤ {text}"), met: median <= limit })
    }
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    what: String,
    cells: Cells,
}

#[derive(Debug)]
enum Cells {
    Measured { unit: Unit, summary: Summary, ratio: Option<f64>, target: Option<Target> },
    Skipped(String),
}

/// The lines, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

const HEAD: [&str; 8] = ["What", "Median", "Quartiles", "Min to max", "Runs", "Ratio", "Target", ""];

impl Table {
    /// Adds what was measured, or that it was not.
    pub(crate) fn add(&mut self, what: &str, unit: Unit, samples: &Samples) -> &mut Self {
        let cells = match samples.summary() {
            Some(summary) => Cells::Measured { unit, summary, ratio: None, target: None },
            None => Cells::Skipped("not measured".to_owned()),
        };
        self.rows.push(Row { what: what.to_owned(), cells });
        self
    }

    /// Adds what cannot be measured here, and why.
    pub(crate) fn skip(&mut self, what: &str, reason: &str) {
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        self.rows.push(Row { what: what.to_owned(), cells: Cells::Skipped(reason) });
    }

    /// Relates the line that was added last to another measurement.
    pub(crate) fn against(&mut self, reference: &Samples) -> &mut Self {
        if let Some(Cells::Measured { summary, ratio, .. }) = self.rows.last_mut().map(|row| &mut row.cells) {
            *ratio = reference.summary().map(|reference| summary.median / reference.median);
        }
        self
    }

    /// Sets what the line that was added last should be.
    pub(crate) fn wants(&mut self, wanted: Option<Target>) {
        if let Some(Cells::Measured { target, .. }) = self.rows.last_mut().map(|row| &mut row.cells) {
            *target = wanted;
        }
    }

    /// Targets that were missed, as lines of text.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = |row: &Row| match &row.cells {
            Cells::Measured { unit, summary, target: Some(target), .. } if !target.met => {
                Some(format!("{}: {}, not {}", row.what, unit.show(summary.median), target.text))
            }
            _ => None,
        };
        self.rows.iter().filter_map(missed).collect()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let rows: Vec<[String; 8]> = self.rows.iter().map(Row::shown).collect();
        let width = |column: usize| {
            let widths = rows.iter().map(|row| row[column].chars().count());
            widths.chain([HEAD[column].chars().count()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut text = line(&HEAD.map(str::to_owned), &widths);
        for (column, width) in widths.iter().enumerate() {
            let (dashes, end) = if is_number(column) { (width + 1, ":") } else { (width + 2, "") };
            let _ = write!(text, "|{}{end}", "-".repeat(dashes));
        }
        text.push_str("|\n");
        for row in &rows {
            text.push_str(&line(row, &widths));
        }
        text
    }
}

/// Numbers are easier to compare when they end in the same column.
fn is_number(column: usize) -> bool {
    (1..=5).contains(&column)
}

fn line(cells: &[String; 8], widths: &[usize]) -> String {
    let mut text = String::new();
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let _ = if is_number(column) {
            write!(text, "| {cell:>width$} ")
        } else {
            write!(text, "| {cell:width$} ")
        };
    }
    text.push_str("|\n");
    text
}

impl Row {
    fn shown(&self) -> [String; 8] {
        let what = self.what.clone();
        match &self.cells {
            Cells::Skipped(reason) => {
                [what, "–".into(), "".into(), "".into(), "0".into(), "".into(), reason.clone(), "".into()]
            }
            Cells::Measured { unit, summary, ratio, target } => {
                let range = |low, high| format!("{} – {}", unit.show(low), unit.show(high));
                let (wanted, verdict) = match target {
                    Some(target) => (target.text.clone(), if target.met { "met" } else { "missed" }),
                    None => (String::new(), ""),
                };
                [
                    what,
                    unit.show(summary.median),
                    range(summary.lower, summary.upper),
                    range(summary.min, summary.max),
                    summary.count.to_string(),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} ×")),
                    wanted,
                    verdict.to_owned(),
                ]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    fn cells(table: &Table, line: usize) -> Vec<String> {
        let text = table.to_markdown();
        let line = text.lines().nth(line + 2).unwrap();
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn a_line_has_median_spread_ratio_and_verdict() {
        let (fast, slow) = (samples(&[100.0, 200.0, 300.0]), samples(&[4000.0]));
        let mut table = Table::default();
        let unit = Unit::Milliseconds;
        table.add("fast", unit, &fast).wants(Target::at_most_as("slow", 1.0, &slow, &fast));
        table.add("slow", unit, &slow).against(&fast).wants(Target::at_most(3999.0, unit, &slow));
        assert_eq!(
            cells(&table, 0),
            ["fast", "200 ms", "150 ms – 250 ms", "100 ms – 300 ms", "3", "", "≤ slow", "met"]
        );
        assert_eq!(cells(&table, 1)[4..], ["1", "20.00 ×", "≤ 4.00 s", "missed"]);
        assert_eq!(table.missed(), ["slow: 4.00 s, not ≤ 4.00 s"]);
    }

    #[test]
    fn what_was_not_measured_has_a_reason_and_no_verdict() {
        let mut table = Table::default();
        table.skip("peer", "failed:\n a | b");
        table.add("nothing", Unit::Mib, &Samples::default()).wants(None);
        assert!(table.to_markdown().contains("failed: a \\| b"));
        assert_eq!(cells(&table, 1)[6], "not measured");
        assert!(table.missed().is_empty());
        assert_eq!(Target::at_most(1.0, Unit::Mib, &Samples::default()), None);
    }

    #[test]
    fn all_lines_are_equally_wide() {
        let mut table = Table::default();
        table.add("a", Unit::Mib, &samples(&[28.0])).add(
            "a longer name",
            Unit::MibPerSecond,
            &samples(&[512.0]),
        );
        let text = table.to_markdown();
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
