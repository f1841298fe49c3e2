//! Jobs that run alone because a process died while they ran.

use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};

/// Index: job_pkey; locks the rows it changes, skips those that somebody has. A row that stands at another attempt
/// is not the job that ran.
static ISOLATE: Statement = Statement::by_index(
    "UPDATE pgq.job AS j SET quarantined = true
      WHERE j.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgq.job AS c
             WHERE c.id = $1 AND $2 = CASE WHEN c.state = 'leased' THEN c.attempt ELSE c.attempt::bigint + 1 END
               FOR UPDATE SKIP LOCKED))
     RETURNING j.queue",
    &[Type::Bigint, Type::Int],
);

/// Puts each (id, attempt) that still stands there into quarantine; their queues.
pub fn isolate(jobs: &[(i64, i32)]) -> Result<Vec<String>> {
    let mut queues: Vec<String> = Vec::new();
    for (id, attempt) in jobs {
        let queue: Option<String> = ISOLATE.row(&[Arg::Bigint(*id), Arg::Int(*attempt)], |row| row.must(1))?;
        queues.extend(queue);
    }
    queues.sort_unstable();
    queues.dedup();
    Ok(queues)
}

/// Index: job_quarantine_idx, its first entry; locks nothing.
static ANY: Statement =
    Statement::by_index("SELECT true FROM pgq.job AS j WHERE j.quarantined AND j.state = 'ready' LIMIT 1", &[]);

/// Is a ready job in quarantine?
pub fn any() -> Result<bool> {
    Ok(ANY.row(&[], |row| row.must::<bool>(1))?.unwrap_or(false))
}
