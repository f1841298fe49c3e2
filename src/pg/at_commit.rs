//! What a transaction tells the workers when it has committed: which queues got jobs, what was finished.
//!
//! The callback is registered once a backend. It runs when the transaction is visible (xact.c,
//! CallXactCallbacks after ProcArrayEndTransaction) and must not fail: it only does atomic operations
//! and at most one SetLatch, however many jobs the transaction put.

use std::cell::RefCell;
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
    all: bool,
    queues: [u64; TOUCHED],
    /// (queue, done, failed)
    counts: [(u64, u64, u64); TOUCHED],
}

thread_local! {
    static PENDING: RefCell<Pending> = const {
        RefCell::new(Pending {
            database: None,
            registered: false,
            any: false,
            all: false,
            queues: [0; TOUCHED],
            counts: [(0, 0, 0); TOUCHED],
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

/// A queue gets jobs when this transaction commits.
pub fn touch(queue: u64) {
    register();
    PENDING.with_borrow_mut(|pending| {
        pending.any = true;
        match pending.queues.iter_mut().find(|q| **q == queue || **q == 0) {
            Some(place) => *place = queue,
            None => pending.all = true,
        }
    });
}

/// Jobs of a queue are finished when this transaction commits.
pub fn count(queue: u64, done: u64, failed: u64) {
    register();
    PENDING.with_borrow_mut(|pending| {
        if let Some(place) = pending.counts.iter_mut().find(|c| c.0 == queue || c.0 == 0) {
            *place = (queue, place.1 + done, place.2 + failed);
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
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => finish(true, false),
        pg_sys::XactEvent::XACT_EVENT_ABORT => finish(false, false),
        pg_sys::XactEvent::XACT_EVENT_PREPARE => finish(false, true),
        _ => {}
    }
}

fn finish(committed: bool, prepared: bool) {
    PENDING.with(|pending| {
        // A borrow that is held is impossible here (nothing raises while it is); if it were, a lost hint is all.
        let Ok(mut pending) = pending.try_borrow_mut() else { return };
        if !pending.any && pending.counts[0].0 == 0 {
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
            if committed {
                tell(&pending, entry, shared);
            }
            if pending.any && (committed || prepared) {
                call(shared, entry);
            }
        }
        pending.any = false;
        pending.all = false;
        pending.queues = [0; TOUCHED];
        pending.counts = [(0, 0, 0); TOUCHED];
    });
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

fn tell(pending: &Pending, entry: &Database, shared: &shmem::Shared) {
    if pending.all {
        entry.touch_all();
    }
    for queue in pending.queues.iter().take_while(|q| **q != 0) {
        entry.touch(*queue);
    }
    for (queue, done, failed) in pending.counts.iter().take_while(|c| c.0 != 0) {
        shared.count(entry.oid.load(SeqCst), *queue, *done, *failed);
    }
}
