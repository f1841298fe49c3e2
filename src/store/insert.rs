//! Putting jobs into the table.

use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::spi::{Arg, Statement, Type};

/// A job to be put. Checked by the caller.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its queue.
    pub queue: String,
    /// Its task.
    pub task: Option<String>,
    /// Its args.
    pub args: Flat,
    /// Larger first.
    pub priority: i32,
    /// When it is due.
    pub execute_at: i64,
    /// The word of its state: ready, or scheduled when it is not due yet.
    pub state: &'static str,
    /// Its key.
    pub key: Option<String>,
    /// Failures after which it is dead.
    pub max_attempts: Option<i32>,
}

/// Locks no row; waits for nobody (the only unique index is the primary key, and ids come from the sequence).
static PUT: Statement = Statement::new(
    "INSERT INTO pgq.job (queue, task, args, priority, execute_at, state, key, max_attempts)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
     RETURNING id",
    &[Type::Text, Type::Text, Type::Jsonb, Type::Int, Type::Time, Type::Text, Type::Text, Type::Int],
);

/// Puts one job; its id.
pub fn put(job: &NewJob) -> Result<i64> {
    let args = [
        Arg::Text(&job.queue),
        Arg::text(job.task.as_deref()),
        Arg::Flat(&job.args),
        Arg::Int(job.priority),
        Arg::Time(job.execute_at),
        Arg::Text(job.state),
        Arg::text(job.key.as_deref()),
        Arg::int(job.max_attempts),
    ];
    PUT.row(&args, |row| row.must(1))?.ok_or_else(|| Error::Internal("put returned no id".into()))
}

/// Many jobs that differ only in their args, ids in the order of the array: the sub-select is sorted before
/// the sequence is read. Locks and waits as PUT.
static BULK_PUT_ARGS: Statement = Statement::new(
    "INSERT INTO pgq.job (queue, task, args, priority, execute_at, state)
     SELECT $1, $2, a.args, $4, $5, $6
       FROM pg_catalog.unnest($3) WITH ORDINALITY AS a (args, place)
      ORDER BY a.place
     RETURNING id",
    &[Type::Text, Type::Text, Type::Jsonbs, Type::Int, Type::Time, Type::Text],
);

/// Puts one job per element of `args` (jsonb[]), the rest from `like`.
pub fn bulk_put_args(like: &NewJob, args: &Flat) -> Result<Vec<i64>> {
    let given = [
        Arg::Text(&like.queue),
        Arg::text(like.task.as_deref()),
        Arg::Flat(args),
        Arg::Int(like.priority),
        Arg::Time(like.execute_at),
        Arg::Text(like.state),
    ];
    BULK_PUT_ARGS.rows(&given, |row| row.must(1))
}

/// The largest element in bytes, and whether one is NULL. Touches no table.
static MEASURE: Statement = Statement::new(
    "SELECT pg_catalog.max(pg_catalog.pg_column_size(a))::bigint, pg_catalog.bool_or(a IS NULL)
       FROM pg_catalog.unnest($1) AS a",
    &[Type::Jsonbs],
);

/// (bytes of the largest, is one NULL) of a jsonb[].
pub fn measure(args: &Flat) -> Result<(i64, bool)> {
    let found = MEASURE.row(&[Arg::Flat(args)], |row| Ok((row.get(1).unwrap_or(0), row.get(2).unwrap_or(false))))?;
    Ok(found.unwrap_or((0, false)))
}

/// Many jobs, each with its own everything but key. Locks and waits as PUT.
static BULK_PUT: Statement = Statement::new(
    "INSERT INTO pgq.job (queue, task, args, priority, execute_at, state, max_attempts)
     SELECT $1, a.task, a.args::pg_catalog.jsonb, a.priority, a.execute_at, a.state, a.max_attempts
       FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                       pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7))
            WITH ORDINALITY AS a (task, args, priority, execute_at, state, max_attempts, place)
      ORDER BY a.place
     RETURNING id",
    &[Type::Text, Type::Texts, Type::Texts, Type::Ints, Type::Times, Type::Texts, Type::Ints],
);

/// The columns of many new jobs of one queue.
#[derive(Debug, Default)]
pub struct Columns {
    /// Tasks.
    pub task: Vec<Option<String>>,
    /// args as JSON text.
    pub args: Vec<Option<String>>,
    /// Priorities.
    pub priority: Vec<Option<i32>>,
    /// Due times.
    pub execute_at: Vec<i64>,
    /// State words.
    pub state: Vec<Option<String>>,
    /// Limits.
    pub max_attempts: Vec<Option<i32>>,
}

/// Puts them all; ids in the same order.
pub fn bulk_put(queue: &str, columns: &Columns) -> Result<Vec<i64>> {
    let given = [
        Arg::Text(queue),
        Arg::Texts(&columns.task),
        Arg::Texts(&columns.args),
        Arg::Ints(&columns.priority),
        Arg::Bigints(&columns.execute_at),
        Arg::Texts(&columns.state),
        Arg::Ints(&columns.max_attempts),
    ];
    BULK_PUT.rows(&given, |row| row.must(1))
}
