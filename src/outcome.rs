//! What becomes of a job whose attempt failed: engine's judgement, written by store. Called by workers for
//! handlers and ended leases, and by api for `pgq.fail`; so there is one way to fail.

use crate::engine::backoff::{free_wait, FREE_RETRIES};
use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::options::{self, Retry, RetryOptions};
use crate::engine::state::{judge, Outcome, State, Tally, Verdict};
use crate::engine::time::{Micros, Span};
use crate::error::Result;
use crate::observe::log;
use crate::pg::datum::Flat;
use crate::pg::xact::Caught;
use crate::pg::{at_commit, clock};
use crate::settings;
use crate::store::finish::{self, End, Return};
use crate::store::row::Job;
use crate::store::{followup, numbers, registry};

/// How the caller wants a failure to be taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failure {
    /// What the handler and the queue say about retries, in this order.
    pub places: [RetryOptions; 2],
    /// No further attempt.
    pub permanent: bool,
    /// This wait instead of the backoff.
    pub retry_in: Option<Span>,
}

/// The word for the state that a failed job got.
pub type Word = &'static str;

/// A job whose attempt failed, and what becomes of it: judged, and not yet written.
#[derive(Debug)]
pub struct Failed<'a> {
    job: &'a Job,
    attempt: i32,
    failures: i32,
    /// State and time of its next life; a dead one has none.
    again: Option<(State, Micros)>,
    error: Option<Flat>,
}

impl Failed<'_> {
    /// The group that it holds until its next try.
    pub fn holds(&self) -> Option<&str> {
        self.again.and(self.job.group.as_deref())
    }

    fn word(&self) -> Word {
        self.again.map_or(Outcome::Dead.word(), |(state, _)| state.word())
    }
}

/// Writes the next life of `job`, which this transaction has taken, after its present attempt failed.
pub fn failed(job: &Job, error: &Caught, how: &Failure) -> Result<Word> {
    let failed = judged(job, error, how);
    let word = failed.word();
    write(&[failed])?;
    Ok(word)
}

/// The judgement alone, with its line in the log; `write` follows before the transaction ends.
pub fn judged<'a>(job: &'a Job, error: &Caught, how: &Failure) -> Failed<'a> {
    let defaults = Retry { max_attempts: settings::max_attempts(), backoff: settings::backoff() };
    let retry = options::retry(job.max_attempts, &how.places, defaults);
    let attempt = job.current_attempt();
    let tally = Tally { attempt, failures: job.failures, max_attempts: retry.max_attempts };
    let kept = as_json(error);
    at_commit::call_at_commit(names::hash(&job.queue));
    let Verdict::Retry { counted } = judge(tally, &error.sqlstate, how.permanent, FREE_RETRIES) else {
        numbers::changed(&job.queue, Fact::Failed, 1);
        log::job_failed(job.id, &job.queue, attempt, error, "dead");
        return Failed { job, attempt, failures: job.failures.saturating_add(1), again: None, error: kept };
    };
    let now = Micros(clock::now());
    let noise = u64::try_from(now.0).unwrap_or(0) ^ u64::try_from(job.id).unwrap_or(0).wrapping_mul(0x9e37_79b9);
    let failures = job.failures.saturating_add(i32::from(counted));
    let wait = how.retry_in.unwrap_or_else(|| {
        if counted {
            retry.backoff.wait(failures, noise)
        } else {
            free_wait(attempt - failures, noise)
        }
    });
    let state = if wait <= Span::ZERO { State::Ready } else { State::Scheduled };
    if state == State::Ready {
        at_commit::give_back(names::hash(&job.queue), job.id);
    }
    numbers::changed(&job.queue, Fact::Failed, i64::from(counted));
    let next = format!("{failures} of {} failures, next try in {} ms", retry.max_attempts, wait.as_millis());
    if counted {
        log::job_failed(job.id, &job.queue, attempt, error, &next);
    } else {
        log::job_conflicted(job.id, &job.queue, attempt, error);
    }
    Failed { job, attempt, failures, again: Some((state, now.after(wait))), error: kept }
}

/// Writes the next lives of jobs that failed in this transaction: all of a kind at once, because to open a table for a
/// row takes longer than the row.
pub fn write(failed: &[Failed<'_>]) -> Result<()> {
    let (mut dead, mut again) = (Vec::new(), Vec::new());
    for Failed { job, attempt, failures, again: next, error } in failed {
        let (attempt, failures, error) = (*attempt, *failures, error.as_ref());
        match *next {
            Some((state, execute_at)) => again.push((*job, Return { state, execute_at, attempt, failures, error })),
            None => dead.push((*job, End { outcome: Outcome::Dead, attempt, failures, result: None, error })),
        }
    }
    bury(&dead)?;
    finish::put_back_all(&again)
}

/// Keeps dead jobs, and tells whoever their handlers name.
fn bury(dead: &[(&Job, End<'_>)]) -> Result<()> {
    finish::keep_all(dead)?;
    followup::dead(dead)
}

/// The process that ran `job`, which this transaction has taken, died while the job ran alone: with the server, or by
/// itself. Counted among the crashes and not among the failures; runs alone from now on, after the ordinary wait.
pub fn crashed(job: Job, server: bool) -> Result<Word> {
    let attempt = job.current_attempt();
    let job = job.crashed();
    let (n, most) = (job.crashes, settings::max_crashes());
    let (code, what) = if server { ("57P02", "crashed the server") } else { ("57P01", "ended its worker with FATAL") };
    let message = format!("{what} {n} {}", if n == 1 { "time" } else { "times" });
    let error = Caught {
        hint: Some(format!("The server's log says how. Mend the handler, then: SELECT pgq.retry({});", job.id)),
        ..Caught::new(code, message)
    };
    let kept = as_json(&error);
    let failures = job.failures;
    at_commit::call_at_commit(names::hash(&job.queue));
    numbers::changed(&job.queue, Fact::Failed, 1);
    if n >= most {
        let end = End { outcome: Outcome::Dead, attempt, failures, result: None, error: kept.as_ref() };
        bury(&[(&job, end)])?;
        log::job_failed(job.id, &job.queue, attempt, &error, "dead");
        return Ok(Outcome::Dead.word());
    }
    let now = Micros(clock::now());
    let wait = settings::backoff().wait(n, u64::try_from(now.0).unwrap_or(0));
    let state = if wait <= Span::ZERO { State::Ready } else { State::Scheduled };
    let how = Return { state, execute_at: now.after(wait), attempt, failures, error: kept.as_ref() };
    finish::put_back(&job, &how)?;
    let next = format!("{n} of {most} crashes, runs alone in {} ms", wait.as_millis());
    log::job_failed(job.id, &job.queue, attempt, &error, &next);
    Ok(state.word())
}

/// A lease ended before its holder said anything: counted, and ready again at once (or dead).
pub fn lease_ended(job: &Job, queue: RetryOptions) -> Result<Word> {
    let handler = registry::find(&job.queue, job.task.as_deref())?.map_or_else(Default::default, |h| h.retry[0]);
    let how = Failure { places: [handler, queue], permanent: false, retry_in: Some(Span::ZERO) };
    failed(job, &Caught::new("57014", "the lease ended"), &how)
}

/// An error's text as jsonb can hold it: recording a failure must not fail over a character.
fn storable(text: &str) -> String {
    text.replace('\0', "")
}

/// An error as the tables keep it.
pub fn as_json(error: &Caught) -> Option<Flat> {
    let mut map = serde_json::Map::new();
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            map.insert(name.into(), storable(value).into());
        }
    };
    add("sqlstate", Some(&error.sqlstate));
    add("message", Some(&error.message));
    add("detail", error.detail.as_deref());
    add("hint", error.hint.as_deref());
    add("context", error.context.as_deref());
    Flat::jsonb(&serde_json::Value::Object(map).to_string())
}
