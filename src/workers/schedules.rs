//! Puts the jobs of schedules that are due: in a transaction of its own, so that a schedule that cannot be handled stops
//! no promotion, and each with the step of its schedule.

use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::schedule::{Due, Plan, Reason, PORTION as RUNS};
use crate::engine::state::State;
use crate::engine::time::{Micros, Span};
use crate::pg::xact::Caught;
use crate::pg::zone::TimeZone;
use crate::pg::{at_commit, extension, xact};
use crate::store::insert::{self, NewJob};
use crate::store::numbers;
use crate::store::schedule::{self, Schedule, Step, STOPPED};

/// The most schedules of one transaction.
const PORTION: i64 = 100;
/// How soon it is looked again whether the job that a run waits for has ended.
pub const WAIT: Span = Span::from_millis(1_000);
/// What the jobs of one schedule may take at once, in bytes.
const MEMORY: usize = 16 << 20;

/// What came of it.
pub enum Fired {
    /// So much was done that there may be more, and jobs to run.
    Some,
    /// Nothing can be done before this moment.
    NotBefore(Micros),
}

/// Puts what is due. `extension` is the oid that was found in this database.
pub fn fire(extension: u32, now: Micros) -> Result<Fired, Caught> {
    xact::run(|| {
        if extension::try_lock(extension) != Some(true) {
            return Ok(Fired::NotBefore(now.after(WAIT)));
        }
        let due = schedule::due(now, PORTION)?;
        let mut moved = false;
        for schedule in &due {
            let step = take_step(schedule, now)?;
            if step.next != schedule.next_run || step.stops {
                schedule::step(&schedule.name, &step)?;
                moved = true;
            }
        }
        // Where all of a portion wait for their jobs, those behind them come when these have gone on.
        Ok(if moved { Fired::Some } else { Fired::NotBefore(now.after(WAIT)) })
    })
}

fn take_step(schedule: &Schedule, now: Micros) -> Result<Step, Caught> {
    // What cannot go on stops, alone.
    let stopped = |why: String| {
        let skipped = Some((now, format!("{STOPPED}{why}")));
        Ok(Step { next: schedule.next_run, skipped, stops: true, ..Step::default() })
    };
    let (Some(next), Some(zone)) = (schedule.next_run, TimeZone::find(&schedule.timezone)) else {
        return stopped(format!("time zone \"{}\" is not known to this server", schedule.timezone));
    };
    let rhythm = match schedule.rhythm() {
        Ok(rhythm) => rhythm,
        Err(why) => return stopped(why),
    };
    let (overlap, catchup, is_busy) = (schedule.overlap, schedule.catchup, schedule.is_busy);
    // Each has its own copy of the args.
    let most = (MEMORY / schedule.args.len().max(1)).clamp(1, RUNS);
    let due = Due { rhythm: &rhythm, next, ends: schedule.ends_at, overlap, catchup, is_busy, most };
    let plan = due.plan(now, &zone);
    let ids = put(schedule, &plan)?;
    let run = plan.runs.last().copied().zip(ids.last().copied());
    let skipped = plan.skipped.map(|(at, reason)| (at, words(reason)));
    Ok(Step { next: plan.next, run, skipped, stops: false })
}

fn words(reason: Reason) -> String {
    match reason {
        Reason::Overlap => "the job of the run before was not finished".into(),
        Reason::Missed => "nobody was there to put it in time".into(),
    }
}

fn put(schedule: &Schedule, plan: &Plan) -> Result<Vec<i64>, Caught> {
    if plan.runs.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<NewJob> = plan
        .runs
        .iter()
        .map(|at| NewJob {
            task: schedule.task.clone(),
            priority: schedule.priority,
            ..NewJob::ready(schedule.queue.clone(), schedule.args.clone(), at.0)
        })
        .collect();
    let ids = insert::bulk_put(&jobs)?;
    numbers::changed_by(&schedule.queue, Fact::Live(State::Ready), ids.len());
    if let Some(first) = ids.first() {
        at_commit::touch_from(names::hash(&schedule.queue), *first);
    }
    Ok(ids)
}
