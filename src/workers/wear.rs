//! Recycling: an executor leaves, and its successor starts, when it is old, when it has grown, or when the settings
//! that its role's sessions start with were changed.

use crate::engine::time::{Micros, Span};
use crate::pg::{clock, latch, memory};
use crate::settings;

/// How often the memory is measured; also how long an executor stays at least.
const MEASURE_EVERY: Span = Span::from_millis(1_000);

/// How worn this process is.
pub(super) struct Wear {
    started: Micros,
    measured: Micros,
    settings: Option<[u32; 4]>,
}

impl Wear {
    /// Of a process that just connected.
    pub(super) fn new() -> Self {
        let now = Micros(clock::now());
        Wear { started: now, measured: now, settings: None }
    }

    /// Is it time to leave? Between transactions.
    pub(super) fn is_worn(&mut self) -> bool {
        let now = Micros(clock::now());
        if now.since(self.measured) < MEASURE_EVERY {
            return false;
        }
        self.measured = now;
        // Those that started together do not leave together: up to an eighth earlier.
        let eighths = Span(i64::from(latch::my_pid() % 8));
        let old = settings::max_worker_age().is_some_and(|most| {
            let most = most.0 - most.0 / 64 * eighths.0;
            now.since(self.started) >= Span(most)
        });
        old || settings::max_worker_memory().is_some_and(|most| memory::of_this_process() > most)
    }

    /// Takes the mark of the settings that a new session would start with (`pg::session::settings_mark`). True when
    /// it is another one than at the first look.
    pub(super) fn changed(&mut self, mark: [u32; 4]) -> bool {
        *self.settings.get_or_insert(mark) != mark
    }

    /// Would it be?
    pub(super) fn would_change(&self, mark: [u32; 4]) -> bool {
        self.settings != Some(mark)
    }
}
