//! The benchmark: pgq against the hand-written SKIP LOCKED queue and against plain statements, in
//! one run, alternating. A workload is a function that measures and writes into the [`report`]; the
//! program `tests/bench.rs` runs them for `tests/bench/run`.
//!
//! A new workload is a file here, one line under "the files" and one in [`workloads`].

pub mod figures;
pub mod gauge;
pub mod meter;
pub mod options;
pub mod report;
pub mod stage;
pub mod svg;

// The files.
mod w10_groups;
mod w1_put;
mod w2_bulk;
mod w3_drain;
mod w4_latency;
mod w5_depth;
mod w6_snapshot;
mod w6_steady;
mod w7_queues;
mod w8_bystander;
mod w9_stats;

use crate::torture::Rng;
use gauge::Gauge;
use meter::Sample;
use options::Sizes;
use report::Report;
use std::time::{Duration, Instant};

/// One workload.
pub struct Workload {
    /// Its number: `W3`.
    pub id: &'static str,
    /// What is measured, in a few words.
    pub title: &'static str,
    /// Measures it. A panic is a failure.
    pub run: fn(&mut Bench),
}

/// Every workload there is, in the order in which they run.
pub fn workloads() -> Vec<Workload> {
    let workload = |id, title, run| Workload { id, title, run };
    vec![
        workload("W1", "put singly, 1 and 8 clients", w1_put::run),
        workload("W2", "bulk_put", w2_bulk::run),
        workload("W3", "drain of trivial jobs", w3_drain::run),
        workload("W4", "pick-up of a single put", w4_latency::run),
        workload("W5", "drain by depth of the backlog", w5_depth::run),
        workload("W6", "an old snapshot", w6_snapshot::run),
        workload("W7", "100 queues with 20 handlers each", w7_queues::run),
        workload("W8", "bystander", w8_bystander::run),
        workload("W9", "stats() with many jobs waiting", w9_stats::run),
        workload("W10", "order within groups", w10_groups::run),
    ]
}

/// A run: how much of everything, and what was found so far.
pub struct Bench {
    /// How much of everything.
    pub sizes: Sizes,
    /// What the machine can do.
    pub gauge: Gauge,
    /// What was measured.
    pub report: Report,
    /// Of the orders of samples.
    pub rng: Rng,
    /// The workload that runs.
    pub current: &'static str,
    began: Instant,
}

/// How often a long series says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

impl Bench {
    /// A run that has measured nothing yet.
    pub fn new(sizes: Sizes, seed: u64) -> Bench {
        let (gauge, report, rng) = (Gauge::default(), Report::default(), Rng::new(seed));
        Bench { sizes, gauge, report, rng, current: "machine", began: Instant::now() }
    }

    /// A line that says what is done now.
    pub fn step(&self, what: &str) {
        println!("[{:4} s] {} {what}", self.began.elapsed().as_secs(), self.current);
    }

    /// How long the run has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Measures each arm once a round, in an order that is shuffled for each round: the samples of
    /// each arm, by round.
    pub fn alternate(
        &mut self,
        what: &str,
        rounds: usize,
        arms: &[&str],
        mut measure: impl FnMut(usize) -> Sample,
    ) -> Vec<Vec<Sample>> {
        let mut samples = vec![Vec::new(); arms.len()];
        let mut told: Option<Instant> = None;
        for round in 1..=rounds {
            let mut taken = vec![Sample::default(); arms.len()];
            for arm in figures::shuffled(arms.len(), &mut self.rng) {
                taken[arm] = measure(arm);
            }
            if round == rounds || told.is_none_or(|told| told.elapsed() >= PROGRESS) {
                let shown: Vec<String> = arms
                    .iter()
                    .zip(&taken)
                    .map(|(arm, sample)| format!("{arm} {}", svg::rounded(sample.rate())))
                    .collect();
                self.step(&format!("{what}, round {round} of {rounds}, per second: {}", shown.join("; ")));
                told = Some(Instant::now());
            }
            for (arm, sample) in taken.into_iter().enumerate() {
                let name = format!("{what}: {}", arms[arm]);
                self.report.samples.push((self.current.into(), name, round, sample.clone()));
                samples[arm].push(sample);
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_measures_every_arm_once() {
        let mut bench = Bench::new(Sizes::of(&options::Options::default()), 1);
        let mut calls = Vec::new();
        let samples = bench.alternate("trial", 4, &["a", "b"], |arm| {
            calls.push(arm);
            Sample { jobs: arm as f64 + 1.0, seconds: 1.0, ..Sample::default() }
        });
        assert_eq!(calls.len(), 8);
        assert!(samples
            .iter()
            .enumerate()
            .all(|(arm, of)| of.len() == 4 && of.iter().all(|s| s.rate() == arm as f64 + 1.0)));
        assert_eq!(bench.report.samples.len(), 8);
    }

    #[test]
    fn the_workloads_are_numbered_from_one() {
        for (index, workload) in workloads().iter().enumerate() {
            assert_eq!(workload.id, format!("W{}", index + 1));
        }
    }
}
