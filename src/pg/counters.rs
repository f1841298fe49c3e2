//! Numbers that all processes of the server keep together: for each (database, name) some that are counted in the
//! tables now and then and kept up to date by every commit in between, and some totals.
//!
//! Whoever commits adds what it changed (`apply`), after its changes are visible. Whoever counts makes the numbers
//! exact whatever is committed meanwhile:
//!
//! 1. `begin`: from here on each commit is also written down, with its transaction id.
//! 2. It takes a snapshot and counts what that sees.
//! 3. `is_drained`: waits until all that were between `enter` and `leave` when the snapshot was there have left. All
//!    that it sees have been added by now: whoever is visible has entered.
//! 4. `store`: alone, sets the numbers to the count plus what was written down by those that the snapshot does not
//!    see. Whoever has not added yet is none that it sees, and adds later.
//!
//! The lock is shared by those that commit, for a few atomic operations, and exclusive for steps 1, 3, 4 and a new
//! name. Nothing here raises; but for `attached`, everything may be called in callbacks.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

use pgrx::pg_sys;

use super::{segment, shmem};

/// Numbers of a name.
pub const NUMBERS: usize = 8;
/// The first of them are counted.
pub const COUNTED: usize = 6;
/// The longest name in bytes.
const NAME: usize = 59;
/// Names, all databases together. A power of two.
const ENTRIES: usize = 4_096;
/// So many are in use at most, so that a search ends soon.
const FULL: usize = ENTRIES / 8 * 7;
/// Commits that are written down while somebody counts; with more, the count is in vain.
const WRITTEN: usize = 16_384;
/// Who has not stored his count after so many microseconds is taken for gone by the next one.
const PATIENCE: i64 = 60_000_000;

/// A name with what is to be added to it, or what was counted.
#[derive(Clone, Copy)]
pub struct Change<'a, const N: usize> {
    /// The name's hash, never zero.
    pub hash: u64,
    /// The name.
    pub name: &'a str,
    /// The numbers.
    pub numbers: &'a [i64; N],
}

#[repr(C)]
struct Entry {
    /// Zero for a free one.
    hash: AtomicU64,
    database: AtomicU32,
    length: AtomicU32,
    /// Written under the exclusive lock, read under either.
    name: UnsafeCell<[u8; NAME]>,
    numbers: [AtomicI64; NUMBERS],
}

/// What one commit changed of one name while somebody counted.
#[repr(C)]
struct Note {
    transaction: AtomicU64,
    entry: AtomicU32,
    numbers: [AtomicI64; COUNTED],
}

/// The segment. All zero but for the lock is its state at the start.
#[repr(C)]
struct Counters {
    lock: UnsafeCell<pg_sys::LWLock>,
    used: AtomicU32,
    /// One more for each count that begins.
    generation: AtomicU64,
    /// The database that is counted, zero for none.
    database: AtomicU32,
    began: AtomicI64,
    /// Has `side` been changed for the present count?
    turned: AtomicU32,
    /// On which of the two those are written who enter.
    side: AtomicU32,
    inside: [AtomicI64; 2],
    /// Notes of the present count; may be more than fit.
    written: AtomicU32,
    entries: [Entry; ENTRIES],
    notes: [Note; WRITTEN],
}

// SAFETY: atomics, but for the lock, which is made to be shared, and the names, which the lock guards.
unsafe impl Sync for Counters {}

thread_local! {
    static ATTACHED: Cell<Option<&'static Counters>> = const { Cell::new(None) };
}

/// Are there counters? Makes or attaches them: not in a callback.
pub fn attached() -> bool {
    if ATTACHED.get().is_some() {
        return true;
    }
    let found = shmem::shared().and_then(|shared| {
        segment::attach(&shared.counters, size_of::<Counters>(), |memory| {
            let counters = memory.cast::<Counters>();
            // SAFETY: zeroed memory of this size that nobody else knows yet; zero is a valid state of all the rest.
            unsafe { pg_sys::LWLockInitialize((*counters).lock.get(), pg_sys::LWLockNewTrancheId()) };
        })
    });
    // SAFETY: memory that stays mapped while this process lives, initialised before its handle was published. A
    // library with another layout finds the handle in a main segment of another name.
    ATTACHED.set(found.and_then(|memory| unsafe { memory.cast::<Counters>().as_ref() }));
    ATTACHED.get().is_some()
}

/// This transaction is about to become visible; what `leave` wants.
pub fn enter() -> Option<usize> {
    let counters = ATTACHED.get()?;
    counters.locked(false, || {
        let side = usize::try_from(counters.side.load(SeqCst)).unwrap_or(0) & 1;
        counters.inside[side].fetch_add(1, SeqCst);
        Some(side)
    })
}

/// It has added what it changed, or was rolled back.
pub fn leave(side: usize) {
    if let Some(counters) = ATTACHED.get() {
        counters.inside[side].fetch_sub(1, SeqCst);
    }
}

/// Adds what a transaction changed in its database. False when there is no room for a name, or no memory.
pub fn apply<'a>(database: u32, transaction: u64, changes: impl Iterator<Item = Change<'a, NUMBERS>> + Clone) -> bool {
    let Some(counters) = ATTACHED.get() else { return false };
    let add = |at: usize, change: &Change<'a, NUMBERS>| counters.add(database, transaction, at, change.numbers);
    let known = counters.locked(false, || {
        if changes.clone().any(|c| counters.find(database, c.hash, c.name).is_err()) {
            return false;
        }
        for change in changes.clone() {
            if let Ok(at) = counters.find(database, change.hash, change.name) {
                add(at, &change);
            }
        }
        true
    });
    known
        || counters.locked(true, || {
            let mut all = true;
            for change in changes.clone() {
                match counters.find_or_make(database, change.hash, change.name) {
                    Some(at) => add(at, &change),
                    None => all = false,
                }
            }
            all
        })
}

/// The names of a database with their numbers.
pub fn read(database: u32) -> Vec<(String, [i64; NUMBERS])> {
    let Some(counters) = ATTACHED.get() else { return Vec::new() };
    let mut found: Vec<([u8; NAME], u32, [i64; NUMBERS])> = Vec::with_capacity(ENTRIES);
    counters.locked(false, || {
        for entry in counters.entries.iter().filter(|e| e.is_of(database)) {
            // SAFETY: guarded by the lock, which is held.
            let name = unsafe { *entry.name.get() };
            found.push((name, entry.length.load(SeqCst), std::array::from_fn(|n| entry.numbers[n].load(SeqCst))));
        }
    });
    let text = |name: &[u8; NAME], length: u32| {
        let length = usize::try_from(length).unwrap_or(NAME).min(NAME);
        String::from_utf8_lossy(&name[..length]).into_owned()
    };
    found.into_iter().map(|(name, length, numbers)| (text(&name, length), numbers)).collect()
}

/// Somebody counts a database: its ticket, `None` while somebody else does.
pub fn begin(database: u32, now: i64) -> Option<u64> {
    let counters = ATTACHED.get()?;
    counters.locked(true, || {
        let busy = counters.database.load(SeqCst) != 0;
        if busy && now.saturating_sub(counters.began.load(SeqCst)) < PATIENCE {
            return None;
        }
        counters.database.store(database, SeqCst);
        counters.began.store(now, SeqCst);
        counters.turned.store(0, SeqCst);
        counters.written.store(0, SeqCst);
        Some(counters.generation.fetch_add(1, SeqCst) + 1)
    })
}

/// Have all left that were inside when the snapshot was there? Ask again until it is so; the first time after the
/// snapshot was taken.
pub fn is_drained(ticket: u64) -> bool {
    let Some(counters) = ATTACHED.get() else { return false };
    counters.locked(true, || {
        if !counters.is_current(ticket) {
            return false;
        }
        let side = usize::try_from(counters.side.load(SeqCst)).unwrap_or(0) & 1;
        let other = counters.inside[1 - side].load(SeqCst) == 0;
        if counters.turned.load(SeqCst) == 1 {
            return other;
        }
        // Those of the count before must be gone, so that all that are inside now are on one side.
        if other {
            counters.side.store(u32::from(side == 0), SeqCst);
            counters.turned.store(1, SeqCst);
            return counters.inside[side].load(SeqCst) == 0;
        }
        false
    })
}

/// The count is over. Sets the numbers of the database, where `sees` says whether the count saw a transaction. False
/// when it was in vain.
pub fn store(ticket: u64, counted: &[Change<'_, COUNTED>], sees: impl Fn(u64) -> bool) -> bool {
    let Some(counters) = ATTACHED.get() else { return false };
    counters.locked(true, || {
        let database = counters.database.load(SeqCst);
        if !counters.is_current(ticket) {
            return false;
        }
        counters.database.store(0, SeqCst);
        let written = in_use(&counters.written);
        if written > WRITTEN {
            return false;
        }
        for entry in counters.entries.iter().filter(|e| e.is_of(database)) {
            entry.numbers[..COUNTED].iter().for_each(|n| n.store(0, SeqCst));
        }
        for note in counters.notes[..written].iter().filter(|n| !sees(n.transaction.load(SeqCst))) {
            let at = usize::try_from(note.entry.load(SeqCst)).unwrap_or(0) % ENTRIES;
            for (sum, n) in counters.entries[at].numbers.iter().zip(&note.numbers) {
                sum.fetch_add(n.load(SeqCst), SeqCst);
            }
        }
        let mut all = true;
        for change in counted {
            match counters.find_or_make(database, change.hash, change.name) {
                Some(at) => {
                    for (sum, n) in counters.entries[at].numbers.iter().zip(change.numbers) {
                        sum.fetch_add(*n, SeqCst);
                    }
                }
                None => all = false,
            }
        }
        // The notes name entries by their places: only now may these move.
        if in_use(&counters.used) >= FULL {
            counters.make_room();
        }
        all
    })
}

fn in_use(number: &AtomicU32) -> usize {
    usize::try_from(number.load(SeqCst)).unwrap_or(usize::MAX)
}

/// The count came to nothing.
pub fn abandon(ticket: u64) {
    if let Some(counters) = ATTACHED.get() {
        counters.locked(true, || {
            if counters.is_current(ticket) {
                counters.database.store(0, SeqCst);
            }
        });
    }
}

impl Counters {
    fn locked<T>(&self, alone: bool, work: impl FnOnce() -> T) -> T {
        let mode = if alone { pg_sys::LWLockMode::LW_EXCLUSIVE } else { pg_sys::LWLockMode::LW_SHARED };
        // SAFETY: an initialised LWLock; `work` calls nothing that raises. Released below, or by LWLockReleaseAll
        // should the process end in between.
        unsafe {
            pg_sys::LWLockAcquire(self.lock.get(), mode);
            let result = work();
            pg_sys::LWLockRelease(self.lock.get());
            result
        }
    }

    fn is_current(&self, ticket: u64) -> bool {
        self.generation.load(SeqCst) == ticket && self.database.load(SeqCst) != 0
    }

    /// Where the name is, or where it would be.
    fn find(&self, database: u32, hash: u64, name: &str) -> Result<usize, usize> {
        let start = hash ^ u64::from(database).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = usize::try_from((start ^ (start >> 32)) % ENTRIES as u64).unwrap_or(0);
        for step in 0..ENTRIES {
            let at = (start + step) % ENTRIES;
            let entry = &self.entries[at];
            if entry.hash.load(SeqCst) == 0 {
                return Err(at);
            }
            if entry.hash.load(SeqCst) == hash && entry.is_of(database) && entry.is_called(name) {
                return Ok(at);
            }
        }
        Err(ENTRIES)
    }

    /// Under the exclusive lock.
    fn find_or_make(&self, database: u32, hash: u64, name: &str) -> Option<usize> {
        let at = match self.find(database, hash, name) {
            Ok(at) => return Some(at),
            Err(at) => at,
        };
        let entry = self.entries.get(at).filter(|_| in_use(&self.used) < FULL && name.len() <= NAME)?;
        // SAFETY: the exclusive lock is held.
        unsafe { (&mut *entry.name.get())[..name.len()].copy_from_slice(name.as_bytes()) };
        entry.length.store(u32::try_from(name.len()).unwrap_or(0), SeqCst);
        entry.database.store(database, SeqCst);
        entry.numbers.iter().for_each(|n| n.store(0, SeqCst));
        entry.hash.store(hash, SeqCst);
        self.used.fetch_add(1, SeqCst);
        Some(at)
    }

    fn add(&self, database: u32, transaction: u64, at: usize, numbers: &[i64; NUMBERS]) {
        for (sum, n) in self.entries[at].numbers.iter().zip(numbers) {
            sum.fetch_add(*n, SeqCst);
        }
        // It stops where there is no room, and so cannot wrap around.
        if self.database.load(SeqCst) != database || in_use(&self.written) > WRITTEN {
            return;
        }
        let place = usize::try_from(self.written.fetch_add(1, SeqCst)).unwrap_or(usize::MAX);
        if let Some(note) = self.notes.get(place) {
            note.transaction.store(transaction, SeqCst);
            note.entry.store(u32::try_from(at).unwrap_or(0), SeqCst);
            note.numbers.iter().zip(numbers).for_each(|(to, n)| to.store(*n, SeqCst));
        }
    }

    /// Names of which nothing is there are forgotten, with their totals. Under the exclusive lock.
    fn make_room(&self) {
        let mut kept = Vec::with_capacity(FULL);
        for entry in &self.entries {
            let numbers: [i64; NUMBERS] = std::array::from_fn(|n| entry.numbers[n].load(SeqCst));
            if entry.hash.load(SeqCst) != 0 && numbers[..COUNTED].iter().any(|n| *n != 0) {
                // SAFETY: the exclusive lock is held.
                let name = unsafe { *entry.name.get() };
                let length = usize::try_from(entry.length.load(SeqCst)).unwrap_or(0).min(NAME);
                kept.push((entry.database.load(SeqCst), entry.hash.load(SeqCst), name, length, numbers));
            }
            entry.hash.store(0, SeqCst);
        }
        self.used.store(0, SeqCst);
        for (database, hash, name, length, numbers) in kept {
            let name = std::str::from_utf8(&name[..length]).unwrap_or("");
            if let Some(at) = self.find_or_make(database, hash, name) {
                self.entries[at].numbers.iter().zip(numbers).for_each(|(to, n)| to.store(n, SeqCst));
            }
        }
    }
}

impl Entry {
    fn is_of(&self, database: u32) -> bool {
        self.hash.load(SeqCst) != 0 && self.database.load(SeqCst) == database
    }

    /// Under the lock.
    fn is_called(&self, name: &str) -> bool {
        let length = usize::try_from(self.length.load(SeqCst)).unwrap_or(0);
        // SAFETY: guarded by the lock, which the caller holds.
        unsafe { (*self.name.get()).get(..length) == Some(name.as_bytes()) }
    }
}
