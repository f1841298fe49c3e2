//! Which of the executors that a scheduler started ended by themselves, and which roles are held back for it.
//!
//! An executor that leaves in order says so in its slot as it goes (`Executor::left`); one that does not say it was
//! ended by FATAL, by somebody's pg_terminate_backend, or by an error of ours. One that never connected is not looked at
//! here: its role's handlers are parked. SIGKILL restarts the server and forgets all of this.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

use crate::engine::deaths::Deaths;
use crate::engine::time::{Micros, Span};
use crate::pg::shmem::{slot_state, Shared};
use crate::pg::{log, user, xact};

/// The executors of one scheduler.
#[derive(Default)]
pub(super) struct Watch {
    /// (slot, generation, role)
    started: Vec<(usize, u32, u32)>,
    roles: HashMap<u32, Deaths>,
}

impl Watch {
    /// One was started.
    pub(super) fn started(&mut self, slot: usize, generation: u32, role: u32) {
        self.started.push((slot, generation, role));
    }

    /// Looks who is gone.
    pub(super) fn look(&mut self, shared: &Shared, now: Micros) {
        let roles = &mut self.roles;
        self.started.retain(|(number, generation, role)| {
            let slot = &shared.executors[*number];
            let since = |mark: u32| mark >= *generation;
            if slot.generation.load(SeqCst) == *generation && slot.state.load(SeqCst) != slot_state::FREE {
                return true;
            }
            // Marks of a later one in the same slot hide this one's: then it counts as leaving in order.
            if since(slot.arrived.load(SeqCst)) && !since(slot.left.load(SeqCst)) {
                let worked = since(slot.worked.load(SeqCst));
                if roles.entry(*role).or_default().died(now, worked) {
                    tell(*role);
                }
            }
            false
        });
    }

    /// How long until the next role may have another executor; `None` when no role is held back.
    pub(super) fn wait(&self, now: Micros) -> Option<Span> {
        self.roles.values().map(|deaths| deaths.left(now)).filter(|left| *left > Span::ZERO).min()
    }

    /// Is it too early to start another executor of this role?
    pub(super) fn holds(&self, role: u32, now: Micros) -> bool {
        self.roles.get(&role).is_some_and(|deaths| deaths.holds(now))
    }
}

fn tell(role: u32) {
    let name = xact::run(|| Ok(user::name(role))).ok().flatten().unwrap_or_else(|| role.to_string());
    log::warning(&format!("executors of role \"{name}\" keep ending by themselves: starting them is held back"));
}
