//! How many jobs of a handler share a transaction, and with what protection.
//!
//! What is done before a slow job in the same transaction stays uncommitted until that job ends, and a
//! job that fails takes its company down with it. So a handler must show that it is fast before its
//! jobs share a transaction, and one that failed pays for savepoints until it has been clean for a while.
//! One `Pace` per handler and executor; forgetting it costs a few slow transactions.

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
pub const MAX_SAVEPOINTS: usize = 60;
/// The most jobs under one savepoint: what one failure makes run twice.
const MAX_GROUP: u32 = 32;
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
    /// Runs without a failure between two failures, of late.
    spacing: u32,
    /// Runs since the last failure.
    clean: u32,
    /// Jobs disturb each other: one a transaction, until the next registration.
    solitary: bool,
    /// How long a job takes, as a moving average in microseconds; never under 1.
    average_us: i64,
    /// The size of the largest transaction of late: the next is at most four times as large.
    last: usize,
    /// How many a transaction had come to when its time was over; twice as many after each that had time left.
    fits: usize,
}

/// How the next transaction runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How many jobs it may claim.
    pub jobs: usize,
    /// How many of them share a savepoint; none has none.
    pub group: Option<usize>,
    /// How many jobs it may take that are taken, and given back, at a higher price: those that follow in their groups.
    pub follow: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { trial: TRIAL, savepoints: 0, spacing: 0, clean: 0, solitary: false, average_us: 1_000, last: 1, fits: 1 }
    }
}

impl Pace {
    /// The next transaction, to last about `batch_time`. `most` is the handler's own limit.
    pub fn plan(&self, batch_time: Span, most: Option<usize>) -> Plan {
        let group = (self.savepoints > 0).then(|| self.group());
        if self.trial > 0 || self.solitary {
            return Plan { jobs: 1, group: group.map(|_| 1), follow: 0 };
        }
        let fits = usize::try_from(batch_time.0 / self.average_us.max(1)).unwrap_or(MAX_BATCH);
        let cap = group.map_or(MAX_BATCH, |group| MAX_BATCH.min(group * MAX_SAVEPOINTS));
        let jobs = fits.min(self.last.saturating_mul(4)).min(cap).min(most.unwrap_or(cap));
        Plan { jobs: jobs.max(1), group, follow: jobs.min(self.fits) }
    }

    /// A failure costs its whole group a second run, and a savepoint is what a group costs: the sum is least where a
    /// group is the square root of the runs between two failures (Dorfman, 1943, on pooled tests).
    fn group(&self) -> usize {
        let runs = self.spacing.max(self.clean);
        usize::try_from(runs.isqrt().clamp(1, MAX_GROUP)).unwrap_or(1)
    }

    /// One job ran for `took` and succeeded.
    pub fn succeeded(&mut self, took: Span) {
        self.measured(took);
        self.savepoints = self.savepoints.saturating_sub(1);
        self.clean = self.clean.saturating_add(1);
    }

    /// One job was charged with a failure after `took`.
    pub fn failed(&mut self, took: Span) {
        self.measured(took);
        self.savepoints = CLEAN;
        self.spacing = u32::midpoint(self.spacing, self.clean);
        self.clean = 0;
    }

    /// A shared transaction of `jobs` jobs committed.
    pub fn committed(&mut self, jobs: usize) {
        // Smaller ones found no more jobs, or had their time: both say nothing against larger ones.
        self.last = self.last.max(jobs);
    }

    /// The time of a transaction sufficed for so many of its jobs.
    pub fn reached(&mut self, reached: usize, claimed: usize) {
        self.fits = if reached < claimed { reached } else { self.fits.max(reached).saturating_mul(2).min(MAX_BATCH) };
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
            assert_eq!(pace.plan(BATCH, None), Plan { jobs: 1, group: None, follow: 0 });
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
    fn a_failure_brings_savepoints_until_a_thousand_runs_were_clean() {
        let mut pace = trusted();
        pace.failed(Span(20));
        let plan = pace.plan(BATCH, None);
        let group = plan.group.unwrap_or(0);
        assert!(plan.jobs > 1 && plan.jobs <= group * MAX_SAVEPOINTS, "{plan:?}");
        for _ in 0..CLEAN {
            pace.succeeded(Span(20));
        }
        assert_eq!(pace.plan(BATCH, None).group, None);
    }

    /// One in `every` runs fails; how many share a savepoint then.
    fn group_when_one_fails_in(every: u32) -> usize {
        let mut pace = trusted();
        for _ in 0..20 {
            for _ in 1..every {
                pace.succeeded(Span(20));
            }
            pace.failed(Span(20));
        }
        pace.plan(BATCH, None).group.unwrap_or(0)
    }

    #[test]
    fn the_rarer_the_failures_the_more_jobs_share_a_savepoint() {
        assert_eq!(group_when_one_fails_in(1), 1);
        assert_eq!(group_when_one_fails_in(10), 3);
        assert_eq!(group_when_one_fails_in(100), 9);
        assert_eq!(group_when_one_fails_in(100_000), MAX_GROUP as usize);
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
