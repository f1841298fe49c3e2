//! In which pieces the jobs of a queue are walked: those of each known priority from where they were handed out, and
//! what lies between the known ones from its start. Together, in the order of the claim, every priority once.

/// A priority, and the id below which its jobs were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The priority.
    pub priority: i32,
    /// Where its walk begins.
    pub from: i64,
}

/// A piece of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The largest priority in it.
    pub most: i32,
    /// The smallest.
    pub least: i32,
    /// Only ids from this on.
    pub from: i64,
    /// Which of the levels it is; `None` for what lies between.
    pub level: Option<usize>,
}

/// The pieces of a walk; `levels` have the largest priority first, each once.
pub fn pieces(levels: &[Level]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2 * levels.len() + 1);
    let mut most = Some(i32::MAX);
    for (at, level) in levels.iter().enumerate() {
        let least = level.priority.checked_add(1);
        if let (Some(most), Some(least)) = (most, least) {
            if least <= most {
                pieces.push(Piece { most, least, from: i64::MIN, level: None });
            }
        }
        let Level { priority, from } = *level;
        pieces.push(Piece { most: priority, least: priority, from, level: Some(at) });
        most = priority.checked_sub(1);
    }
    if let Some(most) = most {
        pieces.push(Piece { most, least: i32::MIN, from: i64::MIN, level: None });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(most: i32, least: i32) -> Piece {
        Piece { most, least, from: i64::MIN, level: None }
    }

    fn of(level: usize, priority: i32, from: i64) -> Piece {
        Piece { most: priority, least: priority, from, level: Some(level) }
    }

    fn level(priority: i32, from: i64) -> Level {
        Level { priority, from }
    }

    #[test]
    fn a_queue_that_nobody_walked_is_one_piece() {
        assert_eq!(pieces(&[]), [between(i32::MAX, i32::MIN)]);
    }

    #[test]
    fn known_priorities_begin_where_they_were_left_and_the_rest_at_its_start() {
        let expected =
            [between(i32::MAX, 6), of(0, 5, 70), between(4, 1), of(1, 0, 90), of(2, -1, 7), between(-2, i32::MIN)];
        assert_eq!(pieces(&[level(5, 70), level(0, 90), level(-1, 7)]), expected);
    }

    #[test]
    fn the_extreme_priorities_have_nothing_beyond_them() {
        let expected = [of(0, i32::MAX, 1), between(i32::MAX - 1, i32::MIN + 1), of(1, i32::MIN, 2)];
        assert_eq!(pieces(&[level(i32::MAX, 1), level(i32::MIN, 2)]), expected);
    }
}
