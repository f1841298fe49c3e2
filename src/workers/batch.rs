//! Running functions: claim, run, commit. The rows are deleted first and the handlers run in the same
//! transaction, so that the effects of a job and its removal are one commit.
//!
//! How many jobs share a transaction is `engine::pace`'s decision. Only a job that ran first and alone in its
//! transaction, or under a savepoint of its handler's, is charged with a failure; one that fails in company
//! is rolled back with the others, uncharged, and runs alone next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

use super::executor::{Ran, Worker, GONE};
use crate::engine::deltas::Fact;
use crate::engine::names;
use crate::engine::pace::{Plan, MAX_SAVEPOINTS};
use crate::engine::state::Outcome;
use crate::engine::time::{Micros, Span};
use crate::observe;
use crate::outcome::{self, Failed, Failure};
use crate::pg::function::{Callable, Input, Shape};
use crate::pg::xact::Caught;
use crate::pg::{at_commit, clock, extension, hooks, log, shmem, timeout, xact};
use crate::settings;
use crate::store::finish::{self, End};
use crate::store::groups;
use crate::store::numbers;
use crate::store::ready;
use crate::store::row::{Handler, Job};
use crate::store::{after, claim, followup};

/// Jobs in company may hold each other up for so many batch times, counted from the claim; then the transaction
/// rolls back. design.md says 10; 8 leaves time for the others to be picked up within that.
const COMPANY_LIMIT: i64 = 8;

/// How far a transaction came: survives its rollback.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Jobs that were there to be taken.
    taken: usize,
    /// Jobs claimed, and not given back.
    pub(super) claimed: usize,
    /// The smallest of their ids.
    pub(super) first: Option<i64>,
    /// The job that runs, until all have run.
    pub(super) current: Option<(i64, i64)>,
    /// (took, succeeded) of each that ran.
    runs: Vec<(Span, bool)>,
    /// Savepoints that were released.
    savepoints: usize,
    /// Jobs that its time sufficed for, with those that went back because one before them failed.
    reached: usize,
    /// Has one of them a group? Then there may be others to take.
    ordered: bool,
}

impl Progress {
    fn claimed(&mut self, jobs: &[Job]) {
        (self.taken, self.claimed) = (jobs.len(), jobs.len());
        self.first = jobs.iter().map(|job| job.id).min();
        self.ordered = jobs.iter().any(|job| job.group.is_some());
    }

    /// A savepoint was rolled back that began after so many runs: how many had gone well in it, and when the one began
    /// that failed.
    fn back_to(&mut self, runs: usize) -> (usize, Micros) {
        let undone = self.runs.len() - runs;
        self.runs.truncate(runs);
        (undone, Micros(self.current.map_or(0, |(_, began)| began)))
    }
}

/// What the run of a batch needs to know.
pub(super) struct Batch<'a> {
    pub(super) handler: &'a Handler,
    pub(super) plan: Plan,
    pub(super) shape: Shape,
    pub(super) keep: bool,
    pub(super) progress: RefCell<Progress>,
}

/// How many of the first jobs are all of different groups, none of them held: those may fail under one savepoint.
fn apart(jobs: &[Job], held: &BTreeSet<String>) -> usize {
    let mut seen = BTreeSet::new();
    jobs.iter()
        .take_while(|job| job.group.as_ref().is_none_or(|group| !held.contains(group) && seen.insert(group)))
        .count()
}

/// How the jobs of a transaction run.
struct Jobs<'a> {
    batch: &'a Batch<'a>,
    /// Is there more than one?
    company: bool,
    /// When those that have not begun go back.
    until: Micros,
    /// The end of the last run, which is the beginning of the next: a clock is read once a job.
    now: Cell<Micros>,
    /// Those that were charged: written together at the end.
    failed: RefCell<Vec<Failed<'a>>>,
}

impl<'a> Jobs<'a> {
    fn charge(&self, failed: Failed<'a>) {
        self.failed.borrow_mut().push(failed);
    }

    fn is_over(&self) -> bool {
        self.now.get() > self.until
    }

    /// How long it took from then to now.
    fn since(&self, began: Micros) -> Span {
        self.now.set(Micros(clock::now()));
        self.now.get().since(began)
    }
}

impl Worker {
    /// One transaction of a function handler.
    pub(super) fn run_functions(&mut self, handler: &Handler) -> Ran {
        let suspect = self.suspect.filter(|s| s.0 == handler.id);
        let most = handler.batch.and_then(|b| usize::try_from(b).ok());
        let mut plan = self.pace(handler).plan(settings::batch_time(), most);
        let mut wanted: Vec<i64> = suspect.map(|s| s.1).into_iter().collect();
        if suspect.is_some() || xact::default_isolation_is_strict() {
            plan.jobs = 1;
            if wanted.is_empty() {
                match self.candidates(handler) {
                    Ok(ids) if ids.is_empty() => return Ran::Nothing,
                    Ok(ids) => wanted = ids,
                    Err(error) => {
                        self.pause_after(&error);
                        return Ran::Nothing;
                    }
                }
            }
        }
        let batch = Batch {
            handler,
            plan,
            shape: Shape::from_word(&handler.shape),
            keep: handler.keep_done.unwrap_or_else(settings::keep_done) > Span::ZERO,
            progress: RefCell::default(),
        };
        let result = xact::run_functions(|| self.transaction(&batch, &wanted, suspect.is_some()));
        groups::forget();
        hooks::at("transaction ended");
        self.journal_clear();
        self.scratch.empty();
        let progress = batch.progress.take();
        if progress.claimed > 0 {
            self.hands.after(handler);
        }
        match result {
            Ok(0) => {
                self.clear_job();
                if suspect.is_some() {
                    self.suspect = None;
                    return Ran::Jobs;
                }
                if !wanted.is_empty() {
                    // Others took all that we looked at; there may be more by now.
                    self.call_others();
                }
                Ran::Nothing
            }
            Ok(_) => {
                self.is_drained = wanted.is_empty() && progress.taken < batch.plan.jobs && !progress.ordered;
                self.committed(handler, &progress, suspect);
                Ran::Jobs
            }
            Err(error) => self.rolled_back(&batch, &progress, &error),
        }
    }

    /// Inside the transaction: claims and runs; the number of jobs claimed.
    fn transaction(&self, batch: &Batch<'_>, wanted: &[i64], suspect: bool) -> Result<usize, Caught> {
        timeout::forget();
        if !extension::lock(self.extension) {
            return Err(Caught::new(GONE, "the extension is gone"));
        }
        if !self.knows_its_handler() {
            return Ok(0);
        }
        let mut callable = Self::resolve(batch.handler)?;
        let mut jobs = self.claim(batch, wanted)?;
        if let (true, true, [id]) = (suspect, jobs.is_empty(), wanted) {
            // It stands behind another of its group, where it cannot run alone; but be buried.
            if self.is_cancelled(*id) {
                jobs.extend(claim::take_behind(*id)?);
            }
        }
        if let ([job], true) = (jobs.as_slice(), suspect && wanted.iter().any(|id| self.is_cancelled(*id))) {
            Self::cancel(job)?;
            groups::pass_on()?;
            return Ok(0);
        }
        batch.progress.borrow_mut().claimed(&jobs);
        if jobs.len() > 1 {
            let limit = settings::batch_time().times(COMPANY_LIMIT);
            let limit = self.job_limit(batch.handler).map_or(limit, |own| own.min(limit));
            timeout::arm(limit.as_millis());
        }
        hooks::at("claimed");
        self.journal_begin(&jobs);
        let begun = self.run_some(batch, &mut callable, &jobs)?;
        hooks::at("before commit");
        let mut progress = batch.progress.borrow_mut();
        progress.claimed = begun;
        progress.current = None;
        Ok(begun)
    }

    /// Runs jobs until a batch time has passed; how many. Those that were claimed and have not begun go back as they
    /// were: what has priority over them waits for one batch time and no longer.
    fn run_some<'a>(&self, batch: &'a Batch<'_>, callable: &mut Callable, jobs: &'a [Job]) -> Result<usize, Caught> {
        let now = Micros(clock::now());
        let until = now.after(settings::batch_time());
        let run = Jobs { batch, company: jobs.len() > 1, until, now: Cell::new(now), failed: RefCell::default() };
        let ordered = batch.progress.borrow().ordered;
        let holds = ordered && !groups::rule(&batch.handler.queue)?.passes;
        let (mut n, mut back) = (0, Vec::new());
        let mut held = BTreeSet::new();
        while n < jobs.len() {
            if n > 0 && (run.is_over() || batch.progress.borrow().savepoints >= MAX_SAVEPOINTS) {
                break;
            }
            if jobs[n].group.as_ref().is_some_and(|group| held.contains(group)) {
                back.push(&jobs[n]);
                n += 1;
                continue;
            }
            n += match batch.plan.group {
                None if !ordered => self.run_together(&run, callable, &jobs[n..])?,
                group => {
                    let most = group.unwrap_or(usize::MAX).min(jobs.len() - n);
                    self.run_group(&run, callable, &jobs[n..], apart(&jobs[n..n + most], &held))?
                }
            };
            if holds {
                held.extend(run.failed.borrow().iter().filter_map(|failed| failed.holds().map(Into::into)));
            }
        }
        batch.progress.borrow_mut().reached = n;
        let begun = n - back.len();
        back.extend(&jobs[n..]);
        if let Some(first) = back.iter().map(|job| job.id).min() {
            finish::give_back(back.into_iter())?;
            at_commit::touch_from(names::hash(&batch.handler.queue), first);
        }
        outcome::write(&run.failed.take())?;
        groups::pass_on()?;
        Ok(begun)
    }

    pub(super) fn claim(&self, batch: &Batch<'_>, wanted: &[i64]) -> Result<Vec<Job>, Caught> {
        let (queue, task) = (&batch.handler.queue, batch.handler.task.as_deref());
        if wanted.is_empty() {
            if self.entry.quarantine.load(SeqCst) != 0 {
                if let Some(job) = claim::take_quarantined(queue, task, &self.spoken_for())? {
                    return Ok(vec![job]);
                }
            }
            let except = self.spoken_for();
            return Ok(ready::take(queue, task, batch.plan.jobs, batch.plan.follow, &except)?);
        }
        for id in wanted {
            if let Some(job) = claim::take_ready(*id, queue, task)? {
                return Ok(vec![job]);
            }
        }
        Ok(Vec::new())
    }

    /// The best jobs of a handler, one of which is taken by its id in the next transaction: where that one is
    /// SERIALIZABLE, a walk along the index would conflict with every other claim. Each executor begins at another one.
    pub(super) fn candidates(&self, handler: &Handler) -> Result<Vec<i64>, Caught> {
        let (extension, except) = (self.extension, self.spoken_for());
        let mut ids = xact::run(|| {
            if !extension::lock(extension) {
                return Ok(Vec::new());
            }
            Ok(claim::candidates(&handler.queue, handler.task.as_deref(), shmem::EXECUTORS + 1, &except)?)
        })?;
        let first = self.number % ids.len().max(1);
        ids.rotate_left(first);
        Ok(ids)
    }

    /// The longest one run of this handler may take.
    pub(super) fn job_limit(&self, handler: &Handler) -> Option<Span> {
        handler.timeout.or_else(settings::job_timeout).filter(|t| *t > Span::ZERO)
    }

    /// Runs the first `size` jobs under one savepoint; how many have run. Where one fails, those before it run once
    /// more without it, and then it does, alone: that decides. The first of a savepoint was alone in it.
    fn run_group<'a>(
        &self,
        run: &Jobs<'a>,
        callable: &mut Callable,
        jobs: &'a [Job],
        size: usize,
    ) -> Result<usize, Caught> {
        let before = run.batch.progress.borrow().runs.len();
        let error = match xact::savepoint(|| self.run_together(run, callable, &jobs[..size])) {
            Ok(n) => {
                run.batch.progress.borrow_mut().savepoints += 1;
                return Ok(n);
            }
            Err(error) => error,
        };
        self.scratch.empty();
        let (at, began) = run.batch.progress.borrow_mut().back_to(before);
        let took = run.since(began);
        let Some(job) = jobs[..size].get(at) else { return Err(error) };
        // The whole transaction ends when the company's time ran out, or somebody asked for it.
        if self.is_cancelled(job.id) || (run.company && timeout::expired()) {
            return Err(error);
        }
        if at == 0 {
            let how = Failure { places: run.batch.handler.retry, ..Failure::default() };
            run.charge(outcome::judged(job, &error, &how));
            run.batch.progress.borrow_mut().runs.push((took, false));
            return Ok(1);
        }
        let n = self.run_group(run, callable, jobs, at)?;
        if n < at {
            return Ok(n);
        }
        Ok(at + self.run_group(run, callable, &jobs[at..], 1)?)
    }

    /// Runs jobs one after the other until the batch's time is over; how many.
    fn run_together(&self, run: &Jobs<'_>, callable: &mut Callable, jobs: &[Job]) -> Result<usize, Caught> {
        let mut done = 0;
        while done < jobs.len() && (done == 0 || !run.is_over()) {
            self.run_one(run, callable, &jobs[done])?;
            self.scratch.empty();
            done += 1;
        }
        // Once for all: where one fails, those before it are undone with it.
        numbers::changed_by(&run.batch.handler.queue, Fact::Done, done);
        Ok(done)
    }

    fn run_one(&self, run: &Jobs<'_>, callable: &mut Callable, job: &Job) -> Result<(), Caught> {
        let (batch, began) = (run.batch, run.now.get());
        batch.progress.borrow_mut().current = Some((job.id, began.0));
        self.forget_cancel(job.id);
        self.show(batch.handler, job, began.0);
        self.journal_job(job);
        xact::begin_statement();
        hooks::at("before handler");
        if !run.company {
            self.slot.recording.store(job.id, SeqCst);
            if let Some(limit) = self.job_limit(batch.handler) {
                timeout::arm(limit.as_millis());
            }
        }
        let row = (batch.shape == Shape::Job).then(|| job.claimed_row());
        let input = Input { id: job.id, args: &job.args, job: row.as_ref() };
        let result = self.scratch.within(|| callable.call(&input, batch.keep || batch.handler.on_done.is_some()));
        hooks::at("after handler");
        self.accept(job)?;
        let took = run.since(began);
        Self::keep(batch, job, result.as_ref())?;
        after::done(job)?;
        followup::done(batch.handler.on_done.as_deref(), std::iter::once(job), result.as_ref())?;
        observe::log::job_done(job.id, &job.queue, job.current_attempt(), took);
        batch.progress.borrow_mut().runs.push((took, true));
        Ok(())
    }

    /// A handler that swallowed its cancel does not get away with it.
    fn accept(&self, job: &Job) -> Result<(), Caught> {
        xact::check_interrupts();
        if timeout::expired() {
            return Err(Caught::new("57014", "canceling job due to its time limit"));
        }
        if self.is_cancelled(job.id) {
            return Err(Caught::new("57014", "canceling job due to user request"));
        }
        Ok(())
    }

    /// Keeps what came of a job, where that is wanted.
    fn keep(batch: &Batch<'_>, job: &Job, result: Option<&crate::pg::datum::Flat>) -> Result<(), Caught> {
        if batch.keep {
            let attempt = job.current_attempt();
            let end = End { outcome: Outcome::Done, attempt, failures: job.failures, result, error: None };
            finish::keep(job, &end)?;
        }
        Ok(())
    }

    fn committed(&mut self, handler: &Handler, progress: &Progress, suspect: Option<(i32, i64, bool)>) {
        self.clear_job();
        let pace = self.pace(handler);
        for (took, succeeded) in &progress.runs {
            if *succeeded {
                pace.succeeded(*took);
            } else {
                pace.failed(*took);
            }
        }
        pace.committed(progress.claimed);
        pace.reached(progress.reached, progress.taken);
        if let Some((_, id, excused)) = suspect {
            let succeeded = progress.runs.iter().all(|r| r.1);
            if succeeded && !excused && pace.disturbed() {
                log::line(&format!(
                    "job {id} failed in company and succeeded alone: jobs of queue \"{}\" now run one per transaction",
                    handler.queue
                ));
            }
            self.suspect = None;
        }
    }
}
