//! Running functions that take a set of jobs: claim, one call, commit. One call is one transaction, and exactly once
//! as a whole.
//!
//! A set that fails is charged to nobody. Its halves run next, each in a transaction of its own, until the jobs that
//! fail do so alone and are charged (`engine::sets`). Nobody is kept from these jobs meanwhile: what others took is
//! left out.
//!
//! The slot shows the first job of a set. Who wants to know of another finds us by its row, which our transaction
//! has taken (`api::runner`).

use std::cell::RefCell;
use std::sync::atomic::Ordering::SeqCst;

use super::batch::Batch;
use super::executor::{Ran, Worker, GONE};
use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::pace::Plan;
use crate::engine::sets::{fitting, MAX_SET};
use crate::engine::state::{is_passing, Outcome};
use crate::engine::time::{Micros, Span};
use crate::observe;
use crate::pg::datum::Flat;
use crate::pg::function::{Callable, Shape};
use crate::pg::xact::Caught;
use crate::pg::{activity, at_commit, clock, extension, hooks, timeout, xact};
use crate::settings;
use crate::store::row::{current, Handler, Job};
use crate::store::{after, claim, finish, followup, groups, numbers, ready};

/// Which jobs a set is made of.
enum Wanted {
    /// The best ones.
    New,
    /// A part of a set that failed.
    Part(Vec<i64>),
    /// One of these: the session's transactions see one moment only (see `Worker::candidates`).
    One(Vec<i64>),
}

/// How far a call came: survives the rollback of its transaction.
#[derive(Debug, Default)]
struct Call {
    /// The jobs that the function was given.
    ids: Vec<i64>,
    /// The smallest id that was taken, also of those that went back before the call.
    first: Option<i64>,
    /// Bytes of their args.
    bytes: usize,
    began: i64,
}

impl Worker {
    /// One transaction of a handler that takes sets.
    pub(super) fn run_set(&mut self, handler: &Handler) -> Ran {
        let most = handler.batch.and_then(|b| usize::try_from(b).ok()).unwrap_or(MAX_SET);
        let wanted = match self.wanted(handler) {
            Ok(Wanted::One(ids)) if ids.is_empty() => return Ran::Nothing,
            Ok(wanted) => wanted,
            Err(error) => {
                self.pause_after(&error);
                return Ran::Nothing;
            }
        };
        let batch = Batch {
            handler,
            plan: Plan { jobs: self.sets(handler).size(Some(most)), group: None, follow: 0 },
            shape: Shape::Jobs,
            keep: handler.keep_done.unwrap_or_else(settings::keep_done) > Span::ZERO,
            progress: RefCell::default(),
        };
        self.outdate_cancel();
        let call = RefCell::default();
        let result = xact::run_functions(|| self.set_transaction(&batch, &wanted, &call));
        hooks::at("transaction ended");
        self.journal_clear();
        self.scratch.empty();
        let call = call.take();
        if !call.ids.is_empty() {
            self.hands.after(handler);
        }
        match result {
            Ok(()) => self.set_committed(handler, &wanted, &call),
            Err(error) => self.set_rolled_back(handler, &wanted, &call, &error),
        }
    }

    fn wanted(&mut self, handler: &Handler) -> Result<Wanted, Caught> {
        if xact::default_isolation_is_strict() {
            return self.candidates(handler).map(Wanted::One);
        }
        Ok(self.sets(handler).part().map_or(Wanted::New, |ids| Wanted::Part(ids.to_vec())))
    }

    /// Inside the transaction: claims and calls.
    fn set_transaction(&self, batch: &Batch<'_>, wanted: &Wanted, call: &RefCell<Call>) -> Result<(), Caught> {
        timeout::forget();
        if !extension::lock(self.extension) {
            return Err(Caught::new(GONE, "the extension is gone"));
        }
        let mut callable = Self::resolve(batch.handler)?;
        let mut jobs = self.claim_set(batch, wanted)?;
        if jobs.is_empty() {
            return Ok(());
        }
        let first = jobs.iter().map(|job| job.id).min();
        call.borrow_mut().first = first;
        let rest = jobs.split_off(fitting(jobs.iter().map(|job| job.args.len())));
        if !rest.is_empty() {
            finish::give_back(rest.iter())?;
            at_commit::touch_from(names::hash(&batch.handler.queue), first.unwrap_or(i64::MIN));
        }
        drop(rest);
        *call.borrow_mut() = Call {
            ids: jobs.iter().map(|job| job.id).collect(),
            first,
            bytes: jobs.iter().map(|job| job.args.len()).sum(),
            began: clock::now(),
        };
        hooks::at("claimed");
        self.journal_begin(&jobs);
        self.call_with(batch, &mut callable, &jobs)?;
        groups::pass_on()?;
        hooks::at("before commit");
        Ok(())
    }

    fn claim_set(&self, batch: &Batch<'_>, wanted: &Wanted) -> Result<Vec<Job>, Caught> {
        let (queue, task) = (&batch.handler.queue, batch.handler.task.as_deref());
        match wanted {
            Wanted::New => self.claim(batch, &[]),
            Wanted::One(ids) => self.claim(batch, ids),
            Wanted::Part(ids) => Ok(claim::take_these(ids, queue, task, &self.spoken_for())?),
        }
    }

    /// The call, and what makes its jobs done.
    fn call_with(&self, batch: &Batch<'_>, callable: &mut Callable, jobs: &[Job]) -> Result<(), Caught> {
        let began = clock::now();
        self.show_set(batch.handler, jobs, began);
        jobs.iter().for_each(|job| self.journal_job(job));
        xact::begin_statement();
        hooks::at("before handler");
        if let [job] = jobs {
            self.slot.recording.store(job.id, SeqCst);
        }
        if let Some(limit) = self.job_limit(batch.handler) {
            timeout::arm(limit.as_millis());
        }
        let rows: Vec<Flat> = jobs.iter().map(Job::claimed_row).collect();
        let rows: Vec<&Flat> = rows.iter().collect();
        let called = xact::catching(|| {
            self.scratch.within(|| callable.call_set(&rows));
            hooks::at("after handler");
            self.accept_set(jobs)
        });
        if called.is_err() {
            // Before the rollback makes it ready: nobody else is to take the job that was cancelled.
            if let Some(job) = self.cancelled_of(jobs.iter().map(|job| job.id)) {
                self.slot.recording.store(job, SeqCst);
            }
        }
        called?;
        self.scratch.empty();
        numbers::changed_by(&batch.handler.queue, Fact::Done, jobs.len());
        if batch.keep {
            finish::keep_set(&batch.handler.queue, &rows)?;
        }
        after::ended(jobs.iter().map(|job| (job, Outcome::Done)))?;
        followup::done(batch.handler.on_done.as_deref(), jobs.iter(), None)?;
        let took = Micros(clock::now()).since(Micros(began));
        for job in jobs {
            observe::log::job_done(job.id, &job.queue, job.current_attempt(), took);
        }
        Ok(())
    }

    /// A function that swallowed its cancel does not get away with it.
    fn accept_set(&self, jobs: &[Job]) -> Result<(), Caught> {
        xact::check_interrupts();
        if timeout::expired() {
            return Err(Caught::new("57014", "canceling jobs due to their time limit"));
        }
        match self.cancelled_of(jobs.iter().map(|job| job.id)) {
            Some(_) => Err(Caught::new("57014", "canceling job due to user request")),
            None => Ok(()),
        }
    }

    /// Shows the first job, and how many there are. No job is the current one.
    fn show_set(&self, handler: &Handler, jobs: &[Job], now: i64) {
        let Some(first) = jobs.first() else { return };
        self.slot.set_job(first.id, first.current_attempt(), now);
        current::clear();
        let (queue, function, n) = (&handler.queue, &handler.function, jobs.len());
        activity::running(&format!("pgq {queue}#{} {function} {n} jobs", first.id));
    }

    /// The one of these jobs that somebody asked to interrupt.
    fn cancelled_of(&self, ids: impl IntoIterator<Item = i64>) -> Option<i64> {
        ids.into_iter().find(|id| self.is_cancelled(*id))
    }

    /// A cancel that is there before a set is claimed is of an earlier run. It stays as a number that is no job's:
    /// it tells a signal that came late. After the claim it would be too late: whoever cancels finds us by the row.
    fn outdate_cancel(&self) {
        let seen = self.slot.cancel.load(SeqCst);
        if seen > 0 {
            let _ = self.slot.cancel.compare_exchange(seen, -seen, SeqCst, SeqCst);
        }
    }

    fn set_committed(&mut self, handler: &Handler, wanted: &Wanted, call: &Call) -> Ran {
        self.clear_job();
        let took = Micros(clock::now()).since(Micros(call.began));
        let sets = self.sets(handler);
        match wanted {
            Wanted::Part(_) => {
                sets.part_is_over();
                Ran::Jobs
            }
            _ if call.ids.is_empty() => Ran::Nothing,
            Wanted::One(_) => Ran::Jobs,
            Wanted::New => {
                sets.weighed(call.ids.len(), call.bytes);
                sets.succeeded(call.ids.len(), took, settings::batch_time());
                Ran::Jobs
            }
        }
    }

    /// The transaction is gone and its jobs are there again. Who is to blame?
    fn set_rolled_back(&mut self, handler: &Handler, wanted: &Wanted, call: &Call, error: &Caught) -> Ran {
        ready::given_back(&handler.queue, call.first.unwrap_or(i64::MIN));
        if let Some(ran) = self.set_aside(handler, error) {
            return ran;
        }
        if call.ids.is_empty() {
            self.pause_after(error);
            self.clear_job();
            return Ran::Nothing;
        }
        let is_part = matches!(wanted, Wanted::Part(_));
        let came_late = error.sqlstate == "57014" && !timeout::expired() && self.slot.cancel.load(SeqCst) != 0;
        if let Some(id) = self.cancelled_of(call.ids.iter().copied()) {
            self.slot.recording.store(id, SeqCst);
            self.charge(handler, error, Span::ZERO);
        } else if came_late {
            // Meant for an earlier job here: nobody's failure, and the same jobs run again.
        } else if call.ids.len() == 1 {
            self.charge(handler, error, Micros(clock::now()).since(Micros(call.began)));
            self.sets(handler).failed(&call.ids, is_part);
        } else if is_passing(&error.sqlstate) {
            self.sets(handler).conflicted(call.ids.len(), is_part);
        } else {
            self.sets(handler).failed(&call.ids, is_part);
        }
        self.clear_job();
        self.call_others();
        Ran::Jobs
    }
}
