//! Worker slots of the server that are not to be had: one place in shared memory for all our processes, because where
//! slots are short each of them meets it again and again.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

/// How often it is said in the log, in microseconds.
const SAY_EVERY: i64 = 60_000_000;
/// Whoever needs a slot asks every second or so: one asked for in vain so long ago is not wanted any more.
const LASTS: i64 = 3_000_000;

/// Since when there is none, if there is none. All zero: not known of any.
#[repr(C)]
pub struct Shortage {
    since: AtomicI64,
    /// When one was last asked for in vain; zero when the last one asked for was had.
    last: AtomicI64,
    said: AtomicI64,
}

impl Shortage {
    /// Notes whether a slot was to be had. True when there was none and it is time for a line in the log.
    pub fn asked(&self, had: bool, now: i64) -> bool {
        if had {
            self.last.store(0, SeqCst);
            return false;
        }
        if self.since(now).is_none() {
            self.since.store(now, SeqCst);
        }
        self.last.store(now, SeqCst);
        let said = self.said.load(SeqCst);
        now.saturating_sub(said) >= SAY_EVERY && self.said.compare_exchange(said, now, SeqCst, SeqCst).is_ok()
    }

    /// Since when slots are wanted and none is free.
    pub fn since(&self, now: i64) -> Option<i64> {
        let wanted = now.saturating_sub(self.last.load(SeqCst)) < LASTS;
        wanted.then(|| self.since.load(SeqCst))
    }
}
