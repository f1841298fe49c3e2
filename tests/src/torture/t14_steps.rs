//! T14: a process dies exactly at each internal step: between the claim and the handler, between
//! the commit and whatever follows it, in the middle of a wake-up. With a build that has hooks;
//! the installed one has none, which is looked at first.

use super::stage::Stage;
use super::{Part, Run};
use crate::ledger::books::STEPS;
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use crate::{hooked, installation, wait_for};
use std::fs;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[
    Part {
        id: "T14",
        title: "a crash at each internal step of functions, the scheduler and a wake-up",
        unit: "crashes",
        quick: 13,
        full: 650,
        run: functions,
    },
    Part {
        id: "T14p",
        title: "a crash at each internal step of procedures",
        unit: "crashes",
        quick: 4,
        full: 200,
        run: procedures,
    },
];

/// In order, each alone or after another that must have been hit before it.
const OF_FUNCTIONS: &[&[&str]] = &[
    &["claimed"],
    &["before handler"],
    &["after handler"],
    &["before commit"],
    &["transaction ended"],
    &["failure taken"],
    &["promoted"],
    &["before handler", "crashes counted"],
    &["before handler", "crashes committed"],
    &["visible"],
    &["flag set"],
];

const OF_PROCEDURES: &[&[&str]] =
    &[&["lease committed"], &["procedure returned"], &["procedure finished"], &["promoted"]];

/// How long a point may take to be reached: two crashes and what follows.
const REACHED: Duration = Duration::from_secs(90);

fn functions(run: &mut Run) {
    if !has_symbol(&hooked::library()) || has_symbol(&installation::library()) {
        run.differ("the build with hooks has none, or the installed one has some");
        return;
    }
    strike(run, OF_FUNCTIONS, &Mix::default(), Rules::default());
}

fn procedures(run: &mut Run) {
    let rules = Rules { steps: 3, at_least_once: true, ..Rules::default() };
    strike(run, OF_PROCEDURES, &Mix { queue: STEPS, failing: 0, hopeless: 0, ..Mix::default() }, rules);
}

fn has_symbol(library: &std::path::Path) -> bool {
    let bytes = fs::read(library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
    bytes.windows(hooked::SYMBOL.len()).any(|window| window == hooked::SYMBOL)
}

fn strike(run: &mut Run, points: &'static [&'static [&'static str]], mix: &Mix, rules: Rules) {
    let builder =
        run.server().hooked().conf("pgq.max_crashes", 1000).conf("pgq.backoff", "10ms").conf("pgq.max_backoff", "50ms");
    let mut stage = Stage::open(builder, rules);
    stage.expected.push("was terminated by signal 9");
    stage.begin(run, mix);
    let mut turn = 0;
    while run.goes_on() {
        let points = points[turn % points.len()];
        turn += 1;
        let before = hooked::hits(&stage.server);
        hooked::arm(&stage.server, points);
        wait_for(REACHED, points[points.len() - 1], || {
            // A question now and then, so that one who connects is there when the server is back.
            stage.watch.try_ask(|client| client.query_one("SELECT 1", &[]));
            (hooked::hits(&stage.server) >= before + points.len()).then_some(())
        });
        points.iter().for_each(|point| run.fault(point));
        run.did(points.len() as u64);
    }
    stage.close(run);
}
