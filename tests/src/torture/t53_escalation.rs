//! T53: what a low role tries to become more than it is, to read what it may not, or to stop others.

use super::attacks::{script, Bank};
use super::{Part, Run};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T53",
    title: "what a low role tries: shadows, objects, settings, windows, handlers, names, rights",
    unit: "attacks",
    quick: 253,
    full: 2_000,
    run: escalate,
}];

const FILES: [&str; 7] = [
    include_str!("../../attacks/shadows.sql"),
    include_str!("../../attacks/objects.sql"),
    include_str!("../../attacks/settings.sql"),
    include_str!("../../attacks/window.sql"),
    include_str!("../../attacks/handlers.sql"),
    include_str!("../../attacks/names.sql"),
    include_str!("../../attacks/rights.sql"),
];

fn escalate(run: &mut Run) {
    let cases: Vec<script::Case> = FILES.iter().flat_map(|text| script::parse(text)).collect();
    // Not preloaded: so the sessions load the library themselves, after what they set.
    let mut bank = Bank::open(run.server().preload(false).start());
    bank.rounds(run, &cases);
}
