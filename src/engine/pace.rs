//! How many jobs of a handler share a transaction, and with what protection.
//!
//! What is done before a slow job in the same transaction stays uncommitted until that job ends, and a
//! job that fails takes its company down with it. So a handler must show that it is fast before its
//! jobs share a transaction, and one that failed pays for a savepoint per job until it has been clean
//! for a while. One `Pace` per handler and executor; forgetting it costs a few slow transactions.

use super::time::Span;

/// A new handler runs this many jobs alone, each under `FAST`, before they share a transaction.
const TRIAL: u32 = 30;
/// A handler that was slow once runs this many fast jobs alone before it is trusted again.
const PENANCE: u32 = 1_000;
/// A run under this is fast.
const FAST: Span = Span::from_millis(10);
/// A run over this makes its handler slow.
const SLOW: Span = Span::from_millis(100);
/// Savepoints in one transaction: from 65 on, every snapshot of the server must look them up on disk.
const MAX_SAVEPOINTS: usize = 60;
/// Jobs without a failure after which savepoints are given up again.
const CLEAN: u32 = 1_000;
/// The most jobs in one transaction: bounds the memory that a claim takes.
pub const MAX_BATCH: usize = 1_000;

/// What an executor remembers of one handler.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Fast runs still to show before jobs share a transaction.
    trial: u32,
    /// Clean runs still to show before savepoints are given up; zero is none needed.
    savepoints: u32,
    /// Jobs disturb each other: one a transaction, until the next registration.
    solitary: bool,
    /// How long a job takes, as a moving average in microseconds; never under 1.
    average_us: i64,
    /// The size of the last shared transaction: the next grows at most fourfold.
    last: usize,
}

/// How the next transaction runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How many jobs it may claim.
    pub jobs: usize,
    /// Does each get a savepoint?
    pub savepoints: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { trial: TRIAL, savepoints: 0, solitary: false, average_us: 1_000, last: 1 }
    }
}

impl Pace {
    /// The next transaction, to last about `batch_time`. `most` is the handler's own limit.
    pub fn plan(&self, batch_time: Span, most: Option<usize>) -> Plan {
        let savepoints = self.savepoints > 0;
        if self.trial > 0 || self.solitary {
            return Plan { jobs: 1, savepoints };
        }
        let fits = usize::try_from(batch_time.0 / self.average_us.max(1)).unwrap_or(MAX_BATCH);
        let cap = if savepoints { MAX_SAVEPOINTS } else { MAX_BATCH };
        let jobs = fits.min(self.last.saturating_mul(4)).min(cap).min(most.unwrap_or(cap));
        Plan { jobs: jobs.max(1), savepoints }
    }

    /// One job ran for `took` and succeeded.
    pub fn succeeded(&mut self, took: Span) {
        self.measured(took);
        self.savepoints = self.savepoints.saturating_sub(1);
    }

    /// One job was charged with a failure after `took`.
    pub fn failed(&mut self, took: Span) {
        self.measured(took);
        self.savepoints = CLEAN;
    }

    /// A shared transaction of `jobs` jobs committed.
    pub fn committed(&mut self, jobs: usize) {
        self.last = jobs.max(1);
    }

    /// A shared transaction had to be given up because one of its jobs would not end.
    pub fn held_up(&mut self) {
        self.trial = PENANCE;
        self.last = 1;
    }

    /// A deadlock: others hold what this transaction gathered, so gather less.
    pub fn deadlocked(&mut self) {
        self.last = (self.last / 8).max(1);
    }

    /// A transaction of `jobs` jobs failed as a whole, at its commit: each runs alone next.
    pub fn apart(&mut self, jobs: usize) {
        self.trial = self.trial.max(u32::try_from(jobs).unwrap_or(PENANCE));
        self.last = 1;
    }

    /// A job that failed in company succeeded alone. True the first time: worth one line in the log.
    pub fn disturbed(&mut self) -> bool {
        !std::mem::replace(&mut self.solitary, true)
    }

    fn measured(&mut self, took: Span) {
        self.average_us = ((self.average_us.saturating_mul(7)).saturating_add(took.0.max(1)) / 8).max(1);
        if took > SLOW {
            self.trial = PENANCE;
            self.last = 1;
        } else if took < FAST {
            self.trial = self.trial.saturating_sub(1);
        } else if self.trial > 0 {
            self.trial = self.trial.max(TRIAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Span = Span::from_millis(10);

    fn trusted() -> Pace {
        let mut pace = Pace::default();
        for _ in 0..200 {
            pace.succeeded(Span(20));
        }
        pace.committed(1_000);
        pace
    }

    #[test]
    fn a_new_handler_runs_alone_until_it_was_fast_thirty_times() {
        let mut pace = Pace::default();
        for _ in 0..TRIAL {
            assert_eq!(pace.plan(BATCH, None), Plan { jobs: 1, savepoints: false });
            pace.succeeded(Span(50));
        }
        assert!(pace.plan(BATCH, None).jobs > 1);
    }

    #[test]
    fn transactions_grow_to_fill_the_batch_time_and_no_further() {
        let pace = trusted();
        let jobs = pace.plan(BATCH, None).jobs;
        assert!((300..=600).contains(&jobs), "{jobs}");
        assert_eq!(pace.plan(Span::from_millis(1_000), None).jobs, MAX_BATCH);
    }

    #[test]
    fn one_slow_run_takes_trust_away_for_a_thousand() {
        let mut pace = trusted();
        pace.succeeded(Span::from_millis(101));
        for _ in 0..PENANCE {
            assert_eq!(pace.plan(BATCH, None).jobs, 1);
            pace.succeeded(Span(20));
        }
        assert!(pace.plan(BATCH, None).jobs > 1);
    }

    #[test]
    fn a_failure_brings_savepoints_at_most_sixty() {
        let mut pace = trusted();
        pace.failed(Span(20));
        let plan = pace.plan(BATCH, None);
        assert!(plan.savepoints && plan.jobs <= MAX_SAVEPOINTS && plan.jobs > 1, "{plan:?}");
        for _ in 0..CLEAN {
            pace.succeeded(Span(20));
        }
        assert!(!pace.plan(BATCH, None).savepoints);
    }

    #[test]
    fn the_handlers_own_limit_holds() {
        assert_eq!(trusted().plan(BATCH, Some(1)).jobs, 1);
        assert_eq!(trusted().plan(BATCH, Some(7)).jobs, 7);
    }

    #[test]
    fn jobs_that_disturb_each_other_stay_apart() {
        let mut pace = trusted();
        assert!(pace.disturbed());
        assert!(!pace.disturbed());
        for _ in 0..5_000 {
            pace.succeeded(Span(20));
        }
        assert_eq!(pace.plan(BATCH, None).jobs, 1);
    }

    #[test]
    fn a_deadlock_makes_the_next_transaction_smaller() {
        let mut pace = trusted();
        let before = pace.plan(BATCH, None).jobs;
        pace.deadlocked();
        pace.last = pace.last.min(10);
        assert!(pace.plan(BATCH, None).jobs < before);
    }
}
