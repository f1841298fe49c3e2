//! The next life of a job that was taken: back into the table, or among the finished ones.
//!
//! Every change of state is "take the row, then write it anew": the states are index predicates, so an
//! UPDATE would be no cheaper, and one pair of tables serves executors, clients and people.

use std::collections::HashSet;

use crate::engine::deltas::Fact;
use crate::engine::state::{Outcome, State};
use crate::engine::time::Micros;
use crate::error::Result;
use crate::pg::datum::Flat;
use crate::pg::insert::Table;
use crate::pg::scan::Field;
use crate::pg::spi::{Arg, Type};
use crate::store::row::Job;
use crate::store::{after, key, numbers};

/// All columns, as they are in a row of it. Waits for nobody: the row of this id was deleted by this very transaction.
static JOBS: Table = Table::new(
    c"job",
    "id",
    &[
        ("id", Type::Bigint),
        ("queue", Type::Text),
        ("task", Type::Text),
        ("args", Type::Jsonb),
        ("priority", Type::Int),
        ("execute_at", Type::Time),
        ("created_at", Type::Time),
        ("state", Type::Text),
        ("attempt", Type::Int),
        ("failures", Type::Int),
        ("max_attempts", Type::Int),
        ("key", Type::Text),
        ("crashes", Type::Int),
        ("error", Type::Jsonb),
        ("quarantined", Type::Bool),
        ("group_key", Type::Text),
        ("flow", Type::Bigint),
        ("parents", Type::Int),
        ("has_children", Type::Bool),
    ],
);

/// Waits for nobody: an id is in one of the two tables at a time. finished_at is the table's default.
static FINISHED: Table = Table::new(
    c"finished_job",
    "id",
    &[
        ("id", Type::Bigint),
        ("queue", Type::Text),
        ("task", Type::Text),
        ("args", Type::Jsonb),
        ("priority", Type::Int),
        ("created_at", Type::Time),
        ("attempt", Type::Int),
        ("failures", Type::Int),
        ("max_attempts", Type::Int),
        ("key", Type::Text),
        ("crashes", Type::Int),
        ("outcome", Type::Text),
        ("result", Type::Jsonb),
        ("error", Type::Jsonb),
        ("group_key", Type::Text),
        ("flow", Type::Bigint),
    ],
);

/// How a job goes back.
#[derive(Debug, Clone, Copy)]
pub struct Return<'a> {
    /// Ready or Scheduled.
    pub state: State,
    /// When it is due.
    pub execute_at: Micros,
    /// Attempts made.
    pub attempt: i32,
    /// Failures counted.
    pub failures: i32,
    /// Its failure; `None` keeps the earlier one.
    pub error: Option<&'a Flat>,
}

/// Puts a taken job back. It loses its key when another waits with it. Quarantine ends with an attempt, unless crashes
/// were counted.
pub fn put_back(job: &Job, how: &Return<'_>) -> Result<()> {
    put_back_all(&[(job, *how)])
}

/// Puts taken jobs back, each as `put_back`.
pub fn put_back_all(jobs: &[(&Job, Return<'_>)]) -> Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    // Asked before the table is open: it is a statement.
    let mut back = HashSet::new();
    let mut keeps_key = |job: &Job| match &job.key {
        // Of those that come back together one keeps it.
        Some(key) => Ok(back.insert((job.queue.clone(), key.clone())) && key::may_return(&job.queue, key)?),
        None => Ok(false),
    };
    let keep: Vec<bool> = jobs.iter().map(|(job, _)| keeps_key(job)).collect::<Result<_>>()?;
    JOBS.insert(|rows| {
        for ((job, how), keep) in jobs.iter().zip(&keep) {
            let old = |field| Arg::Column(&job.row, field);
            rows.add(&[
                Arg::Bigint(job.id),
                old(Field::Queue),
                old(Field::Task),
                Arg::Flat(&job.args),
                Arg::Int(job.priority),
                Arg::Time(how.execute_at.0),
                old(Field::CreatedAt),
                Arg::Text(how.state.word()),
                Arg::Int(how.attempt),
                Arg::Int(how.failures),
                Arg::int(job.max_attempts),
                if *keep { old(Field::Key) } else { Arg::Null },
                Arg::Int(job.crashes),
                how.error.map_or(old(Field::Error), Arg::Flat),
                Arg::Bool(job.is_quarantined && (job.crashes > 0 || how.attempt == job.attempt)),
                old(Field::GroupKey),
                old(Field::Flow),
                Arg::Int(job.parents),
                Arg::Bool(job.has_children),
            ]);
        }
        Ok(())
    })?;
    for (job, how) in jobs {
        numbers::changed(&job.queue, Fact::Live(how.state), 1);
    }
    Ok(())
}

/// Puts taken jobs back as they were. One with a key loses it when another waits with it.
pub fn give_back<'a>(jobs: impl Iterator<Item = &'a Job>) -> Result<()> {
    let (keyed, plain): (Vec<&Job>, Vec<&Job>) = jobs.partition(|job| job.key.is_some());
    if !plain.is_empty() {
        JOBS.insert(|rows| {
            for job in &plain {
                rows.add(&Field::ALL.map(|field| Arg::Column(&job.row, field)));
            }
            Ok(())
        })?;
        for job in plain {
            numbers::changed(&job.queue, Fact::Live(job.state), 1);
        }
    }
    for job in keyed {
        let (attempt, failures) = (job.attempt, job.failures);
        put_back(job, &Return { state: job.state, execute_at: job.execute_at, attempt, failures, error: None })?;
    }
    Ok(())
}

/// Keeps a set of a queue's jobs as done, without results.
pub fn keep_set(queue: &str, claimed_rows: &[&Flat]) -> Result<()> {
    FINISHED.insert(|rows| {
        for row in claimed_rows {
            let old = |field| Arg::Column(row, field);
            rows.add(&[
                old(Field::Id),
                old(Field::Queue),
                old(Field::Task),
                old(Field::Args),
                old(Field::Priority),
                old(Field::CreatedAt),
                old(Field::Attempt),
                old(Field::Failures),
                old(Field::MaxAttempts),
                old(Field::Key),
                old(Field::Crashes),
                Arg::Text(Outcome::Done.word()),
                Arg::Null,
                old(Field::Error),
                old(Field::GroupKey),
                old(Field::Flow),
            ]);
        }
        Ok(())
    })?;
    numbers::changed_by(queue, Fact::kept(Outcome::Done), claimed_rows.len());
    Ok(())
}

/// How a job ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// What became of it.
    pub outcome: Outcome,
    /// The last attempt.
    pub attempt: i32,
    /// Failures counted.
    pub failures: i32,
    /// What the handler returned.
    pub result: Option<&'a Flat>,
    /// Why it failed.
    pub error: Option<&'a Flat>,
}

/// Keeps a taken job among the finished ones.
pub fn keep(job: &Job, end: &End<'_>) -> Result<()> {
    keep_all(&[(job, *end)])
}

/// Keeps taken jobs among the finished ones.
pub fn keep_all(jobs: &[(&Job, End<'_>)]) -> Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    FINISHED.insert(|rows| {
        for (job, end) in jobs {
            let old = |field| Arg::Column(&job.row, field);
            rows.add(&[
                Arg::Bigint(job.id),
                old(Field::Queue),
                old(Field::Task),
                Arg::Flat(&job.args),
                Arg::Int(job.priority),
                old(Field::CreatedAt),
                Arg::Int(end.attempt),
                Arg::Int(end.failures),
                Arg::int(job.max_attempts),
                old(Field::Key),
                Arg::Int(job.crashes),
                Arg::Text(end.outcome.word()),
                Arg::flat(end.result),
                end.error.map_or(old(Field::Error), Arg::Flat),
                old(Field::GroupKey),
                old(Field::Flow),
            ]);
        }
        Ok(())
    })?;
    for (job, end) in jobs {
        numbers::changed(&job.queue, Fact::kept(end.outcome), 1);
    }
    // Of done ones, which are not always kept, tells whoever ran them.
    after::ended(jobs.iter().map(|(job, end)| (*job, end.outcome)).filter(|end| end.1 != Outcome::Done))
}
