//! T50: a soak: a mixed load, and all the faults in random order.

use super::faults::Fault;
use super::stage::Stage;
use super::{Part, Run};
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use std::thread;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T50",
    title: "a soak with every kind of fault in random order",
    unit: "faults",
    quick: 13,
    full: 500,
    run: soak,
}];

/// A cancel fails a job; a role with a serializable default gets failures that are excused.
fn soak(run: &mut Run) {
    let rules = Rules { max_attempts: 50, intruder: Some("57014"), excuses: true, ..Rules::default() };
    let mut stage = Stage::open(run.server(), rules);
    stage.expected.push("was terminated by signal 9");
    stage.begin(run, &Mix { backlog: 200, ..Mix::default() });
    // Each once before any comes twice, so that a short run has them all.
    let mut order: Vec<Fault> = Vec::new();
    while run.goes_on() {
        if order.is_empty() {
            order = Fault::ALL.to_vec();
        }
        let next = usize::try_from(run.rng.below(order.len() as u64)).expect("an index");
        let fault = order[next];
        if fault.strike(&mut stage, &mut run.rng) {
            order.swap_remove(next);
            run.fault(fault.name());
            run.did(1);
        }
        thread::sleep(Duration::from_millis(run.rng.below(400)));
    }
    stage.close(run);
}
