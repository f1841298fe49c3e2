//! What a job comes after, as whoever puts it and whoever ends a job see it. The scheduler's part is `settle`.
//!
//! There is no row that many write. A job that others come after is marked (`has_children`), and whatever ends it writes
//! a row of pgq.ended in the same transaction; the scheduler alone reads these and counts.
//!
//! Why no end is missed: a parent that nobody has is locked by the producer to his commit, so it cannot be taken, and
//! then end, without the mark. A parent that somebody has is `unsure`: its row cannot be marked now, so the scheduler
//! looks whether it is still there, and marks it as soon as it can.

use crate::engine::names;
use crate::engine::state::{Outcome, State};
use crate::error::{Error, Result};
use crate::pg::at_commit;
use crate::pg::insert::Table;
use crate::pg::spi::{Arg, Row, Statement, Type};
use crate::store::row::Job;

/// Where a job stands that another is to come after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is live, and its end will be told.
    Marked,
    /// It is live, and somebody has it.
    Unsure,
    /// It is among the finished ones.
    Ended(Outcome),
    /// It ended and was not kept.
    Gone,
    /// There never was one.
    Unknown,
}

/// A job that another is to come after.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its id.
    pub id: i64,
    /// Its queue, where it is known.
    pub queue: Option<String>,
    /// Where it stands.
    pub standing: Standing,
}

/// Index: job_pkey; locks the rows that it changes, skips those that somebody has. A leased row is its holder's: a lock
/// would make him find it taken.
static MARK: Statement = Statement::by_index(
    "UPDATE pgq.job AS j SET has_children = true
      WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = ANY ($1) AND c.state <> 'leased' AND NOT c.has_children FOR NO KEY UPDATE SKIP LOCKED))
     RETURNING j.id, j.queue, j.state",
    &[Type::Bigints],
);

/// Index: job_pkey; locks rows that nobody has, to the producer's commit, so that they do not end before it.
static HOLD: Statement = Statement::by_index(
    "SELECT c.id, c.queue, c.state FROM pgq.job AS c
      WHERE c.id = ANY ($1) AND c.state <> 'leased' AND c.has_children FOR KEY SHARE SKIP LOCKED",
    &[Type::Bigints],
);

/// Index: job_pkey, finished_job_pkey; locks nothing. With what was issued: ids come from the sequence, in order.
static LOOK: Statement = Statement::by_index(
    "SELECT p.id, COALESCE(j.queue, f.queue), j.id IS NOT NULL, f.outcome,
            p.id >= 1 AND (p.id < s.last_value OR (p.id = s.last_value AND s.is_called))
       FROM pgq.job_id_seq AS s, pg_catalog.unnest($1) AS p (id)
       LEFT JOIN pgq.job AS j ON j.id = p.id
       LEFT JOIN pgq.finished_job AS f ON f.id = p.id",
    &[Type::Bigints],
);

/// Where these jobs stand, none of them named twice. Those that nobody has are held to the end of the transaction.
pub fn hold(ids: &[i64]) -> Result<Vec<Parent>> {
    let read = |row: &Row| Ok((row.must::<i64>(1)?, row.must::<String>(2)?, row.must::<String>(3)?));
    let mut held = MARK.rows(&[Arg::Bigints(ids)], read)?;
    if held.len() < ids.len() {
        // Those just marked are this transaction's own, and found again; the others may be marked already.
        held = HOLD.rows(&[Arg::Bigints(ids)], read)?;
    }
    held.sort_unstable();
    for (id, queue, state) in &held {
        // Whoever walks along the ready jobs until our commit passes them by.
        if state == State::Ready.word() {
            at_commit::holds(names::hash(queue), *id);
        }
    }
    let place = |id: &i64| held.binary_search_by_key(id, |h| h.0);
    let rest: Vec<i64> = ids.iter().copied().filter(|id| place(id).is_err()).collect();
    let mut parents: Vec<Parent> = Vec::with_capacity(ids.len());
    if !rest.is_empty() {
        parents.extend(LOOK.rows(&[Arg::Bigints(&rest)], read_parent)?);
    }
    parents.extend(held.into_iter().map(|(id, queue, _)| Parent {
        id,
        queue: Some(queue),
        standing: Standing::Marked,
    }));
    Ok(parents)
}

fn read_parent(row: &Row) -> Result<Parent> {
    let outcome: Option<String> = row.get(4);
    let standing = match outcome.as_deref().and_then(Outcome::parse) {
        _ if row.must(3)? => Standing::Unsure,
        Some(outcome) => Standing::Ended(outcome),
        None if row.must(5)? => Standing::Gone,
        None => Standing::Unknown,
    };
    Ok(Parent { id: row.must(1)?, queue: row.get(2), standing })
}

/// That one job comes after another: its id, the other's, and where that one stands.
pub type Link = (i64, i64, Standing);

/// What a row says of a parent's standing; `None` when it needs none.
fn mark(standing: &Standing) -> Option<&'static str> {
    match standing {
        Standing::Marked => Some("live"),
        Standing::Unsure => Some("unsure"),
        Standing::Ended(Outcome::Done) | Standing::Gone | Standing::Unknown => None,
        Standing::Ended(outcome) => Some(outcome.word()),
    }
}

/// Does a job wait for one that stands so?
pub fn counts(standing: &Standing) -> bool {
    mark(standing).is_some()
}

/// Waits for nobody: the children are this transaction's own.
static LINK: Statement = Statement::new(
    "INSERT INTO pgq.dependency (child, parent, run_anyway, unsure, outcome)
     SELECT l.child, l.parent, $4, l.mark = 'unsure', CASE WHEN l.mark = 'unsure' OR l.mark = 'live' THEN NULL ELSE l.mark END
       FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS l (child, parent, mark)",
    &[Type::Bigints, Type::Bigints, Type::Texts, Type::Bool],
);

/// Notes what new jobs wait for; those that need not be waited for are left out.
pub fn link(links: &[Link], run_anyway: bool) -> Result<()> {
    let rows = || links.iter().filter(|link| counts(&link.2));
    let children: Vec<i64> = rows().map(|link| link.0).collect();
    if children.is_empty() {
        return Ok(());
    }
    let parents: Vec<i64> = rows().map(|link| link.1).collect();
    let marks: Vec<Option<String>> = rows().map(|link| mark(&link.2).map(Into::into)).collect();
    let args = [Arg::Bigints(&children), Arg::Bigints(&parents), Arg::Texts(&marks), Arg::Bool(run_anyway)];
    LINK.run(&args).map(drop)
}

/// Waits for nobody: there is no unique index.
static ENDED: Table = Table::new(
    c"ended",
    "job",
    &[("job", Type::Bigint), ("outcome", Type::Text), ("flow", Type::Bigint), ("n", Type::Int)],
);

/// These jobs, which this transaction has taken, have ended so. It is written down if somebody wants to know: now, and
/// not at the end of the transaction, so that it is undone with the savepoint in which the job ran.
pub fn ended<'a>(jobs: impl Iterator<Item = (&'a Job, Outcome)>) -> Result<()> {
    let mut told = jobs.filter(|(job, _)| job.has_children || job.flow.is_some()).peekable();
    if told.peek().is_none() {
        return Ok(());
    }
    ENDED.insert(|rows| {
        for (job, outcome) in told {
            rows.add(&[Arg::Bigint(job.id), Arg::Text(outcome.word()), Arg::bigint(job.flow), Arg::Int(1)]);
            at_commit::call_at_commit(names::hash(&job.queue));
        }
        Ok(())
    })?;
    Ok(())
}

/// The same for one that succeeded.
pub fn done(job: &Job) -> Result<()> {
    ended(std::iter::once((job, Outcome::Done)))
}

/// Index: dependency_pkey; locks nothing.
static BEFORE: Statement = Statement::by_index(
    "SELECT d.parent FROM pgq.dependency AS d WHERE d.child = $1 AND d.outcome IS NULL ORDER BY d.parent LIMIT $2",
    &[Type::Bigint, Type::Bigint],
);

/// The first jobs that a job waits for.
pub fn before(child: i64, most: i64) -> Result<Vec<i64>> {
    BEFORE.rows(&[Arg::Bigint(child), Arg::Bigint(most)], |row| row.must(1))
}

/// For a parent that the caller may not see, or that never was.
pub fn unknown(id: i64) -> Error {
    Error::argument(
        format!("unknown job {id} in \"after\""),
        "A job comes after jobs that were put before: pass the ids that put and bulk_put have returned.",
    )
}
