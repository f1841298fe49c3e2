//! The guarantee behind the remembered positions (`pg::positions`, which are hints): a look from the very start. By the
//! scheduler, so that it is one process's work however many executors there are, and so that it goes on while all of
//! them are in long jobs. The same for groups that wait for nobody, and for flows that nobody keeps open. It walks over dead entries too, as long as the oldest snapshot keeps them: so it takes at most
//! a twentieth of the time.

use crate::engine::time::{Micros, Span};
use crate::error::Result;
use crate::pg::clock;
use crate::store::settle::{self, Cursor};
use crate::store::{flows, groups, ready, registry};

/// How often at most; a little under the scheduler's poll.
const EVERY: Span = Span::from_millis(900);
/// Not sooner than so many times as long as it took.
const SHARE: i64 = 20;

/// The most jobs that come after others, of which one look sees whether these are still there.
const PART: i64 = 1_000;

/// When the last such look ended, and how long it took; and where the next part of what it does in parts begins.
#[derive(Default)]
pub(super) struct Missed {
    last: Option<(Micros, Span)>,
    cursor: Option<Cursor>,
}

impl Missed {
    /// Looks if it is time to.
    pub(super) fn look(&mut self, now: Micros) -> Result<()> {
        if self.last.is_none_or(|(ended, took)| now.since(ended) >= took.times(SHARE).max(EVERY)) {
            let began = Micros(clock::now());
            ready::find_missed(&registry::handlers(0, 0)?)?;
            groups::find_stranded()?;
            // Kept open by a producer who put nothing after all.
            flows::finish(None)?;
            self.cursor = settle::find_lost(self.cursor, PART)?;
            let ended = Micros(clock::now());
            self.last = Some((ended, ended.since(began)));
        }
        Ok(())
    }
}
