//! doctor: what is wrong, and the command that mends it.

use std::sync::atomic::Ordering::SeqCst;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::{check, rights};
use crate::engine::access::{Access, Rights};
use crate::engine::parking as reasons;
use crate::engine::time::Span;
use crate::error::Result;
use crate::pg::report::ErrorReport;
use crate::pg::shmem::{self, slot_state, Shared};
use crate::pg::text::Text;
use crate::pg::{bgworker, clock, database, tamper, version, xact};
use crate::settings;
use crate::store::{counts, horizon, parking, registry, schedule, server};

/// Whose transaction is open for so many seconds is worth a look: claims become slower by the minute.
const OLD_SNAPSHOT: i32 = 300;
/// A ready job that nobody has taken for so long is worth one too.
const OLD_READY: Span = Span::from_millis(300_000);
/// NOTIFY's queue is empty unless a session that LISTENs does not read: from so many thousandths on that is told.
const NOTIFY_USED: i64 = 10;

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
        version()?,
        older()?,
        slots()?,
        workers(),
        journal(),
        notify()?,
    ]);
    rows.extend(snapshots()?);
    // Of tables that this library does not know nothing can be told.
    if version::unserved()?.is_none() {
        rows.extend(tables()?);
        rows.extend(handlers(&held)?);
        rows.extend(schedules(&held)?);
        rows.extend(paused(&held)?);
        rows.extend(queues(&held)?);
    }
    Ok(TableIterator::new(rows.into_iter().map(|r| (r.check, r.ok, r.detail.into(), r.fix.map(Into::into)))))
}

fn version() -> Result<Row> {
    let (library, installed) = (version::LIBRARY, version::installed()?);
    let detail = match version::unserved()? {
        Some(words) => format!("all queues stand still: {words}"),
        None if installed == library => format!("library and tables are of version {library}"),
        None => format!("the library is of version {library}, the tables of this database are of {installed}"),
    };
    Ok(row("version", installed == library, detail, &version::fix(&installed)))
}

fn older() -> Result<Row> {
    let found = server::older_pgq()?;
    let detail = found.as_ref().map_or("not installed".into(), |found| format!("its files are here: {found}"));
    let fix = "Remove its package, postgresql-...-pgq3, and install this one again: the two overwrite each other.";
    Ok(row("older PgQ", found.is_none(), detail, fix))
}

/// Whether somebody listens no session can see of another. But one that listens and does not read keeps the queue.
fn notify() -> Result<Row> {
    let used = server::notify_queue()?;
    let detail = match used {
        0 => "NOTIFY goes through: nothing waits in its queue".to_owned(),
        used => format!(
            "NOTIFY's queue is {}.{} % full of what some session that LISTENs has not read",
            used / 10,
            used % 10
        ),
    };
    let fix = "SELECT pid, usename, state, xact_start FROM pg_stat_activity ORDER BY xact_start; \
               -- then pg_terminate_backend() for the oldest one that LISTENs";
    Ok(row("notify", used < NOTIFY_USED, detail, fix))
}

fn slots() -> Result<Row> {
    let needed = i64::try_from(settings::max_workers()).unwrap_or(64) + 2;
    let (most, taken) = server::worker_processes()?;
    let free = (most - taken).max(0);
    let fix = format!("ALTER SYSTEM SET max_worker_processes = {}; then restart the server.", needed.max(most) + 4);
    if let Some(since) = shmem::shared().and_then(|s| s.shortage.since(clock::now())) {
        let detail = format!("none of the {most} of max_worker_processes is free since {}", clock::text(since));
        return Ok(row("worker slots", false, detail, &fix));
    }
    let ours = i64::try_from(shmem::shared().map_or(0, Shared::processes)).unwrap_or(0);
    Ok(row(
        "worker slots",
        // With all of ours there, none need be free.
        needed <= most && (free > 0 || ours >= needed),
        format!(
            "max_worker_processes is {most}, {free} of them free; launcher, a scheduler and pgq.max_workers executors \
             take {needed}"
        ),
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

/// Held, parked, and whether each has its function: one list, three checks.
fn handlers(held: &Rights) -> Result<Vec<Row>> {
    let mut stopped = parking::all(settings::allow_superuser_handlers())?;
    stopped.retain(|p| held.allow(&[Access::Monitor], Some(&p.queue)));
    let copied = stopped.iter().filter(|p| p.is_held).count();
    let detail = match copied {
        0 => "no handler is held".to_owned(),
        n => format!("{}: restored, or made from a template", reasons::held(n)),
    };
    let mut rows = vec![row("restored copy", copied == 0, detail, "SELECT pgq.arm();")];
    let lost: Vec<&str> = stopped.iter().filter(|p| !p.is_found).map(|p| p.function.as_str()).collect();
    let detail = match lost.as_slice() {
        [] => "each has its function".to_owned(),
        lost => format!("not there: {}", lost.join(", ")),
    };
    let fix = "-- Create them again, or register others: pgq.register('queue', 'schema.function').";
    rows.push(row("handlers resolvable", lost.is_empty(), detail, fix));
    let parked: Vec<_> = stopped.iter().filter(|p| !p.is_held).collect();
    if parked.is_empty() {
        rows.push(row("parked handlers", true, "none", ""));
    }
    rows.extend(parked.into_iter().map(|p| {
        let detail = format!("queue \"{}\", {}: {}", p.queue, p.function, p.reason);
        row("parked handlers", false, detail, &p.fix)
    }));
    Ok(rows)
}

/// Schedules that do not run although nobody paused them.
fn schedules(held: &Rights) -> Result<Vec<Row>> {
    let mut troubles = schedule::troubles()?;
    troubles.retain(|(_, queue, _)| held.allow(&[Access::Monitor], Some(queue)));
    if troubles.is_empty() {
        return Ok(vec![row("schedules", true, "all that are active run", "")]);
    }
    let told = |(name, _, why): (String, String, Option<String>)| match why {
        Some(why) => {
            let fix = format!("-- Make it anew: pgq.schedule('{name}', ...).");
            row("schedules", false, format!("\"{name}\" has {why}"), &fix)
        }
        None => row("schedules", false, format!("\"{name}\" is held: it came with a copy"), "SELECT pgq.arm();"),
    };
    Ok(troubles.into_iter().map(told).collect())
}

/// Jobs that are dead, and ready jobs that nobody takes.
fn queues(held: &Rights) -> Result<Vec<Row>> {
    let (mut counts, _) = counts::stats(None, i64::MAX)?;
    counts.retain(|count| held.allow(&[Access::Monitor], Some(&count.queue)));
    let mut rows = Vec::new();
    for count in counts.iter().filter(|count| count.dead > 0) {
        let queue = &count.queue;
        let fix = format!("SELECT pgq.redrive('{queue}'); -- or throw them away: SELECT pgq.purge('{queue}', 'dead');");
        rows.push(row("dead letters", false, format!("queue \"{queue}\": {} dead jobs", count.dead), &fix));
    }
    if rows.is_empty() {
        rows.push(row("dead letters", true, "none", ""));
    }
    let age = |count: &counts::QueueCount| {
        count.oldest_ready.and_then(|age| check::span("age", age).ok()).unwrap_or(Span::ZERO)
    };
    let oldest = counts.iter().filter(|count| !count.paused).max_by_key(|count| age(count));
    let Some(oldest) = oldest.filter(|count| age(count) > Span::ZERO) else {
        rows.push(row("oldest ready job", true, "no job is ready", ""));
        return Ok(rows);
    };
    let (queue, since) = (&oldest.queue, age(oldest));
    let detail = format!("queue \"{queue}\": ready for {} s", since.as_millis() / 1_000);
    let job = counts::first_ready(queue)?.unwrap_or(0);
    rows.push(row("oldest ready job", since < OLD_READY, detail, &format!("SELECT pgq.waiting({job});")));
    Ok(rows)
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
