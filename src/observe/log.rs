//! One line per job where `pgq.log_jobs` asks for it, one per change of state; never args, which may be secret, and
//! the message of a failure, which may quote them, only where all is asked for.

use crate::engine::time::Span;
use crate::pg::log;
use crate::pg::xact::Caught;
use crate::settings::{self, LogJobs};

/// A job ran.
pub fn job_done(id: i64, queue: &str, attempt: i32, took: Span) {
    if settings::log_jobs() == LogJobs::all {
        log::line(&format!("job {id} of queue \"{queue}\" done (attempt {attempt}, {} ms)", took.as_millis()));
    }
}

/// A job met a conflict and is retried uncounted: under SERIALIZABLE that is everyday life.
pub fn job_conflicted(id: i64, queue: &str, attempt: i32, error: &Caught) {
    if settings::log_jobs() == LogJobs::all {
        log::line(&format!("job {id} of queue \"{queue}\" is retried (attempt {attempt}): {}", error.sqlstate));
    }
}

/// A failure of a job was recorded; `next` says what becomes of it.
pub fn job_failed(id: i64, queue: &str, attempt: i32, error: &Caught, next: &str) {
    let message = match settings::log_jobs() {
        LogJobs::none => return,
        LogJobs::failed => "",
        LogJobs::all => error.message.as_str(),
    };
    log::line(
        format!("job {id} of queue \"{queue}\" failed (attempt {attempt}, {next}): {} {message}", error.sqlstate)
            .trim_end(),
    );
}
