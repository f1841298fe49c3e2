//! Counting for stats, waiting, doctor and the scheduler's look.

use pgrx::datum::Interval;

use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};

/// One queue in numbers.
pub struct QueueCount {
    /// Its name.
    pub queue: String,
    /// Jobs by state.
    pub ready: i64,
    /// Jobs that wait for their time.
    pub scheduled: i64,
    /// Jobs somebody holds.
    pub leased: i64,
    /// Dead jobs kept.
    pub dead: i64,
    /// How long the oldest ready job has been ready.
    pub oldest_ready: Option<Interval>,
    /// Was it paused?
    pub paused: bool,
    /// Handlers registered.
    pub handlers: i64,
}

/// Reads both tables once; locks nothing.
static STATS: Statement = Statement::new(
    "WITH live AS (
        SELECT j.queue,
               pg_catalog.count(*) FILTER (WHERE j.state = 'ready') AS ready,
               pg_catalog.count(*) FILTER (WHERE j.state = 'scheduled') AS scheduled,
               pg_catalog.count(*) FILTER (WHERE j.state = 'leased') AS leased,
               pg_catalog.min(GREATEST(j.execute_at, j.created_at)) FILTER (WHERE j.state = 'ready') AS oldest
          FROM pgq.job AS j WHERE $1 IS NULL OR j.queue = $1 GROUP BY j.queue),
     gone AS (
        SELECT f.queue, pg_catalog.count(*) FILTER (WHERE f.outcome = 'dead') AS dead
          FROM pgq.finished_job AS f WHERE $1 IS NULL OR f.queue = $1 GROUP BY f.queue),
     run AS (
        SELECT h.queue, pg_catalog.count(*) AS handlers
          FROM pgq.handler AS h WHERE $1 IS NULL OR h.queue = $1 GROUP BY h.queue),
     set AS (
        SELECT s.queue, s.paused FROM pgq.queue_setting AS s WHERE $1 IS NULL OR s.queue = $1)
     SELECT queue, COALESCE(live.ready, 0), COALESCE(live.scheduled, 0), COALESCE(live.leased, 0),
            COALESCE(gone.dead, 0),
            CASE WHEN live.oldest IS NOT NULL
                 THEN GREATEST(pg_catalog.clock_timestamp() - live.oldest, '0'::pg_catalog.interval) END,
            COALESCE(set.paused, false), COALESCE(run.handlers, 0)
       FROM live FULL JOIN gone USING (queue) FULL JOIN run USING (queue) FULL JOIN set USING (queue)
      ORDER BY queue",
    &[Type::Text],
);

/// All queues, or one.
pub fn stats(queue: Option<&str>) -> Result<Vec<QueueCount>> {
    STATS.rows(&[Arg::text(queue)], |row| {
        Ok(QueueCount {
            queue: row.must(1)?,
            ready: row.must(2)?,
            scheduled: row.must(3)?,
            leased: row.must(4)?,
            dead: row.must(5)?,
            oldest_ready: row.get(6),
            paused: row.must(7)?,
            handlers: row.must(8)?,
        })
    })
}

/// A walk over job_ready_idx that touches one entry per queue; locks nothing.
static READY_QUEUES: Statement = Statement::by_index(
    "WITH RECURSIVE walk AS (
        (SELECT j.queue FROM pgq.job AS j WHERE j.state = 'ready' ORDER BY j.queue LIMIT 1)
        UNION ALL
        SELECT (SELECT j.queue FROM pgq.job AS j WHERE j.state = 'ready' AND j.queue > w.queue
                 ORDER BY j.queue LIMIT 1)
          FROM walk AS w WHERE w.queue IS NOT NULL)
     SELECT w.queue,
            COALESCE(s.notify, NOT EXISTS (SELECT FROM pgq.handler AS h WHERE h.queue = w.queue))
              AND NOT COALESCE(s.paused, false)
       FROM walk AS w LEFT JOIN pgq.queue_setting AS s ON s.queue = w.queue
      WHERE w.queue IS NOT NULL",
    &[],
);

/// The queues that have ready jobs, and whether outside workers are to be told.
pub fn ready_queues() -> Result<Vec<(String, bool)>> {
    READY_QUEUES.rows(&[], |row| Ok((row.must(1)?, row.must(2)?)))
}

/// Locks nothing of ours; NOTIFY itself is sent at commit.
static NOTIFY: Statement =
    Statement::new("SELECT pg_catalog.pg_notify('pgq_' || q, '') FROM pg_catalog.unnest($1) AS q", &[Type::Texts]);

/// Tells the workers outside that listen to these queues.
pub fn notify(queues: &[Option<String>]) -> Result<()> {
    NOTIFY.run(&[Arg::Texts(queues)]).map(|_| ())
}

/// Index: primary key of queue_setting; locks nothing.
static NOTIFIES: Statement = Statement::new(
    "SELECT COALESCE((SELECT s.notify FROM pgq.queue_setting AS s WHERE s.queue = $1),
                     NOT EXISTS (SELECT FROM pgq.handler AS h WHERE h.queue = $1))",
    &[Type::Text],
);

/// Are workers outside told of this queue?
pub fn notifies(queue: &str) -> Result<bool> {
    Ok(NOTIFIES.row(&[Arg::Text(queue)], |row| row.must(1))?.unwrap_or(false))
}

/// Locks nothing; prepared transactions are few.
static PREPARED: Statement = Statement::new(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts AS p
      WHERE p.database = pg_catalog.current_database())",
    &[],
);

/// Does this database have a prepared transaction?
pub fn has_prepared() -> Result<bool> {
    Ok(PREPARED.row(&[], |row| row.must(1))?.unwrap_or(false))
}

static WORKER_PROCESSES: Statement =
    Statement::new("SELECT pg_catalog.current_setting('max_worker_processes')::pg_catalog.int8", &[]);

/// How many background workers the server allows.
pub fn worker_processes() -> Result<i64> {
    Ok(WORKER_PROCESSES.row(&[], |row| row.must(1))?.unwrap_or(0))
}
