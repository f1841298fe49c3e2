//! Jobs with a key: at most one of them waits. A plain unique index cannot say this: an insert would wait
//! for the uncommitted delete of a running job, as long as that job runs. So producers of one key take
//! turns by a transaction-level lock on (job table, hash of queue and key), and look.

use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::state::State;
use crate::error::Result;
use crate::pg::extension;
use crate::pg::spi::{Arg, Statement, Type};
use crate::store::insert::NewJob;
use crate::store::numbers;

/// Waits for other producers of the key, for their commits only. `wait = false`: true when nobody has it.
pub fn lock(queue: &str, key: &str, wait: bool) -> bool {
    extension::lock_key(extension::job_table(), names::fold(&format!("{queue}\u{1}{key}")), wait)
}

/// Index: job_key_idx. FOR KEY SHARE holds the job back until our commit, so that it cannot run without seeing
/// what we wrote; SKIP LOCKED: a running job is none that waits.
static KEEP: Statement = Statement::by_index(
    "SELECT j.id FROM pgq.job AS j
      WHERE j.queue = $1 AND j.key = $2 AND (j.state = 'ready' OR j.state = 'scheduled' OR j.state = 'waiting')
      LIMIT 1 FOR KEY SHARE SKIP LOCKED",
    &[Type::Text, Type::Text],
);

/// The waiting job of the key, held back until our commit.
pub fn keep(queue: &str, key: &str) -> Result<Option<i64>> {
    KEEP.row(&[Arg::Text(queue), Arg::Text(key)], |row| row.must(1))
}

/// Index: job_key_idx; locks the one row that it changes, or none.
static REPLACE: Statement = Statement::by_index(
    "WITH waiting AS MATERIALIZED (
            SELECT c.ctid AS place, c.state FROM pgq.job AS c
             WHERE c.queue = $1 AND c.key = $2 AND (c.state = 'ready' OR c.state = 'scheduled' OR c.state = 'waiting')
             LIMIT 1 FOR UPDATE SKIP LOCKED)
     UPDATE pgq.job AS j
        SET task = $3, args = $4, priority = $5, execute_at = $6,
            state = CASE WHEN j.state = 'waiting' THEN j.state ELSE $7 END, max_attempts = $8
       FROM waiting AS w
      WHERE j.ctid = w.place
     RETURNING j.id, w.state",
    &[Type::Text, Type::Text, Type::Text, Type::Jsonb, Type::Int, Type::Time, Type::Text, Type::Int],
);

/// Gives the waiting job of the key new args, priority and time; its id.
pub fn replace(key: &str, job: &NewJob) -> Result<Option<i64>> {
    let args = [
        Arg::Text(&job.queue),
        Arg::Text(key),
        Arg::text(job.task.as_deref()),
        Arg::Flat(&job.args),
        Arg::Int(job.priority),
        Arg::Time(job.execute_at),
        Arg::Text(job.state.word()),
        Arg::int(job.max_attempts),
    ];
    let replaced = REPLACE.row(&args, |row| Ok((row.must::<i64>(1)?, row.must::<String>(2)?)))?;
    Ok(replaced.map(|(id, was)| {
        if let (Some(was), true) = (State::parse(&was), was != State::Waiting.word()) {
            numbers::changed(&job.queue, Fact::Live(was), -1);
            numbers::changed(&job.queue, Fact::Live(job.state), 1);
        }
        id
    }))
}

/// Index: job_key_idx; locks nothing.
static HELD: Statement = Statement::by_index(
    "SELECT EXISTS (SELECT FROM pgq.job AS j
      WHERE j.queue = $1 AND j.key = $2 AND (j.state = 'ready' OR j.state = 'scheduled' OR j.state = 'waiting'))",
    &[Type::Text, Type::Text],
);

/// May a job that failed or comes back keep its key? Not when another waits with it, or somebody is just
/// putting one: then it goes on without.
pub fn may_return(queue: &str, key: &str) -> Result<bool> {
    if !lock(queue, key, false) {
        return Ok(false);
    }
    let held: Option<bool> = HELD.row(&[Arg::Text(queue), Arg::Text(key)], |row| row.must(1))?;
    Ok(held == Some(false))
}
