//! How many executors a database should have, and for whom.

/// What one handler could use.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// The role that runs it.
    pub role: u32,
    /// Its jobs that may run now; counting may stop at a bound.
    pub ready: usize,
    /// Executors that work for it.
    pub running: usize,
    /// The most executors it may have.
    pub limit: usize,
    /// Is it too early to start one of this role?
    pub held: bool,
}

/// The executors of one role in this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The role they are connected as.
    pub role: u32,
    /// Without work, or just starting.
    pub idle: usize,
    /// All of them.
    pub all: usize,
}

/// What to do for one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The role.
    pub role: u32,
    /// Idle executors to wake.
    pub wake: usize,
    /// New ones to start.
    pub start: usize,
    /// One of its handlers has work and nobody to do it, and there is no room: somebody else should leave.
    pub starving: bool,
}

/// The most executors a handler may have: what was registered, else all but one, so that one job's
/// handler cannot keep every other waiting.
pub fn handler_limit(concurrency: Option<i32>, max_workers: usize) -> usize {
    let most = max_workers.max(1);
    match concurrency.and_then(|c| usize::try_from(c).ok()) {
        Some(limit) => limit.clamp(1, most),
        None => most.saturating_sub(1).max(1),
    }
}

/// Where in a list of `len` an executor begins, so that they are far from each other however many there are: multiples
/// of the golden ratio (Knuth, The Art of Computer Programming 3, 6.4).
pub fn place(executor: usize, len: usize) -> usize {
    let part = u32::try_from(executor).unwrap_or(0).wrapping_mul(0x9E37_79B9);
    usize::try_from((u64::from(part) * u64::try_from(len).unwrap_or(0)) >> 32).unwrap_or(0)
}

/// Shares `room` (executors that may still be started) among the roles: first one to each role that
/// has none, then the rest in turn.
pub fn orders(demands: &[Demand], pools: &[Pool], room: usize) -> Vec<Order> {
    let mut orders: Vec<Order> = Vec::new();
    let mut wanted: Vec<usize> = Vec::new();
    for demand in demands {
        let want = demand.ready.min(demand.limit.saturating_sub(demand.running));
        match orders.iter().position(|o| o.role == demand.role) {
            Some(at) => wanted[at] += want,
            None => {
                orders.push(Order { role: demand.role, wake: 0, start: 0, starving: false });
                wanted.push(want);
            }
        }
    }
    let mut left = room;
    let pool = |role: u32| pools.iter().find(|p| p.role == role).map_or((0, 0), |p| (p.idle, p.all));
    for (order, want) in orders.iter_mut().zip(wanted.iter_mut()) {
        let (idle, all) = pool(order.role);
        order.wake = idle.min(*want);
        *want -= order.wake;
        let held = demands.iter().any(|d| d.role == order.role && d.held);
        if held {
            *want = 0;
        }
        if *want > 0 && all == 0 && left > 0 {
            left -= 1;
            order.start = 1;
            *want -= 1;
        }
        let neglected = demands.iter().any(|d| d.role == order.role && d.ready > 0 && d.running == 0);
        order.starving = neglected && !held && idle == 0 && order.start == 0 && left == 0;
    }
    while left > 0 && wanted.iter().any(|w| *w > 0) {
        for (order, want) in orders.iter_mut().zip(wanted.iter_mut()) {
            if *want > 0 && left > 0 {
                left -= 1;
                order.start += 1;
                *want -= 1;
            }
        }
    }
    orders.retain(|o| o.wake > 0 || o.start > 0 || o.starving);
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(role: u32, ready: usize, running: usize, limit: usize) -> Demand {
        Demand { role, ready, running, limit, held: false }
    }

    #[test]
    fn a_handler_leaves_one_executor_to_the_others() {
        for (concurrency, workers, limit) in
            [(None, 4, 3), (None, 1, 1), (None, 2, 1), (Some(4), 4, 4), (Some(9), 4, 4), (Some(1), 4, 1)]
        {
            assert_eq!(handler_limit(concurrency, workers), limit, "{concurrency:?} of {workers}");
        }
    }

    #[test]
    fn executors_begin_far_from_each_other() {
        let begins: Vec<usize> = (0..4).map(|executor| place(executor, 1_000)).collect();
        assert_eq!(begins, [0, 618, 236, 854]);
        assert_eq!((place(3, 1), place(63, 0)), (0, 0));
    }

    #[test]
    fn idle_executors_are_woken_before_new_ones_start() {
        let pools = [Pool { role: 1, idle: 1, all: 2 }];
        let got = orders(&[demand(1, 100, 1, 3)], &pools, 2);
        assert_eq!(got, [Order { role: 1, wake: 1, start: 1, starving: false }]);
    }

    #[test]
    fn every_role_gets_one_before_any_gets_two() {
        let got = orders(&[demand(1, 100, 0, 3), demand(2, 1, 0, 3)], &[], 3);
        assert_eq!(got[0].start, 2);
        assert_eq!(got[1].start, 1);
    }

    #[test]
    fn a_role_without_room_is_starving() {
        let pools = [Pool { role: 1, idle: 0, all: 4 }];
        let got = orders(&[demand(2, 5, 0, 3)], &pools, 0);
        assert_eq!(got, [Order { role: 2, wake: 0, start: 0, starving: true }]);
    }

    #[test]
    fn a_role_whose_executors_are_busy_elsewhere_is_starving_too() {
        let pools = [Pool { role: 2, idle: 0, all: 2 }];
        let busy = demand(2, 50, 2, 3);
        assert_eq!(orders(&[busy], &pools, 0), [], "more of the same can wait");
        let got = orders(&[busy, demand(2, 1, 0, 3)], &pools, 0);
        assert_eq!(got, [Order { role: 2, wake: 0, start: 0, starving: true }]);
    }

    #[test]
    fn a_handler_at_its_limit_wants_nothing() {
        assert_eq!(orders(&[demand(1, 100, 3, 3)], &[], 4), []);
    }

    #[test]
    fn a_role_that_is_held_back_gets_no_new_ones_and_takes_nobodys_room() {
        let held = Demand { held: true, ..demand(1, 100, 0, 3) };
        let pools = [Pool { role: 1, idle: 1, all: 1 }];
        let got = orders(&[held, demand(2, 100, 0, 3)], &pools, 2);
        let wakes = Order { role: 1, wake: 1, start: 0, starving: false };
        assert_eq!(got, [wakes, Order { role: 2, wake: 0, start: 2, starving: false }]);
        assert_eq!(orders(&[held], &[], 0), [], "and is not starving");
    }

    #[test]
    fn no_more_executors_than_jobs() {
        let got = orders(&[demand(1, 1, 0, 3)], &[], 4);
        assert_eq!(got, [Order { role: 1, wake: 0, start: 1, starving: false }]);
    }
}
