//! The states of a job, and what may follow what.
//!
//! ```text
//!            put
//!             │ due                       not due
//!             ▼                              ▼
//!   ┌────► ready ◄───────── due ──────── scheduled ◄──┐
//!   │        │ │                             │        │
//!   │        │ └─── claim without lease ──┐  │        │ failed, attempts left
//!   │        ▼ lease                      ▼  │        │
//!   └───── leased ── complete, fail ──► (done, dead, cancelled: a finished job, or no row at all)
//!     lease ended, release
//! ```
//! `waiting` stands before ready and scheduled: for a job whose group has an earlier one, or that comes after others.
//! A job that runs is not a state: its row is deleted by a transaction that has not committed.

/// Where a live job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// May run now.
    Ready,
    /// Waits for its time: put with a delay, or a retry.
    Scheduled,
    /// Somebody outside has it until its `execute_at`; or one of our executors runs it as a procedure,
    /// then `execute_at` is infinity.
    Leased,
    /// Waits for other jobs: of its group, or those it comes after. Then it is ready, or scheduled if it is not due.
    Waiting,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Done,
    /// It failed too often, or for good.
    Dead,
    /// Somebody took it away.
    Cancelled,
}

impl State {
    /// The word in the table.
    pub const fn word(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Scheduled => "scheduled",
            State::Leased => "leased",
            State::Waiting => "waiting",
        }
    }

    /// The state of a word in the table.
    pub fn parse(word: &str) -> Option<Self> {
        [State::Ready, State::Scheduled, State::Leased, State::Waiting].into_iter().find(|s| s.word() == word)
    }
}

impl Outcome {
    /// The word in the table.
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Dead => "dead",
            Outcome::Cancelled => "cancelled",
        }
    }

    /// The outcome of a word in the table.
    pub fn parse(word: &str) -> Option<Self> {
        [Outcome::Done, Outcome::Dead, Outcome::Cancelled].into_iter().find(|o| o.word() == word)
    }
}

/// What to do with a job whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Runs again; `counted` when the failure counts towards max_attempts.
    Retry {
        /// Does it count?
        counted: bool,
    },
    /// Is buried.
    Dead,
}

/// The numbers of a job that decide about its next life.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// The attempt that just failed.
    pub attempt: i32,
    /// Failures counted before it.
    pub failures: i32,
    /// Failures at which it is dead.
    pub max_attempts: i32,
}

/// SQLSTATEs that say "the moment was bad, not the job": serialization failure, deadlock, lock not
/// available.
pub fn is_passing(sqlstate: &str) -> bool {
    matches!(sqlstate, "40001" | "40P01" | "55P03")
}

/// Judges a failed attempt. Passing errors are not counted until they made up `free` attempts.
pub fn judge(tally: Tally, sqlstate: &str, permanent: bool, free: i32) -> Verdict {
    // After the last number that an attempt can have there is no next one.
    if permanent || tally.attempt == i32::MAX {
        return Verdict::Dead;
    }
    let uncounted = tally.attempt.saturating_sub(tally.failures).saturating_sub(1);
    if is_passing(sqlstate) && uncounted < free {
        return Verdict::Retry { counted: false };
    }
    if tally.failures.saturating_add(1) >= tally.max_attempts {
        Verdict::Dead
    } else {
        Verdict::Retry { counted: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(attempt: i32, failures: i32, max_attempts: i32) -> Tally {
        Tally { attempt, failures, max_attempts }
    }

    #[test]
    fn words_go_both_ways() {
        for state in [State::Ready, State::Scheduled, State::Leased, State::Waiting] {
            assert_eq!(State::parse(state.word()), Some(state));
        }
        for outcome in [Outcome::Done, Outcome::Dead, Outcome::Cancelled] {
            assert_eq!(Outcome::parse(outcome.word()), Some(outcome));
        }
        assert_eq!(State::parse("done"), None);
    }

    #[test]
    fn the_last_allowed_failure_is_death() {
        assert_eq!(judge(tally(1, 0, 2), "P0001", false, 20), Verdict::Retry { counted: true });
        assert_eq!(judge(tally(2, 1, 2), "P0001", false, 20), Verdict::Dead);
        assert_eq!(judge(tally(1, 0, 1), "P0001", false, 20), Verdict::Dead);
    }

    #[test]
    fn permanent_failures_are_not_repeated() {
        assert_eq!(judge(tally(1, 0, 5), "P0001", true, 20), Verdict::Dead);
    }

    #[test]
    fn after_the_last_number_of_an_attempt_there_is_no_next() {
        assert_eq!(judge(tally(i32::MAX, 0, 5), "40001", false, 20), Verdict::Dead);
        assert_eq!(judge(tally(i32::MAX - 1, 0, 5), "P0001", false, 20), Verdict::Retry { counted: true });
    }

    #[test]
    fn passing_errors_are_free_but_not_for_ever() {
        for sqlstate in ["40001", "40P01", "55P03"] {
            assert_eq!(judge(tally(1, 0, 1), sqlstate, false, 20), Verdict::Retry { counted: false });
            assert_eq!(judge(tally(20, 0, 1), sqlstate, false, 20), Verdict::Retry { counted: false });
            assert_eq!(judge(tally(21, 0, 1), sqlstate, false, 20), Verdict::Dead);
        }
    }
}
