//! What a transaction changes in the numbers of its queues: noted as it goes, taken back with the subtransactions that
//! roll back, applied to the counters when it has committed. Notes grow when they are made and never afterwards, so
//! that the callbacks of a commit or a rollback allocate nothing.

use super::names::{self, MAX_NAME};
use super::state::{Outcome, State};

/// Something of which each queue has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Live jobs of a state.
    Live(State),
    /// Dead jobs.
    Dead,
    /// Done and cancelled jobs that are kept.
    Kept,
    /// Runs that succeeded, since the start.
    Done,
    /// Runs that failed, since the start.
    Failed,
}

/// How many facts there are.
pub const FACTS: usize = 8;
/// The first of them can be counted in the tables; the others are totals.
pub const COUNTABLE: usize = 6;

/// A number for each fact.
pub type Numbers = [i64; FACTS];

impl Fact {
    /// Its place among the numbers.
    pub const fn place(self) -> usize {
        match self {
            Fact::Live(State::Ready) => 0,
            Fact::Live(State::Scheduled) => 1,
            Fact::Live(State::Leased) => 2,
            Fact::Live(State::Waiting) => 3,
            Fact::Dead => 4,
            Fact::Kept => 5,
            Fact::Done => 6,
            Fact::Failed => 7,
        }
    }

    /// What a finished job counts as while it is kept.
    pub const fn kept(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Dead => Fact::Dead,
            Outcome::Done | Outcome::Cancelled => Fact::Kept,
        }
    }
}

/// The name of a queue, in a size that is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Name {
    hash: u64,
    length: u8,
    bytes: [u8; MAX_NAME],
}

impl Name {
    /// `None` when it is no name: somebody wrote it into the table by hand.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; MAX_NAME];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Name { hash: names::hash(text), length: u8::try_from(text.len()).ok()?, bytes })
    }

    /// As text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or("")
    }

    /// As a number.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// What one queue gained and lost.
#[derive(Debug, Clone, Copy)]
pub struct Delta {
    level: i32,
    /// The queue.
    pub queue: Name,
    /// How much more of each.
    pub numbers: Numbers,
}

/// The notes of a transaction: a stack, the deepest level of subtransactions last.
#[derive(Debug, Default)]
pub struct Deltas {
    notes: Vec<Delta>,
    lost: bool,
}

impl Deltas {
    /// Nothing.
    pub const fn new() -> Self {
        Deltas { notes: Vec::new(), lost: false }
    }

    /// A queue has `n` more of something, says the subtransaction at `level` (1 for the transaction itself).
    pub fn note(&mut self, level: i32, queue: &str, fact: Fact, n: i64) {
        if n == 0 {
            return;
        }
        let Some(queue) = Name::new(queue) else { return self.lost = true };
        let known = self.notes.iter_mut().rev().take_while(|d| d.level == level).find(|d| d.queue == queue);
        if let Some(delta) = known {
            delta.numbers[fact.place()] += n;
            return;
        }
        if self.notes.try_reserve(1).is_err() {
            return self.lost = true;
        }
        let mut numbers = Numbers::default();
        numbers[fact.place()] = n;
        self.notes.push(Delta { level, queue, numbers });
    }

    /// The subtransaction at `level` became part of its parent.
    pub fn kept(&mut self, level: i32) {
        let first = self.notes.partition_point(|d| d.level < level);
        let mut end = first;
        for at in first..self.notes.len() {
            let Delta { queue, numbers, .. } = self.notes[at];
            let parent = self.notes[..end].iter_mut().rev().take_while(|d| d.level == level - 1);
            match parent.into_iter().find(|d| d.queue == queue) {
                Some(delta) => delta.numbers.iter_mut().zip(numbers).for_each(|(sum, n)| *sum += n),
                None => {
                    self.notes[end] = Delta { level: level - 1, queue, numbers };
                    end += 1;
                }
            }
        }
        self.notes.truncate(end);
    }

    /// The subtransaction at `level` was rolled back.
    pub fn undone(&mut self, level: i32) {
        let first = self.notes.partition_point(|d| d.level < level);
        self.notes.truncate(first);
    }

    /// Forgets all, but keeps the room for it.
    pub fn clear(&mut self) {
        self.notes.clear();
        self.lost = false;
    }

    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && !self.lost
    }

    /// Could something not be noted? Then nobody knows what the transaction changed.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The notes; a queue may have several.
    pub fn notes(&self) -> &[Delta] {
        &self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Fact = Fact::Live(State::Ready);

    fn sums(deltas: &Deltas) -> Vec<(String, i64, i64)> {
        let mut sums: Vec<(String, i64, i64)> = Vec::new();
        for d in deltas.notes() {
            let (ready, dead) = (d.numbers[READY.place()], d.numbers[Fact::Dead.place()]);
            match sums.iter_mut().find(|s| s.0 == d.queue.text()) {
                Some(sum) => (sum.1, sum.2) = (sum.1 + ready, sum.2 + dead),
                None => sums.push((d.queue.text().into(), ready, dead)),
            }
        }
        sums.sort();
        sums
    }

    #[test]
    fn one_note_a_queue_and_level() {
        let mut deltas = Deltas::new();
        for _ in 0..1_000 {
            deltas.note(1, "a", READY, 1);
            deltas.note(1, "b", Fact::Dead, 2);
            deltas.note(1, "a", READY, 0);
        }
        assert_eq!(deltas.notes().len(), 2);
        assert_eq!(sums(&deltas), [("a".into(), 1_000, 0), ("b".into(), 0, 2_000)]);
        deltas.clear();
        assert!(deltas.is_empty());
    }

    #[test]
    fn what_is_rolled_back_is_taken_back() {
        let mut deltas = Deltas::new();
        deltas.note(1, "a", READY, 1);
        deltas.note(2, "a", READY, 10);
        deltas.note(3, "b", READY, 100);
        deltas.kept(3);
        deltas.note(2, "b", READY, 1_000);
        deltas.note(3, "a", READY, 10_000);
        deltas.undone(3);
        assert_eq!(sums(&deltas), [("a".into(), 11, 0), ("b".into(), 1_100, 0)]);
        deltas.undone(2);
        assert_eq!(sums(&deltas), [("a".into(), 1, 0)]);
    }

    #[test]
    fn a_thousand_savepoints_leave_one_note() {
        let mut deltas = Deltas::new();
        for n in 0..1_000 {
            deltas.note(2, "a", READY, 1);
            if n % 2 == 0 {
                deltas.kept(2);
            } else {
                deltas.undone(2);
            }
        }
        assert_eq!(deltas.notes().len(), 1);
        assert_eq!(sums(&deltas), [("a".into(), 500, 0)]);
    }

    #[test]
    fn random_nestings_agree_with_a_plain_stack() {
        let mut deltas = Deltas::new();
        let mut stack = vec![[0_i64; 3]];
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let level = i32::try_from(stack.len()).unwrap_or(0);
            match (seed >> 33) % 4 {
                0 if stack.len() < 9 => stack.push([0; 3]),
                1 if stack.len() > 1 => {
                    let top = stack.pop().unwrap_or_default();
                    let parent = stack.len() - 1;
                    (0..3).for_each(|q| stack[parent][q] += top[q]);
                    deltas.kept(level);
                }
                2 if stack.len() > 1 => {
                    stack.pop();
                    deltas.undone(level);
                }
                _ => {
                    let queue = usize::try_from((seed >> 40) % 3).unwrap_or(0);
                    let last = stack.len() - 1;
                    stack[last][queue] += 1;
                    deltas.note(level, ["a", "b", "c"][queue], READY, 1);
                }
            }
            for (at, queue) in ["a", "b", "c"].into_iter().enumerate() {
                let sum: i64 = stack.iter().map(|level| level[at]).sum();
                let noted = sums(&deltas).into_iter().find(|s| s.0 == queue).map_or(0, |s| s.1);
                assert_eq!(noted, sum);
            }
        }
    }

    #[test]
    fn what_is_no_name_makes_the_notes_incomplete() {
        let mut deltas = Deltas::new();
        deltas.note(1, &"x".repeat(60), READY, 1);
        assert!(deltas.is_lost() && !deltas.is_empty());
    }
}
