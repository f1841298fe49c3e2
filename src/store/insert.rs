//! Putting jobs into the table.

use std::ops::Range;

use crate::engine::state::State;
use crate::error::{Error, Result};
use crate::pg::datum::{Elements, Flat};
use crate::pg::insert::Table;
use crate::pg::spi::{Arg, Type};

/// A job to be put. Checked by the caller.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its queue.
    pub queue: String,
    /// Its task.
    pub task: Option<String>,
    /// Its args.
    pub args: Flat,
    /// Larger first.
    pub priority: i32,
    /// When it is due.
    pub execute_at: i64,
    /// Ready, scheduled when it is not due yet, or waiting for others.
    pub state: State,
    /// Its key.
    pub key: Option<String>,
    /// Failures after which it is dead.
    pub max_attempts: Option<i32>,
    /// Its group.
    pub group: Option<String>,
    /// Its flow.
    pub flow: Option<i64>,
    /// Jobs that it comes after, and that have not ended.
    pub parents: i32,
}

/// Locks no row; waits for nobody (the only unique index is the primary key, and ids come from the sequence). What is
/// not given has the table's defaults: the id, created_at, the counts.
static JOBS: Table = Table::new(
    c"job",
    "id",
    &[
        ("queue", Type::Text),
        ("task", Type::Text),
        ("args", Type::Jsonb),
        ("priority", Type::Int),
        ("execute_at", Type::Time),
        ("state", Type::Text),
        ("key", Type::Text),
        ("max_attempts", Type::Int),
        ("group_key", Type::Text),
        ("flow", Type::Bigint),
        ("parents", Type::Int),
    ],
);

/// Which of them is args.
const ARGS: usize = 2;

impl NewJob {
    /// A job that is ready, and of which nothing else is said.
    pub fn ready(queue: String, args: Flat, execute_at: i64) -> Self {
        NewJob {
            queue,
            task: None,
            args,
            priority: 0,
            execute_at,
            state: State::Ready,
            key: None,
            max_attempts: None,
            group: None,
            flow: None,
            parents: 0,
        }
    }

    /// Its columns, as JOBS has them, with other args than its own.
    fn row<'a>(&'a self, args: Arg<'a>) -> [Arg<'a>; 11] {
        [
            Arg::Text(&self.queue),
            Arg::text(self.task.as_deref()),
            args,
            Arg::Int(self.priority),
            Arg::Time(self.execute_at),
            Arg::Text(self.state.word()),
            Arg::text(self.key.as_deref()),
            Arg::int(self.max_attempts),
            Arg::text(self.group.as_deref()),
            Arg::bigint(self.flow),
            Arg::Int(self.parents),
        ]
    }
}

/// Puts one job; its id.
pub fn put(job: &NewJob) -> Result<i64> {
    let ids = JOBS.insert(|rows| {
        rows.add(&job.row(Arg::Flat(&job.args)));
        Ok(())
    })?;
    ids.first().copied().ok_or_else(|| Error::Internal("put returned no id".into()))
}

/// Puts one job per element of `args` at these places, none of which is NULL, the rest from `like`; ids in the order of
/// the array.
pub fn bulk_put_args(like: &NewJob, args: &Elements<'_>, places: Range<usize>) -> Result<Vec<i64>> {
    JOBS.insert(|rows| {
        rows.like(&like.row(Arg::Null));
        for element in args.iter().skip(places.start).take(places.len()).flatten() {
            rows.add_with(ARGS, &Arg::Element(element));
        }
        Ok(())
    })
}

/// Puts all of them; ids in the same order.
pub fn bulk_put(jobs: &[NewJob]) -> Result<Vec<i64>> {
    JOBS.insert(|rows| {
        for job in jobs {
            rows.add(&job.row(Arg::Flat(&job.args)));
        }
        Ok(())
    })
}
