//! The scheduler: one per database in which something may be due. Connected as the bootstrap superuser; it
//! runs our own static statements and never a handler.
//!
//! Lifetime: started by the launcher; leaves after `pgq.idle_timeout` without anything to do, when the
//! extension is gone, when somebody wants the database for himself, or when pgq is switched off. Before it
//! leaves it publishes when it must be back.
//!
//! One look, in one transaction: promote what is due, end leases, find the handlers that have work, tell
//! workers outside. Then wake or start executors. It uses no xid where nothing changed.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use super::count::Counting;
use super::deaths::Watch;
use super::ends::Ends;
use super::missed::Missed;
use super::parking::Parking;
use super::quarantine::{self, Dead};
use super::schedules::{self, Fired};
use crate::engine::time::{Micros, Span};
use crate::outcome;
use crate::pg::latch::Signal;
use crate::pg::shmem::{served, Database, Shared};
use crate::pg::xact::Caught;
use crate::pg::{activity, bgworker, clock, database, extension, guc, hooks, latch, log, shmem, signals, xact};
use crate::settings;
use crate::store::intruders::{self, Wanted};
use crate::store::row::Handler;
use crate::store::{self, counts, flows, groups, history, promote, registry, schedule};

/// The most rows one statement promotes, ends or prunes.
const PORTION: i64 = 1_000;
/// Ready jobs of a handler are counted up to this: more say nothing about how many executors it needs.
const BOUND: i64 = 100;
/// How often kept jobs are pruned.
const PRUNE_EVERY: Span = Span::from_millis(60_000);
/// Somebody who wants the database waits five seconds for us to leave (CountOtherDBBackends, procarray.c).
const ROOM_EVERY: Span = Span::from_millis(1_000);
/// After we made room nobody comes back before this.
const CLOSED_FOR: Span = Span::from_millis(10_000);
/// How often it is looked whether an extension that somebody wants to drop is still here.
const DROP_PAUSE: Span = Span::from_millis(250);
/// Looks that others ask for begin at least so long after the last ended.
const BETWEEN_LOOKS: Span = Span::from_millis(3);

thread_local! {
    static MINE: Cell<Option<&'static Database>> = const { Cell::new(None) };
}

pub(super) struct Scheduler {
    pub(super) shared: &'static Shared,
    pub(super) entry: &'static Database,
    pub(super) oid: u32,
    extension: u32,
    idle_since: Micros,
    pruned: Option<Micros>,
    room_checked: Option<Micros>,
    had_prepared: bool,
    pub(super) watch: Watch,
    complaint: Option<String>,
    /// The same of schedules.
    trouble: Option<String>,
    pub(super) parking: Parking,
    missed: Missed,
    ends: Ends,
    counting: Counting,
}

/// What one look found.
struct Seen {
    handlers: Vec<Handler>,
    next_due: Option<Micros>,
    /// When the next schedule is due.
    next_run: Option<Micros>,
    more: bool,
}

/// The scheduler's main; `argument` is the database's oid.
pub fn run(argument: i32) {
    signals::install();
    let oid = u32::from_ne_bytes(argument.to_ne_bytes());
    let Some(shared) = shmem::shared() else { bgworker::exit(0) };
    let Some(entry) = shared.find_database(oid) else { bgworker::exit(0) };
    MINE.set(Some(entry));
    bgworker::at_exit(leave);
    if !entry.scheduler.occupy() {
        bgworker::exit(0);
    }
    bgworker::connect(oid, 0);
    // Needed until we say otherwise: whatever ends us before we publish, the launcher replaces us at once.
    entry.due.store(0, SeqCst);
    entry.served.store(served::CONNECTED, SeqCst);
    activity::name(c"pgq scheduler");
    let mut scheduler = Scheduler {
        shared,
        entry,
        oid,
        extension: 0,
        idle_since: Micros(clock::now()),
        pruned: None,
        room_checked: None,
        had_prepared: false,
        watch: Watch::default(),
        complaint: None,
        trouble: None,
        parking: Parking::default(),
        missed: Missed::default(),
        ends: Ends::default(),
        counting: Counting::default(),
    };
    scheduler.parking.adopt(shared, oid);
    scheduler.work();
    bgworker::exit(0);
}

fn leave() {
    if let (Some(shared), Some(entry)) = (shmem::shared(), MINE.get()) {
        if entry.scheduler.pid.load(SeqCst) == latch::my_pid() {
            // Before the place is given up: afterwards the note is that of the next start (launcher::needed).
            entry.starting_since.store(0, SeqCst);
            entry.scheduler.vacate();
        }
        // Whoever asked while we were leaving is answered by the launcher; so is an end that was not ours. The
        // postmaster tells only the launcher that started us, which may be gone.
        if entry.scheduler.wake.load(SeqCst) != 0 || entry.due.load(SeqCst) == 0 {
            shared.launcher.wake();
        }
    }
}

impl Scheduler {
    fn work(&mut self) {
        loop {
            latch::reset();
            self.entry.scheduler.take_wake();
            guc::reload_if_asked();
            let now = Micros(clock::now());
            if !settings::enabled() {
                self.dismiss();
                // Switched on again, there may be work at once.
                self.publish(Some(now));
                return;
            }
            if !self.room(now) {
                return;
            }
            let mut seen = match self.look(now) {
                Ok(Some(seen)) => {
                    self.entry.served.store(served::LOOKED, SeqCst);
                    self.complaint = None;
                    seen
                }
                Ok(None) => return,
                Err(error) if error.sqlstate == xact::TAMPERED => {
                    Seen { handlers: Vec::new(), next_due: self.parking.alarm(now), next_run: None, more: false }
                }
                Err(error) => {
                    self.complain(format!("a look at the queues failed: {} {}", error.sqlstate, error.message));
                    Seen { handlers: Vec::new(), next_due: Some(now.after(ROOM_EVERY)), next_run: None, more: false }
                }
            };
            if let Err(error) = self.parking.record(self.extension) {
                self.complain(format!("a handler could not be parked: {} {}", error.sqlstate, error.message));
            }
            self.staff(&seen.handlers, now);
            self.fire(&mut seen, now);
            if let Err(error) = self.counting.look(&self.entry.numbers, self.extension, now) {
                self.complain(format!("the jobs could not be counted: {} {}", error.sqlstate, error.message));
            }
            if self.may_leave(&seen, now) {
                self.publish(self.parking.back_at(seen.next_due, now));
                return;
            }
            self.rest(&seen, now);
        }
    }

    /// Puts what schedules have due; then the next look is at once, or not before the jobs that runs wait for may have ended.
    fn fire(&mut self, seen: &mut Seen, now: Micros) {
        let Some(due) = seen.next_run else { return };
        if due > now {
            seen.next_due = Some(seen.next_due.map_or(due, |at| at.min(due)));
            return;
        }
        let back = match schedules::fire(self.extension, now) {
            Ok(fired) => {
                self.trouble = None;
                match fired {
                    Fired::Some => {
                        seen.more = true;
                        return;
                    }
                    Fired::NotBefore(back) => back,
                }
            }
            Err(error) => {
                let what = format!("schedules could not be run: {} {}", error.sqlstate, error.message);
                if self.trouble.as_ref() != Some(&what) {
                    log::warning(&what);
                    self.trouble = Some(what);
                }
                now.after(ROOM_EVERY)
            }
        };
        seen.next_due = Some(seen.next_due.map_or(back, |at| at.min(back)));
    }

    /// One line per change of state, never a storm.
    fn complain(&mut self, what: String) {
        if self.complaint.as_ref() != Some(&what) {
            log::warning(&what);
            self.complaint = Some(what);
        }
    }

    /// Waits for the next thing to do. However soon somebody asks, at least four times as long as the look took (twice,
    /// where that is more than 20 ms; no longer than 100 ms), and `BETWEEN_LOOKS`, so that a stream of single puts does not make us a full-time process: its puts wake idle
    /// executors themselves.
    fn rest(&self, seen: &Seen, began: Micros) {
        activity::idle();
        let ended = Micros(clock::now());
        let mut wait = settings::poll_interval().min(ROOM_EVERY);
        if let Some(due) = seen.next_due {
            wait = wait.min(due.since(ended));
        }
        if let Some(held) = self.watch.wait(ended) {
            wait = wait.min(held);
        }
        if seen.more {
            wait = Span::ZERO;
        }
        let wake = &self.entry.scheduler.wake;
        if wake.load(SeqCst) == 0 {
            xact::report_statistics();
            latch::rest(wait.as_millis());
        }
        if wake.load(SeqCst) != 0 {
            let took = ended.since(began);
            // A look may have waited for somebody's lock, too.
            let most = took.times(2).max(Span::from_millis(20)).min(Span::from_millis(100));
            let pause = took.times(4).max(BETWEEN_LOOKS).min(most);
            let over = ended.after(pause);
            latch::reset();
            latch::rest(over.since(Micros(clock::now())).as_millis());
        }
    }

    /// Nothing to do, nobody to look after, for the idle timeout?
    fn may_leave(&mut self, seen: &Seen, now: Micros) -> bool {
        let busy = !seen.handlers.is_empty()
            || seen.more
            || self.had_prepared
            || self.shared.executors_of(self.oid).next().is_some()
            || seen.next_due.is_some_and(|due| due.since(now) <= settings::idle_timeout());
        if busy {
            self.idle_since = now;
        }
        now.since(self.idle_since) >= settings::idle_timeout()
    }

    /// Says when a scheduler must be there again. A prepared transaction keeps us, so there is none.
    fn publish(&self, next_due: Option<Micros>) {
        self.entry.due.store(next_due.unwrap_or(Micros::INFINITY).0, SeqCst);
    }

    /// Looks once a second whether somebody wants the database for himself: then our executors end (their jobs
    /// roll back, nothing is counted) and so do we.
    fn room(&mut self, now: Micros) -> bool {
        if self.room_checked.is_some_and(|at| now.since(at) < Span::from_millis(900)) {
            return true;
        }
        self.room_checked = Some(now);
        let oid = self.oid;
        // Who may not have it fails by himself as soon as he has the lock, which we do not hold.
        let look = || Ok((database::is_free(oid) || !intruders::of_database()?.rightly, database::is_open()));
        let (free, open) = xact::run(look).unwrap_or((true, true));
        if free && open {
            return true;
        }
        // A template is entered, and left, whenever somebody calls pgq there: no news.
        if self.extension != 0 {
            let why = if open { "somebody wants this database for himself" } else { "this database takes no sessions" };
            log::line(&format!("{why}: leaving it"));
        }
        self.terminate();
        let until = now.after(CLOSED_FOR);
        self.entry.closed_until.store(until.0, SeqCst);
        self.entry.due.store(if open { until.0 } else { Micros::INFINITY.0 }, SeqCst);
        false
    }

    /// Ends the executors of this database at once. One that was on its way is not missed: that it does not arrive
    /// is our doing, not its role's.
    fn terminate(&mut self) {
        self.parking.none_started();
        for (_, slot) in self.shared.executors_of(self.oid) {
            slot.leave.store(1, SeqCst);
            latch::signal(slot.place.pid.load(SeqCst), Signal::Terminate);
        }
    }

    /// Lets the executors of this database leave after the transaction they are in.
    fn dismiss(&self) {
        for (_, slot) in self.shared.executors_of(self.oid) {
            slot.leave.store(1, SeqCst);
            slot.wake();
        }
    }

    /// One look. `None`: the extension is gone, and so are we.
    fn look(&mut self, now: Micros) -> Result<Option<Seen>, Caught> {
        activity::running("looking for due jobs");
        if self.extension == 0 {
            self.extension = xact::run(|| Ok(extension::oid()))?;
            if self.extension == 0 {
                self.forget();
                return Ok(None);
            }
            self.entry.has_extension.store(1, SeqCst);
        }
        let expected = self.extension;
        let mut dropping = None;
        let (shared, oid) = (self.shared, self.oid);
        let dead = quarantine::find(shared, |database| database == oid);
        let seen = xact::run(|| match extension::try_lock(expected) {
            None => {
                dropping = Some(intruders::of_extension(expected)?);
                Ok(None)
            }
            Some(false) => Ok(None),
            Some(true) => self.look_inside(now, &dead).map(Some),
        })?;
        if !dead.is_empty() {
            hooks::at("crashes committed");
        }
        if seen.is_none() {
            if let Some(wanted) = dropping {
                return Ok(Some(self.make_way(&wanted, now)));
            }
            self.terminate();
            log::line("the extension was dropped from this database");
            // It may have been created again at once, and the put that woke us may be in the new one: look again.
            self.extension = 0;
            return Ok(Some(Seen { handlers: Vec::new(), next_due: None, next_run: None, more: true }));
        }
        quarantine::release(shared, &dead);
        Ok(seen)
    }

    /// Somebody wants the extension for himself. Who may drop it finds it free; who may not would hold everybody up
    /// for as long as the longest job runs, only to be refused: his statement is cancelled.
    fn make_way(&mut self, wanted: &Wanted, now: Micros) -> Seen {
        if wanted.rightly {
            self.terminate();
        }
        for pid in &wanted.intruders {
            latch::signal(*pid, Signal::Cancel);
        }
        Seen { handlers: Vec::new(), next_due: Some(now.after(DROP_PAUSE)), next_run: None, more: false }
    }

    /// The extension is not here. But whoever called since we looked put into one that is.
    fn forget(&self) {
        let oid = self.oid;
        quarantine::release(self.shared, &quarantine::find(self.shared, |database| database == oid));
        if self.shared.forget_database(self.oid) {
            if let Some(entry) = self.shared.database(self.oid) {
                entry.scheduler.wake.store(1, SeqCst);
            }
            self.shared.launcher.wake();
        }
    }

    fn look_inside(&mut self, now: Micros, dead: &[Dead]) -> Result<Seen, Caught> {
        self.parking.inspect(self.entry.tampered.load(SeqCst) != 0, now)?;
        let isolated = quarantine::settle(dead)?;
        let promoted = promote::promote(now, None, PORTION)?;
        let ended = promote::take_ended(now, None, PORTION)?;
        let portion = usize::try_from(PORTION).unwrap_or(usize::MAX);
        let more = promoted.len() >= portion || ended.len() >= portion;
        let mut queues: Vec<String> = promoted;
        queues.extend(isolated);
        for job in &ended {
            outcome::lease_ended(job, registry::setting(&job.queue)?.retry)?;
            queues.push(job.queue.clone());
        }
        for id in promote::held_here()? {
            if self.shared.runner(self.oid, id).is_none() {
                queues.extend(promote::give_back(id, now)?);
            }
        }
        let ends = self.ends.look(now, PORTION)?;
        queues.extend(ends.queues);
        groups::pass_on()?;
        hooks::at("promoted");
        self.watch_prepared()?;
        self.tell_outside(&queues)?;
        if self.pruned.is_none_or(|at| now.since(at) >= PRUNE_EVERY) {
            self.pruned = Some(now);
            let before = |keep: Span| now.0.saturating_sub(keep.0);
            history::prune(before(settings::keep_done()), before(settings::keep_dead()), PORTION * 10)?;
            flows::prune(before(settings::keep_dead()), PORTION * 10)?;
        }
        self.entry.quarantine.store(store::quarantine::any()?.into(), SeqCst);
        self.missed.look(now)?;
        let (handlers, again) = self.parking.admit(registry::handlers(0, BOUND)?, self.shared, self.oid);
        let next_due = [promote::next_due()?, again, ends.back].into_iter().flatten().min();
        let (next_run, waits) = schedule::next_due(now)?;
        let soon = waits.then(|| now.after(schedules::WAIT));
        let next_due = [next_due, soon].into_iter().flatten().min();
        Ok(Seen { handlers, next_due, next_run, more: more || ends.more })
    }

    /// COMMIT PREPARED tells nobody: while this database has prepared transactions, and once after, every queue
    /// with ready jobs counts as touched.
    fn watch_prepared(&mut self) -> Result<(), Caught> {
        // The note in shared memory is gone after a restart, a prepared transaction is not: the first look asks.
        let first = self.pruned.is_none();
        let noted = self.entry.prepared.swap(0, SeqCst) != 0 || self.had_prepared;
        if noted {
            self.entry.touch_all();
            self.shared.lower_all(self.oid);
        }
        if noted || first {
            self.had_prepared = counts::has_prepared()?;
        }
        Ok(())
    }

    /// NOTIFY for each queue that got ready jobs since the last look, once however many.
    fn tell_outside(&self, queues: &[String]) -> Result<(), Caught> {
        let (touched, all) = self.entry.take_touched();
        let told = counts::to_tell(&touched, all, queues)?;
        if !told.is_empty() {
            counts::notify(&told)?;
        }
        Ok(())
    }
}
