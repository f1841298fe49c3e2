//! T22: procedures that commit between their steps are killed there.

use super::faults::Fault;
use super::stage::Stage;
use super::{Part, Run};
use crate::ledger::books::STEPS;
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use std::thread;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T22",
    title: "procedures killed and terminated between their commits",
    unit: "blows",
    quick: 30,
    full: 1_000,
    run: strike_procedures,
}];

/// Each attempt runs its steps once and in order, and one attempt's completion is accepted.
fn strike_procedures(run: &mut Run) {
    let rules = Rules { steps: 3, at_least_once: true, ..Rules::default() };
    let mut stage = Stage::open(run.server(), rules);
    stage.expected.push("was terminated by signal 9");
    // One completion of each job is looked for by its row.
    stage.watch.ask(|client| client.batch_execute("SELECT pgq.configure('steps', keep_done => '1 day')"));
    stage.begin(run, &Mix { queue: STEPS, failing: 0, hopeless: 0, ..Mix::default() });
    while run.goes_on() {
        thread::sleep(Duration::from_millis(run.rng.below(40)));
        let fault = if run.rng.chance(15) { Fault::Kill } else { Fault::Terminate };
        if fault.strike(&mut stage, &mut run.rng) {
            run.fault(fault.name());
            run.did(1);
        }
    }
    let broken = "SELECT count(*) FROM (SELECT FROM led_eff GROUP BY job HAVING count(DISTINCT attempt) > 1) AS again";
    let broken = stage.watch.number(broken);
    let verdict = stage.close(run);
    eprintln!("{}: {broken} procedures were broken off and ran again", run.part.id);
    if verdict.ran > 100 && broken == 0 {
        run.differ("no blow hit a procedure between two commits");
    }
}
