//! Every setting: its name, unit, default, range, context, and why that context.
//!
//! None is postmaster-only: a library that is loaded after the server's start cannot define such a
//! setting, and pgq must work without preloading. What workers obey is SIGHUP, so that one value
//! holds for the whole server; what could make a superuser's session unsafe is SUSET.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::PostgresGucEnum;

use crate::engine::backoff::Backoff;
use crate::engine::time::Span;

/// Which runs of jobs are written to the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum LogJobs {
    /// Nothing.
    none,
    /// Each recorded failure, by its SQLSTATE.
    failed,
    /// Each run, and the messages of failures.
    all,
}

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(4);
static POLL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static RECHECK_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static MAX_WORKER_AGE: GucSetting<i32> = GucSetting::<i32>::new(3_600);
static MAX_WORKER_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(256);
static BATCH_TIME: GucSetting<i32> = GucSetting::<i32>::new(10);
static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(5);
static MAX_CRASHES: GucSetting<i32> = GucSetting::<i32>::new(3);
static BACKOFF: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static MAX_BACKOFF: GucSetting<i32> = GucSetting::<i32>::new(3_600_000);
static JOB_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(0);
static KEEP_DONE: GucSetting<i32> = GucSetting::<i32>::new(0);
static KEEP_DEAD: GucSetting<i32> = GucSetting::<i32>::new(30 * 86_400);
static RECOUNT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300_000);
static MAX_ARGS_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1_024);
static ALLOW_SUPERUSER_HANDLERS: GucSetting<bool> = GucSetting::<bool>::new(true);
static EAGER: GucSetting<bool> = GucSetting::<bool>::new(false);
static LOG_JOBS: GucSetting<LogJobs> = GucSetting::<LogJobs>::new(LogJobs::failed);

/// Are the workers allowed to run?
pub fn enabled() -> bool {
    ENABLED.get()
}

/// How many executors the whole server may have.
pub fn max_workers() -> usize {
    usize::try_from(MAX_WORKERS.get()).unwrap_or(1)
}

/// How long a hint that got lost may delay a job.
pub fn poll_interval() -> Span {
    Span::from_millis(POLL_INTERVAL.get().into())
}

/// How often what no look sees by itself is looked at again: parked handlers, our tables.
pub fn recheck_interval() -> Span {
    Span::from_millis(RECHECK_INTERVAL.get().into())
}

/// How often the tables are counted, so that what passed the counters by is seen.
pub fn recount_interval() -> Span {
    Span::from_millis(RECOUNT_INTERVAL.get().into())
}

/// How long a worker without work stays.
pub fn idle_timeout() -> Span {
    Span::from_millis(IDLE_TIMEOUT.get().into())
}

/// How old an executor gets; `None` is no limit.
pub fn max_worker_age() -> Option<Span> {
    let seconds = MAX_WORKER_AGE.get();
    (seconds > 0).then(|| Span::from_millis(i64::from(seconds) * 1_000))
}

/// How many bytes an executor may have for itself; `None` is no limit.
pub fn max_worker_memory() -> Option<u64> {
    u64::try_from(MAX_WORKER_MEMORY.get()).ok().filter(|most| *most > 0).map(|most| most * 1_024 * 1_024)
}

/// How long jobs share one transaction.
pub fn batch_time() -> Span {
    Span::from_millis(BATCH_TIME.get().into())
}

/// Failures after which a job is dead, where nothing else says it.
pub fn max_attempts() -> i32 {
    MAX_ATTEMPTS.get()
}

/// Crashes after which a job is dead.
pub fn max_crashes() -> i32 {
    MAX_CRASHES.get()
}

/// The waiting times between attempts, where nothing else says them.
pub fn backoff() -> Backoff {
    Backoff { first: Span::from_millis(BACKOFF.get().into()), most: Span::from_millis(MAX_BACKOFF.get().into()) }
}

/// How long one run of a handler may take; `None` is no limit.
pub fn job_timeout() -> Option<Span> {
    let millis = JOB_TIMEOUT.get();
    (millis > 0).then(|| Span::from_millis(millis.into()))
}

/// How long done jobs are kept; zero is not at all.
pub fn keep_done() -> Span {
    Span::from_millis(i64::from(KEEP_DONE.get()) * 1_000)
}

/// How long dead and cancelled jobs are kept.
pub fn keep_dead() -> Span {
    Span::from_millis(i64::from(KEEP_DEAD.get()) * 1_000)
}

/// The largest args a put takes, in bytes.
pub fn max_args_size() -> i64 {
    i64::from(MAX_ARGS_SIZE.get()) * 1_024
}

/// May a superuser's function be registered to run as a superuser?
pub fn allow_superuser_handlers() -> bool {
    ALLOW_SUPERUSER_HANDLERS.get()
}

/// Does put run the job in place, in this session?
pub fn eager() -> bool {
    EAGER.get()
}

/// Which runs are logged.
pub fn log_jobs() -> LogJobs {
    LOG_JOBS.get()
}

/// Registers all of them, and reserves the prefix so that a typing error is told.
pub fn define() {
    define_workers();
    define_recycling();
    define_retries();
    define_keeping();
    define_rights();
    crate::pg::guc::reserve_prefix(c"pgq");
}

fn define_workers() {
    let ms = GucFlags::UNIT_MS;
    GucRegistry::define_bool_guc(
        c"pgq.enabled",
        c"Lets pgq's workers run.",
        c"Off: all workers of the server leave; put and claim go on working.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgq.max_workers",
        c"Sets how many executors the whole server may have.",
        c"Each takes one of max_worker_processes, and so do the launcher and one scheduler per active database.",
        &MAX_WORKERS,
        1,
        64,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgq.poll_interval",
        c"Sets how long a lost wake-up may delay a job.",
        c"Workers are woken at commit; this is the floor for what no wake-up tells, such as COMMIT PREPARED.",
        &POLL_INTERVAL,
        10,
        60_000,
        GucContext::Sighup,
        ms,
    );
    GucRegistry::define_int_guc(
        c"pgq.idle_timeout",
        c"Sets how long a worker without work stays.",
        c"",
        &IDLE_TIMEOUT,
        100,
        86_400_000,
        GucContext::Sighup,
        ms,
    );
    GucRegistry::define_int_guc(
        c"pgq.batch_time",
        c"Sets how long jobs of one handler share a transaction.",
        c"Longer is faster and lets a job of higher priority wait longer.",
        &BATCH_TIME,
        1,
        1_000,
        GucContext::Sighup,
        ms,
    );
}

fn define_recycling() {
    GucRegistry::define_int_guc(
        c"pgq.max_worker_age",
        c"Sets how old an executor gets.",
        c"It leaves after the job it runs, and another takes its place. 0 is no limit.",
        &MAX_WORKER_AGE,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"pgq.max_worker_memory",
        c"Sets how much memory an executor may have for itself.",
        c"With more it leaves after the job it runs, and another takes its place. Shared buffers do not count. 0 is no limit.",
        &MAX_WORKER_MEMORY,
        0,
        1_024 * 1_024,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
}

fn define_retries() {
    let ms = GucFlags::UNIT_MS;
    GucRegistry::define_int_guc(
        c"pgq.max_attempts",
        c"Sets after how many failures a job is dead.",
        c"put, the handler and the queue's setting come first.",
        &MAX_ATTEMPTS,
        1,
        1_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgq.max_crashes",
        c"Sets after how many crashes a job is dead.",
        c"Counted are crashes of the server, and ends of its worker by FATAL, while the job ran alone.",
        &MAX_CRASHES,
        1,
        1_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgq.backoff",
        c"Sets the time before the second attempt; it doubles with each failure, give or take a tenth.",
        c"",
        &BACKOFF,
        0,
        i32::MAX,
        GucContext::Sighup,
        ms,
    );
    GucRegistry::define_int_guc(
        c"pgq.max_backoff",
        c"Sets the longest time between two attempts.",
        c"",
        &MAX_BACKOFF,
        0,
        i32::MAX,
        GucContext::Sighup,
        ms,
    );
    GucRegistry::define_int_guc(
        c"pgq.job_timeout",
        c"Sets how long one run of a handler may take.",
        c"0 is no limit.",
        &JOB_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Sighup,
        ms,
    );
}

fn define_keeping() {
    let s = GucFlags::UNIT_S;
    GucRegistry::define_int_guc(
        c"pgq.keep_done",
        c"Sets how long done jobs and their results are kept.",
        c"0: a done job leaves no row.",
        &KEEP_DONE,
        0,
        i32::MAX,
        GucContext::Sighup,
        s,
    );
    GucRegistry::define_int_guc(
        c"pgq.keep_dead",
        c"Sets how long dead and cancelled jobs are kept.",
        c"",
        &KEEP_DEAD,
        0,
        i32::MAX,
        GucContext::Sighup,
        s,
    );
}

fn define_rights() {
    GucRegistry::define_int_guc(
        c"pgq.recheck_interval",
        c"Sets how often a parked handler is tried again and the tables of pgq are looked at in full.",
        c"What the catalog shows, such as a role that may log in again, is seen within pgq.poll_interval.",
        &RECHECK_INTERVAL,
        100,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgq.recount_interval",
        c"Sets how often the jobs in the tables are counted for pgq.stats().",
        c"In between it shows counters, which see all that pgq does, but no rows that were changed by hand.",
        &RECOUNT_INTERVAL,
        1_000,
        86_400_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgq.max_args_size",
        c"Sets the largest args a job may have.",
        c"",
        &MAX_ARGS_SIZE,
        1,
        65_536,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_bool_guc(
        c"pgq.allow_superuser_handlers",
        c"Lets handlers run as a superuser.",
        c"",
        &ALLOW_SUPERUSER_HANDLERS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"pgq.eager",
        c"Makes put run the job in place, in this session and transaction.",
        c"For tests.",
        &EAGER,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pgq.log_jobs",
        c"Sets which runs of jobs are logged.",
        c"failed: failures with their SQLSTATE. all: each run, and the messages of failures, which may show data.",
        &LOG_JOBS,
        GucContext::Suset,
        GucFlags::default(),
    );
}
