//! Faults, small enough to be put together: each strikes once and says whether it hit.

use super::stage::Stage;
use super::Rng;
use crate::ledger::books;
use crate::process;
use crate::{wait_until, Stop};
use std::thread;
use std::time::Duration;

/// How long a struck process or server may take to go, or to be back.
const GONE: Duration = Duration::from_secs(60);

/// An executor in the middle of a job.
pub const RUNNING: &str = "SELECT pid FROM pgq.running ORDER BY random() LIMIT 1";
/// The scheduler of the stage's database.
pub const SCHEDULER: &str =
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgq scheduler' AND datname = current_database()";
/// The launcher.
pub const LAUNCHER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgq launcher'";

/// What can be done to a server. None of them is a fault of PostgreSQL or of pgq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to an executor in mid-job: the server restarts all its processes.
    Kill,
    /// SIGKILL to the scheduler.
    KillScheduler,
    /// SIGKILL to the launcher.
    KillLauncher,
    /// `pg_terminate_backend` on an executor in mid-job.
    Terminate,
    /// `pg_terminate_backend` on the scheduler.
    TerminateScheduler,
    /// `pg_cancel_backend` on an executor in mid-job.
    Cancel,
    /// SIGSTOP to an executor in mid-job, then SIGCONT.
    Freeze,
    /// An immediate stop of the server, and a start.
    ImmediateStop,
    /// A fast stop of the server, and a start.
    FastStop,
    /// SIGKILL to the postmaster, and a start.
    KillPostmaster,
    /// A transaction that keeps an old snapshot open for a moment.
    OldSnapshot,
    /// The handlers' role loses LOGIN for a moment, or gets a setting, or loses a right.
    Role,
    /// Work on our tables and on others: indexes, statistics, VACUUM FULL, new and dropped tables.
    Ddl,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 13] = [
        Fault::Kill,
        Fault::KillScheduler,
        Fault::KillLauncher,
        Fault::Terminate,
        Fault::TerminateScheduler,
        Fault::Cancel,
        Fault::Freeze,
        Fault::ImmediateStop,
        Fault::FastStop,
        Fault::KillPostmaster,
        Fault::OldSnapshot,
        Fault::Role,
        Fault::Ddl,
    ];

    /// What it is called in the report.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::KillScheduler => "kill -9 scheduler",
            Fault::KillLauncher => "kill -9 launcher",
            Fault::Terminate => "terminate",
            Fault::TerminateScheduler => "terminate scheduler",
            Fault::Cancel => "cancel",
            Fault::Freeze => "SIGSTOP",
            Fault::ImmediateStop => "immediate stop",
            Fault::FastStop => "fast stop",
            Fault::KillPostmaster => "kill -9 postmaster",
            Fault::OldSnapshot => "old snapshot",
            Fault::Role => "role change",
            Fault::Ddl => "DDL",
        }
    }

    /// Strikes; false when there was nobody to be hit just then.
    ///
    /// # Panics
    /// When the server does not come back.
    pub fn strike(self, stage: &mut Stage, rng: &mut Rng) -> bool {
        match self {
            Fault::Kill => signal(stage, RUNNING, libc::SIGKILL),
            Fault::KillScheduler => signal(stage, SCHEDULER, libc::SIGKILL),
            Fault::KillLauncher => signal(stage, LAUNCHER, libc::SIGKILL),
            // What pg_terminate_backend and pg_cancel_backend send.
            Fault::Terminate => signal(stage, RUNNING, libc::SIGTERM),
            Fault::TerminateScheduler => signal(stage, SCHEDULER, libc::SIGTERM),
            Fault::Cancel => cancel(stage),
            Fault::Freeze => {
                let long = if rng.chance(5) { rng.between(10_000, 13_000) } else { rng.between(1, 1_000) };
                freeze(stage, RUNNING, Duration::from_millis(long))
            }
            Fault::ImmediateStop => restart(stage, Stop::Immediate),
            Fault::FastStop => restart(stage, Stop::Fast),
            Fault::KillPostmaster => {
                stage.server.kill_postmaster();
                stage.server.start();
                true
            }
            Fault::OldSnapshot => old_snapshot(stage, Duration::from_millis(rng.between(100, 1_000))),
            Fault::Role => change_role(stage, rng),
            Fault::Ddl => ddl(stage, rng),
        }
    }
}

/// Sends a signal that ends the process, and waits until it is gone.
pub fn signal(stage: &mut Stage, victim: &str, signal: i32) -> bool {
    let Some(pid) = stage.watch.pid(victim) else { return false };
    if !stage.server.try_signal(pid, signal) {
        return false;
    }
    let postmaster = stage.server.pid();
    wait_until(GONE, "the struck process to go", || process::parent_of(pid).map_or(true, |ppid| ppid != postmaster));
    true
}

fn cancel(stage: &mut Stage) -> bool {
    let sql = "SELECT pg_cancel_backend(pid) FROM pgq.running ORDER BY random() LIMIT 1";
    let row = stage.watch.try_ask(|client| client.query_opt(sql, &[])).flatten();
    row.is_some_and(|row| row.get(0))
}

/// Stops a process for a while; true when it was there from the beginning to the end.
pub fn freeze(stage: &mut Stage, victim: &str, long: Duration) -> bool {
    let Some(pid) = stage.watch.pid(victim) else { return false };
    if !stage.server.try_signal(pid, libc::SIGSTOP) {
        return false;
    }
    thread::sleep(long);
    stage.server.try_signal(pid, libc::SIGCONT)
}

/// Not while it recovers from an earlier crash: a fast stop then never ends in PostgreSQL 15, because
/// the postmaster waits for a checkpointer that nobody tells to leave (PostmasterStateMachine,
/// PM_WAIT_BACKENDS with FatalError set).
fn restart(stage: &mut Stage, stop: Stop) -> bool {
    stage.watch.number("SELECT 1::bigint");
    stage.server.restart(stop);
    true
}

/// Waits until nobody works in the data directory any more, and says how long it took.
///
/// # Panics
/// When somebody still does after a minute.
pub fn wait_for_orphans(stage: &Stage) -> Duration {
    let data = stage.server.data_directory();
    wait_until(GONE, "the last process to leave", || process::working_in(&data).is_empty())
}

/// True when nobody works in the data directory of a stopped server.
pub fn is_deserted(stage: &Stage) -> bool {
    process::working_in(&stage.server.data_directory()).is_empty()
}

fn old_snapshot(stage: &mut Stage, long: Duration) -> bool {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgq.job";
    let began = stage.watch.try_ask(|client| client.batch_execute(begin)).is_some();
    thread::sleep(long);
    began && stage.watch.try_ask(|client| client.batch_execute("COMMIT")).is_some()
}

/// Each change is taken back, and whoever was parked for it is registered again.
fn change_role(stage: &mut Stage, rng: &mut Rng) -> bool {
    let (change, back) = *rng.pick(&[
        ("ALTER ROLE worker NOLOGIN", "ALTER ROLE worker LOGIN"),
        ("ALTER ROLE worker SET default_transaction_isolation = 'serializable'", "ALTER ROLE worker RESET ALL"),
        ("ALTER ROLE worker RENAME TO laborer", "ALTER ROLE laborer RENAME TO worker"),
        ("ALTER ROLE worker CREATEDB", "ALTER ROLE worker NOCREATEDB"),
    ]);
    let changed = stage.watch.try_ask(|client| client.batch_execute(change)).is_some();
    // Executors read a role's settings as they connect.
    let sent = stage.watch.try_ask(|client| client.batch_execute(DISMISS)).is_some();
    thread::sleep(Duration::from_millis(rng.between(10, 500)));
    if changed {
        stage.watch.ask(|client| client.batch_execute(back));
        stage.watch.ask(|client| client.batch_execute(DISMISS));
        register_again(stage);
    }
    changed && sent
}

/// All executors of the database.
const DISMISS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'pgq executor' AND datname = current_database()";

/// Takes parked handlers back into service.
fn register_again(stage: &mut Stage) {
    let attempts = stage.rules.max_attempts;
    stage.watch.ask(|client| client.batch_execute(&books::registration(attempts)));
}

fn ddl(stage: &mut Stage, rng: &mut Rng) -> bool {
    let sql = *rng.pick(&[
        "ANALYZE pgq.job",
        "VACUUM pgq.job",
        "VACUUM FULL pgq.job",
        "VACUUM FREEZE pgq.finished_job",
        "REINDEX TABLE pgq.job",
        "REINDEX TABLE CONCURRENTLY pgq.job",
        "CREATE INDEX CONCURRENTLY passing ON pgq.job (created_at)",
        "DROP INDEX IF EXISTS pgq.passing",
        "CREATE TABLE passing (id int); DROP TABLE passing",
        "CLUSTER pgq.job USING job_pkey",
        "CREATE OR REPLACE FUNCTION passing() RETURNS void LANGUAGE sql AS ''",
        "CHECKPOINT",
    ]);
    stage.watch.try_ask(|client| client.batch_execute(sql)).is_some()
}
