//! Cron patterns. croner reads them and finds the next time that fits; it is asked about a wall clock that is never
//! changed, and `zone` says which moment that is: so a time that the clock skips is the moment right after the gap, and
//! one that it repeats counts once.

use core::cmp::Ordering;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDateTime, CronDateTime, Resolution, Weekday};

use super::zone::{first, wall, Moment, Wall, Zone};

const DAY: i64 = 86_400;
/// Days from 0000-03-01 to 2000-01-01.
const DAYS_TO_2000: i64 = 730_425;

/// A time of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clock(pub Wall);

/// (year, month, day) of a day since 2000-01-01, by the calendar of 400 years that begin in March.
pub fn date(day: i64) -> (i32, u32, u32) {
    let days = day + DAYS_TO_2000;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let small = |n: i64| u32::try_from(n).unwrap_or(0);
    (i32::try_from(era * 400 + year + next_year).unwrap_or(i32::MAX), small(month), small(day))
}

/// The day since 2000-01-01 of a date.
pub fn day(year: i32, month: u32, day: u32) -> i64 {
    let (year, month) = (i64::from(year) - i64::from(month <= 2), i64::from(month));
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - DAYS_TO_2000
}

impl CronDateTime for Clock {
    fn to_civil(&self) -> CivilDateTime {
        let (year, month, day) = date(self.0.div_euclid(DAY));
        let second = u32::try_from(self.0.rem_euclid(DAY)).unwrap_or(0);
        let date = croner::CivilDate::from_parts_unchecked(year, month, day);
        let time = croner::CivilTime::from_parts_unchecked(second / 3600, second / 60 % 60, second % 60);
        CivilDateTime::new(date, time)
    }

    fn civil_weekday(&self) -> Weekday {
        // 2000-01-01 was a Saturday.
        let day = (self.0.div_euclid(DAY) + 6).rem_euclid(7);
        Weekday::from_days_from_sunday(u32::try_from(day).unwrap_or(0))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let days = day(civil.year(), civil.month(), civil.day());
        let second = i64::from(civil.hour() * 3600 + civil.minute() * 60 + civil.second());
        Ok(Resolution::Single(Clock(days * DAY + second)))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(seconds).map(Clock)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
}

/// A pattern that was read.
#[derive(Debug, Clone)]
pub struct Cron(croner::Cron);

/// The fields of a pattern of six.
const FIELDS: [&str; 6] = ["second", "minute", "hour", "day of month", "month", "day of week"];

impl Cron {
    /// Reads a pattern: five fields, or six of which the first is the second; or a word as `@daily`.
    ///
    /// # Errors
    /// What is wrong with it, and in which field.
    pub fn parse(pattern: &str) -> Result<Cron, String> {
        let pattern = pattern.trim();
        if pattern.starts_with('@') {
            return Self::word(pattern);
        }
        let fields: Vec<&str> = pattern.split_whitespace().collect();
        if !(5..=6).contains(&fields.len()) {
            return Err(format!("It has {} fields; five are wanted, or six with seconds in front.", fields.len()));
        }
        // croner takes an item that is empty for nothing, and may look for ever for nothing.
        if let Some(n) = fields.iter().position(|text| text.split(',').any(str::is_empty)) {
            let name = FIELDS[n + FIELDS.len() - fields.len()];
            return Err(format!("Field {} (\"{}\") is no {name}.", n + 1, fields[n]));
        }
        let parsed = Self::read(&fields.join(" ")).map_err(|why| Self::field_at_fault(&fields, &why))?;
        parsed.first_after(0).map(|_| parsed).ok_or_else(|| "There is no such day.".to_owned())
    }

    fn word(pattern: &str) -> Result<Cron, String> {
        let same = match pattern.to_ascii_lowercase().as_str() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => return Err("The words are @yearly, @monthly, @weekly, @daily and @hourly.".into()),
        };
        Self::read(same)
    }

    fn read(pattern: &str) -> Result<Cron, String> {
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        parser.parse(pattern).map(Cron).map_err(|error| error.to_string())
    }

    /// croner does not say where: each field alone is tried.
    fn field_at_fault(fields: &[&str], why: &str) -> String {
        let missing = FIELDS.len() - fields.len();
        for (n, text) in fields.iter().enumerate() {
            let mut alone = vec!["*"; fields.len()];
            alone[n] = text;
            if Self::read(&alone.join(" ")).is_err() {
                return format!("Field {} (\"{text}\") is no {}.", n + 1, FIELDS[n + missing]);
            }
        }
        format!("{why}.")
    }

    fn first_after(&self, wall: Wall) -> Option<Wall> {
        self.0.find_next_occurrence(&Clock(wall), false).ok().map(|clock| clock.0)
    }

    /// The first run after a moment; `None` for never again.
    pub fn next(&self, after: Moment, zone: &impl Zone) -> Option<Moment> {
        let mut time = wall(zone, after);
        loop {
            time = self.first_after(time)?;
            let at = first(zone, time);
            // What the clock repeats has run.
            if at > after {
                return Some(at);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::engine::zone::tests::{Changes, SUMMER};

    const UTC: Changes = Changes(&[(i64::MIN / 2, 0)]);
    const HOUR: i64 = 3600;

    fn at(year: i32, month: u32, dom: u32, hour: i64, minute: i64) -> i64 {
        day(year, month, dom) * DAY + hour * HOUR + minute * 60
    }

    fn runs(pattern: &str, zone: &impl Zone, after: i64, count: usize) -> Vec<i64> {
        let cron = Cron::parse(pattern).expect("a pattern");
        let mut runs = Vec::new();
        let mut from = after;
        while runs.len() < count {
            from = cron.next(from, zone).expect("it goes on");
            runs.push(from);
        }
        runs
    }

    #[test]
    fn days_and_dates_are_one_to_one() {
        assert_eq!((date(0), day(2000, 1, 1)), ((2000, 1, 1), 0));
        assert_eq!(date(59), (2000, 2, 29));
        assert_eq!(date(-1), (1999, 12, 31));
        for n in -200_000..200_000 {
            let (year, month, dom) = date(n);
            assert_eq!(day(year, month, dom), n);
        }
        assert_eq!(Clock(0).civil_weekday(), Weekday::Saturday);
        assert_eq!(Clock(-1).civil_weekday(), Weekday::Friday);
    }

    #[test]
    fn five_fields_six_fields_names_and_words() {
        let from = at(2026, 11, 23, 11, 0);
        assert_eq!(runs("30 12 * * *", &UTC, from, 2), [at(2026, 11, 23, 12, 30), at(2026, 11, 24, 12, 30)]);
        assert_eq!(runs("15 30 12 * * *", &UTC, from, 1), [at(2026, 11, 23, 12, 30) + 15]);
        assert_eq!(runs("0 0 1 JAN,jul *", &UTC, from, 2), [at(2027, 1, 1, 0, 0), at(2027, 7, 1, 0, 0)]);
        assert_eq!(runs("0 8 * * mon-fri", &UTC, from, 2), [at(2026, 11, 24, 8, 0), at(2026, 11, 25, 8, 0)]);
        assert_eq!(runs("@daily", &UTC, from, 1), runs("0 0 * * *", &UTC, from, 1));
        assert_eq!(runs("@Midnight", &UTC, from, 1), runs("@daily", &UTC, from, 1));
        assert_eq!(runs("*/20 * * * *", &UTC, from, 3), [20, 40, 60].map(|m| from + m * 60));
    }

    #[test]
    fn last_days_nearest_weekdays_and_nth_weekdays() {
        let from = at(2026, 11, 23, 11, 0);
        assert_eq!(runs("0 0 L * *", &UTC, from, 2), [at(2026, 11, 30, 0, 0), at(2026, 12, 31, 0, 0)]);
        // 2027-05-15 is a Saturday, 2027-08-15 a Sunday.
        assert_eq!(runs("0 0 15W 5,8 *", &UTC, from, 2), [at(2027, 5, 14, 0, 0), at(2027, 8, 16, 0, 0)]);
        assert_eq!(runs("0 0 * * FRI#2", &UTC, from, 2), [at(2026, 12, 11, 0, 0), at(2027, 1, 8, 0, 0)]);
        assert_eq!(runs("0 0 * * FRIL", &UTC, from, 1), [at(2026, 11, 27, 0, 0)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_field() {
        let why = |pattern| Cron::parse(pattern).map(|_| ()).expect_err(pattern);
        assert_eq!(why("61 * * * *"), "Field 1 (\"61\") is no minute.");
        assert_eq!(why("0 0 0 32 * *"), "Field 4 (\"32\") is no day of month.");
        assert_eq!(why("* * * * MOND"), "Field 5 (\"MOND\") is no day of week.");
        for empty in [", * * * *", "1,, * * * *", "1, * * * *"] {
            assert!(why(empty).ends_with("is no minute."), "{empty}");
        }
        assert!(why("* * * *").starts_with("It has 4 fields"));
        assert!(why("* * * * * * 2027").starts_with("It has 7 fields"));
        assert!(why("").starts_with("It has 0 fields"));
        assert!(why("@reboot").contains("@daily"));
        assert_eq!(why("0 0 30 2 *"), "There is no such day.");
    }

    #[test]
    fn a_time_that_is_skipped_runs_once_right_after_the_gap() {
        let change = 10 * DAY + 2 * HOUR;
        assert_eq!(runs("30 2 * * *", &SUMMER, 9 * DAY + 12 * HOUR, 2), [change, 11 * DAY + HOUR + HOUR / 2]);
        // Three skipped times and the one of the moment itself are one run.
        let wanted = [change - 1200, change, change + 1200];
        assert_eq!(runs("*/20 * * * *", &SUMMER, change - 1201, 3), wanted);
    }

    #[test]
    fn a_time_that_is_repeated_runs_once() {
        let change = 20 * DAY + 2 * HOUR;
        assert_eq!(
            runs("30 2 * * *", &SUMMER, change - 2 * HOUR, 2),
            [change - HOUR / 2, 21 * DAY + 2 * HOUR + HOUR / 2]
        );
        assert_eq!(
            runs("*/20 * * * *", &SUMMER, change - 2401, 4),
            [change - 2400, change - 1200, change + HOUR, change + HOUR + 1200]
        );
        // From within the second half as well.
        assert_eq!(runs("*/20 * * * *", &SUMMER, change + 60, 1), [change + HOUR]);
    }
}
