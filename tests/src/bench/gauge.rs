//! What the machine and the hand-written queue can do, measured before every run: it stands beside
//! each result, and tells whether the run says anything.

use super::report::rate;
use super::stage::{Amount, Stage};
use super::Bench;
use crate::run;

/// The script of the hand-written queue that claims one job.
pub const ONE: &str = "claim_one.pgbench";
/// The one that claims a hundred.
pub const HUNDRED: &str = "claim_hundred.pgbench";

/// Clients that claim one job at a time.
const ONE_CLIENTS: u64 = 8;

/// Medians of the machine's rates.
#[derive(Debug, Clone, Default)]
pub struct Gauge {
    /// Commits of one row a second, 8 clients.
    pub commits: f64,
    /// Jobs a second of the hand-written queue, one a transaction.
    pub one: f64,
    /// The same, a hundred a transaction.
    pub hundred: f64,
    /// The number of clients that was best for that.
    pub clients: u64,
}

impl Gauge {
    /// Why the run says nothing, if so.
    pub fn void(&self) -> Option<String> {
        let (commits, one, hundred) = (self.commits, self.one, self.hundred);
        if one < 0.4 * commits {
            return Some(format!("hand-written n=1 reached {one:.0}/s, under 0.4 of {commits:.0} commits/s"));
        }
        (hundred < 10.0 * one)
            .then(|| format!("hand-written n=100 reached {hundred:.0}/s, under 10 times n=1 with {one:.0}/s"))
    }

    /// The line that stands beside every result.
    pub fn line(&self) -> String {
        format!(
            "{:.0} commits/s of one row with 8 clients; hand-written queue {:.0} jobs/s with n=1 (8 clients), \
             {:.0} with n=100 ({} clients)",
            self.commits, self.one, self.hundred, self.clients
        )
    }
}

/// How many jobs each client takes so that a sample lasts about as long as others.
pub fn one_each(bench: &Bench) -> Amount {
    Amount::Each((bench.sizes.jobs.min(8_000 * bench.sizes.seconds) / ONE_CLIENTS).max(1))
}

/// All of these jobs, a hundred at a time.
pub fn hundred_each(jobs: u64, clients: u64) -> Amount {
    Amount::Each((jobs / 100 / clients).max(1))
}

/// A drain of the hand-written queue, filled anew: one at a time.
pub fn drain_one(stage: &mut Stage, jobs: u64, amount: Amount) -> super::meter::Sample {
    stage.hand_fill(jobs);
    stage.hand_drain(ONE, ONE_CLIENTS, amount)
}

/// The same, a hundred at a time.
pub fn drain_hundred(stage: &mut Stage, jobs: u64, clients: u64) -> super::meter::Sample {
    stage.hand_fill(jobs);
    stage.hand_drain(HUNDRED, clients, hundred_each(jobs, clients))
}

/// Measures it.
pub fn measure(bench: &mut Bench) {
    let mut stage = Stage::new(1);
    let (jobs, seconds, rounds) = (bench.sizes.jobs, bench.sizes.seconds, bench.sizes.rounds);
    run(&mut stage.client, "SELECT pgq.pause()");
    let candidates = [2, 4, 8];
    let tried = bench
        .alternate("n=100 by clients", 2, &["2", "4", "8"], |arm| drain_hundred(&mut stage, jobs, candidates[arm]));
    let best = (0..candidates.len()).max_by(|a, b| rate(&tried[*a]).total_cmp(&rate(&tried[*b])));
    let clients = candidates[best.unwrap_or(0)];
    let amount = one_each(bench);
    let arms = ["commits", "hand n=1", "hand n=100"];
    let samples = bench.alternate("gauge", rounds, &arms, |arm| match arm {
        0 => stage.sample("commit.pgbench", 8, seconds),
        1 => drain_one(&mut stage, jobs, amount),
        _ => drain_hundred(&mut stage, jobs, clients),
    });
    let [commits, one, hundred] = [0, 1, 2].map(|arm: usize| rate(&samples[arm]));
    bench.gauge = Gauge { commits, one, hundred, clients };
    bench.step(&bench.gauge.line());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_void_when_the_hand_written_queue_was_held_back() {
        let gauge = |one, hundred| Gauge { commits: 16_000.0, one, hundred, clients: 2 };
        assert!(gauge(8_000.0, 118_000.0).void().is_none());
        assert!(gauge(6_000.0, 118_000.0).void().is_some_and(|why| why.contains("0.4")));
        assert!(gauge(12_000.0, 118_000.0).void().is_some_and(|why| why.contains("10 times")));
    }
}
