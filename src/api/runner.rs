//! Who runs a job now: for cancel, wait and waiting.

use std::sync::atomic::Ordering::SeqCst;

use crate::engine::state::State;
use crate::error::Result;
use crate::pg::function::Shape;
use crate::pg::shmem::Executor;
use crate::pg::{database, shmem};
use crate::store::claim::Seen;
use crate::store::registry;

/// The executor that runs a job: the one that shows it, or the one whose transaction has taken it, where its handler
/// takes sets: a slot shows one job only. In a transaction of single jobs those that are not shown have not begun.
pub fn executor(seen: &Seen) -> Result<Option<&'static Executor>> {
    let Some(shared) = shmem::shared() else { return Ok(None) };
    if let Some(slot) = shared.runner(database::current(), seen.job.id) {
        return Ok(Some(slot));
    }
    let Some(pid) = seen.holder.filter(|_| seen.job.state == State::Ready) else { return Ok(None) };
    let found = shared.executors_of(database::current()).find(|(_, slot)| slot.place.pid.load(SeqCst) == pid);
    let Some((_, slot)) = found else { return Ok(None) };
    let handler = registry::find(&seen.job.queue, seen.job.task.as_deref())?;
    let in_set =
        handler.is_some_and(|h| Shape::from_word(&h.shape) == Shape::Jobs && slot.handler.load(SeqCst) == h.id);
    Ok(in_set.then_some(slot))
}
