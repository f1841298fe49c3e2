//! A snapshot as pg_current_snapshot() prints it: which transactions it sees.

/// `xmin:xmax:xid,xid…`
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// All before it are over.
    oldest: u64,
    /// It and all after it had not begun.
    next: u64,
    /// In between: those that ran, in ascending order. Top-level transactions only.
    running: Vec<u64>,
}

impl Snapshot {
    /// Reads it; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let oldest = parts.next()?.parse().ok()?;
        let next = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let running: Result<Vec<u64>, _> = list.split(',').filter(|xid| !xid.is_empty()).map(str::parse).collect();
        let mut running = running.ok()?;
        running.sort_unstable();
        Some(Snapshot { oldest, next, running })
    }

    /// Does it see what this top-level transaction, which has committed by now, did?
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.oldest || (xid < self.next && self.running.binary_search(&xid).is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_what_was_over_when_it_was_taken() {
        let seen = |text: &str, xids: std::ops::Range<u64>| {
            let snapshot = Snapshot::parse(text);
            snapshot.map(|s| xids.filter(|xid| s.sees(*xid)).collect::<Vec<u64>>())
        };
        assert_eq!(seen("10:20:10,14,15", 8..23), Some(vec![8, 9, 11, 12, 13, 16, 17, 18, 19]));
        assert_eq!(seen("7:7:", 6..8), Some(vec![6]));
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in ["", "1", "1:2", "a:2:", "1:2:x", "1:b:"] {
            assert_eq!(Snapshot::parse(bad), None, "{bad}");
        }
    }
}
