//! Everything that is in the tables, compared with the world.

use super::world::{Job, Micros, Setting, State, Window, World};
use postgres::{Client, Row};
use std::collections::BTreeMap;

/// Times as microseconds since 1970; args are the number that was put.
const LIVE: &str = "
    SELECT id, queue, task IS NOT NULL, args::text::int, priority, state, attempt, failures, max_attempts, key,
           error->>'message', (extract(epoch FROM execute_at) * 1000000)::bigint,
           (extract(epoch FROM created_at) * 1000000)::bigint
      FROM pgq.job";
const FINISHED: &str = "
    SELECT id, queue, task IS NOT NULL, args::text::int, priority, outcome, attempt, failures, max_attempts, key,
           error->>'message', (extract(epoch FROM finished_at) * 1000000)::bigint,
           (extract(epoch FROM created_at) * 1000000)::bigint
      FROM pgq.finished_job";
const SETTINGS: &str = "
    SELECT queue, max_attempts, extract(epoch FROM backoff)::bigint, extract(epoch FROM keep_done)::bigint, paused
      FROM pgq.queue_setting";

/// Compares; from then on the world knows the exact times.
///
/// # Errors
/// What is different.
pub fn compare(client: &mut Client, world: &mut World) -> Result<(), String> {
    let read = |client: &mut Client, sql: &str| client.query(sql, &[]).map_err(|error| format!("{sql}: {error:?}"));
    let live: BTreeMap<i64, Job> = read(client, LIVE)?.iter().map(|row| (row.get(0), job(row))).collect();
    keys_of_ended_leases(world, &live);
    let wanted: Vec<i64> = world.jobs.keys().copied().collect();
    if !live.keys().eq(wanted.iter()) {
        return Err(format!("live jobs {:?}, expected {wanted:?}", live.keys().collect::<Vec<_>>()));
    }
    for (id, job) in live {
        same(id, world.jobs.get_mut(&id), job)?;
    }
    let rows = read(client, FINISHED)?;
    let finished: BTreeMap<i64, String> = rows.iter().map(|row| (row.get(0), row.get(5))).collect();
    let wanted = world.finished.iter().map(|(id, (outcome, _))| (*id, (*outcome).to_owned()));
    if finished != wanted.clone().collect() {
        return Err(format!("finished jobs {finished:?}, expected {:?}", wanted.collect::<Vec<_>>()));
    }
    for row in &rows {
        let id = row.get(0);
        let expected = world.finished.get_mut(&id).map(|(_, job)| job);
        // What it was in when it ended is kept nowhere.
        let state = expected.as_ref().map_or(State::Ready, |job| job.state);
        same(id, expected, Job { state, ..job(row) })?;
    }
    let settings: BTreeMap<String, Setting> = read(client, SETTINGS)?.iter().map(setting).collect();
    if settings != world.settings {
        return Err(format!("settings {settings:?}, expected {:?}", world.settings));
    }
    crate::numbers::compare(client)
}

fn job(row: &Row) -> Job {
    let state = match row.get(5) {
        "scheduled" => State::Scheduled,
        "leased" => State::Leased,
        _ => State::Ready,
    };
    let at = |column| -> Window {
        let at: Micros = row.get(column);
        (at, at)
    };
    Job {
        queue: row.get(1),
        task: row.get(2),
        args: row.get(3),
        priority: row.get(4),
        state,
        attempt: row.get(6),
        failures: row.get(7),
        max_attempts: row.get(8),
        key: row.get(9),
        error: row.get(10),
        due: at(11),
        created: at(12),
    }
}

fn setting(row: &Row) -> (String, Setting) {
    let setting = Setting { max_attempts: row.get(1), backoff: row.get(2), keep_done: row.get(3), paused: row.get(4) };
    (row.get(0), setting)
}

fn same(id: i64, expected: Option<&mut Job>, found: Job) -> Result<(), String> {
    let Some(expected) = expected else { return Err(format!("job {id} is not expected")) };
    let is_within = |window: Window, (at, _): Window| window.0 <= at && at <= window.1;
    let fits = is_within(expected.due, found.due) && is_within(expected.created, found.created);
    let wanted = Job { due: found.due, created: found.created, ..expected.clone() };
    if !fits || wanted != found {
        return Err(format!("job {id} is {found:?},\nexpected {expected:?}"));
    }
    *expected = found;
    Ok(())
}

/// Two leases of one key that end at the same look: either job may keep it, and one does.
fn keys_of_ended_leases(world: &mut World, live: &BTreeMap<i64, Job>) {
    let has_ended = |job: &Job| job.error.as_deref() == Some("the lease ended") && job.state == State::Ready;
    let lost = |world: &World, id: &i64| world.jobs.get(id).filter(|j| has_ended(j)).and_then(|j| j.key.clone());
    for (id, found) in live.iter().filter(|(_, found)| found.key.is_none()) {
        let Some(key) = lost(world, id) else { continue };
        let other = live.iter().find(|(_, j)| has_ended(j) && j.queue == found.queue && j.key.as_ref() == Some(&key));
        if let Some(gained) = other.and_then(|(other, _)| world.jobs.get_mut(other)).filter(|j| j.key.is_none()) {
            gained.key = Some(key);
            if let Some(job) = world.jobs.get_mut(id) {
                job.key = None;
            }
        }
    }
}
