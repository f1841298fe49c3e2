//! P01: random sequences of every call of the SQL API, with transactions, time and crashes among
//! them, against the queue in memory that `crate::random` has. Two in three without a scheduler.

use super::{Part, Run};
use crate::random::{search, server, Player};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "P01",
    title: "random calls of the SQL API against a model",
    unit: "sequences",
    quick: 250,
    full: 100_000,
    run: compare,
}];

const BATCH: u64 = 100;

fn compare(run: &mut Run) {
    for with_scheduler in [false, true] {
        let server = server(with_scheduler);
        let mut player = Player::new(&server, with_scheduler);
        let until = if with_scheduler { run.count } else { run.count - run.count / 3 };
        while run.goes_on() && run.done() < until {
            let sequences = (until - run.done()).min(BATCH);
            let seed = run.rng.next_u64();
            if let Err(script) = search(&mut player, u32::try_from(sequences).unwrap_or(1), seed) {
                run.differ(script);
            }
            run.did(sequences);
        }
        (0..player.crashes).for_each(|_| run.fault("crash"));
        (0..player.done / 1_000).for_each(|_| run.fault("thousand calls"));
    }
}
