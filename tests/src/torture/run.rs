//! One run of one part: how much is asked for and done, what faults were injected, what was
//! different from what was promised.

use super::{Part, Rng};
use crate::server::{Builder, Server};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a run says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How long nothing may be done before the run has failed: longer than any wait of a round.
const STALLED: Duration = Duration::from_secs(180);

/// A run that goes on.
#[derive(Debug)]
pub struct Run {
    /// What runs.
    pub part: &'static Part,
    /// How many are asked for.
    pub count: u64,
    /// What [`Run::rng`] started from.
    pub seed: u64,
    /// The part's own random numbers.
    pub rng: Rng,
    done: u64,
    faults: BTreeMap<&'static str, u64>,
    slowest: BTreeMap<&'static str, Duration>,
    is_long: bool,
    differences: Vec<String>,
    began: Instant,
    limit: Option<Duration>,
    said: Instant,
    last: Instant,
}

impl Run {
    /// A quick run of so many.
    pub fn new(part: &'static Part, count: u64, seed: u64) -> Run {
        let now = Instant::now();
        let (faults, slowest) = (BTreeMap::new(), BTreeMap::new());
        Run {
            part,
            count,
            seed,
            rng: Rng::new(seed),
            done: 0,
            faults,
            slowest,
            is_long: false,
            differences: Vec::new(),
            began: now,
            limit: None,
            said: now,
            last: now,
        }
    }

    /// A long one, at most so long.
    pub fn long(self, limit: Option<Duration>) -> Run {
        Run { is_long: true, limit, ..self }
    }

    /// Whether one more round is to be done: not when it is enough, the time is over or something
    /// was different.
    pub fn goes_on(&mut self) -> bool {
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            eprintln!("{}", self.progress());
        }
        if self.last.elapsed() >= STALLED {
            self.differ(format!("nothing was done for {STALLED:?}"));
        }
        let in_time = self.limit.is_none_or(|limit| self.began.elapsed() < limit);
        self.done < self.count && in_time && self.differences.is_empty()
    }

    /// How many are still to be done.
    pub fn left(&self) -> u64 {
        self.count.saturating_sub(self.done)
    }

    /// Counts what is done.
    pub fn did(&mut self, n: u64) {
        self.done += n;
        self.last = Instant::now();
    }

    /// Counts a fault of this kind: one that hit.
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Notes something that is not as promised; the run has failed.
    pub fn differ(&mut self, what: impl Display) {
        eprintln!("{}: DIFFERENT: {what}", self.part.id);
        self.differences.push(what.to_string());
    }

    /// How long something may take that is promised to take so long: in the suite, on a machine that
    /// does other things too, ten times that.
    pub fn allow(&self, promise: Duration) -> Duration {
        promise * if self.is_long { 1 } else { 10 }
    }

    /// Notes how long something took; the longest of its kind is reported.
    pub fn took(&mut self, what: &'static str, long: Duration) {
        let slowest = self.slowest.entry(what).or_default();
        *slowest = long.max(*slowest);
    }

    /// Notes how long something took that is promised to take at most so long.
    pub fn took_at_most(&mut self, what: &'static str, long: Duration, promise: Duration) {
        self.took(what, long);
        if long > self.allow(promise) {
            self.differ(format!("{what}: {long:?}, promised {promise:?}"));
        }
    }

    /// A server to be described, preloaded, quiet about failing jobs, and without an end to the
    /// crashes that a job may see, because the one who kills does not look whom: what most parts want.
    pub fn server(&self) -> Builder {
        // Little memory: a restart has to set it up again.
        Server::builder()
            .preload(true)
            .conf("pgq.log_jobs", "none")
            .conf("shared_buffers", "32MB")
            .conf("pgq.max_crashes", 1_000_000)
    }

    /// How many are done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// What was different.
    pub fn differences(&self) -> &[String] {
        &self.differences
    }

    /// How long it has lasted.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The faults and how often each hit, and the longest times, in a few words.
    pub fn faults(&self) -> String {
        let faults = self.faults.iter().map(|(kind, n)| format!("{n} {kind}"));
        let slowest = self.slowest.iter().map(|(what, long)| format!("{what} at most {:.2} s", long.as_secs_f64()));
        let all: Vec<String> = faults.chain(slowest).collect();
        if all.is_empty() {
            "none".to_owned()
        } else {
            all.join(", ")
        }
    }

    fn progress(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let each = if self.done == 0 { f64::INFINITY } else { seconds / self.done as f64 };
        let rest = each * self.left() as f64;
        let rest = if rest.is_finite() { format!(", about {rest:.0} s to go") } else { String::new() };
        format!("{}: {} of {} {} in {seconds:.0} s{rest}", self.part.id, self.done, self.count, self.part.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Part = Part { id: "T99", title: "nothing", unit: "rounds", quick: 1, full: 3, run: |_| () };

    #[test]
    fn a_run_ends_with_its_count_its_time_or_a_difference() {
        let mut run = Run::new(&PART, 3, 1);
        while run.goes_on() {
            run.did(2);
        }
        assert_eq!((run.done(), run.left()), (4, 0));
        assert!(!Run::new(&PART, 3, 1).long(Some(Duration::ZERO)).goes_on());
        let mut run = Run::new(&PART, 3, 1);
        run.differ("two of one");
        assert!(!run.goes_on());
        assert_eq!(run.differences(), ["two of one"]);
    }

    #[test]
    fn a_promise_is_held_strictly_in_a_long_run_only() {
        let promise = Duration::from_secs(3);
        let mut quick = Run::new(&PART, 3, 1);
        quick.took_at_most("stop", Duration::from_secs(4), promise);
        assert!(quick.differences().is_empty() && quick.faults() == "stop at most 4.00 s");
        let mut long = Run::new(&PART, 3, 1).long(None);
        long.took_at_most("stop", Duration::from_secs(4), promise);
        assert_eq!(long.differences(), ["stop: 4s, promised 3s"]);
    }

    #[test]
    fn faults_are_counted_by_kind() {
        let mut run = Run::new(&PART, 3, 1);
        assert_eq!(run.faults(), "none");
        for kind in ["stop", "kill", "stop"] {
            run.fault(kind);
        }
        assert_eq!(run.faults(), "1 kill, 2 stop");
    }
}
