//! For workers outside: claim, complete, fail, extend, release.

use std::cell::Cell;

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::SetOfIterator;
use pgrx::prelude::*;

use super::{check, rights};
use crate::engine::access::Access;
use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::options::MAX_CLAIM;
use crate::engine::state::{Outcome, State};
use crate::engine::time::{Micros, Span};
use crate::error::{Error, Result};
use crate::outcome::{self, Failure};
use crate::pg::datum::Flat;
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::xact::Caught;
use crate::pg::{at_commit, clock, log, xact};
use crate::settings;
use crate::store::finish::{self, End, Return};
use crate::store::row::Job;
use crate::store::{after, claim, followup, groups, numbers, promote, registry, settle};

thread_local! {
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

/// The most jobs that a claim promotes itself when there is no scheduler.
const PORTION: i64 = 1_000;

#[pg_extern(sql = false)]
fn claim(
    queue: Option<Text>,
    n: Option<i32>,
    lease: Option<Interval>,
    queues: Option<Vec<Option<Text>>>,
    tasks: Option<Vec<Option<Text>>>,
) -> std::result::Result<SetOfIterator<'static, Flat>, ErrorReport> {
    let queues = queues_of(queue.as_deref(), queues.map(plain))?;
    let tasks = tasks.map(plain);
    for queue in &queues {
        rights::need(Access::Consume, queue)?;
    }
    if let Some(tasks) = &tasks {
        for task in tasks {
            check::task(Some(check::given("tasks", task.as_deref())?))?;
        }
    }
    let n = n.unwrap_or(1);
    if !(1..=MAX_CLAIM).contains(&n) {
        return Err(Error::argument(format!("\"n\" must be between 1 and {MAX_CLAIM}"), "n => 10").into());
    }
    let now = Micros(clock::now());
    let until = match lease {
        Some(lease) => Some(now.after(check::positive("lease", lease)?)),
        None => None,
    };
    let mut taken: Vec<Job> = Vec::new();
    let looked_after = settings::enabled() && at_commit::ensure_workers();
    for queue in &queues {
        let left = i64::from(n) - i64::try_from(taken.len()).unwrap_or(0);
        if left <= 0 {
            break;
        }
        if !looked_after || !at_commit::has_scheduler() {
            promote_here(queue, now)?;
        }
        let jobs = claim::claim(queue, tasks.as_deref(), left, until)?;
        if until.is_none() {
            numbers::changed_by(queue, Fact::Done, jobs.len());
            after::ended(jobs.iter().map(|job| (job, Outcome::Done)))?;
            followup::done_outside(&jobs, None)?;
        }
        // A lease has an end that the scheduler must know.
        if until.is_some() && !jobs.is_empty() {
            at_commit::touch(names::hash(queue));
        }
        taken.extend(jobs);
    }
    if until.is_none() && !taken.is_empty() {
        warn_of_autocommit();
    }
    groups::pass_on()?;
    let rows: Vec<Flat> = taken.iter().map(Job::claimed_row).collect();
    Ok(SetOfIterator::new(rows))
}

/// Exactly one of the two.
fn plain(names: Vec<Option<Text>>) -> Vec<Option<String>> {
    names.into_iter().map(|name| name.map(|n| n.0)).collect()
}

fn queues_of(queue: Option<&str>, queues: Option<Vec<Option<String>>>) -> Result<Vec<String>> {
    match (queue, queues) {
        (Some(_), None) => Ok(vec![check::queue(queue)?.into()]),
        (None, Some(queues)) if !queues.is_empty() => {
            queues.iter().map(|q| check::queue(q.as_deref()).map(Into::into)).collect()
        }
        _ => Err(Error::argument(
            "exactly one of \"queue\" and \"queues\" must be given",
            "SELECT * FROM pgq.claim('mail', 10), or pgq.claim(queues => '{mail,push}').",
        )),
    }
}

/// Where no scheduler does it: due jobs become ready, leases that ended are given back.
fn promote_here(queue: &str, now: Micros) -> Result<()> {
    promote::promote(now, Some(queue), PORTION)?;
    let ended = promote::take_ended(now, Some(queue), PORTION)?;
    if !ended.is_empty() {
        let retry = registry::setting(queue)?.retry;
        for job in &ended {
            outcome::lease_ended(job, retry)?;
        }
    }
    settle_here()
}

/// The same for jobs whose parents have ended, in whichever queue.
fn settle_here() -> Result<()> {
    let any = settle::any()?;
    if (any.ends || any.outcomes || any.unsure) && settle::begin() {
        settle::read(PORTION)?;
        settle::find_unsure(PORTION)?;
        settle::settle(PORTION)?;
        groups::pass_on()?;
    }
    Ok(())
}

/// Without a lease, in autocommit, directly in the client's statement: the jobs are gone as it ends.
fn warn_of_autocommit() {
    let direct = xact::client_statement().is_some_and(|text| text.contains("claim"));
    if !xact::in_block() && direct && !WARNED.replace(true) {
        log::warn_client(
            "25P01",
            "claimed jobs were removed as the statement ended",
            "BEGIN first, or pass lease => '30 s'.",
        );
    }
}

#[pg_extern(sql = false)]
fn complete(id: Option<i64>, attempt: Option<i32>, result: Option<Flat>) -> std::result::Result<bool, ErrorReport> {
    let (id, attempt) = (check::given("id", id)?, check::given("attempt", attempt)?);
    let done = complete_one(id, attempt, result.as_ref())?;
    groups::pass_on()?;
    Ok(done)
}

fn complete_one(id: i64, attempt: i32, result: Option<&Flat>) -> Result<bool> {
    let Some(job) = claim::take_held(id, attempt, rights::consumable()?.as_deref())? else { return Ok(false) };
    numbers::changed(&job.queue, Fact::Done, 1);
    let setting = registry::setting(&job.queue)?;
    let keep = setting.keep_done.unwrap_or_else(settings::keep_done);
    if keep > Span::ZERO {
        let failures = job.failures;
        finish::keep(&job, &End { outcome: Outcome::Done, attempt, failures, result, error: None })?;
    }
    after::done(&job)?;
    if setting.tells {
        followup::done_outside(std::slice::from_ref(&job), result)?;
    }
    Ok(true)
}

#[pg_extern(sql = false)]
fn bulk_complete(
    ids: Option<Vec<Option<i64>>>,
    attempts: Option<Vec<Option<i32>>>,
) -> std::result::Result<SetOfIterator<'static, i64>, ErrorReport> {
    let (ids, attempts) = (check::given("ids", ids)?, check::given("attempts", attempts)?);
    if ids.len() != attempts.len() {
        return Err(Error::argument(
            format!("{} ids and {} attempts do not pair", ids.len(), attempts.len()),
            "Give one attempt per id: SELECT array_agg(id), array_agg(attempt) FROM the claimed jobs.",
        )
        .into());
    }
    let mut accepted = Vec::new();
    for (id, attempt) in ids.into_iter().zip(attempts) {
        let (id, attempt) = (check::given("ids", id)?, check::given("attempts", attempt)?);
        if complete_one(id, attempt, None)? {
            accepted.push(id);
        }
    }
    groups::pass_on()?;
    Ok(SetOfIterator::new(accepted))
}

#[pg_extern(sql = false)]
fn fail(
    id: Option<i64>,
    attempt: Option<i32>,
    error: Option<Text>,
    retry_in: Option<Interval>,
    permanent: Option<bool>,
) -> std::result::Result<Option<String>, ErrorReport> {
    let error = error.as_deref();
    let (id, attempt) = (check::given("id", id)?, check::given("attempt", attempt)?);
    let retry_in = retry_in.map(|i| check::not_negative("retry_in", i)).transpose()?;
    // With a lease it is held; after a claim that was rolled back it waits, and its next attempt is this one.
    let queues = rights::consumable()?;
    let job = match claim::take_held(id, attempt, queues.as_deref())? {
        Some(job) => job,
        None => match claim::take_waiting(id, attempt, queues.as_deref())? {
            Some(job) => job,
            None => return Ok(None),
        },
    };
    let places = registry::retry(&job.queue, job.task.as_deref())?;
    let how = Failure { places, permanent: permanent.unwrap_or(false), retry_in };
    let caught = Caught { message: error.unwrap_or("").into(), ..Caught::default() };
    let word = outcome::failed(&job, &caught, &how)?;
    groups::pass_on()?;
    Ok(Some(word.into()))
}

#[pg_extern(sql = false)]
fn extend(
    id: Option<i64>,
    attempt: Option<i32>,
    lease: Option<Interval>,
) -> std::result::Result<Option<TimestampWithTimeZone>, ErrorReport> {
    let (id, attempt) = (check::given("id", id)?, check::given("attempt", attempt)?);
    let until = Micros(clock::now()).after(check::positive("lease", check::given("lease", lease)?)?);
    let end = claim::extend(id, attempt, until, rights::consumable()?.as_deref())?;
    Ok(end.and_then(|at| TimestampWithTimeZone::try_from(at).ok()))
}

#[pg_extern(sql = false)]
fn release(id: Option<i64>, attempt: Option<i32>, delay: Option<Interval>) -> std::result::Result<bool, ErrorReport> {
    let (id, attempt) = (check::given("id", id)?, check::given("attempt", attempt)?);
    let (due, state) = check::due(None, delay)?;
    let Some(job) = claim::take_held(id, attempt, rights::consumable()?.as_deref())? else { return Ok(false) };
    let state = if state == State::Scheduled { State::Scheduled } else { State::Ready };
    let failures = job.failures;
    finish::put_back(&job, &Return { state, execute_at: due, attempt, failures, error: None })?;
    at_commit::touch(names::hash(&job.queue));
    groups::pass_on()?;
    Ok(true)
}
