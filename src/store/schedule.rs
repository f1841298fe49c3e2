//! Schedules: what puts jobs by the clock. The scheduler locks one that is due, puts its jobs and moves it on in one
//! transaction: so no run is put twice and none is lost, whatever crashes.

use pgrx::datum::Interval;

use crate::engine::cron::Cron;
use crate::engine::schedule::{Catchup, Every, Overlap, Rhythm};
use crate::engine::time::{Micros, Span};
use crate::engine::zone::{Period, Zone};
use crate::error::{Error, Result};
use crate::pg::database;
use crate::pg::datum::Flat;
use crate::pg::spi::{Arg, Row, Statement, Type};
use crate::pg::zone::TimeZone;

/// A row of pgq.schedule, but for what only people look at.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// Where its jobs are put.
    pub queue: String,
    /// Their task.
    pub task: Option<String>,
    /// Their args.
    pub args: Flat,
    /// Their priority.
    pub priority: i32,
    /// A cron pattern, or
    pub cron: Option<String>,
    /// an interval: months, days, microseconds.
    pub every: Option<(i32, i32, i64)>,
    /// The zone of the wall clock.
    pub timezone: String,
    /// What becomes of a run while the job of the one before is live.
    pub overlap: Overlap,
    /// What becomes of runs that nobody came to put.
    pub catchup: Catchup,
    /// Is it not paused?
    pub active: bool,
    /// No run before.
    pub starts_at: Option<Micros>,
    /// No run after.
    pub ends_at: Option<Micros>,
    /// When it was made: what `every` counts from where there is no starts_at.
    pub scheduled_at: Micros,
    /// The nominal time of the next run; `None` for never again.
    pub next_run: Option<Micros>,
    /// Is the job of the last run live?
    pub is_busy: bool,
}

impl Zone for TimeZone {
    fn period(&self, at: i64) -> Period {
        let (offset, until) = self.at(at);
        Period { offset, until }
    }
}

impl Schedule {
    /// Does it say the same, whatever has become of it since?
    pub fn is_like(&self, other: &Schedule) -> bool {
        let said = |s: &Schedule| {
            let place = (s.queue.clone(), s.task.clone(), s.priority, s.args.json_text());
            let times = (s.cron.clone(), s.every, s.timezone.clone(), s.starts_at, s.ends_at);
            (place, times, s.overlap, s.catchup, s.active)
        };
        said(self) == said(other)
    }

    /// What makes its nominal times; or what is wrong with it, which only somebody who wrote to the table can see.
    pub fn rhythm(&self) -> std::result::Result<Rhythm, String> {
        let from = self.starts_at.unwrap_or(self.scheduled_at);
        match (&self.cron, self.every) {
            (Some(pattern), _) => Cron::parse(pattern).map(|cron| Rhythm::Cron(Box::new(cron))),
            (None, Some((months, days, span))) => {
                Ok(Rhythm::Every(Every { from, and_then: self.starts_at.is_some(), months, days, span: Span(span) }))
            }
            (None, None) => Err("neither cron nor every".into()),
        }
    }
}

macro_rules! columns {
    () => {
        "s.name, s.queue, s.task, s.args, s.priority, s.cron, s.every, s.timezone, s.overlap, s.catchup, s.active,
         s.starts_at, s.ends_at, s.scheduled_at, s.next_run,
         EXISTS (SELECT FROM pgq.job AS j WHERE j.id = s.last_job)"
    };
}

/// As columns! has them.
fn read(row: &Row) -> Result<Schedule> {
    let unknown = |word: &str| Error::Internal(format!("unknown word {word}"));
    let (overlap, catchup): (String, String) = (row.must(9)?, row.must(10)?);
    Ok(Schedule {
        name: row.must(1)?,
        queue: row.must(2)?,
        task: row.get(3),
        args: row.must(4)?,
        priority: row.must(5)?,
        cron: row.get(6),
        every: row.get::<Interval>(7).map(|every| (every.months(), every.days(), every.micros())),
        timezone: row.must(8)?,
        overlap: Overlap::parse(&overlap).ok_or_else(|| unknown(&overlap))?,
        catchup: Catchup::parse(&catchup).ok_or_else(|| unknown(&catchup))?,
        active: row.must(11)?,
        starts_at: row.get(12).map(Micros),
        ends_at: row.get(13).map(Micros),
        scheduled_at: Micros(row.must(14)?),
        next_run: row.get(15).map(Micros),
        is_busy: row.must(16)?,
    })
}

/// May `s` run in this database, whose oid is the parameter? As for handlers (`store::arming`).
macro_rules! is_armed {
    ($parameter:literal) => {
        concat!(
            " EXISTS (SELECT FROM pgq.armed_schedule AS a
               WHERE a.schedule = s.name AND a.scheduled_at = s.scheduled_at AND a.database = ",
            $parameter,
            ")"
        )
    };
}

/// Does a run of `s` wait for the job before it (engine::schedule, Due::plan)?
macro_rules! waits {
    () => {
        " ((s.overlap = 'queue' OR (s.overlap = 'skip' AND s.catchup = 'all'))
           AND EXISTS (SELECT FROM pgq.job AS j WHERE j.id = s.last_job))"
    };
}

/// Index: schedule_due_idx from its start; locks the rows, skips those that somebody changes.
static DUE: Statement = Statement::by_index(
    concat!(
        "SELECT ",
        columns!(),
        " FROM pgq.schedule AS s WHERE s.active AND s.next_run <= $1 AND NOT",
        waits!(),
        " AND",
        is_armed!("$2"),
        " ORDER BY s.next_run LIMIT $3 FOR UPDATE OF s SKIP LOCKED"
    ),
    &[Type::Time, Type::Oid, Type::Bigint],
);

/// Up to `most` schedules that are due, locked; those that wait for a job are left alone, however many there are.
pub fn due(now: Micros, most: i64) -> Result<Vec<Schedule>> {
    DUE.rows(&[Arg::Time(now.0), Arg::Oid(database::current()), Arg::Bigint(most)], read)
}

/// Index: schedule_due_idx from its start; locks nothing.
static NEXT_DUE: Statement = Statement::by_index(
    concat!(
        "SELECT s.next_run FROM pgq.schedule AS s WHERE s.active AND s.next_run IS NOT NULL AND NOT (s.next_run <= $2 AND",
        waits!(),
        ") AND",
        is_armed!("$1"),
        " ORDER BY s.next_run LIMIT 1"
    ),
    &[Type::Oid, Type::Time],
);

/// Index: schedule_due_idx from its start; locks nothing.
static WAITING: Statement = Statement::by_index(
    concat!("SELECT EXISTS (SELECT FROM pgq.schedule AS s WHERE s.active AND s.next_run <= $1 AND", waits!(), ")"),
    &[Type::Time],
);

/// When the next schedule is due, and whether one that is due waits for a job.
pub fn next_due(now: Micros) -> Result<(Option<Micros>, bool)> {
    let next = NEXT_DUE.row(&[Arg::Oid(database::current()), Arg::Time(now.0)], |row| row.must(1).map(Micros))?;
    Ok((next, WAITING.row(&[Arg::Time(now.0)], |row| row.must(1))?.unwrap_or(false)))
}

/// Index: schedule_pkey; locks the row.
static MOVE: Statement = Statement::new(
    "UPDATE pgq.schedule AS s
        SET next_run = $2, last_run = COALESCE($3, s.last_run), last_job = COALESCE($4, s.last_job),
            skipped_at = COALESCE($5, s.skipped_at), skipped = COALESCE($6, s.skipped), active = s.active AND $7
      WHERE s.name = $1",
    &[Type::Text, Type::Time, Type::Time, Type::Bigint, Type::Time, Type::Text, Type::Bool],
);

/// What becomes of a schedule: where it goes on, its last run with the job, the last one that was skipped and why.
#[derive(Debug, Default)]
pub struct Step {
    /// The next nominal time.
    pub next: Option<Micros>,
    /// Nominal time and job.
    pub run: Option<(Micros, i64)>,
    /// Nominal time and reason.
    pub skipped: Option<(Micros, String)>,
    /// It cannot go on.
    pub stops: bool,
}

/// Moves a schedule on.
pub fn step(name: &str, step: &Step) -> Result<()> {
    let time = |at: Option<Micros>| at.map_or(Arg::Null, |at| Arg::Time(at.0));
    let args = [
        Arg::Text(name),
        time(step.next),
        time(step.run.map(|(at, _)| at)),
        step.run.map_or(Arg::Null, |(_, job)| Arg::Bigint(job)),
        time(step.skipped.as_ref().map(|(at, _)| *at)),
        Arg::text(step.skipped.as_ref().map(|(_, why)| why.as_str())),
        Arg::Bool(!step.stops),
    ];
    MOVE.run(&args).map(drop)
}

/// Index: schedule_pkey; locks the row.
static FIND: Statement = Statement::new(
    concat!("SELECT ", columns!(), " FROM pgq.schedule AS s WHERE s.name = $1 FOR UPDATE OF s"),
    &[Type::Text],
);

/// Index: schedule_pkey; locks nothing.
static LOOK: Statement =
    Statement::new(concat!("SELECT ", columns!(), " FROM pgq.schedule AS s WHERE s.name = $1"), &[Type::Text]);

/// The schedule of a name as it was committed last: for the question whose it is.
pub fn look(name: &str) -> Result<Option<Schedule>> {
    LOOK.row(&[Arg::Text(name)], read)
}

/// The schedule of a name, locked.
pub fn find(name: &str) -> Result<Option<Schedule>> {
    FIND.row(&[Arg::Text(name)], read)
}

/// Index: schedule_pkey; locks the row. Only one of the queue that the caller was asked about is replaced.
static STORE: Statement = Statement::new(
    "INSERT INTO pgq.schedule AS s (name, queue, task, args, priority, cron, every, timezone, overlap, catchup, active,
                                    starts_at, ends_at, scheduled_at, next_run)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
     ON CONFLICT ON CONSTRAINT schedule_pkey DO UPDATE
        SET queue = EXCLUDED.queue, task = EXCLUDED.task, args = EXCLUDED.args, priority = EXCLUDED.priority,
            cron = EXCLUDED.cron, every = EXCLUDED.every, timezone = EXCLUDED.timezone, overlap = EXCLUDED.overlap,
            catchup = EXCLUDED.catchup, active = EXCLUDED.active, starts_at = EXCLUDED.starts_at,
            ends_at = EXCLUDED.ends_at, scheduled_at = EXCLUDED.scheduled_at, next_run = EXCLUDED.next_run,
            skipped_at = NULL, skipped = NULL
      WHERE s.queue = $16",
    &[
        Type::Text,
        Type::Text,
        Type::Text,
        Type::Jsonb,
        Type::Int,
        Type::Text,
        Type::Interval,
        Type::Text,
        Type::Text,
        Type::Text,
        Type::Bool,
        Type::Time,
        Type::Time,
        Type::Time,
        Type::Time,
        Type::Text,
    ],
);

/// Index: schedule_pkey, armed_schedule_pkey; locks the schedule's row there.
static ARM_ONE: Statement = Statement::new(
    "INSERT INTO pgq.armed_schedule AS a (schedule, scheduled_at, database)
     SELECT s.name, s.scheduled_at, $2 FROM pgq.schedule AS s WHERE s.name = $1
     ON CONFLICT ON CONSTRAINT armed_schedule_pkey DO UPDATE
        SET scheduled_at = EXCLUDED.scheduled_at, database = EXCLUDED.database",
    &[Type::Text, Type::Oid],
);

/// Stores a schedule, replacing the one of the same name if its queue is `replaced`; was it stored? `words` are its
/// overlap and catchup.
pub fn store(s: &Schedule, every: Option<Interval>, words: [&str; 2], replaced: &str) -> Result<bool> {
    let time = |at: Option<Micros>| at.map_or(Arg::Null, |at| Arg::Time(at.0));
    let stored = STORE.run(&[
        Arg::Text(&s.name),
        Arg::Text(&s.queue),
        Arg::text(s.task.as_deref()),
        Arg::Flat(&s.args),
        Arg::Int(s.priority),
        Arg::text(s.cron.as_deref()),
        Arg::interval(every),
        Arg::Text(&s.timezone),
        Arg::Text(words[0]),
        Arg::Text(words[1]),
        Arg::Bool(s.active),
        time(s.starts_at),
        time(s.ends_at),
        Arg::Time(s.scheduled_at.0),
        time(s.next_run),
        Arg::Text(replaced),
    ])? > 0;
    if stored {
        ARM_ONE.run(&[Arg::Text(&s.name), Arg::Oid(database::current())])?;
    }
    Ok(stored)
}

/// Index: schedule_pkey; locks the row.
static REMOVE: Statement = Statement::new("DELETE FROM pgq.schedule AS s WHERE s.name = $1", &[Type::Text]);
/// Index: armed_schedule_pkey; locks the row.
static FORGET: Statement = Statement::new("DELETE FROM pgq.armed_schedule AS a WHERE a.schedule = $1", &[Type::Text]);

/// Removes a schedule; its jobs stay.
pub fn remove(name: &str) -> Result<()> {
    REMOVE.run(&[Arg::Text(name)])?;
    FORGET.run(&[Arg::Text(name)]).map(drop)
}

/// Index: schedule_pkey; locks the row.
static SET_ACTIVE: Statement = Statement::new(
    "UPDATE pgq.schedule AS s SET active = $2, next_run = $3 WHERE s.name = $1",
    &[Type::Text, Type::Bool, Type::Time],
);

/// Pauses a schedule, or lets it go on at `next`.
pub fn set_active(name: &str, active: bool, next: Option<Micros>) -> Result<()> {
    SET_ACTIVE.run(&[Arg::Text(name), Arg::Bool(active), next.map_or(Arg::Null, |at| Arg::Time(at.0))]).map(drop)
}

/// Reads both tables, which are small; locks the rows that it writes.
static ARM_ALL: Statement = Statement::new(
    "INSERT INTO pgq.armed_schedule AS a (schedule, scheduled_at, database)
     SELECT s.name, s.scheduled_at, $1 FROM pgq.schedule AS s
     ON CONFLICT ON CONSTRAINT armed_schedule_pkey DO UPDATE
        SET scheduled_at = EXCLUDED.scheduled_at, database = EXCLUDED.database
      WHERE a.scheduled_at <> EXCLUDED.scheduled_at OR a.database <> EXCLUDED.database",
    &[Type::Oid],
);

/// All schedules may run here. Was one held?
pub fn arm_all() -> Result<bool> {
    Ok(ARM_ALL.run(&[Arg::Oid(database::current())])? > 0)
}

/// How the reason begins for which a schedule has stopped.
pub const STOPPED: &str = "stopped: ";

/// Reads both tables, which are small; locks nothing. That one is at its end, or paused by somebody, is as it should be.
static TROUBLES: Statement = Statement::new(
    concat!(
        "SELECT s.name, s.queue, CASE WHEN NOT",
        is_armed!("$1"),
        " THEN NULL ELSE s.skipped END
           FROM pgq.schedule AS s
          WHERE (s.active AND NOT",
        is_armed!("$1"),
        ") OR (NOT s.active AND s.skipped LIKE $2 || '%')
          ORDER BY s.name"
    ),
    &[Type::Oid, Type::Text],
);

/// A schedule that does not run although nobody paused it: name, queue, and why, `None` for one that is held.
pub type Trouble = (String, String, Option<String>);

/// The schedules that do not run although nobody paused them.
pub fn troubles() -> Result<Vec<Trouble>> {
    TROUBLES
        .rows(&[Arg::Oid(database::current()), Arg::Text(STOPPED)], |row| Ok((row.must(1)?, row.must(2)?, row.get(3))))
}
