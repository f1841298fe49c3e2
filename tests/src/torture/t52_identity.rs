//! T52: the seven ways by which code climbs out of a worker that is a superuser and switches down, tried by
//! handlers of a low role; and a superuser's session that is to run a low role's handler.

use super::attacks::{script, Bank};
use super::{Part, Run};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T52",
    title: "handlers that climb, and a superuser who runs them",
    unit: "attacks",
    quick: 22,
    full: 1_000,
    run: climb,
}];

fn climb(run: &mut Run) {
    let cases = script::parse(include_str!("../../attacks/identity.sql"));
    let mut bank = Bank::open(run.server().start());
    bank.rounds(run, &cases);
}
