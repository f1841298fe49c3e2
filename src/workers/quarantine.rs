//! What becomes of jobs whose process died: read in the journal, in quarantine from then on, dead after
//! `pgq.max_crashes`.
//!
//! The scheduler of a database does this in each look, before anything else: after a crash no executor was started
//! yet; and the jobs of an executor that ended alone are left out by the others as long as its slot is ENDED. The
//! slots are freed when the transaction that wrote the consequences has committed. Reading a record twice is
//! harmless: it counts only for a job that stands at the record's attempt.

use std::sync::atomic::Ordering::SeqCst;

use super::journal;
use crate::engine::journal::{Blame, Record};
use crate::engine::names;
use crate::outcome;
use crate::pg::shmem::{slot_state, Shared};
use crate::pg::xact::Caught;
use crate::pg::{at_commit, hooks, log};
use crate::store::{claim, quarantine};

/// A slot whose process is gone.
pub(super) struct Dead {
    number: usize,
    record: Record,
    blame: Blame,
}

fn is_alive(shared: &Shared, number: usize) -> bool {
    let state = shared.executors[number].state.load(SeqCst);
    state != slot_state::FREE && state != slot_state::ENDED
}

/// The records of processes that are gone, of databases for which `wanted` holds. A slot in which nothing makes sense
/// is cleared.
pub(super) fn find(shared: &Shared, wanted: impl Fn(u32) -> bool) -> Vec<Dead> {
    let Some(journal) = journal::attached(shared) else { return Vec::new() };
    let epoch = shared.started_at.load(SeqCst);
    let mut dead = Vec::new();
    for number in 0..shared.executors.len() {
        let slot = journal.slot(number);
        if slot.is_clear() || is_alive(shared, number) {
            continue;
        }
        match slot.read() {
            Some(record) if wanted(record.owner.database) => {
                let blame = record.blame(epoch, journal.told());
                dead.push(Dead { number, record, blame });
            }
            Some(_) => {}
            None => {
                log::warning(&format!("slot {number} of the crash journal makes no sense: ignored"));
                slot.clear();
                shared.bury(number);
            }
        }
    }
    dead
}

/// Writes what follows for their jobs. Inside a transaction; the queues that changed.
pub(super) fn settle(dead: &[Dead]) -> Result<Vec<String>, Caught> {
    let mut queues = Vec::new();
    for Dead { record, blame, .. } in dead {
        match blame {
            Blame::Nobody => {}
            Blame::Quarantine => queues.extend(quarantine::isolate(&record.jobs)?),
            Blame::Worker | Blame::Server => {
                for (id, attempt) in &record.jobs {
                    // Somebody may have taken it away since; then it is his.
                    let Some(seen) = claim::look(*id)? else { continue };
                    if seen.job.current_attempt() != *attempt {
                        continue;
                    }
                    let Some(job) = claim::take_one(*id)? else { continue };
                    outcome::crashed(job, *blame == Blame::Server)?;
                }
            }
        }
    }
    for queue in &queues {
        at_commit::touch(names::hash(queue));
    }
    if !dead.is_empty() {
        hooks::at("crashes counted");
    }
    Ok(queues)
}

/// Frees the slots, after the commit. One line for those that nothing was counted for.
pub(super) fn release(shared: &Shared, dead: &[Dead]) {
    let Some(journal) = journal::attached(shared) else { return };
    for Dead { number, record, blame } in dead {
        if *blame == Blame::Quarantine && !record.jobs.is_empty() {
            log::line(&format!(
                "process {} died while it ran {} jobs, the last of them {}: each runs alone next",
                record.owner.pid,
                record.jobs.len(),
                record.jobs.last().map_or(0, |(id, _)| *id)
            ));
        }
        journal.slot(*number).clear();
        shared.bury(*number);
    }
}

/// Jobs of processes of this database that died and are not judged yet: nobody's to take.
pub(super) fn unjudged(shared: &Shared, database: u32) -> Vec<i64> {
    let mut jobs = Vec::new();
    let mut ended = shared.ended_in(database).peekable();
    if ended.peek().is_none() {
        return jobs;
    }
    let Some(journal) = journal::attached(shared) else { return jobs };
    for number in ended {
        if let Some(record) = journal.slot(number).read() {
            jobs.extend(record.jobs.iter().map(|(id, _)| *id));
        }
    }
    jobs
}
