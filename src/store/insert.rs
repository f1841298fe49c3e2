//! Putting jobs into the table.

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
    /// The word of its state: ready, or scheduled when it is not due yet.
    pub state: &'static str,
    /// Its key.
    pub key: Option<String>,
    /// Failures after which it is dead.
    pub max_attempts: Option<i32>,
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
    ],
);

/// Which of them is args.
const ARGS: usize = 2;

impl NewJob {
    /// Its columns, as JOBS has them, with other args than its own.
    fn row<'a>(&'a self, args: Arg<'a>) -> [Arg<'a>; 8] {
        [
            Arg::Text(&self.queue),
            Arg::text(self.task.as_deref()),
            args,
            Arg::Int(self.priority),
            Arg::Time(self.execute_at),
            Arg::Text(self.state),
            Arg::text(self.key.as_deref()),
            Arg::int(self.max_attempts),
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

/// Puts one job per element of `args`, none of which is NULL, the rest from `like`; ids in the order of the array.
pub fn bulk_put_args(like: &NewJob, args: &Elements<'_>) -> Result<Vec<i64>> {
    JOBS.insert(|rows| {
        rows.like(&like.row(Arg::Null));
        for element in args.iter().flatten() {
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
