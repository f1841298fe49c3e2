//! The numbers of the queues as the counters in shared memory have them (pg::counters): what a transaction changes is
//! noted here by whoever changes a row, taken back with its subtransactions, and added when it has committed.
//!
//! Every statement of store/ that adds, removes or moves rows of pgq.job or pgq.finished_job is followed by a note.
//! What passes by is found by the next count in the tables (workers::count).

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::SeqCst;

use crate::engine::deltas::{Delta, Deltas, Fact, Name, Numbers, COUNTABLE, FACTS};
use crate::engine::snapshot::Snapshot;
use crate::engine::state::State;
use crate::error::{Error, Result};
use crate::pg::at_commit::{self, Listener};
use crate::pg::counters::{self, Change};
use crate::pg::shmem;
use crate::pg::spi::Statement;
use crate::pg::trust::Trust;
use crate::pg::{database, guc, xact};
use crate::store::row::Job;
use crate::store::{counts, groups};

static LISTENER: Listener = Listener { committing, committed, aborted, prepared, nested };

thread_local! {
    static DELTAS: RefCell<Deltas> = const { RefCell::new(Deltas::new()) };
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    /// Between `enter` and `leave`.
    static INSIDE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The present transaction gives `queue` so many more of something; fewer where `n` is negative.
pub fn changed(queue: &str, fact: Fact, n: i64) {
    if !LISTENS.replace(true) {
        at_commit::listen(&LISTENER);
        // What cannot be had is missed at commit.
        counters::attached();
    }
    DELTAS.with_borrow_mut(|deltas| deltas.note(at_commit::level(), queue, fact, n));
}

/// The same for a count of rows.
pub fn changed_by(queue: &str, fact: Fact, rows: usize) {
    changed(queue, fact, i64::try_from(rows).unwrap_or(i64::MAX));
}

/// The present transaction removed these rows of pgq.job, each from the state that it shows.
pub fn taken(jobs: &[Job]) {
    for job in jobs {
        if let Some(group) = &job.group {
            groups::left(&job.queue, group, job.id);
        }
    }
    // Most often all are of one queue and state: one note.
    let mut rest = jobs;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|job| job.queue == first.queue && job.state == first.state).count();
        changed(&first.queue, Fact::Live(first.state), -i64::try_from(same).unwrap_or(0));
        rest = &rest[same..];
    }
}

/// The present transaction moved `rows` ready jobs of a queue into a lease.
pub fn leased(queue: &str, rows: usize) {
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    changed(queue, Fact::Live(State::Ready), -rows);
    changed(queue, Fact::Live(State::Leased), rows);
}

fn trust<T>(use_it: impl FnOnce(&Trust) -> T) -> Option<T> {
    let database = shmem::shared()?.database(database::current())?;
    Some(use_it(&database.numbers))
}

fn committing() {
    let any = DELTAS.with(|deltas| deltas.try_borrow().is_ok_and(|d| !d.is_empty()));
    if any && INSIDE.get().is_none() {
        INSIDE.set(counters::enter());
    }
}

fn committed(transaction: u64) {
    DELTAS.with(|deltas| {
        // A borrow that is held is impossible here; if it were, the numbers would be doubted.
        let Ok(mut deltas) = deltas.try_borrow_mut() else {
            trust(Trust::doubt);
            return;
        };
        if deltas.is_empty() {
            return;
        }
        let known = INSIDE.get().is_some();
        let all = known && counters::apply(database::current(), transaction, deltas.notes().iter().map(change));
        if !all || deltas.is_lost() {
            trust(Trust::doubt);
        }
        deltas.clear();
    });
    leave();
}

fn change(delta: &Delta) -> Change<'_, FACTS> {
    Change { hash: delta.queue.hash(), name: delta.queue.text(), numbers: &delta.numbers }
}

fn aborted() {
    DELTAS.with(|deltas| deltas.try_borrow_mut().map(|mut d| d.clear()).unwrap_or(()));
    leave();
}

fn leave() {
    if let Some(side) = INSIDE.take() {
        counters::leave(side);
    }
}

/// COMMIT PREPARED, or ROLLBACK, tells nobody: until it is over and counted, nobody knows the numbers; and the
/// scheduler stays to see what comes back.
fn prepared() {
    let any = DELTAS.with(|deltas| deltas.try_borrow().is_ok_and(|d| !d.is_empty()));
    if any {
        trust(Trust::doubt);
        if let Some(entry) = shmem::shared().and_then(|shared| shared.database(database::current())) {
            entry.prepared.store(1, SeqCst);
        }
    }
    aborted();
}

fn nested(level: i32, kept: bool) {
    DELTAS.with(|deltas| {
        if let Ok(mut deltas) = deltas.try_borrow_mut() {
            if kept {
                deltas.kept(level);
            } else {
                deltas.undone(level);
            }
        }
    });
}

/// What is known without counting: the totals always, the rest if `settled`.
pub struct Known {
    /// Are the jobs counted, and nothing has passed the counters by?
    pub settled: bool,
    /// When the tables were counted last.
    pub counted_at: i64,
    /// Each queue's.
    pub queues: Vec<(String, Numbers)>,
}

/// The counters, with what the present transaction has changed so far.
pub fn known() -> Result<Known> {
    let mut known = Known { settled: false, counted_at: 0, queues: Vec::new() };
    if !counters::attached() || xact::in_recovery() {
        return Ok(known);
    }
    let files = files()?;
    let is_settled = |t: &Trust| {
        let same = t.is_about(files);
        // TRUNCATE and the like: the scheduler counts at its next look.
        if t.is_settled() && !same {
            t.doubt();
        }
        (same && t.is_settled(), t.counted_at.load(SeqCst))
    };
    (known.settled, known.counted_at) = trust(is_settled).unwrap_or_default();
    known.queues = counters::read(database::current());
    DELTAS.with_borrow(|deltas| {
        known.settled &= !deltas.is_lost();
        for delta in deltas.notes() {
            match known.queues.iter_mut().find(|(queue, _)| queue == delta.queue.text()) {
                Some((_, sums)) => sums.iter_mut().zip(delta.numbers).for_each(|(sum, n)| *sum += n),
                None => known.queues.push((delta.queue.text().into(), delta.numbers)),
            }
        }
    });
    Ok(known)
}

/// Asks the scheduler to count.
pub fn ask() {
    trust(|t| t.wanted.store(1, SeqCst));
    at_commit::call_scheduler();
}

/// Of the catalog; locks nothing.
static FILES: Statement = Statement::new(
    "SELECT c.relfilenode FROM pg_catalog.pg_class AS c
      WHERE c.oid = 'pgq.job'::pg_catalog.regclass OR c.oid = 'pgq.finished_job'::pg_catalog.regclass
      ORDER BY c.relname",
    &[],
);

/// The files of both tables as one number.
fn files() -> Result<u64> {
    let files = FILES.rows(&[], |row| row.must_oid(1))?;
    Ok(files.into_iter().fold(0, |all, file| all << 32 | u64::from(file)))
}

/// A count that was begun.
pub struct Count {
    ticket: u64,
    doubts: u32,
    counted: Option<Counted>,
}

struct Counted {
    files: u64,
    snapshot: Snapshot,
    queues: Vec<(Name, [i64; COUNTABLE])>,
}

/// Begins to count, outside of a transaction. `None` while somebody else counts, or where there are no counters.
pub fn begin(now: i64) -> Option<Count> {
    let doubts = trust(Trust::doubts)?;
    if !counters::attached() {
        return None;
    }
    Some(Count { ticket: counters::begin(database::current(), now)?, doubts, counted: None })
}

/// Reads each table once, by its indexes where vacuum has been; locks nothing. The first row has the snapshot.
static COUNT: Statement = Statement::new(
    "SELECT NULL, pg_catalog.pg_current_snapshot()::text, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint
     UNION ALL
     SELECT j.queue, NULL, pg_catalog.count(*), 0, 0, 0, 0, 0
       FROM pgq.job AS j WHERE j.state = 'ready' GROUP BY j.queue
     UNION ALL
     SELECT j.queue, NULL, 0, pg_catalog.count(*) FILTER (WHERE j.state = 'scheduled'),
            pg_catalog.count(*) FILTER (WHERE j.state = 'leased'), 0, 0, 0
       FROM pgq.job AS j WHERE j.state = 'scheduled' OR j.state = 'leased' GROUP BY j.queue
     UNION ALL
     SELECT j.queue, NULL, 0, 0, 0, pg_catalog.count(*), 0, 0
       FROM pgq.job AS j WHERE j.state = 'waiting' GROUP BY j.queue
     UNION ALL
     SELECT f.queue, NULL, 0, 0, 0, 0, pg_catalog.count(*) FILTER (WHERE f.outcome = 'dead'),
            pg_catalog.count(*) FILTER (WHERE f.outcome <> 'dead')
       FROM pgq.finished_job AS f GROUP BY f.queue",
    &[],
);

impl Count {
    /// Counts, in a READ COMMITTED transaction that began after this count. False while it would be in vain.
    pub fn read(&mut self) -> Result<bool> {
        // Asked before the snapshot: what was prepared and is over by now is seen by it.
        if counts::has_prepared()? {
            return Ok(false);
        }
        let files = files()?;
        let mut snapshot = None;
        let mut queues = Vec::new();
        let mut nameless = false;
        // The server's parallel workers are for others: this is not urgent.
        let nest = guc::Nest::open();
        nest.set(c"max_parallel_workers_per_gather", c"0");
        COUNT.rows(&[], |row| {
            let Some(queue) = row.get::<String>(1) else {
                snapshot = row.get::<String>(2).and_then(|text| Snapshot::parse(&text));
                return Ok(());
            };
            let numbers = [row.must(3)?, row.must(4)?, row.must(5)?, row.must(6)?, row.must(7)?, row.must(8)?];
            match Name::new(&queue) {
                Some(name) => queues.push((name, numbers)),
                None => nameless = true,
            }
            Ok(())
        })?;
        nest.close();
        let snapshot = snapshot.ok_or_else(|| Error::Internal("a count without its snapshot".into()))?;
        self.counted = Some(Counted { files, snapshot, queues });
        Ok(!nameless)
    }

    /// May it be stored? After the transaction that read.
    pub fn is_drained(&self) -> bool {
        counters::is_drained(self.ticket)
    }

    /// Stores it. False when it was in vain.
    pub fn store(self, now: i64) -> bool {
        let Some(counted) = self.counted else { return false };
        let changes: Vec<Change<'_, COUNTABLE>> = counted
            .queues
            .iter()
            .map(|(name, numbers)| Change { hash: name.hash(), name: name.text(), numbers })
            .collect();
        let stored = counters::store(self.ticket, &changes, |transaction| counted.snapshot.sees(transaction));
        if stored {
            trust(|t| t.settle(self.doubts, counted.files, now));
        }
        stored
    }

    /// Gives it up.
    pub fn abandon(self) {
        counters::abandon(self.ticket);
    }
}
