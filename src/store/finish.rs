//! The next life of a job that was taken: back into the table, or among the finished ones.
//!
//! Every change of state is "take the row, then write it anew": the states are index predicates, so an
//! UPDATE would be no cheaper, and one pair of statements serves executors, clients and people.

use crate::engine::deltas::Fact;
use crate::engine::state::{Outcome, State};
use crate::engine::time::Micros;
use crate::error::Result;
use crate::pg::datum::Flat;
use crate::pg::spi::{Arg, Statement, Type};
use crate::store::row::Job;
use crate::store::{key, numbers};

/// Waits for nobody: the row of this id was deleted by this very transaction. Quarantine ends with an attempt, unless
/// crashes were counted.
static PUT_BACK: Statement = Statement::new(
    "INSERT INTO pgq.job (id, queue, task, args, priority, execute_at, created_at, state, attempt, failures,
                          max_attempts, key, crashes, error, quarantined)
     SELECT ($1).id, ($1).queue, ($1).task, ($1).args, ($1).priority, $2, ($1).created_at, $3, $4, $5,
            ($1).max_attempts, $6, ($1).crashes, COALESCE($7, ($1).error),
            ($1).quarantined AND (($1).crashes > 0 OR $4 = ($1).attempt)",
    &[Type::Job, Type::Time, Type::Text, Type::Int, Type::Int, Type::Text, Type::Jsonb],
);

/// How a job goes back.
#[derive(Debug)]
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

/// Puts a taken job back. It loses its key when another waits with it.
pub fn put_back(job: &Job, how: &Return<'_>) -> Result<()> {
    let key = match &job.key {
        Some(key) if key::may_return(&job.queue, key)? => Some(key.as_str()),
        _ => None,
    };
    let args = [
        Arg::Flat(&job.row),
        Arg::Time(how.execute_at.0),
        Arg::Text(how.state.word()),
        Arg::Int(how.attempt),
        Arg::Int(how.failures),
        Arg::text(key),
        Arg::flat(how.error),
    ];
    PUT_BACK.run(&args)?;
    numbers::changed(&job.queue, Fact::Live(how.state), 1);
    Ok(())
}

/// Many at once, as they were; waits as PUT_BACK.
static GIVE_BACK: Statement =
    Statement::new("INSERT INTO pgq.job SELECT r.* FROM pg_catalog.unnest($1) AS r", &[Type::Jobs]);

/// Puts taken jobs back as they were. One with a key loses it when another waits with it.
pub fn give_back(jobs: &[Job]) -> Result<()> {
    let (keyed, plain): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| job.key.is_some());
    let rows: Vec<&Flat> = plain.iter().map(|job| job.row.as_ref()).collect();
    if !rows.is_empty() {
        GIVE_BACK.run(&[Arg::Rows(&rows)])?;
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

/// Waits for nobody: an id is in one of the two tables at a time.
static KEEP: Statement = Statement::new(
    "INSERT INTO pgq.finished_job (id, queue, task, args, priority, created_at, attempt, failures, max_attempts, key,
                                   crashes, outcome, result, error)
     SELECT ($1).id, ($1).queue, ($1).task, ($1).args, ($1).priority, ($1).created_at, $2, $3, ($1).max_attempts,
            ($1).key, ($1).crashes, $4, $5, COALESCE($6, ($1).error)",
    &[Type::Job, Type::Int, Type::Int, Type::Text, Type::Jsonb, Type::Jsonb],
);

/// As KEEP, for jobs that were done together; $1 are their rows with the attempt that was made.
static KEEP_SET: Statement = Statement::new(
    "INSERT INTO pgq.finished_job (id, queue, task, args, priority, created_at, attempt, failures, max_attempts, key,
                                   crashes, outcome, error)
     SELECT r.id, r.queue, r.task, r.args, r.priority, r.created_at, r.attempt, r.failures, r.max_attempts, r.key,
            r.crashes, 'done', r.error
       FROM pg_catalog.unnest($1) AS r",
    &[Type::Jobs],
);

/// Keeps a set of a queue's jobs as done, without results.
pub fn keep_set(queue: &str, claimed_rows: &[&Flat]) -> Result<()> {
    KEEP_SET.run(&[Arg::Rows(claimed_rows)])?;
    numbers::changed_by(queue, Fact::kept(Outcome::Done), claimed_rows.len());
    Ok(())
}

/// How a job ended.
#[derive(Debug)]
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
    let args = [
        Arg::Flat(&job.row),
        Arg::Int(end.attempt),
        Arg::Int(end.failures),
        Arg::Text(end.outcome.word()),
        Arg::flat(end.result),
        Arg::flat(end.error),
    ];
    KEEP.run(&args)?;
    numbers::changed(&job.queue, Fact::kept(end.outcome), 1);
    Ok(())
}
