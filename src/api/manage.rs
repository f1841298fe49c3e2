//! What a person does to queues and jobs: pause, resume, cancel, retry, redrive, purge, start.
//!
//! None of these waits for a running job: a row that a worker has is skipped, and the answer says so.

use std::sync::atomic::Ordering::SeqCst;

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use super::{check, rights, runner};
use crate::engine::access::Access;
use crate::engine::names;
use crate::engine::state::{Outcome, State};
use crate::engine::time::Micros;
use crate::error::{Error, Result};
use crate::pg::latch::{self, Signal};
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::{at_commit, clock};
use crate::store::finish::{self, End, Return};
use crate::store::row::Job;
use crate::store::{claim, groups, history, registry};

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// One queue, or all of the database.
fn need_admin(queue: Option<&str>) -> Result<()> {
    match queue {
        Some(queue) => rights::need(Access::Admin, check::queue(Some(queue))?),
        None => rights::need_all(Access::Admin),
    }
}

#[pg_extern(sql = false)]
fn pause(queue: Option<Text>) -> std::result::Result<i64, ErrorReport> {
    let queue = queue.as_deref();
    need_admin(queue)?;
    Ok(count(registry::pause(queue)?))
}

#[pg_extern(sql = false)]
fn resume(queue: Option<Text>) -> std::result::Result<i64, ErrorReport> {
    let queue = queue.as_deref();
    need_admin(queue)?;
    let resumed = registry::resume(queue)?;
    for queue in &resumed {
        at_commit::touch(names::hash(queue));
    }
    Ok(count(resumed.len()))
}

/// What became of a cancel.
const RUNNING: &str = "running";

#[pg_extern(sql = false)]
fn cancel(id: Option<i64>, force: Option<bool>) -> std::result::Result<Option<String>, ErrorReport> {
    let done = cancelled(check::given("id", id)?, force.unwrap_or(false))?.map(Into::into);
    groups::pass_on()?;
    Ok(done)
}

fn cancelled(id: i64, force: bool) -> Result<Option<&'static str>> {
    let Some(seen) = claim::look(id)? else { return Ok(None) };
    if !rights::reach(&[Access::Admin], &seen.job.queue)? {
        return Ok(None);
    }
    if seen.job.state == State::Leased {
        // Looked at only: a row that this transaction touched would refuse its holder's complete until we commit.
        if !force {
            return Ok(Some(State::Leased.word()));
        }
        // A procedure of ours: its executor finds the cancel and buries the job itself.
        if interrupt(id)? {
            return Ok(Some(RUNNING));
        }
    }
    let Some(job) = claim::take_one(id)? else {
        if force {
            interrupt(id)?;
        }
        return Ok(claim::look(id)?.map(|_| RUNNING));
    };
    // Leased since we looked.
    if job.state == State::Leased && !force {
        give_back(&job)?;
        return Ok(Some(State::Leased.word()));
    }
    let failures = job.failures;
    let end = End { outcome: Outcome::Cancelled, attempt: job.attempt, failures, result: None, error: None };
    finish::keep(&job, &end)?;
    Ok(Some(Outcome::Cancelled.word()))
}

/// Puts a row back exactly as it was.
fn give_back(job: &Job) -> Result<()> {
    let how = Return {
        state: job.state,
        execute_at: job.execute_at,
        attempt: job.attempt,
        failures: job.failures,
        error: None,
    };
    finish::put_back(job, &how)
}

/// Asks the executor that runs the job to interrupt it; does one run it?
fn interrupt(id: i64) -> Result<bool> {
    let running = || claim::look(id)?.map_or(Ok(None), |seen| runner::executor(&seen));
    let Some(slot) = running()? else { return Ok(false) };
    slot.cancel.store(id, SeqCst);
    // Again: it may have gone on to another job before it could see the cancel.
    if slot.job.load(SeqCst) == id || running()?.is_some_and(|still| std::ptr::eq(still, slot)) {
        latch::signal(slot.place.pid.load(SeqCst), Signal::Cancel);
    }
    Ok(true)
}

#[pg_extern(sql = false)]
fn retry(id: Option<i64>, execute_at: Option<TimestampWithTimeZone>) -> std::result::Result<bool, ErrorReport> {
    let id = check::given("id", id)?;
    let (due, state) = check::due(execute_at, None)?;
    if let Some(seen) = claim::look(id)? {
        if !rights::reach(&[Access::Admin], &seen.job.queue)? {
            return Ok(false);
        }
        // One that waits for others keeps its place.
        if matches!(seen.job.state, State::Leased | State::Waiting) {
            return Ok(false);
        }
        let Some(job) = claim::take_one(id)? else { return Ok(false) };
        let (attempt, failures) = (job.attempt, job.failures);
        finish::put_back(&job, &Return { state, execute_at: due, attempt, failures, error: None })?;
        at_commit::touch(names::hash(&job.queue));
        groups::pass_on()?;
        return Ok(true);
    }
    match history::look(id)? {
        Some(finished) if rights::reach(&[Access::Admin], &finished.queue)? => {}
        _ => return Ok(false),
    }
    match history::retry(id, due.0, state)? {
        Some(queue) => {
            at_commit::touch(names::hash(&queue));
            Ok(true)
        }
        None => Ok(false),
    }
}

#[pg_extern(sql = false)]
fn redrive(queue: Option<Text>, n: Option<i32>) -> std::result::Result<i64, ErrorReport> {
    let queue = queue.as_deref();
    let queue = check::queue(queue)?;
    rights::need(Access::Admin, queue)?;
    let most = check::at_least_one("n", n)?.map_or(i64::MAX, i64::from);
    let moved = history::redrive(queue, most, clock::now())?;
    if moved > 0 {
        at_commit::touch(names::hash(queue));
    }
    Ok(count(moved))
}

#[pg_extern(sql = false)]
fn purge(
    queue: Option<Text>,
    state: Option<Text>,
    older_than: Option<Interval>,
) -> std::result::Result<i64, ErrorReport> {
    let queue = queue.as_deref();
    let state = state.as_deref();
    let queue = check::queue(queue)?;
    rights::need(Access::Admin, queue)?;
    let state = check::given("state", state)?;
    let age = older_than.map(|i| check::not_negative("older_than", i)).transpose()?.unwrap_or_default();
    let before = Micros(clock::now().saturating_sub(age.0));
    let gone = match (State::parse(state), Outcome::parse(state)) {
        (Some(waiting @ (State::Ready | State::Scheduled | State::Waiting)), _) => {
            history::purge_waiting(queue, waiting, before.0)?
        }
        (_, Some(_)) => history::purge(queue, state, before.0)?,
        _ => {
            return Err(Error::argument(
                format!("cannot purge jobs in state \"{state}\""),
                "state is 'ready', 'scheduled', 'waiting', 'done', 'dead' or 'cancelled'.",
            )
            .into())
        }
    };
    groups::pass_on()?;
    Ok(count(gone))
}

#[pg_extern(sql = false)]
fn start() -> std::result::Result<bool, ErrorReport> {
    rights::need_some(&Access::ALL, None)?;
    let started = at_commit::ensure_workers();
    at_commit::touch(names::hash("pgq.start"));
    Ok(started)
}

#[pg_extern(sql = false)]
fn version() -> std::result::Result<&'static str, ErrorReport> {
    rights::need_some(&Access::ALL, None)?;
    Ok(env!("CARGO_PKG_VERSION"))
}
