//! Wall clocks: what a time zone makes of a moment, and which moment a wall clock's time is.
//!
//! The zone's rules are PostgreSQL's; here they are a function from a moment to the offset that holds then, and until
//! when it does. All of it is in whole seconds since 2000-01-01 00:00, of UTC or of the wall clock.

/// Seconds since 2000-01-01 00:00 UTC.
pub type Moment = i64;
/// Seconds since 2000-01-01 00:00 of a wall clock that is never changed.
pub type Wall = i64;

/// What holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// How far the wall clock is ahead of UTC.
    pub offset: i64,
    /// When it is changed next; `None` for never.
    pub until: Option<Moment>,
}

/// A time zone.
pub trait Zone {
    /// What holds at a moment.
    fn period(&self, at: Moment) -> Period;
}

/// No offset is larger: in history under 16 hours, in a POSIX specification up to 167 (getsecs, localtime.c).
const WIDEST: i64 = 168 * 3600;

/// What the wall clock shows.
pub fn wall(zone: &impl Zone, at: Moment) -> Wall {
    at + zone.period(at).offset
}

/// The first moment at which the wall clock shows this time; of a time that it skips, the moment at which it is changed.
pub fn first(zone: &impl Zone, wall: Wall) -> Moment {
    let mut from = wall - WIDEST;
    loop {
        let period = zone.period(from);
        let at = wall - period.offset;
        if at < from {
            return from;
        }
        match period.until {
            // A zone whose changes do not go on would keep us here for ever.
            Some(until) if until <= at && until > from => from = until,
            _ => return at,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Changes of the offset: from when, how far ahead.
    pub struct Changes(pub &'static [(Moment, i64)]);

    impl Zone for Changes {
        fn period(&self, at: Moment) -> Period {
            let next = self.0.iter().position(|(from, _)| *from > at);
            let current = next.unwrap_or(self.0.len()).saturating_sub(1);
            Period { offset: self.0[current].1, until: next.map(|n| self.0[n].0) }
        }
    }

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    /// One hour ahead from day 10, 02:00 of the wall clock on, until day 20, 03:00.
    pub const SUMMER: Changes = Changes(&[(i64::MIN / 2, 0), (10 * DAY + 2 * HOUR, HOUR), (20 * DAY + 2 * HOUR, 0)]);

    #[test]
    fn an_ordinary_time_is_the_moment_that_shows_it() {
        for at in [0, 10 * DAY, 11 * DAY, 15 * DAY + 17, 21 * DAY] {
            assert_eq!(first(&SUMMER, wall(&SUMMER, at)), at);
        }
    }

    #[test]
    fn a_time_that_is_skipped_is_the_moment_of_the_change() {
        let change = 10 * DAY + 2 * HOUR;
        for skipped in [2 * HOUR, 2 * HOUR + 1, 3 * HOUR - 1] {
            assert_eq!(first(&SUMMER, 10 * DAY + skipped), change);
        }
        assert_eq!(first(&SUMMER, 10 * DAY + 3 * HOUR), change);
        assert_eq!(first(&SUMMER, 10 * DAY + 2 * HOUR - 1), change - 1);
    }

    #[test]
    fn a_time_that_is_repeated_is_the_first_of_its_moments() {
        let change = 20 * DAY + 2 * HOUR;
        for repeated in [2 * HOUR, 2 * HOUR + 1, 3 * HOUR - 1] {
            assert_eq!(first(&SUMMER, 20 * DAY + repeated), change - HOUR + (repeated - 2 * HOUR));
        }
        assert_eq!(first(&SUMMER, 20 * DAY + 3 * HOUR), change + HOUR);
    }

    #[test]
    fn a_day_may_be_skipped_and_changes_may_follow_each_other() {
        // Samoa left out a day; another zone is changed twice within an hour.
        let date_line = Changes(&[(i64::MIN / 2, -10 * HOUR), (100, 14 * HOUR)]);
        assert_eq!(first(&date_line, 100 - 10 * HOUR), 100);
        assert_eq!(first(&date_line, 100 + 13 * HOUR), 100);
        assert_eq!(first(&date_line, 100 + 14 * HOUR), 100);
        assert_eq!(first(&date_line, 100 + 14 * HOUR + 5), 105);
        let twice = Changes(&[(i64::MIN / 2, 0), (100, HOUR), (200, 0)]);
        assert_eq!(first(&twice, 150), 100);
        assert_eq!(first(&twice, 100 + HOUR + 50), 150);
        assert_eq!(first(&twice, 100 + HOUR + 150), 100 + HOUR + 150);
    }
}
