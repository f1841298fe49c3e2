//! doctor: what is wrong, and the command that mends it.

use std::sync::atomic::Ordering::SeqCst;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::rights;
use crate::engine::access::{Access, Rights};
use crate::error::Result;
use crate::pg::report::ErrorReport;
use crate::pg::shmem::{self, slot_state};
use crate::pg::text::Text;
use crate::pg::{bgworker, clock, database, tamper, xact};
use crate::settings;
use crate::store::{counts, horizon, parking, registry};

/// Whose transaction is open for so many seconds is worth a look: claims become slower by the minute.
const OLD_SNAPSHOT: i32 = 300;

struct Row {
    check: &'static str,
    ok: bool,
    detail: String,
    fix: Option<String>,
}

fn row(check: &'static str, ok: bool, detail: impl Into<String>, fix: &str) -> Row {
    Row { check, ok, detail: detail.into(), fix: (!ok).then(|| fix.into()) }
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn doctor() -> std::result::Result<
    TableIterator<
        'static,
        (name!(check_name, &'static str), name!(ok, bool), name!(detail, Text), name!(fix, Option<Text>)),
    >,
    ErrorReport,
> {
    let held = rights::need_some(&[Access::Monitor], None)?;
    let mut rows = Vec::new();
    if xact::in_recovery() {
        rows.push(row(
            "primary",
            false,
            "this server is a standby: jobs run after its promotion",
            "SELECT pg_promote();",
        ));
    } else if !database::is_open() {
        let fix = "ALTER DATABASE ... IS_TEMPLATE false ALLOW_CONNECTIONS true;";
        rows.push(row("database", false, "a template, or it takes no sessions: its jobs do not run", fix));
    }
    rows.extend([
        row(
            "enabled",
            settings::enabled(),
            if settings::enabled() { "workers may run" } else { "pgq.enabled is off" },
            "ALTER SYSTEM SET pgq.enabled = on; SELECT pg_reload_conf();",
        ),
        row(
            "preloaded",
            bgworker::is_preloaded(),
            if bgworker::is_preloaded() {
                "jobs run after a server restart by themselves"
            } else {
                "after a server restart no job runs before somebody calls pgq"
            },
            "Add pgq to shared_preload_libraries and restart the server.",
        ),
        slots()?,
        workers(),
        journal(),
    ]);
    rows.extend(tables()?);
    rows.extend(snapshots()?);
    rows.extend(parked(&held)?);
    rows.extend(paused(&held)?);
    Ok(TableIterator::new(rows.into_iter().map(|r| (r.check, r.ok, r.detail.into(), r.fix.map(Into::into)))))
}

fn slots() -> Result<Row> {
    let needed = i64::try_from(settings::max_workers()).unwrap_or(64) + 2;
    let most = counts::worker_processes()?;
    let fix = format!("ALTER SYSTEM SET max_worker_processes = {}; then restart the server.", needed.max(most) + 4);
    if let Some(since) = shmem::shared().and_then(|s| s.shortage.since(clock::now())) {
        let detail = format!("none of the {most} of max_worker_processes is free since {}", clock::text(since));
        return Ok(row("worker slots", false, detail, &fix));
    }
    Ok(row(
        "worker slots",
        needed <= most,
        format!("max_worker_processes is {most}; launcher, a scheduler and pgq.max_workers executors take {needed}"),
        &fix,
    ))
}

fn workers() -> Row {
    let Some(shared) = shmem::shared() else {
        return row("workers alive", false, "no shared memory could be had", "Restart the server with pgq preloaded.");
    };
    let here = database::current();
    let scheduler = shared.find_database(here).is_some_and(|d| d.scheduler.is_taken());
    let executors = shared.executors_of(here).filter(|(_, e)| e.state.load(SeqCst) != slot_state::STARTING).count();
    let launcher = shared.launcher.is_taken();
    let word = |there: bool| if there { "running" } else { "absent" };
    row(
        "workers alive",
        launcher,
        format!(
            "launcher {}, scheduler {} (it leaves when idle), {executors} executors here",
            word(launcher),
            word(scheduler)
        ),
        "SELECT pgq.start();",
    )
}

/// The launcher makes it; without one nobody can say which job crashed the server.
fn journal() -> Row {
    let there = shmem::shared().is_none_or(|shared| {
        let launched = shared.launcher.is_taken();
        !launched || shared.journal.load(std::sync::atomic::Ordering::SeqCst) != 0
    });
    let detail =
        if there { "a job that crashes the server is found" } else { "crashes cannot be laid at a job's door" };
    row(
        "crash journal",
        there,
        detail,
        "Make room for the file pgq/journal in the data directory; the server's log says why.",
    )
}

fn tables() -> Result<Vec<Row>> {
    let found = tamper::found()?;
    if found.is_empty() {
        return Ok(vec![row("tables untouched", true, "nothing foreign on pgq's tables", "")]);
    }
    Ok(found
        .into_iter()
        .map(|f| row("tables untouched", false, format!("all queues stand still: {}", f.what), &f.fix))
        .collect())
}

/// Dead rows that somebody could still see stay in the tables and in their indexes, and each claim passes them by.
fn snapshots() -> Result<Vec<Row>> {
    let holders = horizon::holders(OLD_SNAPSHOT)?;
    if holders.is_empty() {
        let detail = format!("no transaction here has been open for {} min", OLD_SNAPSHOT / 60);
        return Ok(vec![row("old snapshots", true, detail, "")]);
    }
    let dead = horizon::dead_rows()?;
    Ok(holders
        .into_iter()
        .map(|h| {
            let detail = format!("{}: vacuum keeps what was deleted since; pgq.job has {dead} dead rows", h.who);
            row("old snapshots", false, detail, &h.fix)
        })
        .collect())
}

fn parked(held: &Rights) -> Result<Vec<Row>> {
    let mut parked = parking::all(settings::allow_superuser_handlers())?;
    parked.retain(|p| held.allow(&[Access::Monitor], Some(&p.queue)));
    if parked.is_empty() {
        return Ok(vec![row("parked handlers", true, "none", "")]);
    }
    Ok(parked
        .into_iter()
        .map(|p| {
            let detail = format!("queue \"{}\", {}: {}", p.queue, p.function, p.reason);
            row("parked handlers", false, detail, &p.fix)
        })
        .collect())
}

fn paused(held: &Rights) -> Result<Vec<Row>> {
    let mut paused = registry::paused()?;
    paused.retain(|queue| held.allow(&[Access::Monitor], Some(queue)));
    if paused.is_empty() {
        return Ok(vec![row("paused queues", true, "none", "")]);
    }
    Ok(paused
        .into_iter()
        .map(|q| row("paused queues", false, format!("queue \"{q}\""), &format!("SELECT pgq.resume('{q}');")))
        .collect())
}
