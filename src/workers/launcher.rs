//! The launcher: one per server, connected to no database. It knows which databases there are and starts a
//! scheduler wherever one is needed.
//!
//! Lifetime: the server's. Started by the postmaster when preloaded, else by the first call that needs it;
//! comes back by itself after a crash (restart time 1 s). Ends with the server, or when another launcher
//! was there first (exit 0).
//!
//! It finds databases by looking, not by events: each connectable one is entered once after a start, one
//! at a time; then on a wake, when pg_database shows a new one, and once an hour. One known to have the
//! extension is looked into once a minute, and when its published due time comes.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

use super::{journal, quarantine};
use crate::engine::deaths::Deaths;
use crate::engine::time::{Micros, Span};
use crate::pg::shmem::{served, Database, Shared};
use crate::pg::{activity, bgworker, clock, database, guc, latch, log, shmem, signals, xact};
use crate::settings;

/// How often the list of databases is read when nobody asks.
const LIST_EVERY: Span = Span::from_millis(60_000);
/// How often a database without the extension is entered.
const VISIT_EVERY: Span = Span::from_millis(3_600_000);
/// How often a database with the extension is looked into.
const LOOK_EVERY: Span = Span::from_millis(60_000);
/// A scheduler that is not there after this long did not start.
const START_LIMIT: Span = Span::from_millis(10_000);

struct Launcher {
    shared: &'static Shared,
    /// When each database was entered last.
    visited: HashMap<u32, Micros>,
    /// Schedulers that ended by themselves.
    deaths: HashMap<u32, Deaths>,
    listed: Option<Micros>,
    /// What is wrong with the crash journal.
    complaint: Option<String>,
}

/// The launcher's main.
pub fn run() {
    signals::install();
    let Some(shared) = shmem::shared() else { bgworker::exit(0) };
    bgworker::at_exit(leave);
    if !shared.launcher.occupy() {
        bgworker::exit(0);
    }
    bgworker::connect_nowhere();
    let mut launcher =
        Launcher { shared, visited: HashMap::new(), deaths: HashMap::new(), listed: None, complaint: None };
    launcher.prepare_journal();
    loop {
        latch::reset();
        shared.launcher.take_wake();
        guc::reload_if_asked();
        let wait = if settings::enabled() { launcher.look() } else { LIST_EVERY };
        activity::idle();
        // As in the executor's loop: the latch may have been reset on the way, by a lock that was waited for.
        if shared.launcher.wake.load(SeqCst) == 0 {
            latch::rest(wait.as_millis());
        }
    }
}

fn leave() {
    if let Some(shared) = shmem::shared() {
        shared.launcher.vacate();
    }
}

impl Launcher {
    /// Starts what is to be started; how long nothing else is due.
    fn look(&mut self) -> Span {
        let now = Micros(clock::now());
        if self.listed.is_none_or(|at| now.since(at) >= LIST_EVERY) {
            self.prepare_journal();
            self.list(now);
        }
        let mut wait = LIST_EVERY;
        let mut visiting = false;
        for entry in &self.shared.databases {
            let oid = entry.oid.load(SeqCst);
            if oid == 0 {
                continue;
            }
            let known = entry.has_extension.load(SeqCst) != 0;
            let (needed, next) = self.needed(entry, oid, now);
            wait = wait.min(next);
            if !needed {
                visiting |= !known && entry.scheduler.is_taken();
                continue;
            }
            // Unknown databases are entered one at a time.
            if !known && visiting && entry.scheduler.wake.load(SeqCst) == 0 {
                wait = wait.min(Span::from_millis(100));
                continue;
            }
            visiting |= !known;
            wait = wait.min(Span::from_millis(1_000));
            self.start(entry, oid, now);
        }
        wait
    }

    /// One line when there is none, and one when there is again.
    fn prepare_journal(&mut self) {
        let wrong = journal::prepare(self.shared).err();
        match (&wrong, &self.complaint) {
            (Some(what), None) => log::warning(&format!("crashes cannot be laid at a job's door: {what}")),
            (None, Some(_)) => log::line("there is a crash journal again"),
            _ => {}
        }
        self.complaint = wrong;
    }

    /// Is a scheduler needed now, and if not, when to ask again?
    fn needed(&mut self, entry: &Database, oid: u32, now: Micros) -> (bool, Span) {
        // Before the place is looked at: a scheduler takes the note back before it gives its place up, so that where
        // there is neither there is nobody, and nobody on the way (tests/model).
        let starting = entry.starting_since.load(SeqCst);
        if entry.scheduler.is_taken() {
            entry.starting_since.store(0, SeqCst);
            return (false, LOOK_EVERY);
        }
        if starting != 0 && now.since(Micros(starting)) < START_LIMIT {
            return (false, Span::from_millis(1_000));
        }
        let closed = Micros(entry.closed_until.load(SeqCst));
        if closed > now {
            return (false, closed.since(now));
        }
        let due = Micros(entry.due.load(SeqCst));
        // It connected, is gone, and has not said when it will be back: it did not mean to leave.
        let served = entry.served.swap(served::NOT, SeqCst);
        if served != served::NOT
            && due.0 == 0
            && self.deaths.entry(oid).or_default().died(now, served == served::LOOKED)
        {
            log::warning(&format!(
                "schedulers of database {oid} keep ending by themselves: starting them is held back"
            ));
        }
        if let Some(deaths) = self.deaths.get(&oid).filter(|deaths| deaths.holds(now)) {
            return (false, deaths.left(now));
        }
        let every = if entry.has_extension.load(SeqCst) != 0 { LOOK_EVERY } else { VISIT_EVERY };
        let visit = self.visited.get(&oid).map_or(now, |at| at.after(every));
        let next = due.min(visit);
        if entry.scheduler.wake.load(SeqCst) != 0 || next <= now {
            return (true, Span::ZERO);
        }
        (false, next.since(now))
    }

    /// Makes the entries of the server's databases agree with pg_database.
    fn list(&mut self, now: Micros) {
        match xact::run(|| Ok(database::connectable())) {
            Ok(found) => {
                self.listed = Some(now);
                for oid in &found {
                    if self.shared.find_database(*oid).is_none() && !self.visited.contains_key(oid) {
                        self.shared.database(*oid);
                    }
                }
                // What ran in a database that is gone is nobody's.
                quarantine::release(self.shared, &quarantine::find(self.shared, |oid| !found.contains(&oid)));
                self.deaths.retain(|oid, _| found.contains(oid));
                self.visited.retain(|oid, at| found.contains(oid) && now.since(*at) < VISIT_EVERY);
                for entry in &self.shared.databases {
                    let oid = entry.oid.load(SeqCst);
                    if oid != 0 && !found.contains(&oid) && !entry.scheduler.is_taken() {
                        self.shared.forget_database(oid);
                    }
                }
            }
            Err(error) => log::warning(&format!("could not list the databases: {}", error.message)),
        }
    }

    fn start(&mut self, entry: &Database, oid: u32, now: Micros) {
        entry.starting_since.store(now.0, SeqCst);
        entry.served.store(served::NOT, SeqCst);
        // One that cannot connect is tried again then, not at once, whoever called; one that can looks anyway, and
        // says itself when it is due.
        let due = entry.due.swap(now.after(LOOK_EVERY).0, SeqCst);
        let called = entry.scheduler.take_wake();
        let started = bgworker::start(&bgworker::Worker {
            main: "pgq_scheduler_main",
            kind: "pgq scheduler",
            name: "pgq scheduler",
            argument: i32::from_ne_bytes(oid.to_ne_bytes()),
            restarts: false,
            notify: latch::my_pid(),
        });
        if started {
            self.visited.insert(oid, now);
        } else {
            // Tried again in a second.
            entry.starting_since.store(0, SeqCst);
            entry.due.store(due, SeqCst);
            if called {
                entry.scheduler.wake.store(1, SeqCst);
            }
        }
        if self.shared.shortage.asked(started, now.0) {
            log::warning("no free worker slot for a scheduler: raise max_worker_processes");
        }
    }
}
