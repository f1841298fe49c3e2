//! Finished jobs: looking at them, bringing them back, throwing them away.

use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::state::{Outcome, State};
use crate::error::Result;
use crate::pg::at_commit;
use crate::pg::datum::Flat;
use crate::pg::spi::{Arg, Statement, Type};
use crate::store::{groups, numbers};

/// A finished job, as pgq.wait shows it.
pub struct Finished {
    /// done, dead or cancelled.
    pub outcome: String,
    /// What its handler returned.
    pub result: Option<Flat>,
    /// Why it failed last.
    pub error: Option<Flat>,
    /// Its last attempt.
    pub attempt: i32,
    /// Its queue.
    pub queue: String,
}

/// Index: finished_job_pkey; locks nothing.
static LOOK: Statement = Statement::new(
    "SELECT f.outcome, f.result, f.error, f.attempt, f.queue FROM pgq.finished_job AS f WHERE f.id = $1",
    &[Type::Bigint],
);

/// A finished job that was kept.
pub fn look(id: i64) -> Result<Option<Finished>> {
    LOOK.row(&[Arg::Bigint(id)], |row| {
        Ok(Finished {
            outcome: row.must(1)?,
            result: row.get(2),
            error: row.get(3),
            attempt: row.must(4)?,
            queue: row.must(5)?,
        })
    })
}

/// Index: finished_job_pkey; locks the row it deletes. Attempts go on counting, failures and
/// crashes begin anew; what crashed runs alone.
static RETRY: Statement = Statement::by_index(
    "WITH gone AS (
        DELETE FROM pgq.finished_job AS f WHERE f.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.finished_job AS c
             WHERE c.id = $1 AND (c.outcome = 'dead' OR c.outcome = 'cancelled') FOR UPDATE SKIP LOCKED))
        RETURNING f.*), back AS (
        INSERT INTO pgq.job (id, queue, task, args, priority, execute_at, created_at, state, attempt, failures,
                             max_attempts, key, crashes, error, quarantined, group_key, flow)
        SELECT g.id, g.queue, g.task, g.args, g.priority, $2, g.created_at, $3, g.attempt, 0,
               g.max_attempts, NULL, 0, g.error, g.crashes > 0, g.group_key, g.flow FROM gone AS g),
     told AS (
        INSERT INTO pgq.ended (job, outcome, flow, n)
        SELECT g.id, g.outcome, g.flow, -1 FROM gone AS g WHERE g.flow IS NOT NULL)
     SELECT g.queue, g.outcome FROM gone AS g",
    &[Type::Bigint, Type::Time, Type::Text],
);

/// Brings a dead or cancelled job back; its queue.
pub fn retry(id: i64, execute_at: i64, state: State) -> Result<Option<String>> {
    let args = [Arg::Bigint(id), Arg::Time(execute_at), Arg::Text(state.word())];
    let moved = RETRY.row(&args, |row| Ok((row.must::<String>(1)?, row.must::<String>(2)?)))?;
    Ok(moved.map(|(queue, outcome)| {
        gone(&queue, &outcome, 1);
        numbers::changed(&queue, Fact::Live(state), 1);
        queue
    }))
}

/// Index: finished_job_queue_idx, oldest first; locks the rows it deletes, skips those somebody has.
static REDRIVE: Statement = Statement::by_index(
    "WITH gone AS (
        DELETE FROM pgq.finished_job AS f WHERE f.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.finished_job AS c
             WHERE c.queue = $1 AND c.outcome = 'dead'
             ORDER BY c.finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))
        RETURNING f.*), told AS (
        INSERT INTO pgq.ended (job, outcome, flow, n)
        SELECT g.id, g.outcome, g.flow, -1 FROM gone AS g WHERE g.flow IS NOT NULL)
     INSERT INTO pgq.job (id, queue, task, args, priority, execute_at, created_at, state, attempt, failures,
                          max_attempts, key, crashes, error, quarantined, group_key, flow)
     SELECT g.id, g.queue, g.task, g.args, g.priority, $3, g.created_at, 'ready', g.attempt, 0,
            g.max_attempts, NULL, 0, g.error, g.crashes > 0, g.group_key, g.flow FROM gone AS g",
    &[Type::Text, Type::Bigint, Type::Time],
);

/// Brings up to `most` dead jobs of a queue back, oldest first; how many.
pub fn redrive(queue: &str, most: i64, now: i64) -> Result<usize> {
    let moved = REDRIVE.run(&[Arg::Text(queue), Arg::Bigint(most), Arg::Time(now)])?;
    gone(queue, Outcome::Dead.word(), moved);
    numbers::changed_by(queue, Fact::Live(State::Ready), moved);
    Ok(moved)
}

/// Index: finished_job_queue_idx; locks the rows it deletes, skips those somebody has.
static PURGE: Statement = Statement::by_index(
    "DELETE FROM pgq.finished_job AS f WHERE f.ctid = ANY (ARRAY(
        SELECT c.ctid FROM pgq.finished_job AS c
         WHERE c.queue = $1 AND c.outcome = $2 AND c.finished_at <= $3 FOR UPDATE SKIP LOCKED))",
    &[Type::Text, Type::Text, Type::Time],
);

/// Throws finished jobs of a queue away; how many.
pub fn purge(queue: &str, outcome: &str, before: i64) -> Result<usize> {
    let purged = PURGE.run(&[Arg::Text(queue), Arg::Text(outcome), Arg::Time(before)])?;
    gone(queue, outcome, purged);
    Ok(purged)
}

/// No index serves it (it runs once for a purge): locks the rows it deletes, skips those a worker has. Whoever waits
/// for them is told as by a cancel.
static PURGE_WAITING: Statement = Statement::new(
    "WITH gone AS (
        DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.queue = $1 AND c.state = $2 AND c.created_at <= $3 FOR UPDATE SKIP LOCKED))
        RETURNING j.*), told AS (
        INSERT INTO pgq.ended (job, outcome, flow, n)
        SELECT g.id, 'cancelled', g.flow, 1 FROM gone AS g WHERE g.has_children OR g.flow IS NOT NULL)
     SELECT g.group_key FROM gone AS g",
    &[Type::Text, Type::Text, Type::Time],
);

/// Throws waiting jobs of a queue away; how many.
pub fn purge_waiting(queue: &str, state: State, before: i64) -> Result<usize> {
    let args = [Arg::Text(queue), Arg::Text(state.word()), Arg::Time(before)];
    let groups: Vec<Option<String>> = PURGE_WAITING.rows(&args, |row| Ok(row.get(1)))?;
    let purged = groups.len();
    groups.iter().flatten().for_each(|group| groups::left(queue, group, i64::MIN));
    at_commit::call_at_commit(names::hash(queue));
    numbers::changed(queue, Fact::Live(state), -i64::try_from(purged).unwrap_or(i64::MAX));
    Ok(purged)
}

/// Index: finished_job_queue_idx, once per queue; at most $3 rows a call. Spans are those of the queue, else
/// of the settings ($1 done, $2 dead and cancelled, as moments before which rows go).
static PRUNE: Statement = Statement::new(
    "WITH gone AS (
        DELETE FROM pgq.finished_job AS f WHERE f.ctid = ANY (ARRAY(
            SELECT c.ctid
              FROM pgq.finished_job AS c
              LEFT JOIN pgq.queue_setting AS s ON s.queue = c.queue
             WHERE c.finished_at < CASE WHEN c.outcome = 'done'
                                        THEN COALESCE(pg_catalog.clock_timestamp() - s.keep_done, $1)
                                        ELSE COALESCE(pg_catalog.clock_timestamp() - s.keep_dead, $2) END
             LIMIT $3 FOR UPDATE OF c SKIP LOCKED))
        RETURNING f.queue, f.outcome)
     SELECT g.queue, g.outcome, pg_catalog.count(*) FROM gone AS g GROUP BY g.queue, g.outcome",
    &[Type::Time, Type::Time, Type::Bigint],
);

/// Throws away what was kept long enough: done jobs before one moment, others before another, unless their
/// queue says otherwise; how many.
pub fn prune(done_before: i64, dead_before: i64, most: i64) -> Result<usize> {
    let args = [Arg::Time(done_before), Arg::Time(dead_before), Arg::Bigint(most)];
    let pruned = PRUNE.rows(&args, |row| Ok((row.must::<String>(1)?, row.must::<String>(2)?, row.must::<i64>(3)?)))?;
    let mut all = 0;
    for (queue, outcome, rows) in pruned {
        let rows = usize::try_from(rows).unwrap_or(0);
        gone(&queue, &outcome, rows);
        all += rows;
    }
    Ok(all)
}

/// So many finished jobs of this outcome are no longer kept.
fn gone(queue: &str, outcome: &str, rows: usize) {
    if let Some(outcome) = Outcome::parse(outcome) {
        numbers::changed(queue, Fact::kept(outcome), -i64::try_from(rows).unwrap_or(i64::MAX));
    }
}
