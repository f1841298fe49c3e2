//! The scheduler's count: now and then the tables are counted, so that the counters that stats shows are right whatever
//! passed them by: a crash, a prepared transaction, rows that somebody changed by hand.
//!
//! Runs in the scheduler's process between two looks; one transaction that reads, and a short wait for those that were
//! about to commit.

use crate::engine::time::{Micros, Span};
use crate::pg::shmem::Trust;
use crate::pg::xact::{self, Caught};
use crate::pg::{activity, clock, extension, latch};
use crate::settings;
use crate::store::numbers;
use std::sync::atomic::Ordering::SeqCst;

/// A count takes at most one in so many moments of the scheduler's time.
const SHARE: i64 = 50;
/// So long those may take that were about to commit when the count saw the tables: the time of a slow disk.
const PATIENCE: Span = Span::from_millis(500);
/// After a count that was in vain.
const AGAIN: Span = Span::from_millis(1_000);

/// When the next one may be.
#[derive(Default)]
pub struct Counting {
    not_before: Option<Micros>,
}

impl Counting {
    /// Counts if it is time to. What it finds is for others: an error here is none of the look's.
    pub fn look(&mut self, trust: &Trust, extension: u32, now: Micros) -> Result<(), Caught> {
        if extension == 0 || self.not_before.is_some_and(|at| now < at) {
            return Ok(());
        }
        let counted_at = Micros(trust.counted_at.load(SeqCst));
        let old = now.since(counted_at) >= settings::recount_interval();
        if trust.is_settled() && !old && trust.wanted.load(SeqCst) == 0 {
            return Ok(());
        }
        activity::running("counting jobs");
        // Before the count: who asks while it runs may mean what it no longer sees.
        trust.wanted.store(0, SeqCst);
        let counted = count(extension, now);
        let took = Micros(clock::now()).since(now).times(SHARE);
        let pause = if matches!(counted, Ok(true)) { took } else { took.max(AGAIN) };
        self.not_before = Some(now.after(pause));
        counted.map(|_| ())
    }
}

fn count(extension: u32, now: Micros) -> Result<bool, Caught> {
    let Some(mut count) = numbers::begin(now.0) else { return Ok(false) };
    let read = xact::run(|| Ok(extension::try_lock(extension) == Some(true) && count.read()?));
    if !matches!(read, Ok(true)) {
        count.abandon();
        return read;
    }
    let until = Micros(clock::now()).after(PATIENCE);
    while !count.is_drained() {
        if Micros(clock::now()) > until {
            count.abandon();
            return Ok(false);
        }
        latch::reset();
        latch::rest(1);
    }
    Ok(count.store(clock::now()))
}
