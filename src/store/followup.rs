//! Jobs that pgq itself puts because of what became of others: of a handler's `on_done` and `on_dead`, and the callbacks
//! of flows. In the transaction of the outcome, so they are there if and only if it is.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::state::{Outcome, State};
use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::spi::{Arg, Statement, Type};
use crate::pg::{at_commit, clock};
use crate::store::finish::End;
use crate::store::insert::{self, NewJob};
use crate::store::numbers;
use crate::store::row::Job;

/// A job that is ready, with this JSON as its args.
pub fn job(queue: &str, args: &str) -> Result<NewJob> {
    let args = Flat::jsonb(args).ok_or_else(|| Error::Internal("a follow-up's args are no JSON".into()))?;
    Ok(NewJob::ready(queue.into(), args, clock::now()))
}

/// Puts them.
pub fn put(jobs: &[NewJob]) -> Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let ids = insert::bulk_put(jobs)?;
    for (job, id) in jobs.iter().zip(ids) {
        numbers::changed(&job.queue, Fact::Live(State::Ready), 1);
        at_commit::touch_from(names::hash(&job.queue), id);
    }
    Ok(())
}

/// What became of a job, for the queue that wants to know.
fn report(queue: &str, job: &Job, end: &End<'_>) -> Result<NewJob> {
    let json = |flat: Option<&Flat>| flat.map_or_else(|| "null".to_owned(), Flat::json_text);
    let (from, task) = (Value::from(job.queue.as_str()), Value::from(job.task.as_deref()));
    // What is JSON already is not parsed once more.
    let args = format!(
        "{{\"id\": {}, \"queue\": {from}, \"task\": {task}, \"outcome\": \"{}\", \"attempt\": {}, \"args\": {}, \
         \"result\": {}, \"error\": {}}}",
        job.id,
        end.outcome.word(),
        end.attempt,
        job.args.json_text(),
        json(end.result),
        json(end.error)
    );
    self::job(queue, &args)
}

/// These jobs are done: tells the queue that their handler names, if it names one.
pub fn done<'a>(on_done: Option<&str>, jobs: impl Iterator<Item = &'a Job>, result: Option<&Flat>) -> Result<()> {
    let Some(queue) = on_done else { return Ok(()) };
    let end = |job: &Job| End {
        outcome: Outcome::Done,
        attempt: job.current_attempt(),
        failures: job.failures,
        result,
        error: None,
    };
    put(&jobs.map(|job| report(queue, job, &end(job))).collect::<Result<Vec<_>>>()?)
}

/// Reads the handlers, which are few, once for a transaction that finished jobs; locks nothing.
static WANTED: Statement = Statement::new(
    "SELECT h.task, h.on_done, h.on_dead FROM pgq.handler AS h
      WHERE h.queue = $1 AND (h.on_done IS NOT NULL OR h.on_dead IS NOT NULL)",
    &[Type::Text],
);

/// The queues on_done and on_dead of the handlers of a queue, by task.
type Wanted = BTreeMap<Option<String>, (Option<String>, Option<String>)>;

fn wanted(queue: &str) -> Result<Wanted> {
    Ok(WANTED.rows(&[Arg::Text(queue)], |row| Ok((row.get(1), (row.get(2), row.get(3)))))?.into_iter().collect())
}

/// These jobs, all of one queue, were done outside: tells the queues that their handlers name, where there are any.
pub fn done_outside(jobs: &[Job], result: Option<&Flat>) -> Result<()> {
    let Some(first) = jobs.first() else { return Ok(()) };
    for (task, (on_done, _)) in wanted(&first.queue)? {
        done(on_done.as_deref(), jobs.iter().filter(|job| job.task == task), result)?;
    }
    Ok(())
}

/// These jobs are dead: tells the queues that their handlers name.
pub fn dead(jobs: &[(&Job, End<'_>)]) -> Result<()> {
    let mut known: BTreeMap<&str, Wanted> = BTreeMap::new();
    let mut reports = Vec::new();
    for (job, end) in jobs {
        let wanted = match known.get(job.queue.as_str()) {
            Some(wanted) => wanted,
            None => known.entry(&job.queue).or_insert(wanted(&job.queue)?),
        };
        if let Some(queue) = wanted.get(&job.task).and_then(|queues| queues.1.as_deref()) {
            reports.push(report(queue, job, end)?);
        }
    }
    put(&reports)
}
