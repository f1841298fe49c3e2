//! The torture parts: long runs of one fault each, with a ledger that must come out even. A part is
//! a function that repeats rounds until its [`Run`] says that it is enough; the program
//! `tests/torture.rs` runs them, quickly for `tests/run` and to full numbers for `tests/torture`.
//!
//! A new part is a file here with its `PARTS`, one line under "the files" and one in [`parts`].

pub mod attacks;
pub mod faults;
pub mod options;
pub mod report;
pub mod rng;
pub mod run;
pub mod stage;

pub use rng::Rng;
pub use run::Run;

// The files.
mod leftovers;
mod t01_kill;
mod t04_stop;
mod t08_freeze;
mod t09_poison;
mod t12_disk;
mod t14_disk;
mod t14_steps;
mod t16_claimers;
mod t18_lease_end;
mod t19_batches;
mod t20_subtransactions;
mod t21_settings;
mod t22_procedures;
mod t23_transactions;
mod t24_changes;
mod t24_model;
mod t25_idle_queue;
mod t27_same_instant;
mod t34_promotion;
mod t38_extension;
mod t39_database;
mod t41_slots;
mod t46_idle;
mod t47_growth;
mod t48_payloads;
mod t49_limits;
mod t50_soak;
mod t52_identity;
mod t53_escalation;
mod t54_roles;
mod t57_fuzz;
mod t59_hands;
mod t61_canaries;
mod t64_schedules;
mod t65_groups;

/// One part of the plan.
#[derive(Debug)]
pub struct Part {
    /// Its number in the plan: `T01`.
    pub id: &'static str,
    /// What is done, and to whom, in a few words. `tests/run --list` reads it from the source, so
    /// it is one literal on the line of its name.
    pub title: &'static str,
    /// What is counted: kills, rounds, jobs.
    pub unit: &'static str,
    /// How many in `tests/run`: 10 to 20 seconds on two cores.
    pub quick: u64,
    /// How many it takes in all, over as many sittings as needed.
    pub full: u64,
    /// Does it. A panic is a failure like a difference.
    pub run: fn(&mut Run),
}

impl Part {
    /// The name under which it is listed and found.
    pub fn name(&self) -> String {
        format!("{} {}", self.id, self.title)
    }
}

/// Every part there is.
pub fn parts() -> Vec<&'static Part> {
    // One line each, so that two who add one do not meet.
    #[rustfmt::skip]
    let families: &[&'static [Part]] = &[
        t01_kill::PARTS,
        t04_stop::PARTS,
        t08_freeze::PARTS,
        t09_poison::PARTS,
        t12_disk::PARTS,
        t14_disk::PARTS,
        t14_steps::PARTS,
        t16_claimers::PARTS,
        t18_lease_end::PARTS,
        t19_batches::PARTS,
        t20_subtransactions::PARTS,
        t21_settings::PARTS,
        t22_procedures::PARTS,
        t23_transactions::PARTS,
        t24_changes::PARTS,
        t24_model::PARTS,
        t25_idle_queue::PARTS,
        t27_same_instant::PARTS,
        t34_promotion::PARTS,
        t38_extension::PARTS,
        t39_database::PARTS,
        t41_slots::PARTS,
        t46_idle::PARTS,
        t47_growth::PARTS,
        t48_payloads::PARTS,
        t49_limits::PARTS,
        t50_soak::PARTS,
        t52_identity::PARTS,
        t53_escalation::PARTS,
        t54_roles::PARTS,
        t57_fuzz::PARTS,
        t59_hands::PARTS,
        t61_canaries::PARTS,
        t64_schedules::PARTS,
        t65_groups::PARTS,
    ];
    let mut parts: Vec<&Part> = families.iter().flat_map(|family| family.iter()).collect();
    parts.sort_by_key(|part| part.id);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_file_of_a_part_is_listed_and_every_number_is_used_once() {
        let own = include_str!("mod.rs");
        let folder = crate::repository().join("tests/src/torture");
        for entry in fs::read_dir(folder).expect("the folder of the parts") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            let Some(module) = name.strip_suffix(".rs") else { continue };
            if !module.starts_with('t') || !module[1..].starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            assert!(own.contains(&format!("mod {module};")), "{name} is not declared");
            assert!(own.contains(&format!("{module}::PARTS")), "{name} is not in parts()");
        }
        let ids: Vec<&str> = parts().iter().map(|part| part.id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    }

    #[test]
    fn a_part_has_numbers_that_make_sense() {
        for part in parts() {
            assert!(part.quick > 0 && part.quick <= part.full, "{}", part.name());
            assert!(!part.title.contains('\t') && !part.unit.is_empty(), "{}", part.name());
        }
    }
}
