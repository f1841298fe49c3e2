//! Whom the scheduler wakes and starts for the jobs that it found; how many is `engine::plan`'s to say.

use std::sync::atomic::Ordering::SeqCst;

use super::journal;
use super::scheduler::Scheduler;
use crate::engine::plan::{self, Demand, Pool};
use crate::engine::time::Micros;
use crate::pg::shmem::{slot_state, Executor};
use crate::pg::{bgworker, latch, log};
use crate::settings;
use crate::store::row::Handler;

/// Does a job run there?
fn has_job(slot: &Executor) -> bool {
    slot.state.load(SeqCst) == slot_state::BUSY && slot.job.load(SeqCst) != 0
}

impl Scheduler {
    /// Wakes and starts executors for what was found.
    pub(super) fn staff(&mut self, handlers: &[Handler], now: Micros) {
        let workers = settings::max_workers();
        self.watch.look(self.shared, now);
        let demands: Vec<Demand> = handlers
            .iter()
            .map(|h| {
                let running = self
                    .shared
                    .executors_of(self.oid)
                    .filter(|(_, e)| e.handler.load(SeqCst) == h.id && has_job(e))
                    .count();
                let ready = usize::try_from(h.ready).unwrap_or(0);
                let limit = plan::handler_limit(h.concurrency, workers);
                Demand { role: h.role, ready, running, limit, held: self.watch.holds(h.role, now) }
            })
            .collect();
        let orders = plan::orders(&demands, &self.pools(), self.shared.room(workers));
        let starving = orders.iter().find(|o| o.starving).map_or(0, |o| o.role);
        self.entry.starving.store(starving, SeqCst);
        for order in orders {
            self.wake_idle(order.role, order.wake);
            for _ in 0..order.start {
                self.start(order.role, workers, now);
            }
            if order.starving {
                self.ask_for_room(order.role);
            }
        }
    }

    fn pools(&self) -> Vec<Pool> {
        let mut pools: Vec<Pool> = Vec::new();
        for (_, slot) in self.shared.executors_of(self.oid) {
            let role = slot.role.load(SeqCst);
            let idle = usize::from(!has_job(slot));
            match pools.iter_mut().find(|p| p.role == role) {
                Some(pool) => {
                    pool.idle += idle;
                    pool.all += 1;
                }
                None => pools.push(Pool { role, idle, all: 1 }),
            }
        }
        pools
    }

    /// One that works for a handler but has no job is asked too: its claim may have come just before what we saw was
    /// committed, and then it would lie down.
    fn wake_idle(&self, role: u32, count: usize) {
        let may_look = |e: &Executor| e.state.load(SeqCst) != slot_state::STARTING && !has_job(e);
        self.shared
            .executors_of(self.oid)
            .filter(|(_, e)| e.role.load(SeqCst) == role && may_look(e))
            .take(count)
            .for_each(|(_, e)| e.wake());
    }

    fn start(&mut self, role: u32, workers: usize, now: Micros) {
        // A slot whose record nobody has read yet is not written over.
        let journal = journal::attached(self.shared);
        let usable = |n: usize| journal.is_none_or(|j| j.slot(n).is_clear());
        let reserved = self.shared.reserve((self.oid, role), workers, now.0, usable);
        let Some((number, generation)) = reserved else { return };
        let slot = i32::try_from(number).unwrap_or(0);
        let tag = i32::try_from(generation % (1 << 22)).unwrap_or(0);
        let started = bgworker::start(&bgworker::Worker {
            main: "pgq_executor_main",
            kind: "pgq executor",
            name: "pgq executor",
            argument: slot | (tag << 8),
            restarts: false,
            notify: latch::my_pid(),
        });
        if started {
            self.parking.started(number, generation, role);
            self.watch.started(number, generation, role);
        } else {
            self.shared.free(number, generation);
        }
        if self.shared.shortage.asked(started, now.0) {
            log::warning("no free worker slot for an executor: raise max_worker_processes");
        }
    }

    /// A role without an executor and no room: an idle executor of somebody else leaves; where all are busy, one
    /// leaves after its turn (executor::gives_way).
    fn ask_for_room(&self, role: u32) {
        let idle = self.shared.executors.iter().find(|e| {
            let other = e.database.load(SeqCst) != self.oid || e.role.load(SeqCst) != role;
            other && e.state.load(SeqCst) == slot_state::IDLE && e.leave.load(SeqCst) == 0
        });
        if let Some(slot) = idle {
            slot.leave.store(1, SeqCst);
            slot.wake();
        }
    }
}
