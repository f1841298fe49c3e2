//! When a schedule runs next, and what becomes of the runs that are due. A run's time is its *nominal* time: the one that
//! the pattern gives, not the one at which somebody came to look.

use super::cron::{date, day, Cron};
use super::time::{Micros, Span};
use super::zone::{first, wall, Zone};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400;

/// What makes the nominal times.
#[derive(Debug, Clone)]
pub enum Rhythm {
    /// A pattern of the wall clock.
    Cron(Box<Cron>),
    /// One of these after the other.
    Every(Every),
}

/// `every`: the n-th time is counted from the first, so that it neither drifts nor loses the 31st to a February.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every {
    /// The time that the others are counted from.
    pub from: Micros,
    /// Is that a run too?
    pub and_then: bool,
    /// Months between two, of the wall clock's calendar.
    pub months: i32,
    /// Days, of the wall clock.
    pub days: i32,
    /// And elapsed time.
    pub span: Span,
}

impl Every {
    /// The n-th time; `None` when there are none so late.
    fn nth(&self, n: i64, zone: &impl Zone) -> Option<Micros> {
        let elapsed = self.span.0.checked_mul(n)?;
        if self.months == 0 && self.days == 0 {
            return self.from.0.checked_add(elapsed).map(Micros);
        }
        let (second, fraction) = (self.from.0.div_euclid(SECOND), self.from.0.rem_euclid(SECOND));
        let start = wall(zone, second);
        let (year, month, dom) = date(start.div_euclid(DAY));
        let months = i64::from(month) - 1 + i64::from(self.months).checked_mul(n)?;
        let year = i32::try_from(i64::from(year) + months.div_euclid(12)).ok().filter(|year| *year < 250_000)?;
        let month = u32::try_from(months.rem_euclid(12)).ok()? + 1;
        let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        let length = day(next_year, next_month, 1) - day(year, month, 1);
        let dom = dom.min(u32::try_from(length).ok()?);
        let days = day(year, month, dom) + i64::from(self.days).checked_mul(n)?;
        let at = first(zone, days.checked_mul(DAY)? + start.rem_euclid(DAY));
        at.checked_mul(SECOND)?.checked_add(fraction)?.checked_add(elapsed).map(Micros)
    }

    /// The first time after a moment. The times only grow, so it is found by halving.
    fn next(&self, after: Micros, zone: &impl Zone) -> Option<Micros> {
        let least =
            i64::from(self.months) * 28 * DAY * SECOND + i64::from(self.days) * 23 * 3600 * SECOND + self.span.0;
        let mut low = i64::from(!self.and_then);
        let mut high = after.since(self.from).0 / least.max(1) + 2;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.nth(middle, zone) {
                Some(at) if at <= after => low = middle + 1,
                _ => high = middle,
            }
        }
        self.nth(low, zone)
    }
}

impl Rhythm {
    /// The first nominal time after a moment; `None` for never again.
    pub fn next(&self, after: Micros, zone: &impl Zone) -> Option<Micros> {
        match self {
            Rhythm::Cron(cron) => {
                cron.next(after.0.div_euclid(SECOND), zone).and_then(|at| at.checked_mul(SECOND)).map(Micros)
            }
            // In a zone that is set back by days, days are longer than they are taken for.
            Rhythm::Every(every) => every.next(after, zone).filter(|at| *at > after),
        }
    }
}

/// What becomes of a run while the job of the one before is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It is skipped.
    Skip,
    /// It waits until that job has ended.
    Queue,
    /// It is put beside it.
    Allow,
}

impl Overlap {
    /// SQL's word (schedule_overlap_check).
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "skip" => Some(Overlap::Skip),
            "queue" => Some(Overlap::Queue),
            "allow" => Some(Overlap::Allow),
            _ => None,
        }
    }
}

/// What becomes of runs that nobody came to put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catchup {
    /// They are skipped.
    None,
    /// They become one run.
    Last,
    /// All of them are put.
    All,
}

impl Catchup {
    /// SQL's word (schedule_catchup_check).
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Catchup::None),
            "last" => Some(Catchup::Last),
            "all" => Some(Catchup::All),
            _ => None,
        }
    }
}

/// How late a run may be put that is not to be caught up: the launcher looks at every database at least so often.
pub const LATE: Span = Span::from_millis(60_000);

/// The most runs of one schedule in one transaction.
pub const PORTION: usize = 100;

/// What to do with a schedule that is due.
#[derive(Debug, Clone, Copy)]
pub struct Due<'a> {
    /// Its rhythm.
    pub rhythm: &'a Rhythm,
    /// The nominal time that is due.
    pub next: Micros,
    /// No run after this.
    pub ends: Option<Micros>,
    /// Its policies.
    pub overlap: Overlap,
    /// Its policies.
    pub catchup: Catchup,
    /// Is the job of the run before live?
    pub is_busy: bool,
    /// The most runs at once.
    pub most: usize,
}

/// Why runs were skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The job of the run before was live.
    Overlap,
    /// Nobody came in time.
    Missed,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Nominal times of the jobs to be put.
    pub runs: Vec<Micros>,
    /// The last run that is skipped, and why.
    pub skipped: Option<(Micros, Reason)>,
    /// The next nominal time; `None` for never again. It may be due: then there is more, or, where nothing else is to
    /// be done, it waits for the job.
    pub next: Option<Micros>,
}

impl Due<'_> {
    /// Decides. `now` is the moment of the look.
    pub fn plan(&self, now: Micros, zone: &impl Zone) -> Plan {
        let is_due = |at: &Micros| *at <= now && self.ends.is_none_or(|ends| *at <= ends);
        let after = |at: Micros| self.rhythm.next(at, zone).filter(|at| self.ends.is_none_or(|ends| *at <= ends));
        let second = after(self.next);
        let several = second.as_ref().is_some_and(is_due);
        let hold = Plan { next: Some(self.next), ..Plan::default() };
        // Where all are wanted none is skipped: they wait.
        if self.is_busy
            && (self.overlap == Overlap::Queue || (self.overlap, self.catchup) == (Overlap::Skip, Catchup::All))
        {
            return hold;
        }
        if self.catchup == Catchup::All {
            let most = if self.overlap == Overlap::Queue { 1 } else { self.most };
            let mut plan = hold;
            while let Some(at) = plan.next.filter(|at| is_due(at) && plan.runs.len() < most) {
                plan.runs.push(at);
                plan.next = after(at);
            }
            return plan;
        }
        let last = if several { self.last(now, zone) } else { self.next };
        let ahead = if several { after(last) } else { second };
        if self.is_busy && self.overlap == Overlap::Skip {
            return Plan { skipped: Some((last, Reason::Overlap)), next: ahead, ..Plan::default() };
        }
        // One that has waited for the job before it is late for that reason.
        if self.catchup == Catchup::None && self.overlap != Overlap::Queue && now.since(last) > LATE {
            return Plan { skipped: Some((last, Reason::Missed)), next: ahead, ..Plan::default() };
        }
        let skipped = several.then_some((self.next, Reason::Missed));
        Plan { runs: vec![last], skipped, next: ahead }
    }

    /// The last nominal time that is due, found by halving: after a long time there may be millions.
    fn last(&self, now: Micros, zone: &impl Zone) -> Micros {
        let end = self.ends.map_or(now, |ends| ends.min(now));
        // Behind `none` there is none any more.
        let (mut found, mut none) = (self.next, end);
        while found < none {
            let middle = Micros(found.0 + (none.0 - found.0) / 2);
            match self.rhythm.next(middle, zone).filter(|at| *at <= end) {
                Some(at) => found = at,
                None => none = middle,
            }
        }
        found
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::engine::zone::tests::{Changes, SUMMER};

    const UTC: Changes = Changes(&[(i64::MIN / 2, 0)]);
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;

    fn every(months: i32, days: i32, span: i64) -> Every {
        Every { from: Micros(0), and_then: false, months, days, span: Span(span) }
    }

    fn minutely() -> Rhythm {
        Rhythm::Cron(Box::new(Cron::parse("* * * * *").expect("a pattern")))
    }

    fn due(rhythm: &Rhythm, overlap: Overlap, catchup: Catchup, is_busy: bool) -> Due<'_> {
        Due { rhythm, next: Micros(10 * MINUTE), ends: None, overlap, catchup, is_busy, most: PORTION }
    }

    fn minutes(plan: &Plan) -> Vec<i64> {
        plan.runs.iter().map(|at| at.0 / MINUTE).collect()
    }

    fn next(plan: &Plan) -> Option<i64> {
        plan.next.map(|at| at.0 / MINUTE)
    }

    #[test]
    fn every_counts_from_its_start_however_late_somebody_looks() {
        let rhythm = Rhythm::Every(every(0, 0, 90 * SECOND));
        assert_eq!(rhythm.next(Micros(0), &UTC), Some(Micros(90 * SECOND)));
        assert_eq!(rhythm.next(Micros(90 * SECOND), &UTC), Some(Micros(180 * SECOND)));
        assert_eq!(rhythm.next(Micros(1_000_007 * SECOND), &UTC), Some(Micros(11_112 * 90 * SECOND)));
        assert_eq!(rhythm.next(Micros(-5), &UTC), Some(Micros(90 * SECOND)));
        let from_start = Every { and_then: true, ..every(0, 0, 90 * SECOND) };
        assert_eq!(Rhythm::Every(from_start).next(Micros(-5), &UTC), Some(Micros(0)));
    }

    #[test]
    fn months_keep_their_day_and_days_their_hour() {
        let from = Micros(day(2027, 1, 31) * DAY * SECOND + 9 * HOUR);
        let monthly = Rhythm::Every(Every { from, ..every(1, 0, 0) });
        let mut at = from;
        let mut days = Vec::new();
        for _ in 0..5 {
            at = monthly.next(at, &UTC).expect("it goes on");
            days.push(date(at.0.div_euclid(DAY * SECOND)));
        }
        assert_eq!(days, [(2027, 2, 28), (2027, 3, 31), (2027, 4, 30), (2027, 5, 31), (2027, 6, 30)]);
        // SUMMER begins on day 10.
        let daily = Rhythm::Every(Every { from: Micros(9 * HOUR), ..every(0, 1, 0) });
        let hour = |n: i64| daily.next(Micros(n * DAY * SECOND), &SUMMER).map(|at| at.0 - n * DAY * SECOND);
        assert_eq!((hour(5), hour(12), hour(25)), (Some(9 * HOUR), Some(8 * HOUR), Some(9 * HOUR)));
    }

    #[test]
    fn one_run_that_is_due_is_put_whatever_the_policy() {
        let rhythm = minutely();
        for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Allow] {
            for catchup in [Catchup::None, Catchup::Last, Catchup::All] {
                let plan = due(&rhythm, overlap, catchup, false).plan(Micros(10 * MINUTE + 3), &UTC);
                assert_eq!((minutes(&plan), plan.skipped, next(&plan)), (vec![10], None, Some(11)));
            }
        }
    }

    #[test]
    fn what_overlaps_is_skipped_or_waits_or_is_put() {
        let rhythm = minutely();
        let now = Micros(10 * MINUTE + 3);
        for catchup in [Catchup::None, Catchup::Last, Catchup::All] {
            let skip = due(&rhythm, Overlap::Skip, catchup, true).plan(now, &UTC);
            if catchup == Catchup::All {
                assert_eq!((minutes(&skip), skip.skipped, next(&skip)), (vec![], None, Some(10)));
            } else {
                assert_eq!((minutes(&skip), next(&skip)), (vec![], Some(11)));
                assert_eq!(skip.skipped, Some((Micros(10 * MINUTE), Reason::Overlap)));
            }
            let queue = due(&rhythm, Overlap::Queue, catchup, true).plan(now, &UTC);
            assert_eq!((minutes(&queue), queue.skipped, next(&queue)), (vec![], None, Some(10)));
            let allow = due(&rhythm, Overlap::Allow, catchup, true).plan(now, &UTC);
            assert_eq!((minutes(&allow), next(&allow)), (vec![10], Some(11)));
        }
    }

    #[test]
    fn what_was_missed_is_caught_up_as_the_policy_says() {
        let rhythm = minutely();
        let now = Micros(15 * MINUTE + 3);
        let late = Micros(15 * MINUTE + MINUTE - 1);
        for overlap in [Overlap::Skip, Overlap::Allow] {
            let all = due(&rhythm, overlap, Catchup::All, false).plan(now, &UTC);
            assert_eq!((minutes(&all), next(&all)), (vec![10, 11, 12, 13, 14, 15], Some(16)));
        }
        let one = due(&rhythm, Overlap::Queue, Catchup::All, false).plan(now, &UTC);
        assert_eq!((minutes(&one), next(&one)), (vec![10], Some(11)));
        for at in [now, late] {
            let last = due(&rhythm, Overlap::Skip, Catchup::Last, false).plan(at, &UTC);
            assert_eq!((minutes(&last), next(&last)), (vec![15], Some(16)));
            assert_eq!(last.skipped, Some((Micros(10 * MINUTE), Reason::Missed)));
        }
        // Made up, they wait for the job that is live.
        let busy = due(&rhythm, Overlap::Skip, Catchup::All, true).plan(now, &UTC);
        assert_eq!((minutes(&busy), busy.skipped, next(&busy)), (vec![], None, Some(10)));
    }

    #[test]
    fn without_catchup_only_what_is_not_yet_late_is_put() {
        let hourly = Rhythm::Cron(Box::new(Cron::parse("10 * * * *").expect("a pattern")));
        let plan = |minute: i64| due(&hourly, Overlap::Skip, Catchup::None, false).plan(Micros(minute * MINUTE), &UTC);
        assert_eq!((minutes(&plan(11)), next(&plan(11))), (vec![10], Some(70)));
        assert_eq!((minutes(&plan(12)), next(&plan(12))), (vec![], Some(70)));
        assert_eq!(plan(12).skipped, Some((Micros(10 * MINUTE), Reason::Missed)));
        assert_eq!((minutes(&plan(131)), next(&plan(131))), (vec![130], Some(190)));
    }

    /// The job before it ran for an hour.
    #[test]
    fn what_has_waited_for_its_job_is_not_missed() {
        let hourly = Rhythm::Cron(Box::new(Cron::parse("10 * * * *").expect("a pattern")));
        for catchup in [Catchup::None, Catchup::Last] {
            let plan = due(&hourly, Overlap::Queue, catchup, false).plan(Micros(65 * MINUTE), &UTC);
            assert_eq!((minutes(&plan), plan.skipped, next(&plan)), (vec![10], None, Some(70)));
        }
    }

    /// PostgreSQL takes such zones: days of a week, and back.
    #[test]
    fn a_zone_that_is_set_by_weeks_ends_no_search() {
        const WEEK: i64 = 167 * 3600;
        const CHANGES: Changes = Changes(&[(i64::MIN / 2, -WEEK), (100 * DAY, WEEK), (300 * DAY, -WEEK)]);
        let daily = Rhythm::Every(every(0, 1, 0));
        let mut at = Micros(90 * DAY * SECOND);
        for _ in 0..300 {
            let Some(next) = daily.next(at, &CHANGES) else { break };
            assert!(next > at);
            at = next;
        }
        let due = Due { next: Micros(90 * DAY * SECOND), ..due(&daily, Overlap::Skip, Catchup::Last, false) };
        assert_eq!(due.plan(Micros(310 * DAY * SECOND), &CHANGES).runs.len(), 1);
    }

    #[test]
    fn a_storm_is_put_in_portions_and_the_last_of_millions_is_found() {
        let rhythm = Rhythm::Cron(Box::new(Cron::parse("* * * * * *").expect("a pattern")));
        let now = Micros(400 * DAY * SECOND);
        let all = due(&rhythm, Overlap::Allow, Catchup::All, false).plan(now, &UTC);
        assert_eq!((all.runs.len(), all.next), (PORTION, Some(Micros(10 * MINUTE + 100 * SECOND))));
        let last = due(&rhythm, Overlap::Skip, Catchup::Last, false).plan(now, &UTC);
        assert_eq!((last.runs, last.next), (vec![now], Some(now.after(Span(SECOND)))));
        let yearly = Rhythm::Cron(Box::new(Cron::parse("@yearly").expect("a pattern")));
        let last = due(&yearly, Overlap::Skip, Catchup::Last, false).plan(Micros(2_000 * DAY * SECOND), &UTC);
        assert_eq!(last.runs, [Micros(day(2005, 1, 1) * DAY * SECOND)]);
    }

    #[test]
    fn nothing_runs_after_the_end() {
        let rhythm = minutely();
        let ends = Some(Micros(12 * MINUTE));
        let plan =
            |catchup| Due { ends, ..due(&rhythm, Overlap::Allow, catchup, false) }.plan(Micros(99 * MINUTE), &UTC);
        assert_eq!((minutes(&plan(Catchup::All)), plan(Catchup::All).next), (vec![10, 11, 12], None));
        assert_eq!((minutes(&plan(Catchup::Last)), plan(Catchup::Last).next), (vec![12], None));
    }
}
