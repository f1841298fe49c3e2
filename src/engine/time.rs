//! Moments and spans in microseconds, as PostgreSQL's `timestamptz` counts them.
//!
//! `now` is always an argument: nothing here reads a clock.

/// A moment: microseconds since 2000-01-01 00:00 UTC (PostgreSQL's `TimestampTz`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub i64);

/// A length of time in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub i64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// From milliseconds; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Span(millis.saturating_mul(1_000))
    }

    /// Whole milliseconds, rounded up, so that a wait of this length is not too short.
    pub const fn as_millis(self) -> i64 {
        self.0.saturating_add(999) / 1_000
    }

    /// `n` times as long; saturates.
    #[must_use]
    pub const fn times(self, n: i64) -> Self {
        Span(self.0.saturating_mul(n))
    }
}

impl Micros {
    /// The moment PostgreSQL calls `infinity`.
    pub const INFINITY: Micros = Micros(i64::MAX);

    /// The moment a span later; saturates.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Micros(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; zero when it lies ahead (clocks step back).
    pub const fn since(self, earlier: Micros) -> Span {
        let span = self.0.saturating_sub(earlier.0);
        Span(if span < 0 { 0 } else { span })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_steps_back_gives_no_negative_span() {
        assert_eq!(Micros(5).since(Micros(9)), Span::ZERO);
        assert_eq!(Micros(9).since(Micros(5)), Span(4));
    }

    #[test]
    fn sums_saturate_at_infinity() {
        assert_eq!(Micros::INFINITY.after(Span(1)), Micros::INFINITY);
        assert_eq!(Span(i64::MAX).times(2), Span(i64::MAX));
    }

    #[test]
    fn milliseconds_round_up() {
        assert_eq!(Span(1).as_millis(), 1);
        assert_eq!(Span(1_000).as_millis(), 1);
        assert_eq!(Span(1_001).as_millis(), 2);
    }
}
