//! What ended, and who waited for it: the scheduler's part of what comes after a job. In each look the ends that were
//! told are counted; now and then it is looked for those that nobody could tell.

use crate::engine::time::{Micros, Span};
use crate::error::Result;
use crate::pg::clock;
use crate::store::settle;

/// How often parents that somebody had are looked for, at most.
const EVERY: Span = Span::from_millis(100);
/// Not sooner than so many times as long as it took.
const SHARE: i64 = 20;

/// When parents were looked for last, and how long that took.
#[derive(Default)]
pub(super) struct Ends(Option<(Micros, Span)>);

/// What came of a look.
#[derive(Default)]
pub(super) struct Looked {
    /// May there be more?
    pub(super) more: bool,
    /// When there may be something to do again.
    pub(super) back: Option<Micros>,
    /// Queues that got ready jobs.
    pub(super) queues: Vec<String>,
}

impl Ends {
    /// Counts up to `most` ends. `groups::pass_on` follows.
    pub(super) fn look(&mut self, now: Micros, most: i64) -> Result<Looked> {
        let any = settle::any()?;
        if !(any.ends || any.outcomes || any.unsure) {
            return Ok(Looked::default());
        }
        // A client does it: he commits, and calls.
        if !settle::begin() {
            return Ok(Looked { back: Some(now.after(EVERY)), ..Looked::default() });
        }
        settle::read(most)?;
        if any.unsure && self.is_time(now) {
            let began = Micros(clock::now());
            settle::find_unsure(most)?;
            let ended = Micros(clock::now());
            self.0 = Some((ended, ended.since(began)));
        }
        let settled = settle::settle(most)?;
        // A job that somebody has locked, or a parent that somebody has: it is looked again.
        let left = settle::any()?;
        let back = (left.unsure || left.outcomes).then(|| now.after(EVERY));
        Ok(Looked { more: settled.more || left.ends, back, queues: settled.queues })
    }

    fn is_time(&self, now: Micros) -> bool {
        self.0.is_none_or(|(ended, took)| now.since(ended) >= took.times(SHARE).max(EVERY))
    }
}
