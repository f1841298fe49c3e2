//! wait and waiting: what became of a job, and why it does not run.

use std::sync::atomic::Ordering::SeqCst;

use pgrx::datum::Interval;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::{check, rights, runner};
use crate::engine::access::Access;
use crate::engine::parking::Reason;
use crate::engine::state::State;
use crate::engine::time::{Micros, Span};
use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::{at_commit, clock, database, durable, latch, shmem, tamper, xact};
use crate::settings;
use crate::store::row::Job;
use crate::store::{after, claim, groups, history, parking, registry};

/// The first look again, then twice as long each time, up to the last.
const FIRST_LOOK: Span = Span::from_millis(2);
const LAST_LOOK: Span = Span::from_millis(50);

/// Who may see what became of a job, with its result and error.
const SHOWN: [Access; 2] = [Access::Produce, Access::Consume];

struct Answer {
    state: String,
    result: Option<Flat>,
    error: Option<Flat>,
    attempt: Option<i32>,
    live: bool,
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn wait(
    id: Option<i64>,
    timeout: Option<Interval>,
) -> std::result::Result<
    TableIterator<
        'static,
        (name!(state, String), name!(result, Option<Flat>), name!(error, Option<Flat>), name!(attempt, Option<i32>)),
    >,
    ErrorReport,
> {
    let id = check::given("id", id)?;
    let limit = match timeout {
        Some(timeout) => check::not_negative("timeout", timeout)?,
        None => Span::from_millis(30_000),
    };
    if xact::isolation_is_strict() {
        return Err(Error::state(
            "cannot wait for a job in a transaction that sees one moment only",
            "COMMIT, then SELECT * FROM pgq.wait(...) at READ COMMITTED.",
        )
        .into());
    }
    let until = Micros(clock::now()).after(limit);
    let mut pause = FIRST_LOOK;
    let answer = loop {
        let answer = look(id)?;
        if !answer.live {
            durable::settle_all();
            break answer;
        }
        let now = Micros(clock::now());
        if now >= until {
            break answer;
        }
        latch::wait(pause.min(until.since(now)).as_millis());
        latch::reset();
        pause = pause.times(2).min(LAST_LOOK);
    };
    Ok(TableIterator::once((answer.state, answer.result, answer.error, answer.attempt)))
}

fn look(id: i64) -> Result<Answer> {
    if let Some(seen) = claim::look(id)? {
        if seen.own {
            return Err(Error::state(
                format!("job {id} was put by this transaction and cannot run before it commits"),
                format!("COMMIT, then SELECT * FROM pgq.wait({id})."),
            ));
        }
        if !rights::reach(&SHOWN, &seen.job.queue)? {
            return Ok(gone());
        }
        let running = runner::executor(&seen)?.is_some();
        let state = if running { "running" } else { seen.job.state.word() };
        return Ok(Answer {
            state: state.into(),
            result: None,
            error: seen.error,
            attempt: Some(seen.job.attempt),
            live: true,
        });
    }
    // Gone from the live jobs before it is among the finished ones would need two commits: there is one.
    Ok(match history::look(id)? {
        Some(f) if !rights::reach(&SHOWN, &f.queue)? => gone(),
        Some(f) => Answer { state: f.outcome, result: f.result, error: f.error, attempt: Some(f.attempt), live: false },
        None => gone(),
    })
}

/// Finished and not kept, never put, or none of the caller's business.
fn gone() -> Answer {
    Answer { state: "gone".into(), result: None, error: None, attempt: None, live: false }
}

/// waiting's word for a job that is not there.
const UNKNOWN: &str = "it does not wait: finished and not kept, or never put";

#[pg_extern(sql = false)]
fn waiting(id: Option<i64>) -> std::result::Result<Text, ErrorReport> {
    let id = check::given("id", id)?;
    match claim::look(id)? {
        Some(seen) if rights::reach(&rights::COUNTS, &seen.job.queue)? => return Ok(reason(&seen)?.into()),
        Some(_) => return Ok(UNKNOWN.to_owned().into()),
        None => {}
    }
    let answer = match history::look(id)? {
        Some(finished) if rights::reach(&rights::COUNTS, &finished.queue)? => {
            format!("it does not wait: {}", finished.outcome)
        }
        _ => UNKNOWN.into(),
    };
    Ok(answer.into())
}

/// Who comes before a job: those it comes after, or one of its group.
fn behind(job: &Job) -> Result<Option<String>> {
    if let Some(parents) = after_others(job)? {
        return Ok(Some(parents));
    }
    let Some(group) = &job.group else { return Ok(None) };
    let Some(first) = groups::holder(&job.queue, group, job.id)? else { return Ok(None) };
    let Some(seen) = claim::look(first)? else { return Ok(None) };
    let attempt = seen.job.current_attempt();
    let how = match runner::executor(&seen)? {
        Some(slot) => format!("running in process {}", slot.place.pid.load(SeqCst)),
        None => match seen.job.state {
            State::Scheduled if seen.job.attempt > 0 => format!("next try at {}", clock::text(seen.job.execute_at.0)),
            State::Scheduled => format!("delayed until {}", clock::text(seen.job.execute_at.0)),
            State::Leased => format!("leased until {}", clock::text(seen.job.execute_at.0)),
            State::Ready | State::Waiting => seen.job.state.word().into(),
        },
    };
    Ok(Some(format!("group \"{group}\" is held by job {first}, attempt {attempt}, {how}")))
}

/// The most of the jobs before one that are named.
const NAMED: i64 = 3;

/// Which jobs, that have not ended, a job comes after.
fn after_others(job: &Job) -> Result<Option<String>> {
    let first = match job.parents {
        0 => return Ok(None),
        _ => after::before(job.id, NAMED)?,
    };
    let words: Vec<String> = first.iter().map(i64::to_string).collect();
    let more = if i64::from(job.parents) > NAMED { ", …" } else { "" };
    Ok(Some(match (job.parents, words.join(", ")) {
        (_, names) if names.is_empty() => "the jobs that it comes after have just ended".into(),
        (1, name) => format!("it comes after job {name}, which has not ended"),
        (n, names) => format!("it comes after {n} jobs that have not ended: {names}{more}"),
    }))
}

/// What its state says, where that is all there is to say.
fn state_of(seen: &claim::Seen) -> Result<Option<String>> {
    if let Some(slot) = runner::executor(seen)? {
        return Ok(Some(format!("running in process {}", slot.place.pid.load(SeqCst))));
    }
    let at = clock::text(seen.job.execute_at.0);
    Ok(Some(match seen.job.state {
        State::Leased => format!("leased until {at}, attempt {}", seen.job.attempt),
        State::Scheduled if seen.job.crashes > 0 => {
            let (crashes, failures) = (seen.job.crashes, seen.job.failures);
            format!("retry alone at {at}, after {crashes} crashes and {failures} failures")
        }
        State::Scheduled if seen.job.attempt > 0 => format!("retry at {at}, after {} failures", seen.job.failures),
        State::Scheduled => format!("delayed until {at}"),
        State::Waiting | State::Ready => return behind(&seen.job),
    }))
}

fn reason(seen: &claim::Seen) -> Result<String> {
    if let Some(words) = state_of(seen)? {
        return Ok(words);
    }
    let queue = &seen.job.queue;
    if registry::setting(queue)?.paused {
        return Ok(format!("queue \"{queue}\" is paused: SELECT pgq.resume('{queue}')"));
    }
    if let Some(changed) = tamper::summary()? {
        return Ok(changed);
    }
    let Some(handler) = registry::find(queue, seen.job.task.as_deref())? else {
        let what = match &seen.job.task {
            Some(task) => format!("task \"{task}\" of queue \"{queue}\""),
            None => format!("queue \"{queue}\""),
        };
        return Ok(format!("{what} has no handler here: it waits for pgq.register or for pgq.claim"));
    };
    if handler.is_held {
        return Ok(format!("its handler is {}", Reason::Held));
    }
    if let Some(parked) = parking::why(&handler, settings::allow_superuser_handlers()) {
        return Ok(format!("its handler is parked: {parked}"));
    }
    Ok(no_worker().unwrap_or_else(|| "ready: its turn comes next".into()))
}

/// Why no worker of this server runs it.
fn no_worker() -> Option<String> {
    if !settings::enabled() {
        return Some("workers are switched off: pgq.enabled = off".into());
    }
    if xact::in_recovery() {
        return Some("this server is a standby: jobs run after its promotion".into());
    }
    if !database::is_open() {
        return Some("this database is a template or takes no sessions: its jobs do not run".into());
    }
    if !at_commit::ensure_workers() {
        return Some("no worker can be started: raise max_worker_processes".into());
    }
    if let Some(since) = shmem::shared().and_then(|s| s.shortage.since(clock::now())) {
        let since = clock::text(since);
        return Some(format!("no worker slot of the server is free since {since}: raise max_worker_processes"));
    }
    let room = shmem::shared().map_or(0, |s| s.room(settings::max_workers()));
    if room == 0 {
        return Some(format!("no free worker: all {} of pgq.max_workers are taken", settings::max_workers()));
    }
    None
}
