//! Counting for stats, waiting, doctor and the scheduler's look.

use std::collections::BTreeMap;

use pgrx::datum::Interval;

use crate::engine::deltas::{Fact, Numbers, COUNTABLE};
use crate::engine::names;
use crate::engine::state::State;
use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};
use crate::store::numbers;

/// One queue in numbers.
#[derive(Default)]
pub struct QueueCount {
    /// Its name.
    pub queue: String,
    /// Jobs by state.
    pub ready: i64,
    /// Jobs that wait for their time.
    pub scheduled: i64,
    /// Jobs somebody holds.
    pub leased: i64,
    /// Jobs that wait for others.
    pub waiting: i64,
    /// Dead jobs kept.
    pub dead: i64,
    /// Runs that succeeded since the server's start.
    pub done_total: i64,
    /// Runs that failed since then.
    pub failed_total: i64,
    /// How long the oldest ready job has been ready.
    pub oldest_ready: Option<Interval>,
    /// Was it paused?
    pub paused: bool,
    /// Handlers registered.
    pub handlers: i64,
}

impl QueueCount {
    fn of(queue: String) -> Self {
        QueueCount { queue, ..QueueCount::default() }
    }
}

/// Reads both tables once; locks nothing.
static STATS: Statement = Statement::new(
    "WITH live AS (
        SELECT j.queue,
               pg_catalog.count(*) FILTER (WHERE j.state = 'ready') AS ready,
               pg_catalog.count(*) FILTER (WHERE j.state = 'scheduled') AS scheduled,
               pg_catalog.count(*) FILTER (WHERE j.state = 'leased') AS leased,
               pg_catalog.count(*) FILTER (WHERE j.state = 'waiting') AS waiting,
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
            COALESCE(set.paused, false), COALESCE(run.handlers, 0), COALESCE(live.waiting, 0)
       FROM live FULL JOIN gone USING (queue) FULL JOIN run USING (queue) FULL JOIN set USING (queue)
      ORDER BY queue",
    &[Type::Text],
);

/// Counting so many rows costs no more than looking whether the counters are right.
const FEW: i64 = 10_000;

/// All queues, or one; and whether the tables should be counted, because nobody has since the moment `fresh`. By the
/// counters where they are known to be right.
pub fn stats(queue: Option<&str>, fresh: i64) -> Result<(Vec<QueueCount>, bool)> {
    let known = numbers::known()?;
    let rows = |numbers: &Numbers| numbers[..COUNTABLE].iter().sum::<i64>();
    let all: i64 = known.queues.iter().map(|(_, numbers)| rows(numbers)).sum();
    let fresh = known.settled && known.counted_at >= fresh;
    let by_counters = known.settled && (fresh || all > FEW);
    let mut counts = if by_counters { shown(queue, &known.queues)? } else { counted(queue)? };
    let mut found = all;
    for count in &mut counts {
        if let Some((_, numbers)) = known.queues.iter().find(|(queue, _)| *queue == count.queue) {
            count.done_total = numbers[Fact::Done.place()];
            count.failed_total = numbers[Fact::Failed.place()];
        }
        found = found.max(count.ready + count.scheduled + count.leased + count.waiting + count.dead);
    }
    Ok((counts, !fresh && found > FEW))
}

/// Index: primary key of queue_setting, handler_queue_task_key; both tables are small.
static FRAME: Statement = Statement::new(
    "SELECT queue, COALESCE(set.paused, false), COALESCE(run.handlers, 0)
       FROM (SELECT h.queue, pg_catalog.count(*) AS handlers
               FROM pgq.handler AS h WHERE $1 IS NULL OR h.queue = $1 GROUP BY h.queue) AS run
       FULL JOIN (SELECT s.queue, s.paused FROM pgq.queue_setting AS s WHERE $1 IS NULL OR s.queue = $1) AS set
       USING (queue)",
    &[Type::Text],
);

/// Looks at so many priorities of one queue at most, where there are few queues, and at so many of each of many.
const LEVELS: (usize, usize) = (64, 4);
/// And at so many in all, if that is not fewer: a look takes some 10 µs.
const LOOKS: usize = 256;

/// Index: job_ready_idx, two entries for each of $2 priorities of each queue, the lowest first: they wait longest.
/// Locks nothing.
static OLDEST: Statement = Statement::by_index(
    "SELECT q.queue, GREATEST(pg_catalog.clock_timestamp() - l.oldest, '0'::pg_catalog.interval)
       FROM pg_catalog.unnest($1) AS q (queue),
            LATERAL (
        WITH RECURSIVE level AS (
            (SELECT j.priority FROM pgq.job AS j WHERE j.state = 'ready' AND j.queue = q.queue
              ORDER BY j.priority, j.id DESC LIMIT 1)
            UNION ALL
            SELECT (SELECT j.priority FROM pgq.job AS j
                     WHERE j.state = 'ready' AND j.queue = q.queue AND j.priority > p.priority
                     ORDER BY j.priority, j.id DESC LIMIT 1)
              FROM level AS p WHERE p.priority IS NOT NULL)
        SELECT pg_catalog.min(GREATEST(f.execute_at, f.created_at)) AS oldest
          FROM (SELECT level.priority FROM level WHERE level.priority IS NOT NULL LIMIT $2) AS p,
               LATERAL (SELECT j.execute_at, j.created_at FROM pgq.job AS j
                         WHERE j.state = 'ready' AND j.queue = q.queue AND j.priority = p.priority
                         ORDER BY j.id LIMIT 1) AS f) AS l
      WHERE l.oldest IS NOT NULL",
    &[Type::Texts, Type::Bigint],
);

/// The numbers from the counters, the rest from the small tables and the index.
fn shown(queue: Option<&str>, known: &[(String, Numbers)]) -> Result<Vec<QueueCount>> {
    let mut counts: BTreeMap<String, QueueCount> = BTreeMap::new();
    let frame = FRAME.rows(&[Arg::text(queue)], |row| {
        let name: String = row.must(1)?;
        Ok(QueueCount { paused: row.must(2)?, handlers: row.must(3)?, ..QueueCount::of(name) })
    })?;
    counts.extend(frame.into_iter().map(|count| (count.queue.clone(), count)));
    for (name, numbers) in known.iter().filter(|(name, _)| queue.is_none_or(|queue| queue == name)) {
        if numbers[..COUNTABLE].iter().all(|n| *n == 0) {
            continue;
        }
        let count = counts.entry(name.clone()).or_insert_with(|| QueueCount::of(name.clone()));
        // What is in flight may be added before what it was taken from.
        let number = |fact: Fact| numbers[fact.place()].max(0);
        count.ready = number(Fact::Live(State::Ready));
        count.scheduled = number(Fact::Live(State::Scheduled));
        count.leased = number(Fact::Live(State::Leased));
        count.waiting = number(Fact::Live(State::Waiting));
        count.dead = number(Fact::Dead);
    }
    let ready: Vec<Option<String>> = counts.values().filter(|c| c.ready > 0).map(|c| Some(c.queue.clone())).collect();
    if !ready.is_empty() {
        let levels = i64::try_from((LOOKS / ready.len()).clamp(LEVELS.1, LEVELS.0)).unwrap_or(1);
        let args = [Arg::Texts(&ready), Arg::Bigint(levels)];
        for (name, oldest) in OLDEST.rows(&args, |row| Ok((row.must::<String>(1)?, row.get(2))))? {
            if let Some(count) = counts.get_mut(&name) {
                count.oldest_ready = oldest;
            }
        }
    }
    Ok(counts.into_values().collect())
}

/// Counts the tables.
fn counted(queue: Option<&str>) -> Result<Vec<QueueCount>> {
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
            waiting: row.must(9)?,
            ..QueueCount::default()
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

/// Locks nothing; both tables are small.
static QUIET: Statement = Statement::new(
    "SELECT DISTINCT h.queue FROM pgq.handler AS h LEFT JOIN pgq.queue_setting AS s ON s.queue = h.queue
      WHERE NOT COALESCE(s.notify, false)",
    &[],
);

/// Of the queues that got jobs, by hash or by name, or of all, those whose outside workers are to be told. Where all of
/// them have a handler here, that is known without a walk over the ready jobs, which under an old snapshot is one over
/// all that were done since.
pub fn to_tell(touched: &[u64], all: bool, named: &[String]) -> Result<Vec<Option<String>>> {
    if touched.is_empty() && !all && named.is_empty() {
        return Ok(Vec::new());
    }
    let quiet: Vec<String> = QUIET.rows(&[], |row| row.must(1))?;
    let is_quiet = |hash: &u64| quiet.iter().any(|queue| names::hash(queue) == *hash);
    if !all && touched.iter().all(is_quiet) && named.iter().all(|queue| quiet.contains(queue)) {
        return Ok(Vec::new());
    }
    let is_news = |queue: &String| all || named.contains(queue) || touched.contains(&names::hash(queue));
    let ready = ready_queues()?.into_iter();
    Ok(ready.filter(|(queue, notifies)| *notifies && is_news(queue)).map(|(queue, _)| Some(queue)).collect())
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

/// Index: job_ready_idx; locks nothing.
static FIRST_READY: Statement = Statement::by_index(
    "SELECT j.id FROM pgq.job AS j WHERE j.state = 'ready' AND j.queue = $1 ORDER BY j.priority DESC, j.id LIMIT 1",
    &[Type::Text],
);

/// The ready job of a queue whose turn comes next.
pub fn first_ready(queue: &str) -> Result<Option<i64>> {
    FIRST_READY.row(&[Arg::Text(queue)], |row| row.must(1))
}
