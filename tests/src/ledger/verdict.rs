//! The verdict: what was put, compared with what it did and where it ended. Pure: it is given rows
//! and returns what is wrong with them.

use std::collections::BTreeMap;
use std::fmt;

/// A job, as its producer wrote it down in the transaction that put it.
#[derive(Debug, Clone)]
pub struct Put {
    /// Its id.
    pub job: i64,
    /// What its effects add up to.
    pub qty: i64,
    /// How often it is to fail before it succeeds.
    pub fails: i32,
}

/// A row that a handler wrote. Each run that gets to its end writes `steps` of them.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The job.
    pub job: i64,
    /// Of this attempt.
    pub attempt: i32,
    /// The failures that were counted before it.
    pub failures: i32,
    /// The crashes that were counted before it.
    pub crashes: i32,
    /// Which row of the run, from 1.
    pub step: i32,
    /// The job's quantity.
    pub qty: i64,
    /// The SQLSTATE of the failure before it, if there was one.
    pub sqlstate: Option<String>,
}

/// A row of `pgq.finished_job`.
#[derive(Debug, Clone)]
pub struct End {
    /// The job.
    pub job: i64,
    /// done, dead or cancelled.
    pub outcome: String,
    /// Its last attempt.
    pub attempt: i32,
    /// The failures that were counted.
    pub failures: i32,
    /// The job's quantity.
    pub qty: i64,
}

/// Everything that was written down.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// By the producers.
    pub puts: Vec<Put>,
    /// By the handlers.
    pub effects: Vec<Effect>,
    /// By pgq, of jobs it keeps.
    pub ends: Vec<End>,
    /// Jobs that are still in `pgq.job`.
    pub live: Vec<i64>,
    /// How many jobs were purged before they ran: their ids are not known.
    pub purged: u64,
}

/// How often a deadlock or the like is not counted as a failure of the job.
const MAX_EXCUSES: i32 = 20;

/// What is promised.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Effects of a run.
    pub steps: i32,
    /// Failures after which a job is dead.
    pub max_attempts: i32,
    /// The SQLSTATE of failures that nobody told the job to have; without it there may be none.
    pub intruder: Option<&'static str>,
    /// Deadlocks, lock timeouts and serialization failures occur: an attempt each, and no failure.
    pub excuses: bool,
    /// Jobs are brought back with no failure and more attempts: their numbers say nothing.
    pub uncounted: bool,
    /// A run that was broken off may leave effects (procedures); without it one run leaves any.
    pub at_least_once: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { steps: 2, max_attempts: 5, intruder: None, excuses: false, uncounted: false, at_least_once: false }
    }
}

/// What is wrong. Nothing, if every list is empty and the sums are equal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Jobs that were put.
    pub put: usize,
    /// Jobs with effects.
    pub ran: usize,
    /// Jobs that ended as dead.
    pub dead: usize,
    /// Jobs that ended as cancelled.
    pub cancelled: usize,
    /// Failures that nobody told a job to have.
    pub intrusions: u64,
    /// Put, and neither done nor dead nor cancelled.
    pub lost: Vec<i64>,
    /// Done twice, or done and dead.
    pub doubled: Vec<i64>,
    /// Some of a run's effects are there, and others are not.
    pub torn: Vec<i64>,
    /// Effects, ends or live rows of jobs that nobody put.
    pub ghosts: Vec<i64>,
    /// Still there after the drain.
    pub undrained: Vec<i64>,
    /// Attempts and failures that do not fit what happened to the job.
    pub miscounted: Vec<i64>,
    /// Of the first of them, what was told and what was found.
    pub miscount: Option<String>,
    /// Quantity put, and quantity found again; the purged are not in either.
    pub sums: (i64, i64),
}

impl Verdict {
    /// Is everything as promised?
    pub fn is_even(&self) -> bool {
        self.wrong().iter().all(|(_, jobs)| jobs.is_empty()) && self.sums.0 == self.sums.1
    }

    /// How many things are wrong.
    pub fn difference(&self) -> u64 {
        let wrong: usize = self.wrong().iter().map(|(_, jobs)| jobs.len()).sum();
        (wrong as u64).max(u64::from(self.sums.0 != self.sums.1))
    }

    fn wrong(&self) -> [(&'static str, &Vec<i64>); 6] {
        [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("torn", &self.torn),
            ("ghosts", &self.ghosts),
            ("undrained", &self.undrained),
            ("miscounted", &self.miscounted),
        ]
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} put, {} ran, {} dead", self.put, self.ran, self.dead)?;
        for (number, name) in [(self.cancelled as u64, "cancelled"), (self.intrusions, "failures from outside")] {
            if number > 0 {
                write!(out, ", {number} {name}")?;
            }
        }
        for (name, jobs) in self.wrong().iter().filter(|(_, jobs)| !jobs.is_empty()) {
            let first: Vec<String> = jobs.iter().take(5).map(i64::to_string).collect();
            let more = if jobs.len() > 5 { ", …" } else { "" };
            write!(out, ", {} {name} ({}{more})", jobs.len(), first.join(", "))?;
        }
        if let Some(miscount) = &self.miscount {
            write!(out, ", {miscount}")?;
        }
        if self.sums.0 != self.sums.1 {
            write!(out, ", quantity {} put and {} found", self.sums.0, self.sums.1)?;
        }
        write!(out, ", difference {}", self.difference())
    }
}

/// What is known of one job.
#[derive(Debug, Default)]
struct Fate<'a> {
    put: Option<&'a Put>,
    effects: Vec<&'a Effect>,
    end: Option<&'a End>,
    is_live: bool,
}

impl Fate<'_> {
    fn has_outcome(&self, outcome: &str) -> bool {
        self.end.is_some_and(|end| end.outcome == outcome)
    }

    /// The quantity of this job that is found again.
    fn qty(&self) -> i64 {
        let of_effects = self.effects.iter().filter(|effect| effect.step == 1).map(|effect| effect.qty).sum();
        match self.end {
            Some(end) if end.outcome != "done" => end.qty + of_effects,
            _ => of_effects,
        }
    }

    /// Its runs: an attempt, and the steps that it left.
    fn runs(&self) -> BTreeMap<i32, Vec<i32>> {
        let mut runs: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for effect in &self.effects {
            runs.entry(effect.attempt).or_default().push(effect.step);
        }
        runs.values_mut().for_each(|steps| steps.sort_unstable());
        runs
    }
}

/// Compares.
pub fn judge(record: &Record, rules: &Rules) -> Verdict {
    let mut fates: BTreeMap<i64, Fate> = BTreeMap::new();
    let mut verdict = Verdict { put: record.puts.len(), ..Verdict::default() };
    for put in &record.puts {
        if fates.entry(put.job).or_default().put.replace(put).is_some() {
            verdict.doubled.push(put.job);
        }
    }
    record.effects.iter().for_each(|effect| fates.entry(effect.job).or_default().effects.push(effect));
    record.ends.iter().for_each(|end| fates.entry(end.job).or_default().end = Some(end));
    record.live.iter().for_each(|job| fates.entry(*job).or_default().is_live = true);
    for (job, fate) in &fates {
        verdict.ran += usize::from(!fate.effects.is_empty());
        verdict.dead += usize::from(fate.has_outcome("dead"));
        verdict.cancelled += usize::from(fate.has_outcome("cancelled"));
        judge_job(&mut verdict, *job, fate, rules);
    }
    // Nobody knows which were purged, but it is known how many.
    if verdict.lost.len() as u64 == record.purged {
        verdict.lost.clear();
    }
    verdict
}

fn judge_job(verdict: &mut Verdict, job: i64, fate: &Fate, rules: &Rules) {
    let Some(put) = fate.put else {
        verdict.ghosts.push(job);
        return;
    };
    if fate.is_live {
        verdict.undrained.push(job);
    }
    let runs = fate.runs();
    let whole: Vec<i32> = (1..=rules.steps).collect();
    let complete = runs.values().filter(|steps| **steps == whole).count();
    let is_buried = fate.has_outcome("dead") || fate.has_outcome("cancelled");
    if rules.at_least_once {
        judge_broken_runs(verdict, job, fate, &runs);
    } else if complete + usize::from(is_buried) > 1 || fate.effects.len() > whole.len() {
        verdict.doubled.push(job);
    } else if complete == 0 && !runs.is_empty() {
        verdict.torn.push(job);
    }
    if complete == 0 && !is_buried && !fate.is_live {
        // What was lost has no quantity to be found; it is in the list.
        verdict.lost.push(job);
        return;
    }
    if !rules.at_least_once && !fate.is_live {
        verdict.sums.0 += put.qty;
        verdict.sums.1 += fate.qty();
    }
    if !rules.uncounted {
        judge_counts(verdict, put, fate, rules);
    }
}

/// Of a procedure: each attempt ran each step at most once, in order, and the last one all.
fn judge_broken_runs(verdict: &mut Verdict, job: i64, fate: &Fate, runs: &BTreeMap<i32, Vec<i32>>) {
    for steps in runs.values() {
        let in_order: Vec<i32> = (1..).take(steps.len()).collect();
        if *steps != in_order {
            verdict.doubled.push(job);
        }
    }
    let last = runs.keys().next_back().copied().unwrap_or_default();
    // Only one completion was accepted, and it was the last attempt's.
    if fate.end.is_some_and(|end| end.outcome == "done" && end.attempt != last) {
        verdict.doubled.push(job);
    }
}

/// Every attempt counted: a job fails as often as it is told, and each failure is an attempt.
fn judge_counts(verdict: &mut Verdict, put: &Put, fate: &Fate, rules: &Rules) {
    let is_meant_to_die = put.fails >= rules.max_attempts;
    let right = match (fate.effects.first(), fate.end) {
        (Some(effect), _) => {
            let extra = effect.failures - put.fails;
            verdict.intrusions += u64::try_from(extra).unwrap_or(0);
            let sqlstate = effect.sqlstate.as_deref().unwrap_or_default();
            // Only the last error is there to be seen.
            let was_excused = rules.excuses && ["40001", "40P01", "55P03"].contains(&sqlstate);
            let may_hide_excuses = rules.excuses && effect.failures > 0;
            let is_told = extra == 0 || (extra > 0 && rules.intruder.is_some());
            let is_named = extra <= 0 || put.fails > 0 || was_excused || Some(sqlstate) == rules.intruder;
            // A crash that is counted may take an attempt with it; a broken run of a procedure does.
            let uncounted = effect.attempt - effect.failures - 1;
            let is_excused = (was_excused || may_hide_excuses) && uncounted <= MAX_EXCUSES;
            let may_be_uncounted = uncounted <= effect.crashes || rules.at_least_once || is_excused;
            let is_in_range = uncounted >= 0 && may_be_uncounted;
            is_told && is_named && is_in_range && !is_meant_to_die
        }
        (None, Some(end)) if end.outcome == "dead" => {
            let may_die = is_meant_to_die || rules.intruder.is_some();
            may_die && end.failures == rules.max_attempts && end.attempt >= end.failures
        }
        _ => true,
    };
    if !right {
        verdict.miscounted.push(put.job);
        verdict.miscount.get_or_insert_with(|| format!("{put:?} {:?} {:?}", fate.effects.first(), fate.end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(job: i64, fails: i32) -> Put {
        Put { job, qty: job * 10, fails }
    }

    fn effect(job: i64, failures: i32, step: i32) -> Effect {
        let sqlstate = (failures > 0).then(|| "P0001".to_owned());
        Effect { job, attempt: failures + 1, failures, crashes: 0, step, qty: job * 10, sqlstate }
    }

    fn end(job: i64, outcome: &str, failures: i32) -> End {
        End { job, outcome: outcome.to_owned(), attempt: failures, failures, qty: job * 10 }
    }

    /// Job 1 succeeds at once, 2 at its third attempt, 3 never.
    fn even() -> Record {
        Record {
            puts: vec![put(1, 0), put(2, 2), put(3, 5)],
            effects: vec![effect(1, 0, 1), effect(1, 0, 2), effect(2, 2, 1), effect(2, 2, 2)],
            ends: vec![end(3, "dead", 5)],
            ..Record::default()
        }
    }

    fn judged(record: &Record) -> Verdict {
        judge(record, &Rules::default())
    }

    #[test]
    fn what_is_as_promised_is_even() {
        let verdict = judged(&even());
        assert!(verdict.is_even(), "{verdict}");
        assert_eq!((verdict.sums, verdict.difference()), ((60, 60), 0));
        assert_eq!(verdict.to_string(), "3 put, 2 ran, 1 dead, difference 0");
    }

    #[test]
    fn a_planted_loss_is_reported() {
        let mut record = even();
        record.effects.retain(|effect| effect.job != 1);
        assert_eq!(judged(&record).lost, [1]);
        record.purged = 1;
        assert!(judged(&record).is_even(), "as many are missing as were purged");
        record.purged = 2;
        assert_eq!(judged(&record).lost, [1], "not as many are missing as were purged");
    }

    #[test]
    fn a_planted_double_is_reported_whatever_it_looks_like() {
        let mut again = even();
        again.effects.extend([effect(1, 0, 1), effect(1, 0, 2)]);
        let mut later = even();
        later.effects.extend([effect(1, 1, 1), effect(1, 1, 2)]);
        let mut buried = even();
        buried.ends.push(end(1, "cancelled", 0));
        let mut twice_put = even();
        twice_put.puts.push(put(1, 0));
        for record in [again, later, buried, twice_put] {
            let verdict = judged(&record);
            assert_eq!(verdict.doubled, [1], "{verdict}");
            assert!(!verdict.is_even());
        }
    }

    #[test]
    fn a_planted_ghost_is_reported_whatever_it_left() {
        let mut ran = even();
        ran.effects.push(effect(9, 0, 1));
        let mut ended = even();
        ended.ends.push(end(9, "dead", 5));
        let mut waits = even();
        waits.live.push(9);
        for record in [ran, ended, waits] {
            assert_eq!(judged(&record).ghosts, [9]);
        }
    }

    #[test]
    fn half_a_run_is_torn() {
        let mut record = even();
        record.effects.remove(0);
        let verdict = judged(&record);
        assert_eq!((verdict.torn, verdict.lost), (vec![1], vec![1]));
    }

    #[test]
    fn a_wrong_quantity_is_reported() {
        let mut record = even();
        record.effects[0].qty += 1;
        let verdict = judged(&record);
        assert_eq!((verdict.sums, verdict.is_even(), verdict.difference()), ((60, 61), false, 1));
    }

    #[test]
    fn what_is_left_after_the_drain_is_reported() {
        let mut record = even();
        record.effects.retain(|effect| effect.job != 1);
        record.live.push(1);
        let verdict = judged(&record);
        assert_eq!((verdict.undrained, verdict.lost), (vec![1], vec![]));
    }

    #[test]
    fn attempts_and_failures_that_nobody_can_explain_are_reported() {
        let charged = |change: &dyn Fn(&mut Record)| {
            let mut record = even();
            change(&mut record);
            judged(&record).miscounted
        };
        assert_eq!(charged(&|record| record.puts[0].fails = 1), [1], "a failure that was not counted");
        assert_eq!(charged(&|record| record.puts[1].fails = 1), [2], "a failure too many");
        assert_eq!(
            charged(&|record| record.effects[..2].iter_mut().for_each(|effect| effect.attempt = 2)),
            [1],
            "an attempt for nothing"
        );
        assert_eq!(charged(&|record| record.ends[0].failures = 4), [3], "dead too early");
        assert_eq!(charged(&|record| record.puts[2].fails = 0), [3], "dead without a reason");
    }

    #[test]
    fn failures_from_outside_are_even_only_where_they_are_expected_and_named() {
        let rules = Rules { intruder: Some("57014"), ..Rules::default() };
        let mut record = even();
        record.effects.retain(|effect| effect.job != 1);
        record.effects.extend([effect(1, 1, 1), effect(1, 1, 2)]);
        assert_eq!(judge(&record, &rules).miscounted, [1], "its error is another");
        record.effects.iter_mut().for_each(|effect| effect.sqlstate = Some("57014".to_owned()));
        let verdict = judge(&record, &rules);
        assert!(verdict.is_even() && verdict.intrusions == 1, "{verdict}");
        assert!(!judged(&record).is_even(), "nobody was expected to interfere");
    }

    #[test]
    fn an_excused_attempt_is_even_only_where_excuses_occur() {
        let mut record = even();
        for effect in record.effects.iter_mut().filter(|effect| effect.job == 1) {
            (effect.attempt, effect.sqlstate) = (3, Some("40P01".to_owned()));
        }
        assert_eq!(judged(&record).miscounted, [1]);
        let rules = Rules { excuses: true, ..Rules::default() };
        assert!(judge(&record, &rules).is_even(), "{}", judge(&record, &rules));
        record.effects.iter_mut().filter(|effect| effect.job == 1).for_each(|effect| effect.attempt = 30);
        assert_eq!(judge(&record, &rules).miscounted, [1], "more often than is excused");
    }

    #[test]
    fn of_excuses_and_failures_only_the_last_is_seen() {
        let rules = Rules { excuses: true, intruder: Some("57014"), ..Rules::default() };
        let changed = |job: i64, attempt: i32, failures: i32, sqlstate: &str| {
            let mut record = even();
            for effect in record.effects.iter_mut().filter(|effect| effect.job == job) {
                (effect.attempt, effect.failures, effect.sqlstate) = (attempt, failures, Some(sqlstate.to_owned()));
            }
            judge(&record, &rules)
        };
        let told = changed(2, 5, 2, "P0001");
        assert!(told.is_even(), "excused before it failed as told: {told}");
        let cancelled = changed(1, 3, 1, "40001");
        assert!(cancelled.is_even(), "cancelled, then excused: {cancelled}");
        assert_eq!(changed(1, 2, 0, "P0001").miscounted, [1], "neither");
    }

    #[test]
    fn a_procedure_may_leave_broken_runs_but_not_run_an_attempt_twice() {
        let rules = Rules { at_least_once: true, ..Rules::default() };
        let run = |attempt: i32, step: i32| Effect { attempt, ..effect(1, 0, step) };
        let mut record = Record { puts: vec![put(1, 0)], ..Record::default() };
        record.effects = vec![run(1, 1), run(2, 1), run(2, 2)];
        record.ends = vec![End { attempt: 2, ..end(1, "done", 0) }];
        assert!(judge(&record, &rules).is_even(), "{}", judge(&record, &rules));
        record.ends[0].attempt = 1;
        assert_eq!(judge(&record, &rules).doubled, [1], "the first attempt's completion was accepted");
        record.ends[0].attempt = 2;
        record.effects.push(run(1, 1));
        assert_eq!(judge(&record, &rules).doubled, [1], "one attempt ran its step twice");
        record.effects = vec![run(1, 1), run(2, 1)];
        assert_eq!(judge(&record, &rules).lost, [1], "no attempt got to its end");
    }
}
