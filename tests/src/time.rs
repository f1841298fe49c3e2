//! Waiting and measuring. Nothing here sleeps for luck: every wait polls a state and has a
//! deadline, after which it fails and says what it waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often a state is looked at. Below what any test measures, above what loads the machine.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `is_true`, at most `deadline`; fails the test with `what` after that. Returns how
/// long it took.
///
/// # Panics
/// When the deadline passes first.
pub fn wait_until(deadline: Duration, what: &str, mut is_true: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    wait_for(deadline, what, || is_true().then_some(()));
    began.elapsed()
}

/// Waits until `look` returns a value, at most `deadline`, and returns it.
///
/// # Panics
/// When the deadline passes first.
pub fn wait_for<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(began.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        thread::sleep(POLL);
    }
}

/// Sets a flag when it is dropped, by a panic too: a thread that works until then must not outlive the test.
pub struct Until<'a>(pub &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `work` and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let value = work();
    (value, began.elapsed())
}

/// The middle value; of an even number, the lower of the two in the middle.
///
/// # Panics
/// When there is none.
pub fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    assert!(!values.is_empty(), "a median of nothing");
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted[(sorted.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[3, 1, 2]), 2);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.0);
        assert_eq!(median(&[7]), 7);
    }

    #[test]
    fn wait_until_returns_as_soon_as_the_state_is_reached() {
        let mut looks = 0;
        wait_until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for: rain")]
    fn wait_until_names_what_did_not_happen() {
        wait_until(Duration::from_millis(20), "rain", || false);
    }
}
