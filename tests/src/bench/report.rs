//! What a run says at its end: a table of medians, the bounds with what was reached, the samples as
//! tab-separated text, and the groups of the chart.

use super::figures::{interval, median, Bound};
use super::meter::Sample;
use super::svg::{rounded, Bar, Group};
use std::fmt::Write;

/// A line of the table: medians of what was measured.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// `W3`.
    pub workload: String,
    /// What was done.
    pub title: String,
    /// Of the numbers.
    pub unit: &'static str,
    /// pgq; none where it cannot do it.
    pub ours: Option<f64>,
    /// The hand-written queue, one job a transaction.
    pub one: Option<f64>,
    /// The hand-written queue, a hundred jobs a transaction.
    pub hundred: Option<f64>,
    /// The plain statements.
    pub raw: Option<f64>,
    /// pgq's processor time for a job in microseconds, WAL in bytes, commits.
    pub costs: Option<[f64; 3]>,
}

impl Row {
    /// A line of this workload whose numbers follow.
    pub fn new(workload: &str, title: &str, unit: &'static str) -> Row {
        Row { workload: workload.into(), title: title.into(), unit, ..Row::default() }
    }

    /// Takes pgq's rate and costs from these samples.
    pub fn of(mut self, samples: &[Sample]) -> Row {
        let middle = |of: fn(&Sample) -> f64| median(&samples.iter().map(of).collect::<Vec<_>>());
        self.ours = (!samples.is_empty()).then(|| middle(Sample::rate));
        let costs = [Sample::cpu_per_job, Sample::wal_per_job, Sample::commits_per_job];
        self.costs = (!samples.is_empty()).then(|| costs.map(middle));
        self
    }
}

/// The median of the rates.
pub fn rate(samples: &[Sample]) -> f64 {
    median(&samples.iter().map(Sample::rate).collect::<Vec<_>>())
}

/// How a bound came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is met.
    Met,
    /// It is not.
    Missed,
    /// pgq cannot do this, which is a failure too.
    NotAvailable,
    /// There is no bound.
    Shown,
}

/// A bound and what was reached.
#[derive(Debug, Clone)]
pub struct Check {
    /// `W3`.
    pub workload: String,
    /// What is compared with what.
    pub what: String,
    /// The ratio, or the time.
    pub value: f64,
    /// The 95 % interval of the median of pairs.
    pub interval: Option<(f64, f64)>,
    /// What is wanted.
    pub bound: Option<Bound>,
    /// Whether it was reached.
    pub outcome: Outcome,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Report {
    /// Workload, arm, round, sample.
    pub samples: Vec<(String, String, usize, Sample)>,
    /// The table.
    pub rows: Vec<Row>,
    /// The bounds.
    pub checks: Vec<Check>,
    /// The chart.
    pub groups: Vec<Group>,
}

impl Report {
    /// A bound on one number.
    pub fn check(&mut self, workload: &str, what: &str, value: f64, bound: Bound) {
        let outcome = if bound.is_met(value) { Outcome::Met } else { Outcome::Missed };
        self.push(workload, what, value, Some(bound), outcome);
    }

    /// A number without a bound.
    pub fn show(&mut self, workload: &str, what: &str, value: f64) {
        self.push(workload, what, value, None, Outcome::Shown);
    }

    /// A bound that cannot be looked at, because pgq cannot do what it is about.
    pub fn not_available(&mut self, workload: &str, what: &str, bound: Bound) {
        self.push(workload, what, f64::NAN, Some(bound), Outcome::NotAvailable);
    }

    fn push(&mut self, workload: &str, what: &str, value: f64, bound: Option<Bound>, outcome: Outcome) {
        let (workload, what) = (workload.into(), what.into());
        self.checks.push(Check { workload, what, value, interval: None, bound, outcome });
    }

    /// A bound near 1: the ratios of pairs, with their interval, and the same for jobs by processor time.
    pub fn check_pairs(&mut self, workload: &str, what: &str, (ours, theirs): (&[Sample], &[Sample]), least: f64) {
        self.check_ratios(workload, what, &ratios(ours, theirs, Sample::rate), least);
        // Less time is better: the ratio is theirs to ours, so that the same bound holds.
        let cpu = ratios(theirs, ours, Sample::cpu_per_job);
        self.check_ratios(workload, &format!("{what}, by CPU"), &cpu, least);
    }

    /// A bound on ratios that belong to pairs.
    pub fn check_ratios(&mut self, workload: &str, what: &str, ratios: &[f64], least: f64) {
        let bound = Bound::AtLeast(least);
        let ends = interval(ratios, 1);
        let outcome = if bound.is_met_by(ends) { Outcome::Met } else { Outcome::Missed };
        self.push(workload, what, median(ratios), Some(bound), outcome);
        if let Some(check) = self.checks.last_mut() {
            check.interval = Some(ends);
        }
    }

    /// Whether everything that was wanted was reached.
    pub fn is_met(&self) -> bool {
        self.checks.iter().all(|check| [Outcome::Met, Outcome::Shown].contains(&check.outcome))
    }

    /// A group of the chart.
    pub fn chart(&mut self, title: &str, unit: &str, bars: &[(&str, f64)]) {
        let bars = bars.iter().map(|(label, value)| Bar {
            label: (*label).into(),
            value: *value,
            is_ours: label.starts_with("pgq"),
        });
        self.groups.push(Group { title: title.into(), unit: unit.into(), bars: bars.collect() });
    }

    /// The medians and the bounds, as text.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<44} {:>10} {:>10} {:>10} {:>10}  {:<7} {:>8} {:>8} {:>9}\n",
            "median", "pgq", "hand n=1", "hand n=100", "statement", "", "CPU us", "WAL B", "commits"
        );
        let cell = |value: Option<f64>| value.map_or("-".into(), rounded);
        for row in &self.rows {
            let title = format!("{} {}", row.workload, row.title);
            let [ours, one, hundred, raw] = [row.ours, row.one, row.hundred, row.raw].map(cell);
            let _ = write!(text, "{title:<44} {ours:>10} {one:>10} {hundred:>10} {raw:>10}  {:<7}", row.unit);
            if let Some([cpu, wal, commits]) = row.costs {
                let _ = write!(text, " {cpu:>8.2} {wal:>8.0} {commits:>9.5}");
            }
            text.push('\n');
        }
        let _ = writeln!(text, "(CPU of the server, WAL and commits: pgq's, for one job)\n");
        let _ = writeln!(text, "{:<60} {:>8}  {:<15} {:<14}", "ratio", "reached", "95 % interval", "wanted");
        for check in &self.checks {
            let title = format!("{} {}", check.workload, check.what);
            let ends = check.interval.map_or(String::new(), |(low, high)| format!("{low:.3} … {high:.3}"));
            let bound = check.bound.map_or(String::new(), Bound::text);
            let outcome = match check.outcome {
                Outcome::Met => "met",
                Outcome::Missed => "MISSED",
                Outcome::NotAvailable => "NOT AVAILABLE",
                Outcome::Shown => "",
            };
            let value = if check.value.is_nan() { "-".into() } else { format!("{:.3}", check.value) };
            let _ = writeln!(text, "{title:<60} {value:>8}  {ends:<15} {bound:<14} {outcome}");
        }
        text
    }

    /// Every sample, one a line.
    pub fn tsv(&self) -> String {
        let mut text =
            "workload\tarm\tround\tjobs\tseconds\tjobs_per_s\tcpu_us_per_job\twal_bytes_per_job\tcommits\n".to_owned();
        for (workload, arm, round, sample) in &self.samples {
            let _ = writeln!(
                text,
                "{workload}\t{arm}\t{round}\t{}\t{:.6}\t{:.3}\t{:.3}\t{:.1}\t{}",
                sample.jobs,
                sample.seconds,
                sample.rate(),
                sample.cpu_per_job(),
                sample.wal_per_job(),
                sample.commits
            );
        }
        text
    }
}

/// What the pairs' ratios of a number are.
pub fn ratios(ours: &[Sample], theirs: &[Sample], of: fn(&Sample) -> f64) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(jobs: f64, seconds: f64, cpu: f64) -> Sample {
        Sample { jobs, seconds, cpu, wal: 300.0 * jobs, commits: 2.0 }
    }

    #[test]
    fn a_sample_is_told_by_the_job() {
        let sample = sample(1_000.0, 2.0, 0.5);
        assert_eq!((sample.rate(), sample.cpu_per_job(), sample.wal_per_job()), (500.0, 500.0, 300.0));
        assert_eq!(sample.commits_per_job(), 0.002);
    }

    #[test]
    fn pairs_are_judged_by_rate_and_by_processor_time() {
        let ours: Vec<Sample> = (0..30).map(|_| sample(1_000.0, 1.0, 0.30)).collect();
        let theirs: Vec<Sample> = (0..30).map(|_| sample(1_000.0, 0.99, 0.20)).collect();
        let mut report = Report::default();
        report.check_pairs("W1", "put to INSERT", (&ours, &theirs), 0.95);
        let outcomes: Vec<Outcome> = report.checks.iter().map(|check| check.outcome).collect();
        assert_eq!(outcomes, [Outcome::Met, Outcome::Missed]);
        assert!(!report.is_met());
        let table = report.table();
        assert!(table.contains("W1 put to INSERT") && table.contains("0.990 … 0.990") && table.contains("MISSED"));
    }

    #[test]
    fn what_is_not_available_is_a_failure_and_what_has_no_bound_is_not() {
        let mut report = Report::default();
        report.show("W6", "hand-written", 0.01);
        assert!(report.is_met());
        report.not_available("W3", "set-based", Bound::AtLeast(3.5));
        assert!(!report.is_met() && report.table().contains("NOT AVAILABLE"));
    }

    #[test]
    fn every_sample_is_a_line_with_as_many_fields_as_the_header() {
        let mut report = Report::default();
        report.samples.push(("W3".into(), "plpgsql".into(), 1, sample(10.0, 1.0, 0.1)));
        let text = report.tsv();
        let fields: Vec<usize> = text.lines().map(|line| line.split('\t').count()).collect();
        assert_eq!(fields, [9, 9]);
    }
}
