//! What the processes of one server share: who runs, who is to be woken, and hints about where work is.
//!
//! Everything here is a hint or a description of living processes; the tables decide. After a crash of
//! the server it starts from zero. All fields are atomics; what must change together changes under
//! `lock`, which is never held across a call into PostgreSQL.
//!
//! Size: under 32 KB, because without preloading it comes out of the slack that everybody's lock table
//! grows into. The layout's version is part of the segment's name: another library makes another one.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

use pgrx::pg_sys;

use super::clock;
use super::place::Place;
use super::positions::{Position, POSITIONS};
use super::shortage::Shortage;
use super::trust::Trust;

/// Databases with pgq that one server can serve.
pub const DATABASES: usize = 64;
/// Executors of one server: the upper bound of pgq.max_workers.
pub const EXECUTORS: usize = 64;
/// Queues that a database remembers as touched between two looks of its scheduler.
pub const TOUCHED: usize = 16;

/// Libraries of several versions work side by side where pgq is not preloaded, until the processes of the older one have
/// left. They must have one segment: in two, each would take the other's executors for dead. So a field is added where
/// there was padding, and what is here stays where it is; a new name, and layout, needs a restart of the server.
const _: () = assert!(size_of::<Database>() == 232 && std::mem::offset_of!(Database, numbers) == 200);
const _: () = assert!(size_of::<Executor>() == 112 && size_of::<Shared>() == 31_328);

const NAME: &std::ffi::CStr = c"pgq shared memory, layout 6";
const MAGIC: u64 = 0x7067_7120_3031_0005;

/// One database of the server.
#[repr(C)]
pub struct Database {
    /// Its oid, zero for a free entry.
    pub oid: AtomicU32,
    /// 1 when the extension was seen there.
    pub has_extension: AtomicU32,
    /// Its scheduler.
    pub scheduler: Place,
    /// One of `served`: how far the scheduler that was started last came.
    pub served: AtomicU32,
    /// When the launcher asked for a scheduler; zero when none is on its way.
    pub starting_since: AtomicI64,
    /// The next moment at which a scheduler must be there; i64::MAX for none, zero before the first look.
    pub due: AtomicI64,
    /// No worker connects before this moment: somebody wanted the database for himself.
    pub closed_until: AtomicI64,
    /// 1 when a transaction that put jobs was prepared: its COMMIT PREPARED tells nobody.
    pub prepared: AtomicU32,
    /// A role that has work here, nobody for it, and no room for one more executor; zero for none, `ANSWERED` when
    /// somebody is leaving for it.
    pub starving: AtomicU32,
    /// Hashes of queues that got jobs since the scheduler's last look.
    touched: [AtomicU64; TOUCHED],
    /// 1 when there were more than fit.
    touched_all: AtomicU32,
    /// 1 when jobs of this database are in quarantine.
    pub quarantine: AtomicU32,
    /// 1 while the scheduler finds something on our tables that does not belong there (pg::tamper).
    pub tampered: AtomicU32,
    /// 1 while the scheduler finds handlers that came with a copy.
    pub held: AtomicU32,
    /// What is known of the numbers of its queues.
    pub numbers: Trust,
}

impl Database {
    /// Notes that a queue got jobs. Called in commit callbacks: cannot fail.
    pub fn touch(&self, queue: u64) {
        for place in &self.touched {
            let seen = place.load(SeqCst);
            if seen == queue || (seen == 0 && place.compare_exchange(0, queue, SeqCst, SeqCst).is_ok()) {
                return;
            }
        }
        self.touched_all.store(1, SeqCst);
    }

    /// Notes that any queue may have got jobs.
    pub fn touch_all(&self) {
        self.touched_all.store(1, SeqCst);
    }

    /// Takes the notes: (hashes of queues, or any of them).
    pub fn take_touched(&self) -> (Vec<u64>, bool) {
        let all = self.touched_all.swap(0, SeqCst) != 0;
        let queues = self.touched.iter().map(|t| t.swap(0, SeqCst)).filter(|t| *t != 0).collect();
        (queues, all)
    }
}

/// Somebody is leaving for the role that starved.
pub const ANSWERED: u32 = u32::MAX;

/// How far a scheduler came, until the launcher has seen that it is gone.
pub mod served {
    /// Not there yet.
    pub const NOT: u32 = 0;
    /// Connected.
    pub const CONNECTED: u32 = 1;
    /// Looked at its queues.
    pub const LOOKED: u32 = 2;
}

/// The states of an executor's slot.
pub mod slot_state {
    /// Nobody.
    pub const FREE: u32 = 0;
    /// Asked for, not there yet.
    pub const STARTING: u32 = 1;
    /// Has no work, or looks for it.
    pub const IDLE: u32 = 2;
    /// Works for a handler.
    pub const BUSY: u32 = 3;
    /// Its process died while it ran jobs; kept until the scheduler has read what the journal says about them.
    pub const ENDED: u32 = 4;
}

/// The place of one executor.
#[repr(C)]
pub struct Executor {
    /// One of `slot_state`.
    pub state: AtomicU32,
    /// One more for each executor that gets the slot: tells a late one that the slot is no longer its own.
    pub generation: AtomicU32,
    /// Its process.
    pub place: Place,
    /// Where it is connected.
    pub database: AtomicU32,
    /// As whom.
    pub role: AtomicU32,
    /// The handler it works for, zero for none.
    pub handler: AtomicI32,
    /// The attempt of `job`.
    pub attempt: AtomicI32,
    /// The job it runs, zero for none.
    pub job: AtomicI64,
    /// Since when, in microseconds.
    pub since: AtomicI64,
    /// A job whose failure it is about to record: rolled back, but nobody else's to take.
    pub recording: AtomicI64,
    /// A job that somebody wants interrupted here.
    pub cancel: AtomicI64,
    /// The hash of the queue that it worked for last: who puts jobs there wakes it when it is idle.
    pub queue: AtomicU64,
    /// 1: leave when the present transaction is over.
    pub leave: AtomicU32,
    /// When it was asked for.
    pub started: AtomicI64,
    /// The generation whose executor connected.
    pub arrived: AtomicU32,
    /// The last generation whose executor ran jobs.
    pub worked: AtomicU32,
    /// The last generation whose executor left in order: by itself, or because it was told to.
    pub left: AtomicU32,
}

/// The segment. All zero is its state at the start.
#[repr(C)]
pub struct Shared {
    magic: AtomicU64,
    lock: UnsafeCell<pg_sys::LWLock>,
    /// When it was made: since when the totals count.
    pub started_at: AtomicI64,
    /// The launcher.
    pub launcher: Place,
    /// When somebody last tried to start it.
    pub launcher_asked: AtomicI64,
    /// The inode of the crash journal; zero while there is none.
    pub journal: AtomicU64,
    /// Whether worker slots are to be had.
    pub shortage: Shortage,
    /// The databases.
    pub databases: [Database; DATABASES],
    /// The executors.
    pub executors: [Executor; EXECUTORS],
    /// How far jobs were handed out.
    pub(super) positions: [Position; POSITIONS],
    /// The segment with the counters of the queues; zero while there is none.
    pub counters: AtomicU32,
}

// SAFETY: all fields but `lock` are atomics, and the LWLock is made to be shared.
unsafe impl Sync for Shared {}

const _: () = assert!(size_of::<Shared>() <= 32 * 1024);

/// AddinShmemInitLock: number 21 of the individual LWLocks in 15 to 18 (lwlocknames.txt, lwlocklist.h).
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

thread_local! {
    static ATTACHED: Cell<Option<&'static Shared>> = const { Cell::new(None) };
}

/// The segment, made by whoever asks first. `None` when the server has no memory left for it; then
/// there are no workers and no wake-ups, and put and claim work all the same.
pub fn shared() -> Option<&'static Shared> {
    if let Some(shared) = ATTACHED.get() {
        return Some(shared);
    }
    let shared = attach()?;
    ATTACHED.set(Some(shared));
    Some(shared)
}

fn attach() -> Option<&'static Shared> {
    // SAFETY: ShmemInitStruct under AddinShmemInitLock, as every extension does it (contrib/pg_stat_statements).
    // It raises when memory is out: caught, and the lock released. The memory lives as long as the server's
    // shared memory, which a backend does not outlive; it is zero or already initialised by these same lines.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let mut found = false;
        let memory = pgrx::PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
            pg_sys::ShmemInitStruct(NAME.as_ptr(), size_of::<Shared>(), &mut found)
        }))
        .catch_others(|_| std::ptr::null_mut())
        .execute();
        let shared = memory.cast::<Shared>();
        if !shared.is_null() && !found {
            std::ptr::write_bytes(shared.cast::<u8>(), 0, size_of::<Shared>());
            pg_sys::LWLockInitialize((*shared).lock.get(), pg_sys::LWLockNewTrancheId());
            (*shared).started_at.store(clock::now(), SeqCst);
            (*shared).magic.store(MAGIC, SeqCst);
        }
        pg_sys::LWLockRelease(lock);
        shared.as_ref().filter(|s| s.magic.load(SeqCst) == MAGIC)
    }
}

/// Asks the starting server for the room. Only from _PG_init while preloading; `next` is the earlier hook's duty.
pub fn request_at_start() {
    static mut NEXT: pg_sys::shmem_request_hook_type = None;
    unsafe extern "C-unwind" fn request() {
        // SAFETY: the postmaster calls this once, from process_shmem_requests; the hook before ours goes first.
        unsafe {
            if let Some(next) = NEXT {
                next();
            }
            pg_sys::RequestAddinShmemSpace(size_of::<Shared>());
        }
    }
    // SAFETY: the postmaster's single thread, while libraries are preloaded.
    unsafe {
        NEXT = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
    }
}

impl Shared {
    /// Runs `change` alone. It must not call into PostgreSQL.
    pub fn locked<T>(&self, change: impl FnOnce() -> T) -> T {
        // SAFETY: an initialised LWLock; released below, or by LWLockReleaseAll should the process end in between.
        unsafe {
            pg_sys::LWLockAcquire(self.lock.get(), pg_sys::LWLockMode::LW_EXCLUSIVE);
            let result = change();
            pg_sys::LWLockRelease(self.lock.get());
            result
        }
    }

    /// The entry of a database, if it has one.
    pub fn find_database(&self, oid: u32) -> Option<&Database> {
        self.databases.iter().find(|d| d.oid.load(SeqCst) == oid)
    }

    /// The entry of a database, made if there is room.
    pub fn database(&self, oid: u32) -> Option<&Database> {
        if let Some(found) = self.find_database(oid) {
            return Some(found);
        }
        self.locked(|| {
            let entry = self.find_database(oid).or_else(|| self.find_database(0))?;
            entry.oid.store(oid, SeqCst);
            Some(entry)
        })
    }

    /// Frees the entry of a database that is gone or has no extension (any more). True when its scheduler was
    /// called meanwhile.
    pub fn forget_database(&self, oid: u32) -> bool {
        let Some(entry) = self.find_database(oid) else { return false };
        self.locked(|| {
            entry.has_extension.store(0, SeqCst);
            entry.due.store(0, SeqCst);
            entry.closed_until.store(0, SeqCst);
            entry.prepared.store(0, SeqCst);
            entry.starving.store(0, SeqCst);
            entry.tampered.store(0, SeqCst);
            entry.held.store(0, SeqCst);
            entry.starting_since.store(0, SeqCst);
            entry.served.store(served::NOT, SeqCst);
            entry.take_touched();
            entry.quarantine.store(0, SeqCst);
            self.forget_positions(oid);
            entry.numbers.forget();
            entry.oid.store(0, SeqCst);
            // After the oid: who calls later can see that the entry is no longer his database's.
            entry.scheduler.take_wake()
        })
    }

    /// Takes a free slot that is `usable` for an executor of (database, role), unless `most` are taken: (slot,
    /// generation).
    pub fn reserve(
        &self,
        (database, role): (u32, u32),
        most: usize,
        now: i64,
        usable: impl Fn(usize) -> bool,
    ) -> Option<(usize, u32)> {
        self.locked(|| {
            let taken = self.executors.iter().filter(|e| e.state.load(SeqCst) != slot_state::FREE).count();
            if taken >= most {
                return None;
            }
            let is_free = |n: &usize| self.executors[*n].state.load(SeqCst) == slot_state::FREE && usable(*n);
            let number = (0..EXECUTORS).find(is_free)?;
            let slot = &self.executors[number];
            slot.clear();
            slot.database.store(database, SeqCst);
            slot.role.store(role, SeqCst);
            slot.started.store(now, SeqCst);
            let generation = slot.generation.fetch_add(1, SeqCst) + 1;
            slot.state.store(slot_state::STARTING, SeqCst);
            Some((number, generation))
        })
    }

    /// Frees a slot whose executor never came.
    pub fn free(&self, number: usize, generation: u32) {
        self.locked(|| {
            let slot = &self.executors[number];
            if slot.generation.load(SeqCst) == generation && slot.state.load(SeqCst) == slot_state::STARTING {
                slot.state.store(slot_state::FREE, SeqCst);
            }
        });
    }

    /// The executor in `number` begins to work for `handler`, if fewer than `limit` do in its database.
    pub fn begin(&self, number: usize, handler: i32, limit: usize) -> bool {
        self.locked(|| {
            let slot = &self.executors[number];
            let database = slot.database.load(SeqCst);
            let busy = self.executors.iter().enumerate().filter(|(at, e)| {
                *at != number
                    && e.state.load(SeqCst) == slot_state::BUSY
                    && e.database.load(SeqCst) == database
                    && e.handler.load(SeqCst) == handler
            });
            if busy.count() >= limit {
                return false;
            }
            slot.handler.store(handler, SeqCst);
            slot.state.store(slot_state::BUSY, SeqCst);
            true
        })
    }

    /// How many processes there are of ours, in all databases.
    pub fn processes(&self) -> usize {
        let schedulers = self.databases.iter().filter(|d| d.scheduler.is_taken()).count();
        let executors = self.executors.iter().filter(|e| e.place.is_taken()).count();
        usize::from(self.launcher.is_taken()) + schedulers + executors
    }

    /// The executors of a database that exist or are on their way, with their numbers.
    pub fn executors_of(&self, database: u32) -> impl Iterator<Item = (usize, &Executor)> {
        let is_there = |e: &Executor| !matches!(e.state.load(SeqCst), slot_state::FREE | slot_state::ENDED);
        self.executors.iter().enumerate().filter(move |(_, e)| is_there(e) && e.database.load(SeqCst) == database)
    }

    /// The slots of a database whose processes died while they ran jobs.
    pub fn ended_in(&self, database: u32) -> impl Iterator<Item = usize> + '_ {
        let is_ended = |e: &Executor| e.state.load(SeqCst) == slot_state::ENDED;
        (0..EXECUTORS)
            .filter(move |n| is_ended(&self.executors[*n]) && self.executors[*n].database.load(SeqCst) == database)
    }

    /// Frees the slot of a process that died.
    pub fn bury(&self, number: usize) {
        self.locked(|| {
            let slot = &self.executors[number];
            if slot.state.load(SeqCst) == slot_state::ENDED {
                slot.clear();
                slot.state.store(slot_state::FREE, SeqCst);
            }
        });
    }

    /// Calls one of the idle executors of a database that worked for this queue last, without waiting for the scheduler
    /// to find it. True when one comes that nobody else has asked: it runs a job, or asks the scheduler to look. Called
    /// in commit callbacks: cannot fail.
    pub fn call_idle_of(&self, database: u32, queue: u64) -> bool {
        let may_look = |e: &&Executor| {
            e.state.load(SeqCst) == slot_state::IDLE
                && e.queue.load(SeqCst) == queue
                && e.place.wake.load(SeqCst) == 0
                && e.database.load(SeqCst) == database
        };
        self.executors.iter().find(may_look).is_some_and(|idle| idle.place.call())
    }

    /// Asks the scheduler of a database to look; the launcher where there is none.
    pub fn ask(&self, entry: &Database) {
        if !entry.scheduler.wake() {
            self.launcher.wake();
        }
    }

    /// Who runs `job` of `database`, if anybody does.
    pub fn runner(&self, database: u32, job: i64) -> Option<&Executor> {
        self.executors_of(database).map(|(_, e)| e).find(|e| e.job.load(SeqCst) == job)
    }

    /// Executors that may still be started when `most` are allowed.
    pub fn room(&self, most: usize) -> usize {
        let taken = self.executors.iter().filter(|e| e.state.load(SeqCst) != slot_state::FREE).count();
        most.saturating_sub(taken)
    }
}

impl Executor {
    /// Wakes it.
    pub fn wake(&self) {
        self.place.wake();
    }

    /// Forgets what ran here. Under the lock, or by the executor itself.
    pub fn clear(&self) {
        self.handler.store(0, SeqCst);
        self.queue.store(0, SeqCst);
        self.set_job(0, 0, 0);
        self.recording.store(0, SeqCst);
        self.cancel.store(0, SeqCst);
        self.leave.store(0, SeqCst);
        self.place.wake.store(0, SeqCst);
    }

    /// Says which job runs; zero for none.
    pub fn set_job(&self, job: i64, attempt: i32, since: i64) {
        self.attempt.store(attempt, SeqCst);
        self.since.store(since, SeqCst);
        self.job.store(job, SeqCst);
    }
}
