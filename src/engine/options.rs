//! Which value holds where several places may give one: the first given of put, handler, queue, setting.

use super::backoff::Backoff;
use super::time::Span;

/// The most jobs one call of claim takes.
pub const MAX_CLAIM: i32 = 10_000;

/// What a handler or a queue may say about retries; `None` leaves it to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetryOptions {
    /// Failures after which a job is dead.
    pub max_attempts: Option<i32>,
    /// Before the second attempt.
    pub backoff: Option<Span>,
    /// The longest wait.
    pub max_backoff: Option<Span>,
}

/// How a job retries, after all places were asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Failures after which it is dead.
    pub max_attempts: i32,
    /// Its waits.
    pub backoff: Backoff,
}

/// Asks the job, then `places` in order, then the settings.
pub fn retry(job: Option<i32>, places: &[RetryOptions], settings: Retry) -> Retry {
    let first = |pick: fn(&RetryOptions) -> Option<Span>| places.iter().find_map(pick);
    Retry {
        max_attempts: job.or_else(|| places.iter().find_map(|p| p.max_attempts)).unwrap_or(settings.max_attempts),
        backoff: Backoff {
            first: first(|p| p.backoff).unwrap_or(settings.backoff.first),
            most: first(|p| p.max_backoff).unwrap_or(settings.backoff.most),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Retry = Retry { max_attempts: 5, backoff: Backoff { first: Span(1), most: Span(100) } };

    #[test]
    fn the_first_given_wins() {
        let handler = RetryOptions { max_attempts: None, backoff: Some(Span(7)), max_backoff: None };
        let queue = RetryOptions { max_attempts: Some(3), backoff: Some(Span(9)), max_backoff: Some(Span(50)) };
        let got = retry(None, &[handler, queue], SETTINGS);
        assert_eq!(got, Retry { max_attempts: 3, backoff: Backoff { first: Span(7), most: Span(50) } });
        assert_eq!(retry(Some(1), &[handler, queue], SETTINGS).max_attempts, 1);
        assert_eq!(retry(None, &[], SETTINGS), SETTINGS);
    }
}
