//! Whose turn it is in a group.

/// What a queue says about its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Jobs of one group that run at a time.
    pub running: i32,
    /// Does a job that failed let the others of its group pass until its next try?
    pub passes: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Rule { running: 1, passes: false }
    }
}

/// A live job of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: i64,
    /// Has somebody taken it?
    pub is_running: bool,
    /// Does it wait for its next try?
    pub is_retry: bool,
}

/// May the job `id`, which nobody has taken, run now? `members` are all jobs of its group that are not waiting: when
/// fewer run than may, and none that comes before it still has to begin.
pub fn admits(members: &[Member], id: i64, rule: Rule) -> bool {
    let others = || members.iter().filter(|m| m.id != id);
    let running = others().filter(|m| m.is_running).count();
    let is_first = others().all(|m| m.id > id || m.is_running || (rule.passes && m.is_retry));
    is_first && i64::try_from(running).unwrap_or(i64::MAX) < i64::from(rule.running)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Rule = Rule { running: 1, passes: false };

    fn member(id: i64) -> Member {
        Member { id, is_running: false, is_retry: false }
    }

    fn running(id: i64) -> Member {
        Member { is_running: true, ..member(id) }
    }

    #[test]
    fn one_at_a_time_and_the_first_one_first() {
        assert!(admits(&[member(1), member(2)], 1, ORDER));
        assert!(!admits(&[member(1), member(2)], 2, ORDER));
        assert!(!admits(&[running(1), member(2)], 2, ORDER));
        assert!(admits(&[member(2)], 2, ORDER));
        assert!(!admits(&[member(1), running(2)], 1, ORDER), "a late one waits for the one that runs");
    }

    #[test]
    fn a_failed_one_holds_its_group_or_lets_it_pass() {
        let retry = Member { is_retry: true, ..member(1) };
        assert!(!admits(&[retry, member(2)], 2, ORDER));
        assert!(admits(&[retry, member(2)], 2, Rule { passes: true, ..ORDER }));
        assert!(!admits(&[Member { is_running: true, ..retry }, member(2)], 2, Rule { passes: true, ..ORDER }));
    }

    #[test]
    fn more_at_a_time_still_begin_in_order() {
        let two = Rule { running: 2, ..ORDER };
        assert!(admits(&[running(1), member(2), member(3)], 2, two));
        assert!(!admits(&[running(1), member(2), member(3)], 3, two));
        assert!(!admits(&[running(1), running(2), member(3)], 3, two));
    }
}
