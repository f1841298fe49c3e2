//! Holding back processes that keep dying: the third death within ten seconds begins it. The next one is started a
//! second later, then two, four, up to a minute, until there was quiet for ten seconds.
//!
//! One that did some work before it died was worth its start: then the wait is a tenth of a second.

use super::time::{Micros, Span};

/// Deaths within this time belong together, and so long must it be quiet to be forgotten.
const SERIES: Span = Span::from_millis(10_000);
/// So many in a series are nobody's concern.
const TOLERATED: usize = 2;
/// The first wait.
const FIRST: Span = Span::from_millis(1_000);
/// The wait after one that had done some work.
const AFTER_WORK: Span = Span::from_millis(100);
/// The longest.
const MOST: Span = Span::from_millis(60_000);

/// The deaths of processes of one kind.
#[derive(Debug, Clone, Default)]
pub struct Deaths {
    recent: Vec<Micros>,
    /// The wait that began with the last death that counted; zero before any.
    wait: Span,
    until: Micros,
}

impl Deaths {
    /// One died; had it done any work? True when holding back begins.
    pub fn died(&mut self, now: Micros, worked: bool) -> bool {
        // Those that die meanwhile were started before: they say nothing new.
        if self.holds(now) {
            return false;
        }
        if self.wait > Span::ZERO && now.since(self.until) >= SERIES {
            *self = Deaths::default();
        }
        self.recent.retain(|at| now.since(*at) < SERIES);
        self.recent.push(now);
        let begins = self.wait == Span::ZERO;
        if begins && self.recent.len() <= TOLERATED {
            return false;
        }
        self.wait = match (worked, begins) {
            (true, _) => AFTER_WORK,
            (false, true) => FIRST,
            (false, false) => self.wait.times(2).max(FIRST).min(MOST),
        };
        self.until = now.after(self.wait);
        begins
    }

    /// Is it too early to start another?
    pub fn holds(&self, now: Micros) -> bool {
        self.left(now) > Span::ZERO
    }

    /// How long it is too early.
    pub fn left(&self, now: Micros) -> Span {
        let left = self.until.since(now);
        // More than the whole wait: the clock was set back.
        if left <= self.wait {
            left
        } else {
            Span::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Micros {
        Micros(Span::from_millis(1_000_000 + ms).0)
    }

    #[test]
    fn the_third_death_within_ten_seconds_begins_it() {
        let mut deaths = Deaths::default();
        assert!(!deaths.died(at(0), false));
        assert!(!deaths.died(at(5_000), false));
        assert!(!deaths.holds(at(5_000)));
        assert!(deaths.died(at(9_999), false));
        assert_eq!(deaths.left(at(9_999)), FIRST);
        assert!(!deaths.holds(at(10_999)));
    }

    #[test]
    fn deaths_that_lie_apart_are_nobodys_concern() {
        let mut deaths = Deaths::default();
        for n in 0..100 {
            assert!(!deaths.died(at(n * 5_001), false), "death {n}");
        }
        assert!(deaths.recent.len() <= TOLERATED);
    }

    #[test]
    fn waits_double_to_a_minute_and_only_the_first_is_told() {
        let mut deaths = Deaths::default();
        let mut now = at(0);
        assert_eq!([0; 3].map(|_| deaths.died(now, false)), [false, false, true]);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let wait = Span::from_millis(seconds * 1_000);
            assert_eq!(deaths.left(now), wait);
            now = now.after(wait);
            assert!(!deaths.holds(now));
            assert!(!deaths.died(now, false), "told once");
        }
    }

    #[test]
    fn who_worked_before_it_died_is_replaced_soon() {
        let mut deaths = Deaths::default();
        let mut now = at(0);
        assert_eq!([0; 3].map(|_| deaths.died(now, true)), [false, false, true]);
        for (worked, ms) in [(true, 100), (false, 1_000), (false, 2_000), (true, 100), (true, 100), (false, 1_000)] {
            now = now.after(deaths.left(now));
            assert!(!deaths.died(now, worked));
            assert_eq!(deaths.left(now), Span::from_millis(ms));
        }
    }

    #[test]
    fn deaths_during_a_wait_do_not_lengthen_it() {
        let mut deaths = Deaths::default();
        assert_eq!([0; 5].map(|_| deaths.died(at(0), false)), [false, false, true, false, false]);
        assert_eq!(deaths.left(at(0)), FIRST);
    }

    #[test]
    fn ten_seconds_of_quiet_after_a_wait_forget_all() {
        let mut deaths = Deaths::default();
        assert_eq!([0; 3].map(|_| deaths.died(at(0), false)), [false, false, true]);
        assert!(!deaths.died(at(1_000 + 10_000), false));
        assert!(!deaths.holds(at(11_000)));
        assert!(!deaths.died(at(11_001), false));
        assert!(deaths.died(at(11_002), false), "begins anew, and is told anew");
    }

    #[test]
    fn a_clock_that_is_set_back_ends_the_wait() {
        let mut deaths = Deaths::default();
        assert_eq!([0; 3].map(|_| deaths.died(at(0), false)), [false, false, true]);
        assert!(deaths.holds(at(0)));
        assert!(!deaths.holds(at(-3_600_000)));
    }
}
