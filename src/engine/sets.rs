//! How many jobs a set-based handler gets in one call, and how the jobs that make a call fail are found among them.
//!
//! One call is one transaction. A function that takes a set may take long by nature, so a call is not cut to fit a
//! batch time as `pace` does for single jobs; but a registration starts with a small set, and grows it while calls
//! are fast, or while a larger set costs less for each job: a slow function does not hold hundreds of jobs before
//! it has shown that this is worth something.
//!
//! A set that failed is halved until the jobs that fail do so alone: about 2 k log₂(n) calls for k of n. The halves
//! are remembered by their ids and nobody is kept from them: what others took meanwhile is left out. One `Sets` per
//! handler and executor; forgetting it costs some calls.

use super::pace::MAX_BATCH;
use super::time::Span;

/// The most jobs in one set: as many as the crash journal names, so that after a crash each of them is known.
pub const MAX_SET: usize = MAX_BATCH;
/// The args of a set are at most so many bytes, unless it is one job: bounds the memory of a call, in which they are
/// held three times.
pub const MAX_BYTES: usize = 64 << 20;
/// The first set of a registration.
const FIRST: usize = 10;
/// The next set is so many times as large, or as small.
const STEP: usize = 4;
/// A call under so many batch times is fast: 100 ms by default.
const FAST: i64 = 10;
/// A call over so many batch times is slow: 1 s by default.
const SLOW: i64 = 100;

/// What an executor remembers of one set-based handler.
#[derive(Debug, Clone)]
pub struct Sets {
    /// The most jobs in the next set.
    size: usize,
    /// The last set before the size grew, and how long its call took.
    smaller: Option<(usize, Span)>,
    /// The args of a job, in bytes, as in the last set.
    bytes: usize,
    /// Parts of sets that failed, by their ids, the next one last.
    parts: Vec<Vec<i64>>,
}

impl Default for Sets {
    fn default() -> Self {
        Sets { size: FIRST, smaller: None, bytes: 1, parts: Vec::new() }
    }
}

impl Sets {
    /// How many jobs the next set may have; `most` is the handler's own limit.
    pub fn size(&self, most: Option<usize>) -> usize {
        let fits = MAX_BYTES / self.bytes.max(1);
        self.size.min(most.unwrap_or(MAX_SET)).min(MAX_SET).min(fits).max(1)
    }

    /// The part of a failed set that runs next, before any new set.
    pub fn part(&self) -> Option<&[i64]> {
        self.parts.last().map(Vec::as_slice)
    }

    /// That part is done, or nothing of it is there any more.
    pub fn part_is_over(&mut self) {
        self.parts.pop();
    }

    /// A set has `jobs` jobs with args of `bytes` in all.
    pub fn weighed(&mut self, jobs: usize, bytes: usize) {
        self.bytes = (bytes / jobs.max(1)).max(1);
    }

    /// The call for a new set of `jobs` jobs took so long and committed. Only a full set tells something of its size.
    pub fn succeeded(&mut self, jobs: usize, took: Span, batch_time: Span) {
        if jobs < self.size {
            return;
        }
        if took <= batch_time.times(FAST) || self.is_worth_growing(jobs, took) {
            self.smaller = Some((jobs, took));
            self.size = self.size.saturating_mul(STEP).min(MAX_SET);
        } else if took > batch_time.times(SLOW) && !self.was_cheaper(jobs, took) {
            self.size = (self.size / STEP).max(FIRST.min(self.size));
        }
    }

    /// Is the time of a call mostly not for its jobs? A first slow call is given one try with a larger set.
    fn is_worth_growing(&self, jobs: usize, took: Span) -> bool {
        self.smaller.is_none() || self.was_cheaper(jobs, took)
    }

    /// Did each job of this set take at most half as long as those of a smaller set?
    fn was_cheaper(&self, jobs: usize, took: Span) -> bool {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.smaller.is_some_and(|(before, then)| {
            before < jobs
                && took.0.saturating_mul(count(before)).saturating_mul(2) <= then.0.saturating_mul(count(jobs))
        })
    }

    /// The call for these jobs failed: they run again in halves. A single job is its own culprit, and not
    /// remembered. `is_part`: they were the part that ran next.
    pub fn failed(&mut self, ids: &[i64], is_part: bool) {
        if is_part {
            self.parts.pop();
        }
        if ids.len() > 1 {
            if !is_part {
                self.size = (self.size.min(ids.len()) / STEP).max(1);
            }
            let (first, second) = ids.split_at(ids.len() / 2);
            self.parts.push(second.to_vec());
            self.parts.push(first.to_vec());
        }
    }

    /// A deadlock or the like: nobody's failure, but others hold what this set gathered, so gather less. The jobs
    /// are claimed anew.
    pub fn conflicted(&mut self, jobs: usize, is_part: bool) {
        if is_part {
            self.parts.pop();
        }
        self.size = (self.size.min(jobs) / 8).max(1);
    }
}

/// How many of the first jobs, whose args are so large, make a set: at least one.
pub fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut total = 0_usize;
    let fits = sizes.take_while(|bytes| {
        total = total.saturating_add(*bytes);
        total <= MAX_BYTES
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    const BATCH: Span = Span::from_millis(10);

    /// Runs all jobs of 1..=n; (calls, those that were charged, how often each of the others was done).
    fn drain(n: i64, bad: &BTreeSet<i64>, sets: &mut Sets) -> (usize, BTreeSet<i64>, usize) {
        let mut ready: BTreeSet<i64> = (1..=n).collect();
        let (mut calls, mut charged, mut done) = (0, BTreeSet::new(), 0);
        loop {
            let part = sets.part().map(<[i64]>::to_vec);
            let taken: Vec<i64> = match &part {
                Some(ids) => ids.iter().copied().filter(|id| ready.contains(id)).collect(),
                None => ready.iter().copied().take(sets.size(None)).collect(),
            };
            match (taken.is_empty(), part.is_some()) {
                (true, true) => {
                    sets.part_is_over();
                    continue;
                }
                (true, false) => return (calls, charged, done),
                _ => {}
            }
            calls += 1;
            if taken.iter().any(|id| bad.contains(id)) {
                if let [one] = taken.as_slice() {
                    assert!(charged.insert(*one) && ready.remove(one));
                }
                sets.failed(&taken, part.is_some());
            } else {
                done += taken.len();
                taken.iter().for_each(|id| assert!(ready.remove(id)));
                match part {
                    Some(_) => sets.part_is_over(),
                    None => sets.succeeded(taken.len(), Span(500), BATCH),
                }
            }
        }
    }

    fn full() -> Sets {
        Sets { size: MAX_SET, ..Sets::default() }
    }

    #[test]
    fn the_failing_jobs_are_isolated_and_nobody_else_is_charged() {
        for bad in [vec![], vec![1], vec![1000], vec![1, 2, 3, 500, 501, 999, 1000], (1..=1000).step_by(10).collect()] {
            let bad: BTreeSet<i64> = bad.into_iter().collect();
            let (calls, charged, done) = drain(1_000, &bad, &mut full());
            assert_eq!((charged, done), (bad.clone(), 1_000 - bad.len()));
            let most = 1 + 2 * bad.len() * 10 + 2;
            assert!(calls <= most, "{calls} calls for {} failing jobs", bad.len());
        }
    }

    #[test]
    fn where_all_fail_there_are_two_calls_for_each() {
        let all: BTreeSet<i64> = (1..=1_000).collect();
        let (calls, charged, done) = drain(1_000, &all, &mut full());
        assert_eq!((charged, done), (all, 0));
        assert!(calls < 2_000, "{calls}");
    }

    #[test]
    fn a_new_registration_starts_small_and_grows_while_calls_are_fast() {
        let mut sets = Sets::default();
        let mut sizes = Vec::new();
        for _ in 0..6 {
            let size = sets.size(None);
            sizes.push(size);
            sets.succeeded(size, Span::from_millis(5), BATCH);
        }
        assert_eq!(sizes, [10, 40, 160, 640, 1_000, 1_000]);
        assert_eq!(sets.size(Some(7)), 7);
    }

    #[test]
    fn a_slow_function_does_not_hold_many_jobs() {
        // 0.5 s for each job: one larger try, and back.
        let mut sets = Sets::default();
        let mut sizes = Vec::new();
        for _ in 0..5 {
            let size = sets.size(None);
            sizes.push(size);
            sets.succeeded(size, Span::from_millis(500 * i64::try_from(size).unwrap()), BATCH);
        }
        assert_eq!(sizes, [10, 40, 10, 10, 10]);
    }

    #[test]
    fn a_call_that_takes_as_long_for_few_as_for_many_gets_many() {
        let mut sets = Sets::default();
        for _ in 0..4 {
            sets.succeeded(sets.size(None), Span::from_millis(5_000), BATCH);
        }
        assert_eq!(sets.size(None), MAX_SET);
    }

    #[test]
    fn a_function_that_becomes_slow_gets_smaller_sets() {
        let mut sets = full();
        sets.smaller = Some((640, Span::from_millis(60)));
        sets.succeeded(MAX_SET, Span::from_millis(20_000), BATCH);
        assert_eq!(sets.size(None), 250);
        // Few jobs in a slow call say nothing of a full one.
        sets.succeeded(3, Span::from_millis(20_000), BATCH);
        assert_eq!(sets.size(None), 250);
    }

    #[test]
    fn many_failures_make_sets_small_and_success_makes_them_large_again() {
        let mut sets = full();
        let bad: BTreeSet<i64> = (1..=2_000).step_by(10).collect();
        let (_, charged, _) = drain(2_000, &bad, &mut sets);
        assert_eq!(charged, bad);
        assert!(sets.size(None) <= 64, "{}", sets.size(None));
        drain(3_000, &BTreeSet::new(), &mut sets);
        assert_eq!(sets.size(None), MAX_SET);
    }

    #[test]
    fn a_deadlock_makes_the_next_set_smaller_and_remembers_nothing() {
        let mut sets = full();
        sets.conflicted(1_000, false);
        assert_eq!((sets.size(None), sets.part()), (125, None));
        sets.failed(&[1, 2, 3, 4], false);
        sets.conflicted(2, true);
        assert_eq!(sets.part(), Some([3, 4].as_slice()));
    }

    #[test]
    fn parts_that_others_took_are_left_out_and_the_search_ends() {
        let mut sets = full();
        sets.failed(&(1..=1_000).collect::<Vec<_>>(), false);
        let mut steps = 0;
        while sets.part().is_some() {
            sets.part_is_over();
            steps += 1;
        }
        assert_eq!(steps, 2);
    }

    #[test]
    fn large_args_make_small_sets() {
        let mut sets = full();
        sets.weighed(2, 2 << 20);
        assert_eq!(sets.size(None), 64);
        sets.weighed(1, usize::MAX);
        assert_eq!(sets.size(None), 1);
        assert_eq!(fitting([1, 2, 3].into_iter()), 3);
        assert_eq!(fitting([MAX_BYTES, 1].into_iter()), 1);
        assert_eq!(fitting([MAX_BYTES + 1, 1].into_iter()), 1);
        assert_eq!(fitting([usize::MAX, usize::MAX].into_iter()), 1);
    }
}
