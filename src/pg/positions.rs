//! How far the jobs of a handler were handed out: remembered positions, shared by all executors and schedulers.
//!
//! Without them every claim starts at the head of its index and walks over the entries of all the jobs that were done
//! since the oldest snapshot of the server was taken. They are hints: the table decides what is a job, and the scheduler
//! looks from the very start often enough to find what the hints missed (`store::ready::find_missed`).
//!
//! One `Position` for each (queue, task) with a handler and each priority that was met there. `next` is the id below
//! which everything was handed out; it grows. `low` is the smallest id that appeared, or came back, since somebody
//! last looked. Whoever looks takes `low` (`begin`), *then* takes his snapshot, walks from the smaller of the two, and
//! says how far he came (`Begun::came`). Whoever commits jobs says so afterwards (`lower`, in the commit callback). So
//! a job that was not visible to the walk is either above where it came, or its `lower` is seen by the next.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::clock;
use super::shmem::Shared;

/// Positions of one server. Who finds no room takes one that did not move for `RECENT`, or walks from the start.
pub const POSITIONS: usize = 192;
/// In microseconds.
const RECENT: i64 = 1_000_000;
/// Priorities of one handler that have one: a priority used as a timestamp must not take them all.
const LEVELS: usize = 16;

/// All zero: free.
#[repr(C)]
pub struct Position {
    /// Which queue of which database.
    queue: AtomicU64,
    /// Which handler's jobs.
    key: AtomicU64,
    database: AtomicU32,
    priority: AtomicI32,
    next: AtomicI64,
    /// i64::MAX for none.
    low: AtomicI64,
    /// When it moved last.
    moved: AtomicI64,
}

/// Whose jobs: hashes of its database, its queue and its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    database: u32,
    queue: u64,
    key: u64,
}

impl Key {
    /// Of the jobs of a task; `None` is the handler of jobs without one. Hashes as `engine::names` makes them.
    pub fn new(database: u32, queue: u64, task: Option<u64>) -> Self {
        let queue = mixed(database, queue);
        let task = task.map_or(1, |task| task.wrapping_mul(0xff51_afd7_ed55_8ccd));
        Key { database, queue, key: queue.rotate_left(17) ^ task }
    }
}

/// Never zero, which is a free entry.
fn mixed(database: u32, queue: u64) -> u64 {
    (queue ^ u64::from(database).wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1)
}

/// Where a walk along one priority begins.
#[derive(Clone, Copy)]
pub struct Begun<'a> {
    position: &'a Position,
    /// Whose it was then.
    key: u64,
    /// The priority.
    pub priority: i32,
    next: i64,
    low: i64,
}

impl Begun<'_> {
    /// Jobs with a smaller id were handed out.
    pub fn from(&self) -> i64 {
        self.next.min(self.low)
    }

    /// The same before any came back: what the guarantee looks at.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// The walk handed out everything below `to`, or all there was if `whole`.
    pub fn came(&self, to: i64, whole: bool) {
        if !self.is_ours() {
            return;
        }
        if self.position.next.fetch_max(to, SeqCst) < to {
            self.position.moved.store(clock::now(), SeqCst);
        }
        if !self.is_ours() {
            // Somebody else's meanwhile, and that was not his.
            self.lower(i64::MIN);
        }
        if !whole && to < self.next {
            self.lower(to);
        }
    }

    fn is_ours(&self) -> bool {
        self.position.key.load(SeqCst) == self.key
    }

    /// The walk did not come here.
    pub fn give_back(&self) {
        self.lower(self.low);
    }

    /// The next walk begins here at the latest.
    pub fn lower(&self, from: i64) {
        self.position.low.fetch_min(from, SeqCst);
    }
}

impl Shared {
    fn positions_of(&self, key: Key) -> impl Iterator<Item = &Position> {
        self.positions.iter().filter(move |p| p.key.load(SeqCst) == key.key && p.queue.load(SeqCst) == key.queue)
    }

    /// Begins a walk: where, for each priority that has a position, the largest first. To be called before the
    /// walk's snapshot is taken; each must be answered by `came` or `give_back`.
    pub fn begin_walk(&self, key: Key) -> Vec<Begun<'_>> {
        let mut all: Vec<Begun<'_>> = self
            .positions_of(key)
            .map(|position| {
                let low = position.low.swap(i64::MAX, SeqCst);
                let next = position.next.load(SeqCst);
                Begun { position, key: key.key, priority: position.priority.load(SeqCst), next, low }
            })
            .collect();
        all.sort_unstable_by_key(|begun| std::cmp::Reverse(begun.priority));
        all
    }

    /// The same for a look that changes nothing.
    pub fn positions(&self, key: Key) -> Vec<Begun<'_>> {
        let read = |position| {
            let Position { low, next, priority, .. }: &Position = position;
            let (priority, next, low) = (priority.load(SeqCst), next.load(SeqCst), low.load(SeqCst));
            Begun { position, key: key.key, priority, next, low }
        };
        self.positions_of(key).map(read).collect()
    }

    /// A priority was met that has no position: it gets one, if there is room. It says nothing yet, because whoever
    /// commits could not know of it while we walked.
    pub fn make_position(&self, key: Key, priority: i32) {
        self.locked(|| {
            let known = self.positions_of(key).count();
            if known >= LEVELS || self.positions_of(key).any(|p| p.priority.load(SeqCst) == priority) {
                return;
            }
            let now = clock::now();
            let rests = |p: &&Position| now.saturating_sub(p.moved.load(SeqCst)) > RECENT;
            let is_free = |p: &&Position| p.queue.load(SeqCst) == 0;
            let Some(free) = self.positions.iter().find(is_free).or_else(|| self.positions.iter().find(rests)) else {
                return;
            };
            // First the name, which tells whoever is still on a walk of its last owner.
            free.queue.store(0, SeqCst);
            free.key.store(key.key, SeqCst);
            free.database.store(key.database, SeqCst);
            free.priority.store(priority, SeqCst);
            // In this order: what such a one wrongly says of `next` is followed by his word to begin at the start.
            free.low.store(i64::MAX, SeqCst);
            free.next.store(i64::MIN, SeqCst);
            free.moved.store(now, SeqCst);
            // Last: an entry counts from here on.
            free.queue.store(key.queue, SeqCst);
        });
    }

    /// Jobs of a queue from this id on appeared or came back. Called in commit callbacks: cannot fail.
    pub fn lower(&self, database: u32, queue: u64, from: i64) {
        let queue = mixed(database, queue);
        for position in self.positions.iter().filter(|p| p.queue.load(SeqCst) == queue) {
            position.low.fetch_min(from, SeqCst);
        }
    }

    /// Jobs of any queue of a database may have come back.
    pub fn lower_all(&self, database: u32) {
        let here = |p: &&Position| p.queue.load(SeqCst) != 0 && p.database.load(SeqCst) == database;
        for position in self.positions.iter().filter(here) {
            position.low.store(i64::MIN, SeqCst);
        }
    }

    /// Frees the positions of a database that is gone or has no extension (any more). Under the lock.
    pub fn forget_positions(&self, database: u32) {
        for position in self.positions.iter().filter(|p| p.database.load(SeqCst) == database) {
            position.queue.store(0, SeqCst);
            position.key.store(0, SeqCst);
            position.database.store(0, SeqCst);
        }
    }
}
