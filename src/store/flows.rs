//! Flows: sets of jobs that are counted together. One row each, which the scheduler alone counts in (`settle`); whoever
//! puts a job into a flow locks the row FOR KEY SHARE to his commit, so that the flow does not end meanwhile, and he
//! waits for nobody but an end that is just being written.

use std::collections::BTreeMap;

use crate::engine::state::Outcome;
use crate::error::Result;
use crate::pg::spi::{Arg, Row, Statement, Type};
use crate::store::followup;
use crate::store::insert::NewJob;

/// Waits for nobody.
static MAKE: Statement = Statement::new(
    "INSERT INTO pgq.flow_state AS s (name, on_finished, on_succeeded, on_dead) VALUES ($1, $2, $3, $4) RETURNING s.id",
    &[Type::Text, Type::Text, Type::Text, Type::Text],
);

/// Makes a flow; its id. The queues are those of on_finished, on_succeeded and on_dead.
pub fn make(name: Option<&str>, queues: [Option<&str>; 3]) -> Result<Option<i64>> {
    let [finished, succeeded, dead] = queues.map(Arg::text);
    MAKE.row(&[Arg::text(name), finished, succeeded, dead], |row| row.must(1))
}

/// Index: flow_state_pkey; locks the row against its end. Waits for an end that is being written.
static JOIN: Statement = Statement::by_index(
    "SELECT s.finished_at IS NULL FROM pgq.flow_state AS s WHERE s.id = $1 FOR KEY SHARE",
    &[Type::Bigint],
);

/// Keeps a flow open to the end of the transaction: false when it is finished, `None` when there is none.
pub fn join(flow: i64) -> Result<Option<bool>> {
    JOIN.row(&[Arg::Bigint(flow)], |row| row.must(1))
}

/// What a flow came to.
struct Sums {
    id: i64,
    name: Option<String>,
    /// Queue of the callback.
    queue: Option<String>,
    done: i64,
    dead: i64,
    cancelled: i64,
}

impl Sums {
    fn read(row: &Row) -> Result<Self> {
        Ok(Sums {
            id: row.must(1)?,
            name: row.get(2),
            queue: row.get(3),
            done: row.must(4)?,
            dead: row.must(5)?,
            cancelled: row.must(6)?,
        })
    }

    /// The job that tells it.
    fn call(&self, queue: &str) -> Result<NewJob> {
        let Sums { id, name, done, dead, cancelled, .. } = self;
        let args = serde_json::json!({
            "flow": id, "name": name, "done": done, "dead": dead, "cancelled": cancelled,
        });
        followup::job(queue, &args.to_string())
    }
}

/// What ends change in a flow.
#[derive(Default)]
struct Change {
    done: i64,
    dead: i64,
    cancelled: i64,
    /// Jobs that died, whatever was brought back.
    died: i64,
}

/// Index: flow_state_pkey; waits for nobody: the scheduler alone changes these rows, and producers' locks allow it.
static COUNT: Statement = Statement::by_index(
    "UPDATE pgq.flow_state AS s
        SET done = s.done + e.done, dead = s.dead + e.dead, cancelled = s.cancelled + e.cancelled,
            first_dead_at = CASE WHEN e.died > 0 THEN COALESCE(s.first_dead_at, pg_catalog.clock_timestamp())
                                 ELSE s.first_dead_at END
       FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                       pg_catalog.unnest($5)) AS e (flow, done, dead, cancelled, died)
       JOIN pgq.flow_state AS o ON o.id = e.flow
      WHERE s.id = e.flow
     RETURNING s.id, s.name, s.on_dead, s.done, s.dead, s.cancelled, o.first_dead_at IS NULL AND e.died > 0",
    &[Type::Bigints, Type::Bigints, Type::Bigints, Type::Bigints, Type::Bigints],
);

/// Counts ends (flow, outcome, 1 or -1), and puts the callbacks that follow.
pub fn count<'a>(ends: impl Iterator<Item = (i64, &'a str, i32)>) -> Result<()> {
    let mut changes: BTreeMap<i64, Change> = BTreeMap::new();
    for (flow, outcome, n) in ends {
        let change = changes.entry(flow).or_default();
        let place = match Outcome::parse(outcome) {
            Some(Outcome::Done) => &mut change.done,
            Some(Outcome::Dead) => &mut change.dead,
            Some(Outcome::Cancelled) | None => &mut change.cancelled,
        };
        *place += i64::from(n);
        change.died += i64::from(outcome == Outcome::Dead.word() && n > 0);
    }
    if changes.is_empty() {
        return Ok(());
    }
    let flows: Vec<i64> = changes.keys().copied().collect();
    let all = |of: fn(&Change) -> i64| changes.values().map(of).collect::<Vec<i64>>();
    let (done, dead, cancelled, died) = (all(|c| c.done), all(|c| c.dead), all(|c| c.cancelled), all(|c| c.died));
    let args = [&flows, &done, &dead, &cancelled, &died].map(|numbers| Arg::Bigints(numbers));
    let counted = COUNT.rows(&args, |row| Ok((Sums::read(row)?, row.must::<bool>(7)?)))?;
    let first = counted.iter().filter(|(_, is_first)| *is_first);
    let calls = first.filter_map(|(sums, _)| sums.queue.as_deref().map(|queue| sums.call(queue)));
    followup::put(&calls.collect::<Result<Vec<_>>>()?)?;
    finish(Some(&flows))
}

/// Flows that have begun, with no job any more that has not ended.
macro_rules! over {
    ($which:literal) => {
        concat!(
            "SELECT s.id FROM pgq.flow_state AS s
              WHERE s.finished_at IS NULL AND ",
            $which,
            " AND s.done + s.dead + s.cancelled > 0
                AND NOT EXISTS (SELECT FROM pgq.job AS j WHERE j.flow = s.id)
                AND s.id NOT IN (SELECT e.flow FROM pgq.ended AS e WHERE e.flow IS NOT NULL)
              LIMIT $2 FOR UPDATE OF s SKIP LOCKED"
        )
    };
}

/// Index: flow_state_pkey; job_flow_idx, one entry each; the table of ends once. Locks flows that no producer keeps open.
static LOCK: Statement = Statement::by_index(over!("s.id = ANY ($1)"), &[Type::Bigints, Type::Bigint]);

/// As LOCK, along flow_state_open_idx.
static LOCK_ANY: Statement = Statement::by_index(over!("$1 IS NULL"), &[Type::Bigints, Type::Bigint]);

/// The same once more, now that nobody can put into them: of rows that are locked.
static FINISH: Statement = Statement::by_index(
    "UPDATE pgq.flow_state AS s SET finished_at = pg_catalog.clock_timestamp()
      WHERE s.id = ANY ($1) AND s.finished_at IS NULL
        AND NOT EXISTS (SELECT FROM pgq.job AS j WHERE j.flow = s.id)
        AND s.id NOT IN (SELECT e.flow FROM pgq.ended AS e WHERE e.flow IS NOT NULL)
     RETURNING s.id, s.name, s.on_finished, s.done, s.dead, s.cancelled, s.on_succeeded",
    &[Type::Bigints],
);

/// The most flows that one look finishes.
const MOST: i64 = 1_000;

/// Finishes those of these flows, or of all, that have no live job any more; with the callbacks that follow.
pub fn finish(flows: Option<&[i64]>) -> Result<()> {
    let lock = if flows.is_some() { &LOCK } else { &LOCK_ANY };
    let ids = lock.rows(&[flows.map_or(Arg::Null, Arg::Bigints), Arg::Bigint(MOST)], |row| row.must::<i64>(1))?;
    if ids.is_empty() {
        return Ok(());
    }
    let finished = FINISH.rows(&[Arg::Bigints(&ids)], |row| Ok((Sums::read(row)?, row.get::<String>(7))))?;
    let mut calls = Vec::new();
    for (sums, on_succeeded) in &finished {
        let succeeded = on_succeeded.as_deref().filter(|_| sums.dead == 0 && sums.cancelled == 0);
        for queue in sums.queue.as_deref().into_iter().chain(succeeded) {
            calls.push(sums.call(queue)?);
        }
    }
    followup::put(&calls)
}

/// Reads the table; locks the rows that it deletes, skips those that somebody has.
static PRUNE: Statement = Statement::new(
    "DELETE FROM pgq.flow_state AS s WHERE s.ctid = ANY (ARRAY(
        SELECT c.ctid FROM pgq.flow_state AS c WHERE c.finished_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
    &[Type::Time, Type::Bigint],
);

/// Throws flows away that were finished before a moment.
pub fn prune(before: i64, most: i64) -> Result<usize> {
    PRUNE.run(&[Arg::Time(before), Arg::Bigint(most)])
}
