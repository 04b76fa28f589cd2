//! Statistics of many measurements of the same thing: the middle, and how far they spread.

/// Measurements of one thing, in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// `None` when nothing was measured.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            count: sorted.len(),
            min: *sorted.first()?,
            lower: quartile(&sorted, 1)?,
            median: quartile(&sorted, 2)?,
            upper: quartile(&sorted, 3)?,
            max: *sorted.last()?,
        })
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Five numbers and how many measurements they stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) min: f64,
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
    pub(crate) max: f64,
}

/// The value that `n` quarters of the sorted values lie below, interpolated between its neighbours.
fn quartile(sorted: &[f64], n: usize) -> Option<f64> {
    let position = sorted.len().checked_sub(1)? * n;
    let below = *sorted.get(position / 4)?;
    let above = *sorted.get(position.div_ceil(4))?;
    let part = match position % 4 {
        0 => 0.0,
        1 => 0.25,
        2 => 0.5,
        _ => 0.75,
    };
    Some(below + (above - below) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(values: &[f64]) -> Summary {
        values.iter().copied().collect::<Samples>().summary().unwrap()
    }

    #[test]
    fn nothing_measured_says_nothing() {
        assert_eq!(Samples::default().summary(), None);
    }

    #[test]
    fn one_measurement_is_everything() {
        let expected = Summary { count: 1, min: 3.0, lower: 3.0, median: 3.0, upper: 3.0, max: 3.0 };
        assert_eq!(summary(&[3.0]), expected);
    }

    #[test]
    fn the_order_of_measurements_does_not_matter() {
        let expected = Summary { count: 5, min: 1.0, lower: 2.0, median: 3.0, upper: 4.0, max: 5.0 };
        assert_eq!(summary(&[4.0, 1.0, 5.0, 3.0, 2.0]), expected);
    }

    #[test]
    fn quartiles_lie_between_their_neighbours() {
        let found = summary(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((found.lower, found.median, found.upper), (1.75, 2.5, 3.25));
    }

    #[test]
    fn one_outlier_moves_the_maximum_only() {
        let found = summary(&[10.0, 10.0, 10.0, 10.0, 900.0]);
        assert_eq!((found.lower, found.median, found.upper, found.max), (10.0, 10.0, 10.0, 900.0));
    }
}
