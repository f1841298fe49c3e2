//! The scheduler's count: now and then the tables are counted, so that the counters that stats shows are right whatever
//! passed them by: a crash, a prepared transaction, rows that somebody changed by hand.
//!
//! Runs in the scheduler's process between two looks: one transaction that reads; then those that were about to commit
//! are waited for, in later looks where they take their time.

use std::sync::atomic::Ordering::SeqCst;

use crate::engine::time::{Micros, Span};
use crate::pg::trust::Trust;
use crate::pg::xact::{self, Caught};
use crate::pg::{activity, clock, extension, latch};
use crate::settings;
use crate::store::numbers::{self, Count};

/// Reading takes at most one in so many moments of the scheduler's time.
const SHARE: i64 = 50;
/// So long this look waits for those that were about to commit: most often they are there at once.
const AT_ONCE: Span = Span::from_millis(5);
/// So long the next looks do: the time of a slow disk, or of a standby that confirms.
const PATIENCE: Span = Span::from_millis(10_000);
/// After a count that was in vain.
const AGAIN: Span = Span::from_millis(1_000);

/// The count that is under way, and when the next one may be.
#[derive(Default)]
pub struct Counting {
    not_before: Option<Micros>,
    /// Read and not yet stored, with the moment at which it is given up.
    waiting: Option<(Count, Micros)>,
}

impl Counting {
    /// Counts if it is time to. What it finds is for others: an error here is none of the look's.
    pub fn look(&mut self, trust: &Trust, extension: u32, now: Micros) -> Result<(), Caught> {
        if self.waiting.is_none() {
            if extension == 0 || self.not_before.is_some_and(|at| now < at) || !is_due(trust, now) {
                return Ok(());
            }
            activity::running("counting jobs");
            // Before the count: who asks while it runs may mean what it no longer sees.
            trust.wanted.store(0, SeqCst);
            let began = Micros(clock::now());
            let read = read(extension, began);
            let pause = Micros(clock::now()).since(began).times(SHARE).max(AGAIN);
            self.not_before = Some(now.after(pause));
            self.waiting = read?.map(|count| (count, now.after(PATIENCE)));
        }
        self.finish();
        Ok(())
    }

    fn finish(&mut self) {
        let Some((count, until)) = self.waiting.take() else { return };
        let at_once = Micros(clock::now()).after(AT_ONCE);
        while !count.is_drained() {
            let now = Micros(clock::now());
            if now > until {
                return count.abandon();
            }
            if now > at_once {
                self.waiting = Some((count, until));
                return;
            }
            latch::pause(1);
        }
        // In vain where too much was committed meanwhile: then it is still due.
        count.store(clock::now());
    }
}

fn is_due(trust: &Trust, now: Micros) -> bool {
    let counted_at = Micros(trust.counted_at.load(SeqCst));
    let is_old = now.since(counted_at) >= settings::recount_interval();
    is_old || !trust.is_settled() || trust.wanted.load(SeqCst) != 0
}

/// `None` when it cannot be counted now.
fn read(extension: u32, now: Micros) -> Result<Option<Count>, Caught> {
    let Some(mut count) = numbers::begin(now.0) else { return Ok(None) };
    let read = xact::run(|| Ok(extension::try_lock(extension) == Some(true) && count.read()?));
    match read {
        Ok(true) => Ok(Some(count)),
        other => {
            count.abandon();
            other.map(|_| None)
        }
    }
}
