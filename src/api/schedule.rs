//! Schedules, as a person sets them up: schedule, unschedule, pause_schedule, resume_schedule, run_schedule, next_runs.
//! Their jobs are put by the scheduler (`workers::schedules`).

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::SetOfIterator;
use pgrx::prelude::*;

use super::{check, put, rights};
use crate::engine::access::Access;
use crate::engine::cron::Cron;
use crate::engine::names;
use crate::engine::schedule::{Catchup, Overlap};
use crate::engine::time::{Micros, Span};
use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::report::ErrorReport;
use crate::pg::text::Text;
use crate::pg::zone::TimeZone;
use crate::pg::{at_commit, clock};
use crate::store::insert::NewJob;
use crate::store::schedule::{self, Schedule, Step};

/// The shortest `every`.
const SHORTEST: Span = Span::from_millis(1_000);
/// The most of next_runs.
const MOST_RUNS: i32 = 10_000;

fn moment(at: Option<Micros>) -> Option<TimestampWithTimeZone> {
    at.and_then(|at| TimestampWithTimeZone::try_from(at.0).ok())
}

fn zone(name: &str) -> Result<TimeZone> {
    TimeZone::find(name).ok_or_else(|| {
        Error::argument(
            format!("time zone \"{name}\" not recognized"),
            "Names are in pg_timezone_names: timezone => 'Europe/Berlin'.",
        )
    })
}

fn pattern(cron: &str) -> Result<Cron> {
    Cron::parse(cron).map_err(|why| Error::Argument {
        message: format!("invalid cron pattern \"{cron}\""),
        detail: Some(why),
        hint: "Minute, hour, day of month, month, day of week: '30 3 * * mon-fri'; with seconds in front: \
               '*/10 * * * * *'."
            .into(),
    })
}

/// Months, days and time, none of them negative, together at least a second.
fn every(interval: Interval) -> Result<(i32, i32, i64)> {
    let parts = (interval.months(), interval.days(), interval.micros());
    if parts.0 < 0 || parts.1 < 0 || parts.2 < 0 || check::span("every", interval)? < SHORTEST {
        return Err(Error::argument("\"every\" must be at least a second", "every => '10 s'"));
    }
    Ok(parts)
}

/// A word of one of these.
fn word<'a, T>(
    name: &str,
    given: Option<&'a str>,
    words: [&'a str; 3],
    parse: fn(&str) -> Option<T>,
) -> Result<(&'a str, T)> {
    let word = given.unwrap_or(words[0]);
    parse(word).map(|parsed| (word, parsed)).ok_or_else(|| {
        let [first, second, third] = words;
        Error::argument(
            format!("unrecognized {name} \"{word}\""),
            format!("{name} is '{first}', '{second}' or '{third}'."),
        )
    })
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn schedule(
    name: Option<Text>,
    queue: Option<Text>,
    cron: Option<Text>,
    every: Option<Interval>,
    args: Option<Flat>,
    task: Option<Text>,
    priority: Option<i32>,
    timezone: Option<Text>,
    overlap: Option<Text>,
    catchup: Option<Text>,
    active: Option<bool>,
    starts_at: Option<TimestampWithTimeZone>,
    ends_at: Option<TimestampWithTimeZone>,
) -> std::result::Result<Option<TimestampWithTimeZone>, ErrorReport> {
    let queue = check::queue(queue.as_deref())?;
    rights::need(Access::Admin, queue)?;
    let name = check::schedule(name.as_deref())?;
    let old = match schedule::look(name)? {
        Some(seen) => {
            rights::need(Access::Admin, &seen.queue)?;
            // Locked: what the scheduler has put meanwhile is not put again.
            schedule::find(name)?.filter(|found| found.queue == seen.queue)
        }
        None => None,
    };
    if cron.is_some() == every.is_some() {
        let hint = format!("SELECT pgq.schedule('{name}', '{queue}', cron => '30 3 * * *')");
        return Err(Error::argument("exactly one of \"cron\" and \"every\" must be given", hint).into());
    }
    cron.as_deref().map(pattern).transpose()?;
    let (overlap, catchup) = (overlap.as_deref(), catchup.as_deref());
    let (overlap_word, overlap) = word("overlap", overlap, ["skip", "queue", "allow"], Overlap::parse)?;
    let (catchup_word, catchup) = word("catchup", catchup, ["none", "last", "all"], Catchup::parse)?;
    let timezone = timezone.map_or_else(TimeZone::of_session, |name| name.0);
    let now = Micros(clock::now());
    let mut new = Schedule {
        name: name.into(),
        queue: queue.into(),
        task: check::task(task.as_deref())?.map(Into::into),
        args: put::sized(args)?,
        priority: priority.unwrap_or(0),
        cron: cron.as_deref().map(Into::into),
        every: every.map(self::every).transpose()?,
        timezone,
        overlap,
        catchup,
        active: active.unwrap_or(true),
        starts_at: starts_at.map(|at| check::finite("starts_at", at)).transpose()?,
        ends_at: ends_at.map(|at| check::finite("ends_at", at)).transpose()?,
        scheduled_at: now,
        next_run: None,
        is_busy: false,
    };
    // Typed again, by the next deployment of the same: it goes on, with what is to be made up.
    match old.as_ref().filter(|old| old.is_like(&new)) {
        Some(same) => (new.scheduled_at, new.next_run) = (same.scheduled_at, same.next_run),
        None => new.next_run = next(&new, now)?,
    }
    let replaced = old.as_ref().map_or(queue, |old| old.queue.as_str());
    if !schedule::store(&new, every, [overlap_word, catchup_word], replaced)? {
        let message = format!("schedule \"{name}\" has just been made for another queue");
        return Err(Error::state(message, "Give this one another name, or type it again.").into());
    }
    call_scheduler();
    Ok(moment(new.next_run.filter(|_| new.active)))
}

/// The first run after a moment, within its start and end.
fn next(schedule: &Schedule, after: Micros) -> Result<Option<Micros>> {
    let zone = zone(&schedule.timezone)?;
    let rhythm =
        schedule.rhythm().map_err(|why| Error::argument(why, "SELECT pgq.schedule(...) with another pattern."))?;
    // A run may be just at the start.
    let from = schedule.starts_at.map_or(after, |start| after.max(Micros(start.0 - 1)));
    Ok(rhythm.next(from, &zone).filter(|at| schedule.ends_at.is_none_or(|ends| *at <= ends)))
}

/// It looks when the schedule is due next.
fn call_scheduler() {
    at_commit::ensure_workers();
    at_commit::touch(names::hash("pgq.schedule"));
}

/// The schedule of a name, if the caller administers its queue: for others it is not there.
fn reachable(name: Option<&str>) -> Result<Option<Schedule>> {
    let name = check::schedule(name)?;
    // Locked only by who may: the scheduler passes by what is locked.
    let Some(seen) = schedule::look(name)? else { return Ok(None) };
    if !rights::reach(&[Access::Admin], &seen.queue)? {
        return Ok(None);
    }
    Ok(schedule::find(name)?.filter(|found| found.queue == seen.queue))
}

#[pg_extern(sql = false)]
fn unschedule(name: Option<Text>) -> std::result::Result<bool, ErrorReport> {
    let Some(found) = reachable(name.as_deref())? else { return Ok(false) };
    schedule::remove(&found.name)?;
    Ok(true)
}

#[pg_extern(sql = false)]
fn pause_schedule(name: Option<Text>) -> std::result::Result<bool, ErrorReport> {
    let Some(found) = reachable(name.as_deref())? else { return Ok(false) };
    schedule::set_active(&found.name, false, found.next_run)?;
    Ok(found.active)
}

#[pg_extern(sql = false)]
fn resume_schedule(name: Option<Text>) -> std::result::Result<Option<TimestampWithTimeZone>, ErrorReport> {
    let Some(found) = reachable(name.as_deref())? else { return Ok(None) };
    if found.active {
        return Ok(moment(found.next_run));
    }
    // What fell into the pause was not missed.
    let next = next(&found, Micros(clock::now()))?;
    schedule::set_active(&found.name, true, next)?;
    call_scheduler();
    Ok(moment(next))
}

#[pg_extern(sql = false)]
fn run_schedule(name: Option<Text>) -> std::result::Result<Option<i64>, ErrorReport> {
    let Some(found) = reachable(name.as_deref())? else { return Ok(None) };
    let now = Micros(clock::now());
    let job = put::one(&NewJob {
        task: found.task,
        priority: found.priority,
        ..NewJob::ready(found.queue, found.args, now.0)
    })?;
    // What is live stays what the next run looks at.
    let run = (!found.is_busy).then_some((now, job));
    schedule::step(&found.name, &Step { next: found.next_run, run, ..Step::default() })?;
    Ok(Some(job))
}

#[pg_extern(sql = false)]
fn next_runs(
    cron: Option<Text>,
    n: Option<i32>,
    timezone: Option<Text>,
    after: Option<TimestampWithTimeZone>,
) -> std::result::Result<SetOfIterator<'static, TimestampWithTimeZone>, ErrorReport> {
    rights::need_some(&Access::ALL, None)?;
    let cron = check::given("cron", cron)?;
    let cron = pattern(&cron)?;
    let count = n.unwrap_or(5);
    if !(1..=MOST_RUNS).contains(&count) {
        return Err(Error::argument(format!("\"n\" must be 1 to {MOST_RUNS}"), "n => 5").into());
    }
    let zone = zone(&timezone.map_or_else(TimeZone::of_session, |name| name.0))?;
    let mut from =
        after.map_or_else(|| Ok(Micros(clock::now())), |at| check::finite("after", at))?.0.div_euclid(1_000_000);
    let mut runs = Vec::new();
    for _ in 0..count {
        let Some(at) = cron.next(from, &zone) else { break };
        runs.extend(moment(Some(Micros(at.saturating_mul(1_000_000)))));
        from = at;
    }
    Ok(SetOfIterator::new(runs))
}
