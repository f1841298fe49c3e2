//! Typed rows.

use std::rc::Rc;

use crate::engine::state::State;
use crate::engine::time::{Micros, Span};
use crate::error::{Error, Result};
use crate::pg::datum::Flat;
use crate::pg::scan::{Field, Found};
use crate::pg::spi::Row;

/// Column numbers of pgq.job that we change in a row value.
pub const ATTEMPT_COLUMN: usize = 9;
const CRASHES_COLUMN: usize = 13;
const QUARANTINED_COLUMN: usize = 15;

/// A live job that was taken: enough to run it and to write its next state.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its id.
    pub id: i64,
    /// Its queue.
    pub queue: String,
    /// Its task.
    pub task: Option<String>,
    /// Attempts so far; the one being made now included only when it is leased.
    pub attempt: i32,
    /// Failures counted.
    pub failures: i32,
    /// What put said about attempts.
    pub max_attempts: Option<i32>,
    /// Larger first.
    pub priority: i32,
    /// The state it was in when it was taken.
    pub state: State,
    /// What put gave.
    pub args: Flat,
    /// The whole row as it was.
    pub row: Rc<Flat>,
    /// Its key.
    pub key: Option<String>,
    /// When it was due, or its lease ends.
    pub execute_at: Micros,
    /// Crashes counted.
    pub crashes: i32,
    /// Does it run alone, because a process died while it ran?
    pub is_quarantined: bool,
    /// Its group.
    pub group: Option<String>,
    /// Its flow.
    pub flow: Option<i64>,
    /// Jobs that it comes after, and that have not ended.
    pub parents: i32,
    /// Does some job come after it, so that its end must be told?
    pub has_children: bool,
}

/// The columns that `Job::read` expects from a statement, in order.
macro_rules! job_columns {
    () => {
        "j.id, j.queue, j.task, j.attempt, j.failures, j.max_attempts, j.priority, j.state, j.args, j, j.key, j.execute_at,
         j.crashes, j.quarantined, j.group_key, j.flow, j.parents, j.has_children"
    };
}
pub(crate) use job_columns;

impl Job {
    /// Reads the columns of `job_columns!`.
    pub fn read(row: &Row) -> Result<Self> {
        let state: String = row.must(8)?;
        Ok(Job {
            id: row.must(1)?,
            queue: row.must(2)?,
            task: row.get(3),
            attempt: row.must(4)?,
            failures: row.must(5)?,
            max_attempts: row.get(6),
            priority: row.must(7)?,
            state: State::parse(&state).ok_or_else(|| Error::Internal(format!("unknown state {state}")))?,
            args: row.must(9)?,
            row: Rc::new(row.must(10)?),
            key: row.get(11),
            execute_at: Micros(row.must(12)?),
            crashes: row.must(13)?,
            is_quarantined: row.must(14)?,
            group: row.get(15),
            flow: row.get(16),
            parents: row.must(17)?,
            has_children: row.must(18)?,
        })
    }

    /// The row that a walk is at, of this queue and task: ready, and in no quarantine.
    pub fn of_row(row: &Found<'_>, queue: &str, task: Option<&str>) -> Result<Self> {
        Ok(Job {
            id: row.must(Field::Id)?,
            queue: queue.into(),
            task: task.map(Into::into),
            attempt: row.must(Field::Attempt)?,
            failures: row.must(Field::Failures)?,
            max_attempts: row.get(Field::MaxAttempts),
            priority: row.must(Field::Priority)?,
            state: State::Ready,
            args: row.must(Field::Args)?,
            row: Rc::new(row.row()),
            key: row.get(Field::Key),
            execute_at: Micros(row.must(Field::ExecuteAt)?),
            crashes: row.must(Field::Crashes)?,
            is_quarantined: false,
            group: row.get(Field::GroupKey),
            flow: row.get(Field::Flow),
            parents: 0,
            has_children: row.must(Field::HasChildren)?,
        })
    }

    /// The same job with one more crash, in quarantine for good.
    pub fn crashed(self) -> Self {
        let crashes = self.crashes.saturating_add(1);
        // A boolean by value is 1 or 0 (DatumGetBool).
        let row = Rc::new(self.row.with_int(CRASHES_COLUMN, crashes).with_int(QUARANTINED_COLUMN, 1));
        Job { crashes, is_quarantined: true, row, ..self }
    }

    /// The number of the attempt that is being made now.
    pub fn current_attempt(&self) -> i32 {
        match self.state {
            State::Leased => self.attempt,
            State::Ready | State::Scheduled | State::Waiting => self.attempt.saturating_add(1),
        }
    }

    /// The row as a handler or a claimer sees it: with the attempt that is being made now.
    pub fn claimed_row(&self) -> Flat {
        self.row.with_int(ATTEMPT_COLUMN, self.current_attempt())
    }
}

/// The job that runs in this backend, for pgq.current_job().
pub mod current {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::{Job, ATTEMPT_COLUMN};
    use crate::pg::datum::Flat;

    thread_local! {
        static CURRENT: RefCell<Option<(Rc<Flat>, i32)>> = const { RefCell::new(None) };
    }

    /// What was there before some work, and is again afterwards.
    struct Before(Option<(Rc<Flat>, i32)>);

    impl Drop for Before {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }

    /// This one.
    pub fn set(job: &Job) {
        CURRENT.set(Some((Rc::clone(&job.row), job.current_attempt())));
    }

    /// Runs `work` with this job as the present one. What was there before is back afterwards, on an error too.
    pub fn during<T>(job: &Job, work: impl FnOnce() -> T) -> T {
        let _before = Before(CURRENT.replace(Some((Rc::clone(&job.row), job.current_attempt()))));
        work()
    }

    /// Runs `work` with no job as the present one: a set has none that it runs for. As `during` for what was before.
    pub fn hidden<T>(work: impl FnOnce() -> T) -> T {
        let _before = Before(CURRENT.take());
        work()
    }

    /// None any more.
    pub fn clear() {
        CURRENT.set(None);
    }

    /// Its row, with the attempt that is being made.
    pub fn get() -> Option<Flat> {
        CURRENT.with_borrow(|c| c.as_ref().map(|(row, attempt)| row.with_int(ATTEMPT_COLUMN, *attempt)))
    }
}

/// A registered handler.
#[derive(Debug, Clone)]
pub struct Handler {
    /// Its id.
    pub id: i32,
    /// Its queue.
    pub queue: String,
    /// Its task.
    pub task: Option<String>,
    /// Its function, fully qualified, with argument types.
    pub function: String,
    /// What it takes: one of the words of handler_shape_check.
    pub shape: String,
    /// Is it a procedure?
    pub is_procedure: bool,
    /// The role it runs as.
    pub role: u32,
    /// When it was registered: a later one is another handler.
    pub registered_at: Micros,
    /// How long one run may take.
    pub timeout: Option<Span>,
    /// The most executors.
    pub concurrency: Option<i32>,
    /// The most jobs in a transaction.
    pub batch: Option<i32>,
    /// Its say on retries, then its queue's.
    pub retry: [crate::engine::options::RetryOptions; 2],
    /// How long its queue keeps done jobs; `None` leaves it to the setting.
    pub keep_done: Option<Span>,
    /// Why it was parked, as recorded.
    pub parked: Option<String>,
    /// When it is tried again, where the catalog does not tell when its reason is gone.
    pub parked_until: Option<Micros>,
    /// The name of its role when it was registered.
    pub run_as: String,
    /// Queue into which a job is put for each of its jobs that is done.
    pub on_done: Option<String>,
    /// Did it come with a copy of a database, and nobody has armed it?
    pub is_held: bool,
    /// Jobs that may run now, counted up to a bound; only where the statement counts.
    pub ready: i64,
}

/// The columns that `Handler::read` expects: `h` the handler, `s` its queue's settings; then `is_held!`, and `ready`.
macro_rules! handler_columns {
    () => {
        "h.id, h.queue, h.task, h.function, h.shape, h.is_procedure, h.run_as_oid, h.registered_at,
         (EXTRACT(epoch FROM h.timeout) * 1000000)::bigint, h.concurrency, h.batch,
         h.max_attempts, (EXTRACT(epoch FROM h.backoff) * 1000000)::bigint,
         (EXTRACT(epoch FROM h.max_backoff) * 1000000)::bigint,
         s.max_attempts, (EXTRACT(epoch FROM s.backoff) * 1000000)::bigint,
         (EXTRACT(epoch FROM s.max_backoff) * 1000000)::bigint,
         (EXTRACT(epoch FROM s.keep_done) * 1000000)::bigint, h.parked, h.parked_until, h.run_as::pg_catalog.text,
         h.on_done"
    };
}
pub(crate) use handler_columns;

/// Is `h` held? As `parameter` the database's oid.
macro_rules! is_held {
    ($parameter:literal) => {
        concat!(
            ", NOT EXISTS (SELECT FROM pgq.armed_handler AS a
                WHERE a.handler = h.id AND a.registered_at = h.registered_at AND a.database = ",
            $parameter,
            ")"
        )
    };
}
pub(crate) use is_held;

impl Handler {
    /// Reads the columns of `handler_columns!` and two more: is it held, the count of ready jobs.
    pub fn read(row: &Row) -> Result<Self> {
        let span = |n: i32| row.get::<i64>(n).map(Span);
        let retry = |at: i32| crate::engine::options::RetryOptions {
            max_attempts: row.get(at),
            backoff: span(at + 1),
            max_backoff: span(at + 2),
        };
        let role = row.must_oid(7)?;
        Ok(Handler {
            id: row.must(1)?,
            queue: row.must(2)?,
            task: row.get(3),
            function: row.must(4)?,
            shape: row.must(5)?,
            is_procedure: row.must(6)?,
            role,
            registered_at: Micros(row.must(8)?),
            timeout: span(9),
            concurrency: row.get(10),
            batch: row.get(11),
            retry: [retry(12), retry(15)],
            keep_done: span(18),
            parked: row.get(19),
            parked_until: row.get(20).map(Micros),
            run_as: row.must(21)?,
            on_done: row.get(22),
            is_held: row.must(23)?,
            ready: row.get(24).unwrap_or(0),
        })
    }
}
