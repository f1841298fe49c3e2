//! What a transaction tells the workers when it has committed: which queues got jobs. And whoever else must know how
//! a transaction ended (`listen`).
//!
//! The callback is registered once a backend. It runs when the transaction is visible (xact.c,
//! CallXactCallbacks after ProcArrayEndTransaction) and must not fail: it only does atomic operations
//! and at most one SetLatch, however many jobs the transaction put.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::SeqCst;

use pgrx::pg_sys;

use super::shmem::{self, Database, TOUCHED};
use super::{bgworker, clock, database, hooks, xact};

/// At most one attempt to start the launcher in this many microseconds, whole server.
const ASK_EVERY: i64 = 1_000_000;

struct Pending {
    database: Option<&'static Database>,
    registered: bool,
    any: bool,
    /// All of it is one job, put ready.
    one: bool,
    all: bool,
    queues: [u64; TOUCHED],
    /// Jobs of this queue from this id on are there when it has committed: what was handed out begins there again.
    lows: [(u64, i64); TOUCHED],
    low_of_all: bool,
    /// It keeps workers from jobs that were there before: they are free when it ends, in whichever way.
    holds: bool,
}

/// Somebody who is told of the ends of this backend's transactions. None of these may fail, but `committing`.
pub struct Listener {
    /// About to commit; it may still fail.
    pub committing: fn(),
    /// Visible, this top-level transaction.
    pub committed: fn(u64),
    /// Rolled back.
    pub aborted: fn(),
    /// Prepared: whoever ends it tells nobody.
    pub prepared: fn(),
    /// The subtransaction of this level became part of its parent (true), or was rolled back.
    pub nested: fn(i32, bool),
}

thread_local! {
    static LISTENER: Cell<Option<&'static Listener>> = const { Cell::new(None) };
}

/// From now on `listener` is told; once a backend.
pub fn listen(listener: &'static Listener) {
    register();
    if LISTENER.replace(Some(listener)).is_none() {
        // SAFETY: a static function; once a backend.
        unsafe { pg_sys::RegisterSubXactCallback(Some(nested), std::ptr::null_mut()) };
    }
}

/// The level of the present subtransaction; 1 for the transaction itself.
pub fn level() -> i32 {
    // SAFETY: reads the stack of transactions of this backend.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// # Safety
/// Called by xact.c only, while the subtransaction that ends is the current one.
unsafe extern "C-unwind" fn nested(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    let Some(listener) = LISTENER.get() else { return };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => (listener.nested)(level(), true),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => (listener.nested)(level(), false),
        _ => {}
    }
}

thread_local! {
    static PENDING: RefCell<Pending> = const {
        RefCell::new(Pending {
            database: None,
            registered: false,
            any: false,
            one: false,
            all: false,
            queues: [0; TOUCHED],
            lows: [(0, 0); TOUCHED],
            low_of_all: false,
            holds: false,
        })
    };
}

/// Is somebody there, or on the way, who will look after this database? Starts the launcher if need be.
/// Never raises.
pub fn ensure_workers() -> bool {
    let Some(shared) = shmem::shared() else { return false };
    let Some(entry) = shared.database(database::current()) else { return false };
    PENDING.with_borrow_mut(|pending| pending.database = Some(entry));
    entry.scheduler.is_taken() || ensure_launcher()
}

/// Is the scheduler of this database there now?
pub fn has_scheduler() -> bool {
    PENDING.with_borrow(|pending| pending.database.is_some_and(|d| d.scheduler.is_taken()))
}

/// Starts the launcher when none is there. False when there is none and none could be started.
pub fn ensure_launcher() -> bool {
    let Some(shared) = shmem::shared() else { return false };
    if shared.launcher.is_taken() {
        return true;
    }
    let now = clock::now();
    let asked = shared.launcher_asked.load(SeqCst);
    if now.saturating_sub(asked) < ASK_EVERY {
        return asked != 0;
    }
    if bgworker::is_upgrading()
        || xact::in_recovery()
        || shared.launcher_asked.compare_exchange(asked, now, SeqCst, SeqCst).is_err()
    {
        return false;
    }
    bgworker::start(&bgworker::LAUNCHER)
}

/// A queue gets jobs, whichever, when this transaction commits.
pub fn touch(queue: u64) {
    touch_from(queue, i64::MIN);
}

/// A queue gets jobs from this id on when this transaction commits.
pub fn touch_from(queue: u64, id: i64) {
    give_back(queue, id);
    call_at_commit(queue);
}

/// A queue gets this job, ready, when this transaction commits.
pub fn touch_one(queue: u64, id: i64) {
    let first = PENDING.with_borrow(|pending| !pending.any);
    touch_from(queue, id);
    PENDING.with_borrow_mut(|pending| pending.one = first);
}

/// The same, and nobody is called: by the scheduler, which looks anyway.
pub fn give_back(queue: u64, id: i64) {
    register();
    PENDING.with_borrow_mut(|pending| match pending.lows.iter_mut().find(|l| l.0 == queue || l.0 == 0) {
        Some(place) => *place = (queue, if place.0 == queue { place.1.min(id) } else { id }),
        None => pending.low_of_all = true,
    });
}

/// This job is kept from workers until this transaction ends, and then it may run.
pub fn holds(queue: u64, id: i64) {
    give_back(queue, id);
    call_at_commit(queue);
    PENDING.with_borrow_mut(|pending| pending.holds = true);
}

/// The workers look at a queue when this transaction has committed, though it has no new jobs for them at once.
pub fn call_at_commit(queue: u64) {
    register();
    PENDING.with_borrow_mut(|pending| {
        pending.any = true;
        pending.one = false;
        match pending.queues.iter_mut().find(|q| **q == queue || **q == 0) {
            Some(place) => *place = queue,
            None => pending.all = true,
        }
    });
}

fn register() {
    let (registered, known) =
        PENDING.with_borrow_mut(|p| (std::mem::replace(&mut p.registered, true), p.database.is_some()));
    if !registered {
        // SAFETY: a static function; once a backend.
        unsafe { pg_sys::RegisterXactCallback(Some(callback), std::ptr::null_mut()) };
    }
    if !known {
        ensure_workers();
    }
}

/// # Safety
/// Called by xact.c only.
unsafe extern "C-unwind" fn callback(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    let listener = LISTENER.get();
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => {
            if let Some(listener) = listener {
                (listener.committing)();
            }
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            if let Some(listener) = listener {
                // SAFETY: reads a variable of xact.c, which is reset after the callbacks.
                (listener.committed)(unsafe { pg_sys::GetTopFullTransactionIdIfAny() }.value);
            }
            finish(true, false);
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT => {
            if let Some(listener) = listener {
                (listener.aborted)();
            }
            finish(false, false);
        }
        pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            if let Some(listener) = listener {
                (listener.prepared)();
            }
            finish(false, true);
        }
        _ => {}
    }
}

fn finish(committed: bool, prepared: bool) {
    PENDING.with(|pending| {
        // A borrow that is held is impossible here (nothing raises while it is); if it were, a lost hint is all.
        let Ok(mut pending) = pending.try_borrow_mut() else { return };
        if !pending.any && pending.lows[0].0 == 0 {
            return;
        }
        // Not the entry that was found while the transaction ran: a scheduler that could not see the extension yet
        // has freed it, and another database may have it by now.
        let found = shmem::shared().and_then(|shared| Some((shared, shared.database(database::current())?)));
        if committed {
            hooks::at("visible");
        }
        if let Some((shared, entry)) = found {
            if prepared {
                entry.prepared.store(1, SeqCst);
            }
            let ended = committed || pending.holds && !prepared;
            let called = ended && tell(&pending, entry, shared);
            // Who was called for the only job either runs one or asks the scheduler himself.
            if pending.any && (ended || prepared) && !(called && pending.one) {
                call(shared, entry);
            }
        }
        pending.any = false;
        pending.one = false;
        pending.all = false;
        pending.queues = [0; TOUCHED];
        pending.lows = [(0, 0); TOUCHED];
        pending.low_of_all = false;
        pending.holds = false;
    });
}

/// Asks the scheduler of this database to look, outside of any transaction's end. Starts it where there is none.
pub fn call_scheduler() {
    if !ensure_workers() {
        return;
    }
    let Some(shared) = shmem::shared() else { return };
    if let Some(entry) = shared.database(database::current()) {
        call(shared, entry);
    }
}

/// Wakes the scheduler, or the launcher where there is none. An entry that was freed before the wake is seen to be
/// free after it, and one that is freed later is not freed unseen (shmem, forget_database).
fn call(shared: &shmem::Shared, entry: &Database) {
    let own = database::current();
    let awake = entry.scheduler.wake();
    let moved = entry.oid.load(SeqCst) != own;
    let awake = if moved { shared.database(own).is_some_and(|again| again.scheduler.wake()) } else { awake };
    if !awake {
        shared.launcher.wake();
    }
}

/// True when an idle executor was called that nobody else has asked.
fn tell(pending: &Pending, entry: &Database, shared: &shmem::Shared) -> bool {
    let own = database::current();
    if pending.low_of_all {
        shared.lower_all(own);
    }
    for (queue, from) in pending.lows.iter().take_while(|low| low.0 != 0) {
        shared.lower(own, *queue, *from);
    }
    if pending.all {
        entry.touch_all();
    }
    let mut called = false;
    for queue in pending.queues.iter().take_while(|q| **q != 0) {
        entry.touch(*queue);
        called |= shared.call_idle_of(own, *queue);
    }
    called
}
