//! An executor: connected as the role whose handlers it runs, so that nothing a handler does (RESET ROLE,
//! ROLLBACK in a procedure, deferred triggers) can climb higher than that role.
//!
//! Lifetime: started by the scheduler for (database, role); leaves after `pgq.idle_timeout` without work, when
//! asked to, when it is worn (`wear`), or when the extension is gone. Whatever ends it, its open transaction rolls back: the jobs it
//! had are there again at once, with nothing counted.
//!
//! The loop: look which handlers of the role have work; give each a turn of one `batch_time`
//! (`batch` for functions, `sets` for those that take many jobs at once, `procedure` for procedures); sleep when none has.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

use super::hands::Hands;
use super::parking;
use super::wear::Wear;
use super::{journal, quarantine};
use crate::engine::journal::{Owner, Slot};
use crate::engine::names;
use crate::engine::pace::Pace;
use crate::engine::plan;
use crate::engine::sets::Sets;
use crate::engine::state::is_passing;
use crate::engine::time::{Micros, Span};
use crate::pg::activity::Line;
use crate::pg::function::Shape;
use crate::pg::memory::Scratch;
use crate::pg::shmem::{slot_state, Database, Executor, Shared};
use crate::pg::xact::Caught;
use crate::pg::{
    activity, bgworker, clock, durable, extension, guc, latch, log, session, shmem, signals, tamper, timeout, xact,
};
use crate::settings;
use crate::store::row::{current, Handler, Job};

/// Nobody is asked to make room before having been here this long.
const MIN_STAY: Span = Span::from_millis(1_000);
/// The wait after an error of our own, which is charged to no job.
const ERROR_PAUSE: Span = Span::from_millis(200);
/// The same after a conflict with somebody else's transaction.
const CONFLICT_PAUSE: Span = Span::from_millis(5);
/// After so many handlers in a row with nothing left to do it is time for another look.
const IN_VAIN: usize = 8;
/// The same complaint is not repeated sooner.
const SAME_COMPLAINT: Span = Span::from_millis(60_000);

thread_local! {
    static MINE: Cell<Option<&'static Executor>> = const { Cell::new(None) };
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What came of one try to run jobs of a handler.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// Jobs were run: go on.
    Jobs,
    /// There was nothing to take.
    Nothing,
    /// The extension is gone.
    Gone,
}

pub(super) struct Worker {
    pub(super) shared: &'static Shared,
    pub(super) slot: &'static Executor,
    /// Where we write what runs, so that it is known after a crash.
    pub(super) journal: Option<Slot<'static>>,
    pub(super) entry: &'static Database,
    pub(super) number: usize,
    pub(super) database: u32,
    role: u32,
    pub(super) extension: u32,
    pub(super) scratch: Scratch,
    pub(super) hands: Hands,
    wear: Wear,
    paces: HashMap<i32, (Micros, Pace)>,
    sets: HashMap<i32, (Micros, Sets)>,
    /// A job that brought its company down: runs alone next. (handler, job, was it excused: a deadlock, a limit?)
    pub(super) suspect: Option<(i32, i64, bool)>,
    turn: usize,
    /// `tamper::generation` of the last look.
    generation: u64,
    /// The handler of functions that had a turn last, and the generation of the look before it.
    last: Option<(Handler, u64)>,
    /// That generation, while we run what a put called us for, without a look.
    called_at: Option<u64>,
    /// The last claim found less than it asked for.
    pub(super) is_drained: bool,
    /// What is shown of the jobs of a handler: (id, registered at), the text.
    shown: RefCell<((i32, Micros), Line)>,
    /// What went wrong last that was no job's fault, and when it was said.
    complaint: RefCell<(String, Micros)>,
}

/// The executor's main; `argument` is its slot and the slot's generation.
pub fn run(argument: i32) {
    signals::install();
    let Some(shared) = shmem::shared() else { bgworker::exit(0) };
    let number = usize::try_from(argument & 0xff).unwrap_or(0) % shmem::EXECUTORS;
    let slot = &shared.executors[number];
    let generation = slot.generation.load(SeqCst);
    let expected = u32::try_from(argument >> 8).unwrap_or(0);
    if generation % (1 << 22) != expected || slot.state.load(SeqCst) != slot_state::STARTING || !slot.place.occupy() {
        bgworker::exit(0);
    }
    MINE.set(Some(slot));
    NUMBER.set(Some(number));
    bgworker::at_exit(leave);
    timeout::register();
    let (database, role) = (slot.database.load(SeqCst), slot.role.load(SeqCst));
    let Some(entry) = shared.find_database(database) else { bgworker::exit(0) };
    bgworker::connect(database, role);
    slot.arrived.store(generation, SeqCst);
    bgworker::before_abort(note_death);
    activity::name(c"pgq executor");
    let mut worker = Worker {
        shared,
        slot,
        journal: None,
        entry,
        number,
        database,
        role,
        extension: 0,
        scratch: Scratch::new(c"pgq job"),
        hands: Hands::new(role),
        wear: Wear::new(),
        paces: HashMap::new(),
        sets: HashMap::new(),
        suspect: None,
        turn: 0,
        generation: 0,
        last: None,
        called_at: None,
        is_drained: false,
        shown: RefCell::default(),
        complaint: RefCell::default(),
    };
    worker.work();
    if !worker.hands.are_lost() {
        slot.left.store(generation, SeqCst);
    }
    bgworker::exit(0);
}

/// Ended while jobs ran, and nobody told it to: the scheduler must judge them before anybody takes them again. Noted
/// before the abort, which makes them ready.
fn note_death() {
    let (Some(shared), Some(slot), Some(number)) = (shmem::shared(), MINE.get(), NUMBER.get()) else { return };
    let Some(journal) = journal::slot(shared, number).filter(|journal| !journal.is_clear()) else { return };
    if signals::told_to_end() || signals::postmaster_is_gone() {
        journal.clear();
    } else {
        slot.state.store(slot_state::ENDED, SeqCst);
    }
}

/// Gives the slot up. The transaction was aborted before (ShutdownPostgres runs first), so the jobs are there again.
fn leave() {
    let (Some(shared), Some(slot)) = (shmem::shared(), MINE.get()) else { return };
    let database = slot.database.load(SeqCst);
    // What it had taken is there again.
    if slot.state.load(SeqCst) != slot_state::IDLE {
        shared.lower_all(database);
    }
    let generation = slot.generation.load(SeqCst);
    if slot.leave.load(SeqCst) != 0 {
        slot.left.store(generation, SeqCst);
    }
    // No fault of what ran here: the role is held back for a moment only, as after a death that followed work.
    if signals::told_to_end() {
        slot.worked.store(generation, SeqCst);
    }
    slot.place.vacate();
    shared.locked(|| {
        if slot.state.load(SeqCst) != slot_state::ENDED {
            slot.clear();
            slot.state.store(slot_state::FREE, SeqCst);
        }
    });
    for entry in &shared.databases {
        let oid = entry.oid.load(SeqCst);
        if oid != 0 && (oid == database || entry.starving.load(SeqCst) != 0) {
            shared.ask(entry);
        }
    }
}

impl Worker {
    fn work(&mut self) {
        let mut idle_since = Micros(clock::now());
        loop {
            latch::reset();
            let called = self.slot.place.take_call();
            guc::reload_if_asked();
            if !settings::enabled() || self.leaves() || self.wear.is_worn() {
                return;
            }
            self.slot.state.store(slot_state::IDLE, SeqCst);
            self.journal = journal::slot(self.shared, self.number);
            match self.work_once(called) {
                Ran::Jobs => {
                    idle_since = Micros(clock::now());
                    if self.gives_way() {
                        return;
                    }
                    continue;
                }
                Ran::Gone => return,
                Ran::Nothing => durable::settle(),
            }
            if called {
                // It was not ours, or somebody else was faster.
                self.shared.ask(self.entry);
            }
            let idle = Micros(clock::now()).since(idle_since);
            if idle >= settings::idle_timeout() {
                return;
            }
            // Asked to look while a pause (after an error, a parked handler) reset the latch: whoever asks next sees
            // the request standing and sets no latch.
            if self.slot.place.wake.load(SeqCst) != 0 {
                continue;
            }
            activity::idle();
            xact::report_statistics();
            latch::rest(settings::idle_timeout().0.saturating_sub(idle.0).max(1_000) / 1_000);
        }
    }

    /// Who was `called` turns to the handler it worked for last, if it is as it was, and looks at all of them only when
    /// there is nothing to do for that one.
    fn work_once(&mut self, called: bool) -> Ran {
        let last = if called { self.last.take() } else { None };
        if let Some((last, generation)) = last {
            self.called_at = Some(generation);
            let ran = self.turns(std::slice::from_ref(&last));
            self.called_at = None;
            self.last = Some((last, generation));
            if ran != Ran::Nothing {
                return ran;
            }
        }
        match self.look() {
            Ok(None) => Ran::Gone,
            Ok(Some(handlers)) => self.turns(&handlers),
            Err(error) => {
                self.pause_after(&error);
                Ran::Nothing
            }
        }
    }

    /// Inside the transaction of one that was called: has nothing changed since it looked?
    pub(super) fn knows_its_handler(&self) -> bool {
        self.called_at.is_none_or(|generation| {
            let mark = session::settings_mark(self.database, self.role);
            generation == tamper::generation() && !self.wear.would_change(mark)
        })
    }

    /// Is it to leave after the present transaction?
    fn leaves(&self) -> bool {
        self.slot.leave.load(SeqCst) != 0 || self.hands.are_lost()
    }

    /// The handlers of our role that have work and may run. `None`: leave, the extension or the role is gone, or a new
    /// session would start with other settings.
    fn look(&mut self) -> Result<Option<Vec<Handler>>, Caught> {
        let (database, role, known) = (self.database, self.role, self.extension);
        let (mut mark, mut generation) = (None, 0);
        let (extension, handlers) = xact::run(|| {
            mark = Some(session::settings_mark(database, role));
            generation = tamper::generation();
            let oid = if known == 0 { extension::oid() } else { known };
            if oid == 0 || !extension::lock(oid) {
                return Ok((oid, None));
            }
            Ok((oid, parking::of_role(role, 1)?))
        })?;
        self.extension = extension;
        self.generation = generation;
        let changed = mark.is_some_and(|mark| self.wear.changed(mark));
        Ok(handlers.filter(|_| !changed))
    }

    /// Gives each handler one turn, beginning with another one each time, and far from where the other executors begin.
    fn turns(&mut self, handlers: &[Handler]) -> Ran {
        let (mut worked, mut in_vain) = (Ran::Nothing, 0);
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn.wrapping_add(plan::place(self.number, handlers.len()));
        for n in 0..handlers.len() {
            // Others were here since we looked.
            if worked == Ran::Jobs && in_vain >= IN_VAIN {
                break;
            }
            in_vain += 1;
            let handler = &handlers[first.wrapping_add(n) % handlers.len()];
            let limit = plan::handler_limit(handler.concurrency, settings::max_workers());
            if !self.shared.begin(self.number, handler.id, limit) {
                continue;
            }
            self.slot.queue.store(names::hash(&handler.queue), SeqCst);
            // Called since we took the flag, for a job that is to wait for no other of ours.
            if self.slot.place.is_called() {
                self.shared.ask(self.entry);
            }
            self.hands.before(handler);
            let ran = if self.leaves() { Ran::Nothing } else { self.one_turn(handler) };
            self.slot.state.store(slot_state::IDLE, SeqCst);
            self.slot.handler.store(0, SeqCst);
            match ran {
                Ran::Jobs => {
                    self.slot.worked.store(self.slot.generation.load(SeqCst), SeqCst);
                    (worked, in_vain) = (Ran::Jobs, 0);
                    let is_function = !handler.is_procedure && Shape::from_word(&handler.shape) != Shape::Jobs;
                    if self.called_at.is_none() && is_function {
                        self.last = Some((handler.clone(), self.generation));
                    }
                }
                Ran::Nothing => {}
                Ran::Gone => return Ran::Gone,
            }
            if self.leaves() {
                break;
            }
        }
        worked
    }

    /// Runs jobs of one handler until its time is over or nothing is left.
    fn one_turn(&mut self, handler: &Handler) -> Ran {
        self.unpark(handler);
        let until = Micros(clock::now()).after(settings::batch_time());
        let mut worked = Ran::Nothing;
        loop {
            self.is_drained = false;
            let ran = match Shape::from_word(&handler.shape) {
                Shape::Jobs => self.run_set(handler),
                _ if handler.is_procedure => self.run_procedure(handler),
                _ => self.run_functions(handler),
            };
            match ran {
                Ran::Jobs => worked = Ran::Jobs,
                other if other == Ran::Gone => return other,
                _ => return worked,
            }
            let over = (Micros(clock::now()) >= until || self.is_drained) && self.suspect.is_none();
            if over || self.leaves() {
                return worked;
            }
            latch::between_jobs();
        }
    }

    /// Has somebody else work, nobody to do it, and no room for one? Then the first of us to see it leaves. Handlers
    /// of our own role take turns with us anyway.
    fn gives_way(&self) -> bool {
        let here = Micros(clock::now()).since(Micros(self.slot.started.load(SeqCst)));
        let answered = |entry: &Database| {
            let role = entry.starving.load(SeqCst);
            let ours = entry.oid.load(SeqCst) == self.database && role == self.role;
            role != 0
                && role != shmem::ANSWERED
                && !ours
                && entry.starving.compare_exchange(role, shmem::ANSWERED, SeqCst, SeqCst).is_ok()
        };
        here >= MIN_STAY && self.shared.room(settings::max_workers()) == 0 && self.shared.databases.iter().any(answered)
    }

    /// An error of our own, charged to no job: one line for as long as it is the same, and a moment's rest.
    /// Of our tables the scheduler tells.
    pub(super) fn pause_after(&self, error: &Caught) {
        if error.sqlstate == xact::TAMPERED {
            self.call_others();
            latch::reset();
            latch::rest(ERROR_PAUSE.as_millis());
            return;
        }
        latch::reset();
        // Somebody else's transaction was in the way, or a cancel came when its job was over.
        if is_passing(&error.sqlstate) || error.sqlstate == "57014" {
            latch::rest(CONFLICT_PAUSE.as_millis());
            return;
        }
        let what = format!("an executor could not go on for a moment: {} {}", error.sqlstate, error.message);
        let now = Micros(clock::now());
        let mut last = self.complaint.borrow_mut();
        if last.0 != what || now.since(last.1) >= SAME_COMPLAINT {
            log::warning(&what);
            *last = (what, now);
        }
        drop(last);
        latch::rest(ERROR_PAUSE.as_millis());
    }

    /// What we remember of a handler; a new registration is a new handler.
    pub(super) fn pace(&mut self, handler: &Handler) -> &mut Pace {
        let kept = self.paces.entry(handler.id).or_insert_with(|| (handler.registered_at, Pace::default()));
        if kept.0 != handler.registered_at {
            *kept = (handler.registered_at, Pace::default());
        }
        &mut kept.1
    }

    /// The same of a handler that takes sets.
    pub(super) fn sets(&mut self, handler: &Handler) -> &mut Sets {
        let kept = self.sets.entry(handler.id).or_insert_with(|| (handler.registered_at, Sets::default()));
        if kept.0 != handler.registered_at {
            *kept = (handler.registered_at, Sets::default());
        }
        &mut kept.1
    }

    /// Jobs that others are about to record a failure of, or to run alone: not ours to take.
    pub(super) fn spoken_for(&self) -> Vec<i64> {
        self.shared
            .executors_of(self.database)
            .filter(|(n, _)| *n != self.number)
            .map(|(_, e)| e.recording.load(SeqCst))
            .filter(|id| *id != 0)
            .chain(quarantine::unjudged(self.shared, self.database))
            .collect()
    }

    /// Writes into the journal that jobs are about to run, before the first of them does.
    pub(super) fn journal_begin(&self, jobs: &[Job]) {
        let Some(journal) = self.journal else { return };
        let owner = Owner { epoch: self.shared.started_at.load(SeqCst), pid: latch::my_pid(), database: self.database };
        journal.begin(owner, jobs.len() == 1, jobs.iter().any(|job| job.is_quarantined));
    }

    /// This one runs next.
    pub(super) fn journal_job(&self, job: &Job) {
        if let Some(journal) = self.journal {
            journal.job(job.id, job.current_attempt());
        }
    }

    /// Their transaction is over.
    pub(super) fn journal_clear(&self) {
        if let Some(journal) = self.journal {
            journal.clear();
        }
    }

    /// An error that is no job's: the extension is gone, or the handler may not run. What the turn came to then.
    pub(super) fn set_aside(&self, handler: &Handler, error: &Caught) -> Option<Ran> {
        if error.sqlstate == GONE {
            return Some(Ran::Gone);
        }
        if parking::is_about_handler(error) {
            self.clear_job();
            self.park(handler, error);
            return Some(Ran::Nothing);
        }
        None
    }

    /// Jobs are there again: whoever is idle may take them.
    pub(super) fn call_others(&self) {
        self.entry.scheduler.wake();
    }

    /// Shows the job in shared memory and in pg_stat_activity.
    pub(super) fn show(&self, handler: &Handler, job: &Job, now: i64) {
        self.slot.set_job(job.id, job.current_attempt(), now);
        current::set(job);
        let mut shown = self.shown.borrow_mut();
        let of = (handler.id, handler.registered_at);
        if shown.0 != of {
            *shown = (of, Line::new(&format!("pgq {}#", handler.queue), &format!(" {}", handler.function)));
        }
        shown.1.running(job.id);
    }

    /// Did somebody ask to interrupt this job?
    pub(super) fn is_cancelled(&self, job: i64) -> bool {
        self.slot.cancel.load(SeqCst) == job && job != 0
    }

    /// A cancel of this job is of an earlier run of it, before somebody brought it back. Before the job is shown:
    /// whoever cancels finds it by what is shown.
    pub(super) fn forget_cancel(&self, job: i64) {
        // One of another job stays: it tells a signal that came late.
        let _ = self.slot.cancel.compare_exchange(job, 0, SeqCst, SeqCst);
    }

    /// No job runs here any more.
    pub(super) fn clear_job(&self) {
        self.slot.set_job(0, 0, 0);
        self.slot.recording.store(0, SeqCst);
        current::clear();
    }
}

/// Marks an error as "the extension is gone".
pub(super) const GONE: &str = "gone";
