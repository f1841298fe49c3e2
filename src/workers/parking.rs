//! Parking: the scheduler's watch over handlers and tables, and an executor's question before each transaction.
//!
//! The rules are `store::parking`'s. The scheduler asks them of every handler that has work, in each look, before an
//! executor is started; so no process is started in vain for what the catalog shows. It alone records and logs what
//! they forbid, once a change. An executor asks again in each transaction, and only leaves the job alone. What the
//! catalog does not show (nobody could connect, a library is missing) is recorded by whoever finds it, with the time
//! at which it is tried again.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

use super::executor::Worker;
use crate::engine::parking::{self as reasons, Reason};
use crate::engine::time::{Micros, Span};
use crate::error::Result;
use crate::pg::function::{self, Callable, Shape};
use crate::pg::shmem::{slot_state, Shared};
use crate::pg::xact::Caught;
use crate::pg::{clock, extension, latch, log, tamper, user, xact};
use crate::settings;
use crate::store::parking::{self, Change};
use crate::store::registry;
use crate::store::row::Handler;

/// Marks an error as "the catalog forbids this handler to run". No handler can raise it: a SQLSTATE has five
/// characters.
const FORBIDDEN: &str = "forbidden";
/// Marks an error as "this handler cannot run here, and the catalog does not say why".
const UNABLE: &str = "unable";
/// A commit is visible, and calls us, a moment before its catalog changes reach our caches (CommitTransaction, xact.c:
/// callbacks, then AtEOXact_Inval). So what forbids a handler is believed when it is seen again after this.
const CACHES_LAG: Span = Span::from_millis(200);
/// How often those that are parked and have no work are looked at: who was mended may have run all of it at once.
const PARKED_EVERY: Span = Span::from_millis(900);
/// An executor that has not come after this long never will.
const ARRIVAL: Span = Span::from_millis(10_000);
/// Until our tables are looked at in full after a statement found something.
const SOON: Span = Span::from_millis(50);
/// Our tables are looked at in full at most this often when some relation changed.
const INSPECT_EVERY: Span = Span::from_millis(1_000);

/// Is the error about the handler, and no job's fault?
pub(super) fn is_about_handler(error: &Caught) -> bool {
    error.sqlstate == FORBIDDEN || error.sqlstate == UNABLE
}

/// The handlers of an executor's role that have work and may run. `None`: the role is gone.
pub(super) fn of_role(role: u32, bound: i64) -> Result<Option<Vec<Handler>>> {
    if user::name(role).is_none() {
        return Ok(None);
    }
    if tamper::stands_still()? {
        return Ok(Some(Vec::new()));
    }
    let now = Micros(clock::now());
    let mut handlers = registry::handlers(role, bound)?;
    let superusers_may = settings::allow_superuser_handlers();
    // That nobody could connect is over: we are here.
    let rests = |h: &Handler| parking::rests(h, now) && h.parked != Some(never_arrived(h));
    handlers.retain(|h| h.ready > 0 && !rests(h) && parking::forbids(h, superusers_may).is_none());
    Ok(Some(handlers))
}

fn never_arrived(handler: &Handler) -> String {
    Reason::NeverArrived { role: handler.run_as.clone() }.to_string()
}

/// Is an executor of the role here, that is not just on its way?
fn has_come(shared: &Shared, database: u32, role: u32) -> bool {
    let mut all = shared.executors_of(database);
    all.any(|(_, e)| e.role.load(SeqCst) == role && e.state.load(SeqCst) != slot_state::STARTING)
}

/// Executors whose role is gone leave: no handler can be theirs any more.
fn dismiss_orphans(shared: &Shared, database: u32) {
    for (_, slot) in shared.executors_of(database) {
        if user::name(slot.role.load(SeqCst)).is_none() && slot.leave.swap(1, SeqCst) == 0 {
            slot.wake();
        }
    }
}

/// Handlers that came with a copy are nobody's fault and nothing is recorded of them. One line when they are found, and
/// one when they are held no more, however often schedulers come and go meanwhile.
fn watch_held(shared: &Shared, database: u32, handlers: &[Handler]) {
    let Some(entry) = shared.find_database(database) else { return };
    let count = |handlers: &[Handler]| handlers.iter().filter(|handler| handler.is_held).count();
    let known = entry.held.load(SeqCst) != 0;
    if !known && count(handlers) == 0 {
        return;
    }
    // Those of paused queues too.
    let Ok(all) = registry::handlers(0, 0) else { return };
    let held = count(&all);
    entry.held.store(u32::from(held > 0), SeqCst);
    if held > 0 && !known {
        log::warning(&format!("{}: SELECT pgq.arm() lets them run", reasons::held(held)));
    } else if held == 0 && known {
        log::line("no handler is held any more");
    }
}

/// One line per change.
fn tell(change: &Change) {
    match &change.parked {
        Some(words) => log::warning(&format!("a handler of queue \"{}\" is parked: {words}", change.queue)),
        None => log::line(&format!("a handler of queue \"{}\" runs again", change.queue)),
    }
}

fn change(handler: &Handler, parked: Option<String>, until: Option<Micros>) -> Change {
    Change { handler: handler.id, registered_at: handler.registered_at, queue: handler.queue.clone(), parked, until }
}

impl Worker {
    /// The handler's function in this transaction, if it may run and can be loaded. After an error the transaction
    /// can only be aborted.
    pub(super) fn resolve(handler: &Handler) -> std::result::Result<Callable, Caught> {
        // A job is removed by the transaction that runs it, so none can run read only; and who froze a database or a
        // role does not expect its jobs to write.
        if xact::default_is_read_only() {
            return Err(Caught::new(UNABLE, Reason::ReadOnly.to_string()));
        }
        let found = function::look_up(&handler.function);
        if let Some(reason) = parking::reason(&handler.subject(found), settings::allow_superuser_handlers()) {
            return Err(Caught::new(FORBIDDEN, reason.to_string()));
        }
        let shape = Shape::from_word(&handler.shape);
        xact::catching(|| Ok(Callable::of(found.unwrap_or(0), shape))).map_err(|error| {
            let function = handler.function.clone();
            Caught::new(UNABLE, Reason::NotLoaded { function, error: error.message }.to_string())
        })
    }

    /// A handler could not be resolved. What the catalog forbids is the scheduler's to record; what else keeps it is
    /// tried again later.
    pub(super) fn park(&self, handler: &Handler, error: &Caught) {
        if xact::default_is_read_only() {
            // Only a new session sees what ALTER ROLE and ALTER DATABASE change.
            self.slot.leave.store(1, SeqCst);
        }
        if error.sqlstate == UNABLE {
            let until = Micros(clock::now()).after(settings::recheck_interval());
            self.record(&change(handler, Some(error.message.clone()), Some(until)));
        }
        self.call_others();
        latch::reset();
        latch::rest(CACHES_LAG.as_millis());
    }

    /// A handler that rested and is tried again: we are here, so its role can connect; if its code is there too, it
    /// is parked no more.
    pub(super) fn unpark(&self, handler: &Handler) {
        if handler.parked_until.is_some() && xact::run(|| Self::resolve(handler).map(|_| ())).is_ok() {
            self.record(&change(handler, None, None));
        }
    }

    fn record(&self, change: &Change) {
        let extension = self.extension;
        match xact::run(|| Ok(extension::lock(extension) && parking::record(change)?)) {
            Ok(true) => tell(change),
            Ok(false) => {}
            Err(error) => self.pause_after(&error),
        }
    }
}

/// What the scheduler remembers between its looks.
#[derive(Default)]
pub(super) struct Parking {
    /// Executors asked for that have not arrived: (slot, generation, role).
    expected: Vec<(usize, u32, u32)>,
    /// When all handlers were looked at, not only those that have work.
    all_at: Option<Micros>,
    /// When those that are recorded as parked were, which may have run meanwhile.
    parked_at: Option<Micros>,
    /// What forbade a handler when it was first seen, and when: (registration, words).
    suspected: HashMap<i32, (Micros, String, Micros)>,
    /// What is to be recorded when the look has committed.
    changes: Vec<Change>,
    /// Has a parked handler work, or do the tables stand still?
    waits: bool,
    /// When our tables were looked at in full, and at which generation.
    inspected: Option<(Micros, u64)>,
    /// What was found.
    planted: Option<String>,
}

impl Parking {
    /// Looks at our tables. `known`: what was found there was said before this process began.
    ///
    /// # Errors
    /// `TAMPERED` when something was planted on them: all queues stand still.
    pub(super) fn inspect(&mut self, known: bool, now: Micros) -> std::result::Result<(), Caught> {
        let generation = tamper::generation();
        let due = self.inspected.is_none_or(|(at, seen)| {
            let since = now.since(at);
            since >= settings::recheck_interval() || (seen != generation && since >= INSPECT_EVERY)
        });
        if due {
            let first = self.inspected.is_none();
            let found = tamper::summary()?;
            tamper::announce(found.is_some());
            match &found {
                Some(what) if *what != *self.planted.as_ref().unwrap_or(&String::new()) && !(first && known) => {
                    log::warning(&format!("all queues stand still: {what}"));
                }
                None if self.planted.is_some() || (first && known) => {
                    log::line("the tables of pgq are as they were: the queues go on");
                }
                _ => {}
            }
            self.planted = found;
            self.inspected = Some((now, generation));
        }
        self.waits = self.planted.is_some();
        self.planted.as_ref().map_or(Ok(()), |what| Err(Caught::new(xact::TAMPERED, what)))
    }

    /// A look ended because something was planted; when the next is due. Where one of our statements found it, that
    /// one asks in full.
    pub(super) fn alarm(&mut self, now: Micros) -> Option<Micros> {
        if self.planted.is_some() {
            return None;
        }
        self.inspected = self.inspected.map(|(_, generation)| (Micros(i64::MIN), generation));
        Some(now.after(SOON))
    }

    /// Executors that an earlier scheduler started and that are still on their way: if they never come, nobody else
    /// would free their slots.
    pub(super) fn adopt(&mut self, shared: &Shared, database: u32) {
        let starting = shared.executors_of(database).filter(|(_, e)| e.state.load(SeqCst) == slot_state::STARTING);
        self.expected.extend(starting.map(|(n, e)| (n, e.generation.load(SeqCst), e.role.load(SeqCst))));
    }

    /// An executor was started: a slot, its generation, a role.
    pub(super) fn started(&mut self, number: usize, generation: u32, role: u32) {
        self.expected.push((number, generation, role));
    }

    /// That executors do not come is no role's doing.
    pub(super) fn none_started(&mut self) {
        self.expected.clear();
    }

    /// Roles for which an executor was asked for and never connected, nor did another: the net for what the catalog
    /// does not show.
    fn absent_roles(&mut self, shared: &Shared, database: u32, now: Micros) -> Vec<u32> {
        let mut absent = Vec::new();
        self.expected.retain(|(number, generation, role)| {
            let slot = &shared.executors[*number];
            let same = slot.generation.load(SeqCst) == *generation;
            // Of a slot that somebody else has by now nothing can be told.
            if !same || slot.arrived.load(SeqCst) == *generation {
                return false;
            }
            if slot.state.load(SeqCst) == slot_state::STARTING {
                if now.since(Micros(slot.started.load(SeqCst))) < ARRIVAL || slot.place.is_taken() {
                    return true;
                }
                shared.free(*number, *generation);
            }
            absent.push(*role);
            false
        });
        absent.retain(|role| !has_come(shared, database, *role));
        absent
    }

    /// Of all handlers, those that have work and may run; and the moment at which a suspicion is looked at again.
    pub(super) fn admit(
        &mut self,
        handlers: Vec<Handler>,
        shared: &Shared,
        database: u32,
    ) -> (Vec<Handler>, Option<Micros>) {
        let now = Micros(clock::now());
        dismiss_orphans(shared, database);
        watch_held(shared, database, &handlers);
        let absent = self.absent_roles(shared, database, now);
        let everything = self.all_at.is_none_or(|at| now.since(at) >= settings::recheck_interval());
        if everything {
            self.all_at = Some(now);
        }
        let parked_too = self.parked_at.is_none_or(|at| now.since(at) >= PARKED_EVERY);
        if parked_too {
            self.parked_at = Some(now);
        }
        let mut again = None;
        let mut admitted = Vec::new();
        for handler in handlers.into_iter().filter(|handler| !handler.is_held) {
            let is_absent = absent.contains(&handler.role);
            let has_a_record = self.suspected.contains_key(&handler.id) || (parked_too && handler.parked.is_some());
            if handler.ready == 0 && !everything && !is_absent && !has_a_record {
                continue;
            }
            let may_run = match parking::forbids(&handler, settings::allow_superuser_handlers()) {
                Some(reason) => {
                    if self.suspect(&handler, &reason.to_string(), now) {
                        again = Some(now.after(CACHES_LAG));
                    }
                    false
                }
                None => {
                    // Its executor says so itself, unless somebody has the handler's row just then.
                    let is_over = handler.parked == Some(never_arrived(&handler));
                    let is_over = is_over && has_come(shared, database, handler.role);
                    self.allow(&handler, is_absent, is_over, now)
                }
            };
            if handler.ready > 0 {
                self.waits |= !may_run;
                if may_run {
                    admitted.push(handler);
                }
            }
        }
        (admitted, again)
    }

    /// Something forbids a handler: recorded when it has been seen for long enough. True until then.
    fn suspect(&mut self, handler: &Handler, words: &str, now: Micros) -> bool {
        if handler.parked.as_deref() == Some(words) && handler.parked_until.is_none() {
            self.suspected.remove(&handler.id);
            return false;
        }
        let fresh = (handler.registered_at, words.to_owned(), now);
        let seen = self.suspected.entry(handler.id).or_insert_with(|| fresh.clone());
        if seen.0 != handler.registered_at || seen.1 != words {
            *seen = fresh;
        }
        if now.since(seen.2) < CACHES_LAG {
            return true;
        }
        self.changes.push(change(handler, Some(words.into()), None));
        false
    }

    /// Nothing forbids a handler; may it run now? `is_over`: what was recorded is no longer so.
    fn allow(&mut self, handler: &Handler, is_absent: bool, is_over: bool, now: Micros) -> bool {
        self.suspected.remove(&handler.id);
        if is_absent {
            let until = now.after(settings::recheck_interval());
            self.changes.push(change(handler, Some(never_arrived(handler)), Some(until)));
            return false;
        }
        if handler.parked.is_some() && (handler.parked_until.is_none() || is_over) {
            self.changes.push(change(handler, None, None));
        }
        !parking::rests(handler, now)
    }

    /// Records what the look found, after it: an error here takes nothing from the look, nor one there from this.
    pub(super) fn record(&mut self, extension: u32) -> std::result::Result<(), Caught> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.changes);
        let news = xact::run(|| {
            if extension::try_lock(extension) != Some(true) {
                return Ok(Vec::new());
            }
            let recorded = changes.iter().map(|c| Ok(parking::record(c)?.then_some(c)));
            recorded.collect::<Result<Vec<_>>>().map_err(Caught::from)
        })?;
        news.into_iter().flatten().for_each(tell);
        Ok(())
    }

    /// When somebody must look again at the latest, if this scheduler leaves.
    pub(super) fn back_at(&self, next_due: Option<Micros>, now: Micros) -> Option<Micros> {
        if !self.waits {
            return next_due;
        }
        let recheck = now.after(settings::recheck_interval());
        Some(next_due.map_or(recheck, |due| due.min(recheck)))
    }
}
