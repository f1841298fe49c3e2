//! What one database's entry in shared memory knows of its counters: whether they may be shown.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Whether the counters (pg::counters) are those of the tables. Zero: nobody has counted yet.
#[repr(C)]
pub struct Trust {
    /// One more whenever something may have passed the counters by.
    doubts: AtomicU32,
    /// `doubts` + 1 as it was before the last count.
    settled: AtomicU32,
    /// The files of the tables that were counted: others after TRUNCATE.
    files: AtomicU64,
    /// When that was.
    pub counted_at: AtomicI64,
    /// 1 when somebody asks for a count.
    pub wanted: AtomicU32,
}

impl Trust {
    /// Something may have passed the counters by. Called in commit callbacks: cannot fail.
    pub fn doubt(&self) {
        self.doubts.fetch_add(1, SeqCst);
    }

    /// To be read before a count, for `settle`.
    pub fn doubts(&self) -> u32 {
        self.doubts.load(SeqCst)
    }

    /// The counters are what was counted in the tables of these files, if nothing was doubted since.
    pub fn settle(&self, doubts: u32, files: u64, now: i64) {
        self.files.store(files, SeqCst);
        self.counted_at.store(now, SeqCst);
        self.settled.store(doubts.wrapping_add(1), SeqCst);
    }

    /// May the counters be shown?
    pub fn is_settled(&self) -> bool {
        self.settled.load(SeqCst) == self.doubts().wrapping_add(1)
    }

    /// And are these the files that were counted?
    pub fn is_about(&self, files: u64) -> bool {
        self.files.load(SeqCst) == files
    }

    /// The database's entry is freed.
    pub fn forget(&self) {
        self.settled.store(0, SeqCst);
        self.doubts.store(0, SeqCst);
        self.counted_at.store(0, SeqCst);
        self.wanted.store(0, SeqCst);
    }
}
