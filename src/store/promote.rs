//! What time does: scheduled jobs become due, leases end.

use crate::engine::deltas::Fact;
use crate::engine::state::State;
use crate::engine::time::Micros;
use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};
use crate::store::finish::{self, Return};
use crate::store::row::{job_columns, Job};
use crate::store::{numbers, ready};

/// Index: job_due_idx from its start; locks the rows it changes, skips those that somebody has.
static PROMOTE: Statement = Statement::by_index(
    "UPDATE pgq.job AS j SET state = 'ready'
      WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.state = 'scheduled' AND (c.state = 'scheduled' OR c.state = 'leased') AND c.execute_at <= $1
               AND ($2 IS NULL OR c.queue = $2)
             ORDER BY c.execute_at LIMIT $3 FOR UPDATE SKIP LOCKED))
     RETURNING j.queue, j.id",
    &[Type::Time, Type::Text, Type::Bigint],
);

/// Makes up to `most` scheduled jobs that are due ready, of one queue or of all; their queues.
pub fn promote(now: Micros, queue: Option<&str>, most: i64) -> Result<Vec<String>> {
    let jobs: Vec<(String, i64)> = PROMOTE
        .rows(&[Arg::Time(now.0), Arg::text(queue), Arg::Bigint(most)], |row| Ok((row.must(1)?, row.must(2)?)))?;
    for (queue, id) in &jobs {
        ready::returns(queue, *id);
        numbers::changed(queue, Fact::Live(State::Scheduled), -1);
        numbers::changed(queue, Fact::Live(State::Ready), 1);
    }
    Ok(jobs.into_iter().map(|(queue, _)| queue).collect())
}

/// Index: job_due_idx; takes (deletes) the rows, which the caller writes anew.
static TAKE_ENDED: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.state = 'leased' AND (c.state = 'scheduled' OR c.state = 'leased') AND c.execute_at <= $1
               AND ($2 IS NULL OR c.queue = $2)
             ORDER BY c.execute_at LIMIT $3 FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Time, Type::Text, Type::Bigint],
);

/// Takes up to `most` jobs whose lease ended.
pub fn take_ended(now: Micros, queue: Option<&str>, most: i64) -> Result<Vec<Job>> {
    let jobs = TAKE_ENDED.rows(&[Arg::Time(now.0), Arg::text(queue), Arg::Bigint(most)], Job::read)?;
    numbers::taken(&jobs);
    Ok(jobs)
}

/// Index: job_due_idx, its end (infinity); locks nothing.
static HELD_HERE: Statement = Statement::by_index(
    "SELECT j.id FROM pgq.job AS j
      WHERE j.state = 'leased' AND (j.state = 'scheduled' OR j.state = 'leased') AND j.execute_at = 'infinity'
      ORDER BY j.execute_at",
    &[],
);

/// The jobs leased by executors of this server, alive or not.
pub fn held_here() -> Result<Vec<i64>> {
    HELD_HERE.rows(&[], |row| row.must(1))
}

/// Index: job_pkey; takes (deletes) the row, or skips it.
static TAKE_HERE: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = $1 AND c.state = 'leased' AND c.execute_at = 'infinity' FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigint],
);

/// Ends the lease of an executor that is gone: ready at once, nothing counted; its queue. Another job may have its
/// key by now.
pub fn give_back(id: i64, now: Micros) -> Result<Option<String>> {
    let Some(job) = TAKE_HERE.row(&[Arg::Bigint(id)], Job::read)? else { return Ok(None) };
    numbers::taken(std::slice::from_ref(&job));
    let (attempt, failures) = (job.attempt, job.failures);
    ready::returns(&job.queue, id);
    finish::put_back(&job, &Return { state: State::Ready, execute_at: now, attempt, failures, error: None })?;
    Ok(Some(job.queue))
}

/// Index: job_due_idx, its first entry; locks nothing.
static NEXT_DUE: Statement = Statement::by_index(
    "SELECT j.execute_at FROM pgq.job AS j
      WHERE (j.state = 'scheduled' OR j.state = 'leased')
      ORDER BY j.execute_at LIMIT 1",
    &[],
);

/// The next moment at which time changes something; `None` for never.
pub fn next_due() -> Result<Option<Micros>> {
    let due: Option<i64> = NEXT_DUE.row(&[], |row| row.must(1))?;
    Ok(due.filter(|at| *at != i64::MAX).map(Micros))
}
