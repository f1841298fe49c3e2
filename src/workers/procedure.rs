//! Running procedures, which may COMMIT: the lease first, in a transaction of its own; then a CALL that no
//! transaction of ours surrounds; then the completion, accepted only for the attempt that holds the lease.
//!
//! The lease has no end in time. It is held as long as our slot in shared memory names the job; when this
//! process is gone the scheduler gives the job back, as the next attempt.

use super::executor::{Ran, Worker, GONE};
use super::parking;
use crate::engine::deltas::Fact;
use crate::engine::state::{Outcome, State};
use crate::engine::time::Span;
use crate::observe;
use crate::outcome::{self, Failure};
use crate::pg::function::{Input, Shape};
use crate::pg::xact::Caught;
use crate::pg::{clock, encoding, extension, hooks, latch, portal, timeout, xact};
use crate::settings;
use crate::store::claim;
use crate::store::finish::{self, End};
use crate::store::ready;
use crate::store::row::{Handler, Job};
use crate::store::{after, followup, groups, numbers};

/// How often the end of a run is tried to be recorded when that fails with an error.
const RECORDINGS: u32 = 5;
/// How long a row that somebody has locked is left to him before the next try.
const LOCKED_PAUSE: Span = Span::from_millis(20);

impl Worker {
    /// One job of a procedure handler.
    pub(super) fn run_procedure(&mut self, handler: &Handler) -> Ran {
        let job = match self.lease(handler) {
            Ok(Some(job)) => job,
            Ok(None) => return Ran::Nothing,
            Err(error) if error.sqlstate == GONE => return Ran::Gone,
            Err(error) if parking::is_about_handler(&error) => {
                self.park(handler, &error);
                return Ran::Nothing;
            }
            Err(error) => {
                self.pause_after(&error);
                return Ran::Nothing;
            }
        };
        hooks::at("lease committed");
        let began = clock::now();
        self.show(handler, &job, began);
        let ended = self.call(handler, &job);
        self.scratch.empty();
        let took = Span(clock::now().saturating_sub(began));
        hooks::at("procedure returned");
        self.journal_clear();
        // No nest level could span its COMMITs. Before the end is recorded: it may have made the session read-only.
        self.hands.scrub();
        self.record_end(handler, &job, &ended, took);
        hooks::at("procedure finished");
        self.clear_job();
        self.call_others();
        Ran::Jobs
    }

    /// Commits a lease that names us: the slot names the job before the commit, so that nobody sees it unowned.
    fn lease(&self, handler: &Handler) -> Result<Option<Job>, Caught> {
        let result = xact::run(|| {
            if !extension::lock(self.extension) {
                return Err(Caught::new(GONE, "the extension is gone"));
            }
            Self::resolve(handler)?;
            let job = claim::lease_one(&handler.queue, handler.task.as_deref(), &self.spoken_for())?;
            if let Some(job) = &job {
                self.forget_cancel(job.id);
                self.slot.set_job(job.id, job.attempt, clock::now());
                self.journal_begin(std::slice::from_ref(job));
                self.journal_job(job);
            }
            Ok(job)
        });
        if result.is_err() {
            ready::given_back(&handler.queue, i64::MIN);
        }
        if !matches!(result, Ok(Some(_))) {
            self.journal_clear();
            self.clear_job();
        }
        result
    }

    fn call(&self, handler: &Handler, job: &Job) -> Result<(), Caught> {
        let shape = Shape::from_word(&handler.shape);
        let name = handler.function.rsplit_once('(').map_or(handler.function.as_str(), |(name, _)| name);
        let marks = match shape {
            Shape::Nothing | Shape::Jobs => "",
            Shape::Args | Shape::Job => "$1",
            Shape::IdArgs => "$1, $2",
        };
        let text = encoding::to_server_c(&format!("CALL {name}({marks})"))
            .ok_or_else(|| Caught::new("42602", "the procedure's name has a zero byte"))?;
        let row = (shape == Shape::Job).then(|| job.row.as_ref());
        let input = Input { id: job.id, args: &job.args, job: row };
        timeout::forget();
        if let Some(limit) = self.job_limit(handler) {
            timeout::arm(limit.as_millis());
        }
        xact::run_procedure(|| {
            self.scratch.enter();
            portal::call(&text, shape, &input);
            if timeout::expired() {
                return Err(Caught::new("57014", "canceling job due to its time limit"));
            }
            Ok(())
        })
    }

    /// The procedure has run, and would run again if this were given up. So it is tried until the row is there to be
    /// taken: others lock it for a moment, or as long as a transaction that forces a cancel.
    fn record_end(&self, handler: &Handler, job: &Job, ended: &Result<(), Caught>, took: Span) {
        let mut errors = 0;
        while errors < RECORDINGS {
            match self.finish_procedure(handler, job, ended, took) {
                Ok(true) => return,
                Ok(false) => {
                    // In a transaction, so that a cancel that comes now is caught.
                    let _ = xact::run(|| {
                        latch::reset();
                        latch::rest(LOCKED_PAUSE.as_millis());
                        Ok(())
                    });
                }
                Err(error) => {
                    errors += 1;
                    self.pause_after(&error);
                }
            }
        }
    }

    /// Writes what became of the job; false while somebody else has its row locked.
    fn finish_procedure(
        &self,
        handler: &Handler,
        job: &Job,
        ended: &Result<(), Caught>,
        took: Span,
    ) -> Result<bool, Caught> {
        let cancelled = self.is_cancelled(job.id);
        xact::run(|| {
            if !extension::lock(self.extension) {
                return Ok(true);
            }
            let Some(held) = claim::take_held(job.id, job.attempt, None)? else {
                let seen = claim::look(job.id)?;
                return Ok(!seen.is_some_and(|s| s.job.state == State::Leased && s.job.attempt == job.attempt));
            };
            match ended {
                Ok(()) => {
                    numbers::changed(&job.queue, Fact::Done, 1);
                    if handler.keep_done.unwrap_or_else(settings::keep_done) > Span::ZERO {
                        let (attempt, failures) = (held.attempt, held.failures);
                        let end = End { outcome: Outcome::Done, attempt, failures, result: None, error: None };
                        finish::keep(&held, &end)?;
                    }
                    after::done(&held)?;
                    followup::done(handler.on_done.as_deref(), std::iter::once(&held), None)?;
                    observe::log::job_done(job.id, &job.queue, held.attempt, took);
                }
                Err(_) if cancelled => Self::cancel(&held)?,
                Err(error) => {
                    outcome::failed(&held, error, &Failure { places: handler.retry, ..Failure::default() })?;
                }
            }
            groups::pass_on()?;
            Ok(true)
        })
    }
}
