//! stats, and what the views pgq.running and pgq.workers read.

use std::sync::atomic::Ordering::SeqCst;

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::{check, rights};
use crate::engine::access::Access;
use crate::engine::time::Micros;
use crate::pg::report::ErrorReport;
use crate::pg::shmem::{self, slot_state};
use crate::pg::text::Text;
use crate::pg::user::{self, Oid};
use crate::pg::{clock, database, tamper};
use crate::settings;
use crate::store::{counts, numbers, parking, registry};

fn moment(micros: i64) -> Option<TimestampWithTimeZone> {
    (micros != 0).then(|| TimestampWithTimeZone::try_from(micros).ok()).flatten()
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn queue_stats(
    queue: Option<Text>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(queue, String),
            name!(ready, i64),
            name!(scheduled, i64),
            name!(leased, i64),
            name!(running, i64),
            name!(dead, i64),
            name!(oldest_ready, Option<Interval>),
            name!(done_total, i64),
            name!(failed_total, i64),
            name!(since, Option<TimestampWithTimeZone>),
            name!(workers, i64),
            name!(paused, bool),
            name!(parked, Option<Text>),
            name!(handlers, i64),
            name!(waiting, i64),
        ),
    >,
    ErrorReport,
> {
    let queue = queue.as_deref();
    queue.map(|q| check::queue(Some(q))).transpose()?;
    let held = rights::need_some(&rights::COUNTS, queue)?;
    let here = database::current();
    let shared = shmem::shared();
    let ids = registry::queue_ids()?;
    let changed = tamper::summary()?;
    let parked = parking::all(settings::allow_superuser_handlers())?;
    let mut rows = Vec::new();
    let fresh = Micros(clock::now().saturating_sub(settings::recount_interval().0));
    let (counts, count_again) = counts::stats(queue, fresh.0)?;
    if count_again && settings::enabled() {
        numbers::ask();
    }
    for count in counts {
        if !held.allow(&rights::COUNTS, Some(&count.queue)) {
            continue;
        }
        let mut workers = 0;
        let mut running = 0;
        if let Some(shared) = shared {
            for (_, slot) in shared.executors_of(here) {
                let handler = slot.handler.load(SeqCst);
                if slot.state.load(SeqCst) == slot_state::BUSY && ids.contains(&(handler, count.queue.clone())) {
                    workers += 1;
                    running += i64::from(slot.job.load(SeqCst) != 0);
                }
            }
        }
        let reasons = parked.iter().filter(|p| p.queue == count.queue).map(|p| p.reason.clone());
        let reasons: Vec<String> = changed.clone().into_iter().chain(reasons).collect();
        let since = shared.and_then(|s| moment(s.started_at.load(SeqCst)));
        rows.push((
            count.queue,
            count.ready,
            count.scheduled,
            count.leased,
            running,
            count.dead,
            count.oldest_ready,
            count.done_total,
            count.failed_total,
            since,
            workers,
            count.paused,
            (!reasons.is_empty()).then(|| reasons.join("; ").into()),
            count.handlers,
            count.waiting,
        ));
    }
    Ok(TableIterator::new(rows))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn executors() -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(pid, i32),
            name!(role, Option<Oid>),
            name!(state, &'static str),
            name!(handler, i32),
            name!(job, i64),
            name!(attempt, i32),
            name!(since, Option<TimestampWithTimeZone>),
            name!(started_at, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let held = rights::need_some(&[Access::Monitor], None)?;
    let ids = registry::queue_ids()?;
    let mut rows = Vec::new();
    if let Some(shared) = shmem::shared() {
        for (_, slot) in shared.executors_of(database::current()) {
            let handler = slot.handler.load(SeqCst);
            // One that works for no queue, or for one that is gone, belongs to all.
            let queue = ids.iter().find(|(id, _)| *id == handler).map(|(_, queue)| queue.as_str());
            if !held.allow(&[Access::Monitor], queue) {
                continue;
            }
            let state = match slot.state.load(SeqCst) {
                slot_state::STARTING => "starting",
                slot_state::IDLE => "idle",
                _ => "busy",
            };
            rows.push((
                slot.place.pid.load(SeqCst),
                Some(user::oid_value(slot.role.load(SeqCst))),
                state,
                handler,
                slot.job.load(SeqCst),
                slot.attempt.load(SeqCst),
                moment(slot.since.load(SeqCst)),
                moment(slot.started.load(SeqCst)),
            ));
        }
    }
    Ok(TableIterator::new(rows))
}
