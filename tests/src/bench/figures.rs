//! The arithmetic of the benchmark: medians, quantiles, the bootstrap interval of a median, and
//! when a bound is met. Pure, and the random numbers come from a seed.

use crate::torture::Rng;

/// How often the bootstrap draws: the ends of the interval move by less than a hundredth of its
/// width with more.
const DRAWS: usize = 2_000;

/// How far the unfavourable end of an interval may lie beyond the bound.
const SLACK: f64 = 0.05;

/// The middle of the values; of an even number, the mean of the two in the middle. NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// The value that a share of the values does not exceed: the nearest rank. NaN of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (1..=sorted.len()).find(|rank| *rank as f64 >= share * sorted.len() as f64);
    rank.map_or(f64::NAN, |rank| sorted[rank - 1])
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The 95 % interval of the median: the percentiles of the medians of samples drawn with
/// replacement. The same seed gives the same interval.
pub fn interval(values: &[f64], seed: u64) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut rng = Rng::new(seed);
    let medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let drawn: Vec<f64> = values.iter().map(|_| *rng.pick(values)).collect();
            median(&drawn)
        })
        .collect();
    (quantile(&medians, 0.025), quantile(&medians, 0.975))
}

/// Which side of its bound a value must be on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Bound {
    /// Does a single value meet it? NaN does not.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }

    /// Does an interval meet it: its favourable end does, and the other is nearly there?
    pub fn is_met_by(self, (low, high): (f64, f64)) -> bool {
        match self {
            Bound::AtLeast(bound) => high >= bound && low >= bound - SLACK,
            Bound::AtMost(bound) => low <= bound && high <= bound + SLACK,
        }
    }

    /// As the table prints it.
    pub fn text(self) -> String {
        let number = |value: f64| format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned();
        match self {
            Bound::AtLeast(bound) => format!("at least {}", number(bound)),
            Bound::AtMost(bound) => format!("at most {}", number(bound)),
        }
    }
}

/// The indexes of the arms of one round in a random order.
pub fn shuffled(count: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let other = usize::try_from(rng.between(0, last as u64)).unwrap_or(0);
        order.swap(last, other);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_are_those_of_the_sorted_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[f64::NAN, 5.0]), 5.0);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let quantiles = [0.5, 0.95, 0.99, 1.0].map(|share| quantile(&hundred, share));
        assert_eq!(quantiles, [50.0, 95.0, 99.0, 100.0]);
    }

    #[test]
    fn a_bootstrap_interval_holds_the_median_and_repeats_itself() {
        let mut rng = Rng::new(3);
        let values: Vec<f64> = (0..30).map(|_| 0.9 + rng.below(200) as f64 / 1_000.0).collect();
        let (low, high) = interval(&values, 1);
        assert!(low <= median(&values) && median(&values) <= high, "{low} {high}");
        assert!(high - low < 0.1, "30 values within 0.2 have a median within 0.1: {low} {high}");
        assert_eq!((low, high), interval(&values, 1));
        assert_eq!(interval(&[2.0; 30], 9), (2.0, 2.0));
        assert!(interval(&[], 1).0.is_nan());
    }

    #[test]
    fn an_interval_meets_a_bound_by_its_favourable_end_if_the_other_is_near() {
        let bound = Bound::AtLeast(0.95);
        for (interval, is_met) in [
            ((0.96, 0.99), true),
            ((0.91, 0.96), true),
            ((0.89, 0.99), false),
            ((0.92, 0.94), false),
            ((f64::NAN, f64::NAN), false),
        ] {
            assert_eq!(bound.is_met_by(interval), is_met, "{interval:?}");
        }
        assert!(Bound::AtMost(1.05).is_met_by((1.0, 1.09)) && !Bound::AtMost(1.05).is_met_by((1.06, 1.09)));
        assert!(Bound::AtMost(5.0).is_met(5.0) && !Bound::AtLeast(2.5).is_met(f64::NAN));
        assert_eq!(
            (Bound::AtLeast(0.95).text(), Bound::AtMost(40.0).text()),
            ("at least 0.95".into(), "at most 40".into())
        );
    }

    #[test]
    fn a_shuffle_keeps_every_arm_once_and_reaches_every_order() {
        let mut rng = Rng::new(5);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let order = shuffled(3, &mut rng);
            let mut all = order.clone();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
            seen.insert(order);
        }
        assert_eq!(seen.len(), 6);
    }
}
