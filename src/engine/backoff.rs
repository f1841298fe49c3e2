//! When a failed job runs again.

use super::time::Span;

/// The waiting times of a queue or handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Span,
    /// The longest ever.
    pub most: Span,
}

/// Attempts that ended in a serialization failure, a deadlock or a lock timeout are repeated without
/// being counted, this often; from then on they count like any other failure.
pub const FREE_RETRIES: i32 = 20;

impl Backoff {
    /// The wait after `failures` failures (at least 1): doubles each time, never over `most`, then give
    /// or take a tenth, so that jobs which failed together do not all come back together.
    /// `noise` is any number; it is the only source of chance.
    pub fn wait(self, failures: i32, noise: u64) -> Span {
        let doublings = u32::try_from(failures.saturating_sub(1).clamp(0, 62)).unwrap_or(62);
        let plain = self.first.0.saturating_mul(1_i64 << doublings).min(self.most.0).max(0);
        jitter(Span(plain), noise)
    }
}

/// The wait before a retry that is not counted: 10 ms to 1 s, longer as they repeat.
pub fn free_wait(repeats: i32, noise: u64) -> Span {
    Backoff { first: Span::from_millis(10), most: Span::from_millis(1_000) }.wait(repeats, noise)
}

fn jitter(span: Span, noise: u64) -> Span {
    let tenth = span.0 / 10;
    let width = u64::try_from(tenth.saturating_mul(2).saturating_add(1)).unwrap_or(1);
    let offset = i64::try_from(noise % width).unwrap_or(0) - tenth;
    Span(span.0.saturating_add(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: Backoff = Backoff { first: Span(1_000_000), most: Span(3_600_000_000) };

    #[test]
    fn it_doubles_and_stops_at_the_cap() {
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (10, 512), (13, 3_600), (1_000_000, 3_600)] {
            let plain = seconds * 1_000_000;
            for noise in [0, 1, 12_345_678, u64::MAX] {
                let wait = B.wait(failures, noise).0;
                assert!((plain - wait).abs() <= plain / 10, "{failures} failures: {wait}");
            }
        }
    }

    #[test]
    fn noise_reaches_both_ends_and_never_leaves_them() {
        let all: Vec<i64> = (0..200_001).map(|n| B.wait(1, n).0).collect();
        assert_eq!(all.iter().min(), Some(&900_000));
        assert_eq!(all.iter().max(), Some(&1_100_000));
    }

    #[test]
    fn zero_means_at_once() {
        assert_eq!(Backoff { first: Span(0), most: Span(0) }.wait(5, 77), Span(0));
    }

    #[test]
    fn free_retries_come_soon() {
        assert!(free_wait(1, 3).0 <= 11_000);
        assert!(free_wait(60, 3).0 <= 1_100_000);
    }
}
