//! What the end of a job means for those that come after it: the scheduler's work, and where there is none a claiming
//! client's. One at a time, by a lock that nobody waits for, so that no row of these tables is written by two.
//!
//! An end becomes the outcome in the rows of pgq.dependency; then each job with such rows is looked at: it is cancelled,
//! or it has fewer parents to wait for, and runs when there are none. A job whose row somebody has is left for the next
//! look. All of it is one transaction with the removal of the end, so it happens once.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::state::{Outcome, State};
use crate::error::Result;
use crate::pg::datum::Flat;
use crate::pg::spi::{Arg, Row, Statement, Type};
use crate::pg::{at_commit, clock, extension};
use crate::store::finish::{self, End};
use crate::store::row::{job_columns, Job};
use crate::store::{flows, groups, numbers, ready};

/// Index: dependency_settled_idx, dependency_unsure_idx, one entry of each; the table of ends, which is mostly empty.
/// Locks nothing.
static ANY: Statement = Statement::new(
    "SELECT EXISTS (SELECT FROM pgq.ended AS e),
            EXISTS (SELECT FROM pgq.dependency AS d WHERE d.outcome IS NOT NULL),
            EXISTS (SELECT FROM pgq.dependency AS d WHERE d.unsure)",
    &[],
);

/// What there is to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Any {
    /// Ends that nobody has read.
    pub ends: bool,
    /// Outcomes that are not counted.
    pub outcomes: bool,
    /// Parents that somebody had.
    pub unsure: bool,
}

/// Is there anything to do? Costs next to nothing when there is not.
pub fn any() -> Result<Any> {
    let any = ANY.row(&[], |row| Ok(Any { ends: row.must(1)?, outcomes: row.must(2)?, unsure: row.must(3)? }))?;
    Ok(any.unwrap_or_default())
}

/// May this transaction settle? It is the only one then, to its end. Nobody waits for it.
pub fn begin() -> bool {
    extension::lock_key(extension::job_table(), names::fold("\u{1}settle"), false)
}

/// No index: reads the table from its start; locks the rows that it deletes.
static READ: Statement = Statement::new(
    "DELETE FROM pgq.ended AS e
      WHERE e.ctid = ANY (ARRAY(SELECT c.ctid FROM pgq.ended AS c LIMIT $1 FOR UPDATE SKIP LOCKED))
     RETURNING e.job, e.outcome, e.flow, e.n",
    &[Type::Bigint],
);

/// Index: dependency_parent_idx; locks the rows that it changes: nobody else does.
static OUTCOMES: Statement = Statement::by_index(
    "UPDATE pgq.dependency AS d SET outcome = e.outcome, unsure = false
       FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS e (job, outcome)
      WHERE d.parent = e.job AND d.outcome IS NULL",
    &[Type::Bigints, Type::Texts],
);

/// Reads up to `most` ends and notes them for those that wait.
pub fn read(most: i64) -> Result<()> {
    let ends = READ.rows(&[Arg::Bigint(most)], |row| {
        Ok((row.must::<i64>(1)?, row.must::<String>(2)?, row.get::<i64>(3), row.must::<i32>(4)?))
    })?;
    let mut outcomes: BTreeMap<i64, &str> = BTreeMap::new();
    for (job, outcome, _, _) in ends.iter().filter(|end| end.3 > 0) {
        outcomes.entry(*job).or_insert(outcome);
    }
    if !outcomes.is_empty() {
        let jobs: Vec<i64> = outcomes.keys().copied().collect();
        let words: Vec<Option<String>> = outcomes.values().map(|word| Some((*word).into())).collect();
        OUTCOMES.run(&[Arg::Bigints(&jobs), Arg::Texts(&words)])?;
    }
    flows::count(ends.iter().filter_map(|(_, outcome, flow, n)| Some(((*flow)?, outcome.as_str(), *n))))?;
    Ok(())
}

/// Index: dependency_unsure_idx, job_pkey, finished_job_pkey; locks the rows that it changes. A job that is in neither
/// table succeeded, and was not kept.
static FIND_ENDED: Statement = Statement::by_index(
    "UPDATE pgq.dependency AS d SET unsure = false, outcome = COALESCE(g.outcome, 'done')
       FROM (SELECT u.ctid AS place, f.outcome
               FROM pgq.dependency AS u LEFT JOIN pgq.finished_job AS f ON f.id = u.parent
              WHERE u.unsure AND NOT EXISTS (SELECT FROM pgq.job AS j WHERE j.id = u.parent)
              LIMIT $1) AS g
      WHERE d.ctid = g.place",
    &[Type::Bigint],
);

/// Index: dependency_unsure_idx, job_pkey; locks the jobs that it marks, skips those that somebody has. Leased ones are
/// their holders'.
static MARK: Statement = Statement::by_index(
    "WITH held AS MATERIALIZED (
        SELECT c.ctid AS place, c.id FROM pgq.job AS c
         WHERE c.id = ANY (ARRAY(SELECT u.parent FROM pgq.dependency AS u WHERE u.unsure LIMIT $1))
           AND c.state <> 'leased' FOR NO KEY UPDATE SKIP LOCKED),
     marked AS (
        UPDATE pgq.job AS j SET has_children = true
         WHERE j.ctid = ANY (ARRAY(SELECT h.place FROM held AS h)) RETURNING j.id, j.queue, j.state),
     sure AS (
        UPDATE pgq.dependency AS d SET unsure = false
         WHERE d.unsure AND d.parent = ANY (ARRAY(SELECT m.id FROM marked AS m)))
     SELECT m.queue, m.id FROM marked AS m WHERE m.state = 'ready'",
    &[Type::Bigint],
);

/// Looks for parents whose ends may not be told: those that are gone have ended, those that somebody has given back are
/// marked.
pub fn find_unsure(most: i64) -> Result<()> {
    FIND_ENDED.run(&[Arg::Bigint(most)])?;
    let marked = MARK.rows(&[Arg::Bigint(most)], |row| Ok((row.must::<String>(1)?, row.must::<i64>(2)?)))?;
    for (queue, id) in marked {
        at_commit::give_back(names::hash(&queue), id);
    }
    Ok(())
}

/// Index: dependency_pkey from behind ($1, $2), $3 entries; job_pkey; the table of ends once. Locks the rows that it
/// changes: nobody else does.
static DOUBT: Statement = Statement::by_index(
    "WITH part AS MATERIALIZED (
        SELECT d.ctid AS place, d.child, d.parent, d.outcome IS NULL AND NOT d.unsure AS waits
          FROM pgq.dependency AS d WHERE (d.child, d.parent) > ($1, $2) ORDER BY d.child, d.parent LIMIT $3),
     lost AS (
        UPDATE pgq.dependency AS d SET unsure = true
         WHERE d.ctid = ANY (ARRAY(
            SELECT p.place FROM part AS p
             WHERE p.waits AND NOT EXISTS (SELECT FROM pgq.job AS j WHERE j.id = p.parent)
               AND p.parent NOT IN (SELECT e.job FROM pgq.ended AS e))))
     SELECT p.child, p.parent FROM part AS p ORDER BY p.child DESC, p.parent DESC LIMIT 1",
    &[Type::Bigint, Type::Bigint, Type::Bigint],
);

/// A place among the rows of pgq.dependency.
pub type Cursor = (i64, i64);

/// Looks at the next `most` rows whether a parent is gone that told nobody, because somebody has removed it by hand. Where
/// to go on, `None` at the end.
pub fn find_lost(from: Option<Cursor>, most: i64) -> Result<Option<Cursor>> {
    if !begin() {
        return Ok(from);
    }
    let (child, parent) = from.unwrap_or((i64::MIN, i64::MIN));
    let args = [Arg::Bigint(child), Arg::Bigint(parent), Arg::Bigint(most)];
    DOUBT.row(&args, |row| Ok((row.must(1)?, row.must(2)?)))
}

/// Index: dependency_settled_idx, job_pkey, dependency_pkey; locks jobs that nobody has, so that producers who lock them
/// for their own children are not held up. $1 rows of pgq.dependency, in the order of the jobs.
static SETTLED: Statement = Statement::by_index(
    "WITH free AS MATERIALIZED (
        SELECT c.id FROM pgq.dependency AS d JOIN pgq.job AS c ON c.id = d.child
         WHERE d.outcome IS NOT NULL AND c.state = 'waiting' AND c.parents > 0
         ORDER BY d.child LIMIT $1 FOR NO KEY UPDATE OF c SKIP LOCKED)
     SELECT d.child, pg_catalog.count(*),
            pg_catalog.min(d.parent) FILTER (WHERE d.outcome <> 'done' AND NOT d.run_anyway),
            pg_catalog.min(d.outcome) FILTER (WHERE d.outcome <> 'done' AND NOT d.run_anyway)
       FROM pgq.dependency AS d
      WHERE d.child = ANY (ARRAY(SELECT f.id FROM free AS f)) AND d.outcome IS NOT NULL
      GROUP BY d.child",
    &[Type::Bigint],
);

/// A job some of whose parents have ended.
struct Child {
    id: i64,
    /// How many.
    ended: i64,
    /// One that did not succeed, and what became of it.
    failed: Option<(i64, String)>,
}

fn child(row: &Row) -> Result<Child> {
    let failed = row.get::<i64>(3).zip(row.get::<String>(4));
    Ok(Child { id: row.must(1)?, ended: row.must(2)?, failed })
}

/// Index: job_pkey; takes (deletes) rows that nobody else has locked.
static TAKE: Statement = Statement::by_index(
    concat!(
        "DELETE FROM pgq.job AS j WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = ANY ($1) AND c.state = 'waiting' AND c.parents > 0 FOR UPDATE SKIP LOCKED))
         RETURNING ",
        job_columns!()
    ),
    &[Type::Bigints],
);

/// Index: job_pkey; the rows are locked by `SETTLED` already. One with a group stays waiting: `groups::pass_on` knows
/// whose turn it is.
static COUNT_DOWN: Statement = Statement::by_index(
    "UPDATE pgq.job AS j
        SET parents = GREATEST(j.parents - e.n, 0)::integer,
            state = CASE WHEN j.parents > e.n OR j.group_key IS NOT NULL THEN 'waiting'
                         WHEN j.execute_at > $3 THEN 'scheduled' ELSE 'ready' END
       FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS e (id, n)
      WHERE j.id = e.id AND j.state = 'waiting' AND j.parents > 0
     RETURNING j.id, j.queue, j.state, j.group_key, j.parents",
    &[Type::Bigints, Type::Bigints, Type::Time],
);

/// Index: dependency_settled_idx; locks the rows that it deletes: nobody else does.
static FORGET_SETTLED: Statement = Statement::by_index(
    "DELETE FROM pgq.dependency AS d WHERE d.child = ANY ($1) AND d.outcome IS NOT NULL",
    &[Type::Bigints],
);

/// Index: dependency_pkey; as FORGET_SETTLED.
static FORGET_ALL: Statement =
    Statement::by_index("DELETE FROM pgq.dependency AS d WHERE d.child = ANY ($1)", &[Type::Bigints]);

/// Index: dependency_settled_idx, job_pkey; locks the rows that it deletes. Of jobs that wait for nobody any more: they
/// were cancelled, or brought back.
static FORGET_STALE: Statement = Statement::by_index(
    "DELETE FROM pgq.dependency AS d
      WHERE d.outcome IS NOT NULL
        AND NOT EXISTS (SELECT FROM pgq.job AS j WHERE j.id = d.child AND j.state = 'waiting' AND j.parents > 0)",
    &[],
);

/// What came of it.
#[derive(Debug, Default)]
pub struct Settled {
    /// May there be more?
    pub more: bool,
    /// Queues that got ready jobs.
    pub queues: Vec<String>,
}

/// Draws the consequences of up to `most` outcomes.
pub fn settle(most: i64) -> Result<Settled> {
    let children = SETTLED.rows(&[Arg::Bigint(most)], child)?;
    if children.is_empty() {
        FORGET_STALE.run(&[])?;
        return Ok(Settled::default());
    }
    let (failed, fewer): (Vec<Child>, Vec<Child>) = children.into_iter().partition(|child| child.failed.is_some());
    let rows = cancel(&failed)? + fewer.iter().map(|child| child.ended).sum::<i64>();
    Ok(Settled { more: rows >= most, queues: count_down(&fewer)? })
}

/// Cancels jobs whose parents did not succeed, unless somebody has locked them; how many.
fn cancel(failed: &[Child]) -> Result<i64> {
    if failed.is_empty() {
        return Ok(0);
    }
    let ids: Vec<i64> = failed.iter().map(|child| child.id).collect();
    let jobs = TAKE.rows(&[Arg::Bigints(&ids)], Job::read)?;
    numbers::taken(&jobs);
    let why: BTreeMap<i64, Flat> = failed
        .iter()
        .filter_map(|child| {
            let (parent, outcome) = child.failed.as_ref()?;
            let message = format!("job {parent}, which it comes after, is {outcome}");
            Some((child.id, Flat::jsonb(&serde_json::json!({ "message": message }).to_string())?))
        })
        .collect();
    let end = |job: &Job| End {
        outcome: Outcome::Cancelled,
        attempt: job.attempt,
        failures: job.failures,
        result: None,
        error: why.get(&job.id),
    };
    let ends: Vec<(&Job, End<'_>)> = jobs.iter().map(|job| (job, end(job))).collect();
    finish::keep_all(&ends)?;
    let gone: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    FORGET_ALL.run(&[Arg::Bigints(&gone)])?;
    Ok(i64::try_from(gone.len()).unwrap_or(i64::MAX))
}

/// Jobs wait for fewer, and run if there are none left; the queues of those that are ready.
fn count_down(fewer: &[Child]) -> Result<Vec<String>> {
    if fewer.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = fewer.iter().map(|child| child.id).collect();
    let counts: Vec<i64> = fewer.iter().map(|child| child.ended).collect();
    let args = [Arg::Bigints(&ids), Arg::Bigints(&counts), Arg::Time(clock::now())];
    let mut queues = BTreeSet::new();
    COUNT_DOWN.rows(&args, |row| {
        let (id, queue, state): (i64, String, String) = (row.must(1)?, row.must(2)?, row.must(3)?);
        match (State::parse(&state), row.get::<String>(4)) {
            (Some(State::Waiting), Some(group)) if row.must::<i32>(5)? == 0 => groups::left(&queue, &group, i64::MIN),
            (Some(state @ (State::Ready | State::Scheduled)), _) => {
                numbers::changed(&queue, Fact::Live(State::Waiting), -1);
                numbers::changed(&queue, Fact::Live(state), 1);
                if state == State::Ready {
                    ready::returns(&queue, id);
                    queues.insert(queue);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    FORGET_SETTLED.run(&[Arg::Bigints(&ids)])?;
    Ok(queues.into_iter().collect())
}
