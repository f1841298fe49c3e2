//! Whose door a failure is laid at: the one job's that ran, or nobody's as yet, so that each runs alone next.

use std::sync::atomic::Ordering::SeqCst;

use super::batch::{Batch, Progress};
use super::executor::{Ran, Worker};
use crate::engine::state::{is_passing, Outcome};
use crate::engine::time::{Micros, Span};
use crate::outcome::{self, Failure};
use crate::pg::xact::Caught;
use crate::pg::{clock, extension, hooks, timeout, xact};
use crate::settings;
use crate::store::finish::{self, End};
use crate::store::row::{Handler, Job};
use crate::store::{claim, groups, ready};

impl Worker {
    /// The transaction is gone and its jobs are there again. Who is to blame?
    pub(super) fn rolled_back(&mut self, batch: &Batch<'_>, progress: &Progress, error: &Caught) -> Ran {
        let handler = batch.handler;
        // Where it failed before we know what it took, anything may be there again.
        ready::given_back(&handler.queue, progress.first.unwrap_or(i64::MIN));
        if let Some(ran) = self.set_aside(handler, error) {
            return ran;
        }
        let ran = match (progress.claimed, progress.current) {
            (0, _) => {
                self.pause_after(error);
                Ran::Nothing
            }
            (1, current) => {
                let took = current.map_or(Span::ZERO, |(_, began)| Micros(clock::now()).since(Micros(began)));
                self.charge(handler, error, took);
                Ran::Jobs
            }
            (_, Some((id, began))) => {
                self.blame_in_company(handler, id, Micros(clock::now()).since(Micros(began)), error);
                return Ran::Jobs;
            }
            (claimed, None) => {
                // At the commit: nobody's door to lay it at, so each runs alone.
                self.pace(handler).apart(claimed);
                Ran::Jobs
            }
        };
        self.suspect = None;
        self.clear_job();
        self.call_others();
        ran
    }

    /// A job failed, or would not end, among others: it runs alone next, and nobody else takes it before.
    fn blame_in_company(&mut self, handler: &Handler, id: i64, took: Span, error: &Caught) {
        let held_up = timeout::expired();
        // A cancel came from outside: it says nothing about what its jobs do to each other.
        let cancelled = error.sqlstate == "57014" || self.is_cancelled(id);
        let excused = held_up || cancelled || is_passing(&error.sqlstate);
        self.clear_job();
        let pace = self.pace(handler);
        if held_up {
            if took > settings::batch_time() {
                pace.held_up();
            }
        } else if is_passing(&error.sqlstate) {
            pace.deadlocked();
        }
        self.slot.recording.store(id, SeqCst);
        self.suspect = Some((handler.id, id, excused));
        self.call_others();
    }

    /// Buries a job that somebody cancelled while it ran.
    pub(super) fn cancel(job: &Job) -> Result<(), Caught> {
        let attempt = job.current_attempt();
        let end = End { outcome: Outcome::Cancelled, attempt, failures: job.failures, result: None, error: None };
        Ok(finish::keep(job, &end)?)
    }

    /// Records the failure of the job that ran alone. `slot.recording` has kept it from others since before the
    /// rollback.
    pub(super) fn charge(&mut self, handler: &Handler, error: &Caught, took: Span) {
        let id = self.slot.recording.load(SeqCst);
        let (extension, cancelled) = (self.extension, self.is_cancelled(id));
        // A cancel that was meant for an earlier job here and came late is nobody's failure.
        if error.sqlstate == "57014" && !cancelled && !timeout::expired() && self.slot.cancel.load(SeqCst) != 0 {
            return;
        }
        let recorded = xact::run(|| {
            if !extension::lock(extension) {
                return Ok(());
            }
            let Some(job) = claim::take_ready(id, &handler.queue, handler.task.as_deref())? else { return Ok(()) };
            hooks::at("failure taken");
            if cancelled {
                Self::cancel(&job)?;
            } else {
                outcome::failed(&job, error, &Failure { places: handler.retry, ..Failure::default() })?;
            }
            Ok(groups::pass_on()?)
        });
        if let Err(error) = recorded {
            self.pause_after(&error);
        }
        if !cancelled {
            self.pace(handler).failed(took);
        }
    }
}
