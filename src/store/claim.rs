//! Taking jobs: for the executors, for the SQL function claim, and one by its id.

use crate::engine::time::Micros;
use crate::error::Result;
use crate::pg::spi::{Arg, Row, Statement, Type};
use crate::store::groups::in_turn;
use crate::store::numbers;
use crate::store::row::{job_columns, Job};

/// The row of a job that was taken is gone.
fn noted(job: Option<Job>) -> Option<Job> {
    numbers::taken(job.as_slice());
    job
}

/// Index: job_ready_idx, from its start in the order of the claim; locks the rows it deletes and skips those
/// that somebody has. The paused flag is looked at once a statement. $4 are jobs to leave alone, $5 those with a group
/// whose turn it is.
static TAKE: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.queue = $1 AND c.state = 'ready' AND c.task IS NOT DISTINCT FROM $2 AND NOT c.quarantined
               AND c.id <> ALL ($4) AND (c.group_key IS NULL OR c.id = ANY ($5))
               AND NOT EXISTS (SELECT FROM pgq.queue_setting AS s WHERE s.queue = $1 AND s.paused)
             ORDER BY c.priority DESC, c.id LIMIT $3 FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Text, Type::Text, Type::Bigint, Type::Bigints, Type::Bigints],
);

/// Takes up to `n` jobs of a handler's (queue, task), best first, but none in quarantine and none of `except`.
pub fn take(queue: &str, task: Option<&str>, n: usize, except: &[i64]) -> Result<Vec<Job>> {
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    let mut jobs = in_turn(queue, n, candidates_of(queue, task, except), |turn| {
        let args = [Arg::Text(queue), Arg::text(task), Arg::Bigint(n), Arg::Bigints(except), Arg::Bigints(turn)];
        TAKE.rows(&args, Job::read)
    })?;
    numbers::taken(&jobs);
    // RETURNING promises no order.
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.id));
    Ok(jobs)
}

/// Index: job_quarantine_idx; as TAKE, for one job that must run alone.
static TAKE_QUARANTINED: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.queue = $1 AND c.state = 'ready' AND c.quarantined AND c.task IS NOT DISTINCT FROM $2
               AND c.id <> ALL ($3) AND (c.group_key IS NULL OR c.id = ANY ($4))
               AND NOT EXISTS (SELECT FROM pgq.queue_setting AS s WHERE s.queue = $1 AND s.paused)
             ORDER BY c.priority DESC, c.id LIMIT 1 FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Text, Type::Text, Type::Bigints, Type::Bigints],
);

/// Index: job_quarantine_idx; locks nothing.
static QUARANTINED: Statement = Statement::by_index(
    "SELECT c.id, c.group_key FROM pgq.job AS c
      WHERE c.queue = $1 AND c.state = 'ready' AND c.quarantined ORDER BY c.priority DESC, c.id LIMIT $2",
    &[Type::Text, Type::Bigint],
);

/// Takes the best job of a handler's (queue, task) that is in quarantine, but none of `except`.
pub fn take_quarantined(queue: &str, task: Option<&str>, except: &[i64]) -> Result<Option<Job>> {
    let candidates = |most| QUARANTINED.rows(&[Arg::Text(queue), Arg::Bigint(most)], id_and_group);
    let job = in_turn(queue, 1, candidates, |turn| {
        let args = [Arg::Text(queue), Arg::text(task), Arg::Bigints(except), Arg::Bigints(turn)];
        TAKE_QUARANTINED.row(&args, Job::read)
    });
    job.map(noted)
}

/// Index: job_ready_idx, as TAKE; locks nothing.
static CANDIDATES: Statement = Statement::by_index(
    "SELECT c.id, c.group_key FROM pgq.job AS c
      WHERE c.queue = $1 AND c.state = 'ready' AND c.task IS NOT DISTINCT FROM $2 AND c.id <> ALL ($4)
        AND NOT EXISTS (SELECT FROM pgq.queue_setting AS s WHERE s.queue = $1 AND s.paused)
      ORDER BY c.priority DESC, c.id LIMIT $3",
    &[Type::Text, Type::Text, Type::Bigint, Type::Bigints],
);

/// The ids of the first `n` jobs that `take` would look at.
pub fn candidates(queue: &str, task: Option<&str>, n: usize, except: &[i64]) -> Result<Vec<i64>> {
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    Ok(candidates_of(queue, task, except)(n)?.into_iter().map(|(id, _)| id).collect())
}

/// What `in_turn` asks for.
fn candidates_of<'a>(
    queue: &'a str,
    task: Option<&'a str>,
    except: &'a [i64],
) -> impl FnMut(i64) -> Result<Vec<(i64, Option<String>)>> + 'a {
    move |most| {
        let args = [Arg::Text(queue), Arg::text(task), Arg::Bigint(most), Arg::Bigints(except)];
        CANDIDATES.rows(&args, id_and_group)
    }
}

fn id_and_group(row: &Row) -> Result<(i64, Option<String>)> {
    Ok((row.must(1)?, row.get(2)))
}

/// As TAKE, for a client: any task, or those named.
static CLAIM: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.queue = $1 AND c.state = 'ready' AND ($2 IS NULL OR c.task = ANY ($2))
               AND (c.group_key IS NULL OR c.id = ANY ($4))
               AND NOT EXISTS (SELECT FROM pgq.queue_setting AS s WHERE s.queue = $1 AND s.paused)
             ORDER BY c.priority DESC, c.id LIMIT $3 FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Text, Type::Texts, Type::Bigint, Type::Bigints],
);

/// As CLAIM; locks nothing.
static CLAIMABLE: Statement = Statement::by_index(
    "SELECT c.id, c.group_key FROM pgq.job AS c
      WHERE c.queue = $1 AND c.state = 'ready' AND ($2 IS NULL OR c.task = ANY ($2))
      ORDER BY c.priority DESC, c.id LIMIT $3",
    &[Type::Text, Type::Texts, Type::Bigint],
);

/// As CLAIM; the row is written anew, leased until $4. Not an UPDATE: whoever looks with an older snapshot would
/// follow the chain of versions and lock the leased row until his transaction ends, and the holder's `complete`
/// would find it locked.
static LEASE: Statement = Statement::by_index(
    concat!(
        "WITH gone AS (
            DELETE FROM pgq.job AS d WHERE d.ctid = ANY (ARRAY(
                SELECT c.ctid FROM pgq.job AS c
                 WHERE c.queue = $1 AND c.state = 'ready' AND ($2 IS NULL OR c.task = ANY ($2))
                   AND (c.group_key IS NULL OR c.id = ANY ($5))
                   AND NOT EXISTS (SELECT FROM pgq.queue_setting AS s WHERE s.queue = $1 AND s.paused)
                 ORDER BY c.priority DESC, c.id LIMIT $3 FOR UPDATE SKIP LOCKED))
            RETURNING d.*)
         INSERT INTO pgq.job AS j (id, queue, task, args, priority, execute_at, created_at, state, attempt, failures,
                                   max_attempts, key, crashes, error, quarantined, group_key, flow,
                                   has_children)
         SELECT g.id, g.queue, g.task, g.args, g.priority, $4, g.created_at, 'leased', LEAST(g.attempt, 2147483646) + 1,
                g.failures, g.max_attempts, g.key, g.crashes, g.error, g.quarantined,
                g.group_key, g.flow, g.has_children FROM gone AS g
         RETURNING ",
        job_columns!()
    ),
    &[Type::Text, Type::Texts, Type::Bigint, Type::Time, Type::Bigints],
);

/// Takes up to `n` jobs of a queue for a client; with `until` they stay, leased.
pub fn claim(queue: &str, tasks: Option<&[Option<String>]>, n: i64, until: Option<Micros>) -> Result<Vec<Job>> {
    let tasks = || tasks.map_or(Arg::Null, Arg::Texts);
    let candidates = |most| CLAIMABLE.rows(&[Arg::Text(queue), tasks(), Arg::Bigint(most)], id_and_group);
    let mut jobs = in_turn(queue, n, candidates, |turn| match until {
        None => CLAIM.rows(&[Arg::Text(queue), tasks(), Arg::Bigint(n), Arg::Bigints(turn)], Job::read),
        Some(until) => {
            let args = [Arg::Text(queue), tasks(), Arg::Bigint(n), Arg::Time(until.0), Arg::Bigints(turn)];
            LEASE.rows(&args, Job::read)
        }
    })?;
    match until {
        None => numbers::taken(&jobs),
        Some(_) => numbers::leased(queue, jobs.len()),
    }
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.id));
    Ok(jobs)
}

/// Index: job_pkey; locks the row it deletes, or skips it.
static TAKE_ONE: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c WHERE c.id = $1 FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigint],
);

/// Takes the job of this id in whatever state it is, unless somebody has it.
pub fn take_one(id: i64) -> Result<Option<Job>> {
    TAKE_ONE.row(&[Arg::Bigint(id)], Job::read).map(noted)
}

/// As TAKE_ONE, for a job that is ready and still belongs to (queue, task).
static TAKE_READY: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = $1 AND c.queue = $2 AND c.task IS NOT DISTINCT FROM $3 AND c.state = 'ready'
               AND (c.group_key IS NULL OR c.id = ANY ($4)) FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigint, Type::Text, Type::Text, Type::Bigints],
);

/// Index: job_pkey; locks nothing.
static THESE: Statement =
    Statement::by_index("SELECT c.id, c.group_key FROM pgq.job AS c WHERE c.id = ANY ($1)", &[Type::Bigints]);

/// Takes one ready job of a handler's.
pub fn take_ready(id: i64, queue: &str, task: Option<&str>) -> Result<Option<Job>> {
    let candidates = |_| THESE.rows(&[Arg::Bigints(&[id])], id_and_group);
    let job = in_turn(queue, 1, candidates, |turn| {
        TAKE_READY.row(&[Arg::Bigint(id), Arg::Text(queue), Arg::text(task), Arg::Bigints(turn)], Job::read)
    });
    job.map(noted)
}

/// As TAKE_ONE, for a job that waits for others.
static TAKE_BEHIND: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c WHERE c.id = $1 AND c.state = 'waiting' FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigint],
);

/// Takes a job that waits for others, to bury it.
pub fn take_behind(id: i64) -> Result<Option<Job>> {
    TAKE_BEHIND.row(&[Arg::Bigint(id)], Job::read).map(noted)
}

/// As TAKE_READY, for several jobs at once, and only what `take` would take too.
static TAKE_THESE: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = ANY ($1) AND c.queue = $2 AND c.task IS NOT DISTINCT FROM $3 AND c.state = 'ready'
               AND NOT c.quarantined AND c.id <> ALL ($4) AND (c.group_key IS NULL OR c.id = ANY ($5))
               AND NOT EXISTS (SELECT FROM pgq.queue_setting AS s WHERE s.queue = $2 AND s.paused)
               FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigints, Type::Text, Type::Text, Type::Bigints, Type::Bigints],
);

/// Takes those of `ids` that are still a handler's to run, best first, but none in quarantine and none of `except`.
pub fn take_these(ids: &[i64], queue: &str, task: Option<&str>, except: &[i64]) -> Result<Vec<Job>> {
    let candidates = |_| THESE.rows(&[Arg::Bigints(ids)], id_and_group);
    let mut jobs = in_turn(queue, i64::try_from(ids.len()).unwrap_or(i64::MAX), candidates, |turn| {
        let args = [Arg::Bigints(ids), Arg::Text(queue), Arg::text(task), Arg::Bigints(except), Arg::Bigints(turn)];
        TAKE_THESE.rows(&args, Job::read)
    })?;
    numbers::taken(&jobs);
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.id));
    Ok(jobs)
}

/// The queues whose jobs the caller may finish; `None` is all.
pub type Queues<'a> = Option<&'a [Option<String>]>;

fn queues_arg(queues: Queues<'_>) -> Arg<'_> {
    queues.map_or(Arg::Null, Arg::Texts)
}

/// As TAKE_ONE, for the holder of a lease only, and in the queues that he may claim from.
static TAKE_HELD: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = $1 AND c.attempt = $2 AND c.state = 'leased' AND ($3 IS NULL OR c.queue = ANY ($3))
               FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigint, Type::Int, Type::Texts],
);

/// Takes the job that (id, attempt) holds a lease of.
pub fn take_held(id: i64, attempt: i32, queues: Queues<'_>) -> Result<Option<Job>> {
    TAKE_HELD.row(&[Arg::Bigint(id), Arg::Int(attempt), queues_arg(queues)], Job::read).map(noted)
}

/// As TAKE_ONE, for a job that waits and whose next attempt is $2.
static TAKE_WAITING: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = $1 AND c.attempt::bigint + 1 = $2 AND c.state <> 'leased' AND c.parents = 0
               AND ($3 IS NULL OR c.queue = ANY ($3))
               FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigint, Type::Int, Type::Texts],
);

/// Takes the waiting job whose attempt would be `attempt`: after a claim that was rolled back.
pub fn take_waiting(id: i64, attempt: i32, queues: Queues<'_>) -> Result<Option<Job>> {
    TAKE_WAITING.row(&[Arg::Bigint(id), Arg::Int(attempt), queues_arg(queues)], Job::read).map(noted)
}

/// Index: job_ready_idx; as LEASE. A lease of our own does not end by time: infinity.
static LEASE_ONE: Statement = Statement::by_index(
    concat!(
        "WITH gone AS (
            DELETE FROM pgq.job AS d WHERE d.ctid = ANY (ARRAY(
                SELECT c.ctid FROM pgq.job AS c
                 WHERE c.queue = $1 AND c.state = 'ready' AND c.task IS NOT DISTINCT FROM $2 AND c.id <> ALL ($3)
                   AND (c.group_key IS NULL OR c.id = ANY ($4))
                   AND NOT EXISTS (SELECT FROM pgq.queue_setting AS s WHERE s.queue = $1 AND s.paused)
                 ORDER BY c.priority DESC, c.id LIMIT 1 FOR UPDATE SKIP LOCKED))
            RETURNING d.*)
         INSERT INTO pgq.job AS j (id, queue, task, args, priority, execute_at, created_at, state, attempt, failures,
                                   max_attempts, key, crashes, error, quarantined, group_key, flow,
                                   has_children)
         SELECT g.id, g.queue, g.task, g.args, g.priority, 'infinity', g.created_at, 'leased',
                LEAST(g.attempt, 2147483646) + 1, g.failures, g.max_attempts, g.key, g.crashes, g.error, g.quarantined,
                g.group_key, g.flow, g.has_children FROM gone AS g
         RETURNING ",
        job_columns!()
    ),
    &[Type::Text, Type::Text, Type::Bigints, Type::Bigints],
);

/// Leases the best job of a handler's (queue, task) to one of our executors.
pub fn lease_one(queue: &str, task: Option<&str>, except: &[i64]) -> Result<Option<Job>> {
    let job = in_turn(queue, 1, candidates_of(queue, task, except), |turn| {
        let args = [Arg::Text(queue), Arg::text(task), Arg::Bigints(except), Arg::Bigints(turn)];
        LEASE_ONE.row(&args, Job::read)
    })?;
    numbers::leased(queue, job.iter().len());
    Ok(job)
}

/// Index: job_pkey. The holder's own row: nobody else changes it but a forced cancel, which it then finds. The
/// lease of an executor, which has no end, gets none.
static EXTEND: Statement = Statement::by_index(
    "UPDATE pgq.job AS j SET execute_at = CASE WHEN j.execute_at = 'infinity' THEN j.execute_at ELSE $3 END
      WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = $1 AND c.attempt = $2 AND c.state = 'leased' AND ($4 IS NULL OR c.queue = ANY ($4))
               FOR UPDATE SKIP LOCKED))
     RETURNING j.execute_at",
    &[Type::Bigint, Type::Int, Type::Time, Type::Texts],
);

/// Moves the end of a lease; the new end, `None` when (id, attempt) holds none.
pub fn extend(id: i64, attempt: i32, until: Micros, queues: Queues<'_>) -> Result<Option<i64>> {
    let args = [Arg::Bigint(id), Arg::Int(attempt), Arg::Time(until.0), queues_arg(queues)];
    EXTEND.row(&args, |row| row.must(1))
}

/// Index: job_pkey; locks nothing.
static LOOK: Statement = Statement::by_index(
    concat!("SELECT ", job_columns!(), ", j.xmin, j.error, j.xmax FROM pgq.job AS j WHERE j.id = $1"),
    &[Type::Bigint],
);

/// A live job as it stands, without touching it.
pub struct Seen {
    /// The job.
    pub job: Job,
    /// Was it written by the present transaction?
    pub own: bool,
    /// Its last failure.
    pub error: Option<crate::pg::datum::Flat>,
    /// The process whose open transaction has taken it, if one has.
    pub holder: Option<i32>,
}

/// Looks at a live job.
pub fn look(id: i64) -> Result<Option<Seen>> {
    LOOK.row(&[Arg::Bigint(id)], |row| {
        Ok(Seen { job: Job::read(row)?, own: row.is_own(19), error: row.get(20), holder: row.holder(21) })
    })
}
