//! The crash journal: which jobs a process was running when it died. Its format and what is made of it; the file
//! itself, mapped into memory, is `workers::journal`'s.
//!
//! The journal is an array of 64-bit words, so that a store is whole or not there. A header says whose it is; then
//! comes a slot for each executor, with the same number as its slot in shared memory. An executor writes its slot
//! with plain stores before each job, and takes it back after the commit. The kernel keeps what was stored when the
//! process dies. It is not synced: what the crash of a whole machine loses is harmless, because a record counts
//! only for a job that still stands at the attempt that the record names.
//!
//! ```text
//! header  magic · layout · system identifier · timeline · device · inode · told · unused
//! slot    state · epoch · pid and database · sequence · count · mark · unused · unused · ENTRIES × (id, attempt and check)
//! ```

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::pace::MAX_BATCH;

/// Slots: one for each executor that a server can have.
pub const SLOTS: usize = 64;
/// Jobs that a slot can name: as many as a transaction may run.
const ENTRIES: usize = MAX_BATCH;

const HEADER_WORDS: usize = 8;
const HEAD_WORDS: usize = 8;
const SLOT_WORDS: usize = HEAD_WORDS + 2 * ENTRIES;
/// The length of the journal in words: 1 MB.
pub const WORDS: usize = HEADER_WORDS + SLOTS * SLOT_WORDS;

const MAGIC: u64 = u64::from_le_bytes(*b"pgq jrnl");
const LAYOUT: u64 = 1 << 32 | SLOTS as u64;

/// Words of the header.
const TOLD: usize = 6;
/// Words of a slot.
const STATE: usize = 0;
const EPOCH: usize = 1;
const OWNER: usize = 2;
const SEQUENCE: usize = 3;
const COUNT: usize = 4;
const MARK: usize = 5;

/// Bits of a slot's state; zero is "nothing runs".
const BUSY: u64 = 1;
const ALONE: u64 = 2;
const KNOWN: u64 = 4;
/// A slot's mark: the postmaster stopped the process, so that it is no suspect.
pub const STOPPED: u64 = 1;

/// Whose journal it is. A copy of the data directory has another inode, a promoted standby another timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The server's system identifier.
    pub system: u64,
    /// Its timeline.
    pub timeline: u32,
    /// The device of the file itself.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// Why a file is not our journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It has not the size of a journal.
    Short,
    /// It is no journal, or one of another version of pgq.
    Foreign,
    /// It is the journal of another server, timeline or file.
    Copied,
}

impl Unusable {
    /// For the log.
    pub const fn reason(self) -> &'static str {
        match self {
            Unusable::Short => "it has the wrong size",
            Unusable::Foreign => "it was not written by this version of pgq",
            Unusable::Copied => "it came with a copy or from before a promotion",
        }
    }
}

/// Who runs jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Which life of the server: shared memory's `started_at`.
    pub epoch: i64,
    /// The process.
    pub pid: i32,
    /// Its database.
    pub database: u32,
}

/// What a process that is gone was running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who.
    pub owner: Owner,
    /// Did its transaction hold this one job only?
    pub alone: bool,
    /// Was that job in quarantine already?
    pub known: bool,
    /// Was it stopped by the postmaster?
    pub stopped: bool,
    /// (id, attempt) of each job that had begun.
    pub jobs: Vec<(i64, i32)>,
}

/// What follows for the jobs of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// They had nothing to do with it.
    Nobody,
    /// One of them may have: each runs alone next, nothing is counted.
    Quarantine,
    /// The one job is charged with the death of its worker.
    Worker,
    /// The one job is charged with the crash of the server.
    Server,
}

impl Record {
    /// Who is to blame, in the server's life `epoch`; `told` is the last life in which the postmaster stopped one of
    /// our processes because another one crashed.
    ///
    /// A crash is laid at a job's door where its process died of itself while it ran alone. Where the whole server
    /// died at once (nobody was told to stop), all that ran look alike: only a job that was in quarantine is charged.
    pub fn blame(&self, epoch: i64, told: i64) -> Blame {
        let whole_server = self.owner.epoch != epoch && self.owner.epoch != told;
        match (self.stopped, self.alone && self.jobs.len() == 1) {
            (true, _) => Blame::Nobody,
            (false, false) => Blame::Quarantine,
            (false, true) if whole_server && !self.known => Blame::Quarantine,
            (false, true) if self.owner.epoch == epoch => Blame::Worker,
            (false, true) => Blame::Server,
        }
    }
}

/// A journal in memory.
#[derive(Debug, Clone, Copy)]
pub struct Journal<'a>(&'a [AtomicU64]);

/// One executor's part of it.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a>(&'a [AtomicU64]);

fn high_low(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn halves(word: u64) -> (u32, u32) {
    // Both fit: one is shifted down, the other masked.
    (u32::try_from(word >> 32).unwrap_or(0), u32::try_from(word & 0xffff_ffff).unwrap_or(0))
}

/// Tells an entry of this transaction from what an earlier one left, or a disk brought back.
fn check(id: i64, attempt: i32, sequence: u64) -> u32 {
    let mixed = u64::from_ne_bytes(id.to_ne_bytes())
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(attempt.unsigned_abs()).wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
        .rotate_left(29)
        .wrapping_add(sequence.wrapping_mul(0x1656_67b1_9e37_79f9));
    halves(mixed ^ mixed >> 31).0
}

impl<'a> Journal<'a> {
    /// Makes these words an empty journal. The magic comes last: one that was not finished is no journal.
    pub fn format(words: &'a [AtomicU64], identity: Identity) -> Option<Self> {
        let journal = Journal::sized(words)?;
        words.iter().for_each(|word| word.store(0, SeqCst));
        for (word, value) in words.iter().zip(header(identity)).skip(1) {
            word.store(value, SeqCst);
        }
        words[0].store(MAGIC, SeqCst);
        Some(journal)
    }

    /// These words as a journal, if they are ours.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(words: &'a [AtomicU64], identity: Identity) -> Result<Self, Unusable> {
        let journal = Journal::sized(words).ok_or(Unusable::Short)?;
        let found = |at: usize| words[at].load(SeqCst);
        let wanted = header(identity);
        if found(0) != wanted[0] || found(1) != wanted[1] {
            return Err(Unusable::Foreign);
        }
        if (2..TOLD).any(|at| found(at) != wanted[at]) {
            return Err(Unusable::Copied);
        }
        Ok(journal)
    }

    fn sized(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() == WORDS).then_some(Journal(words))
    }

    /// The slot of an executor.
    pub fn slot(&self, number: usize) -> Slot<'a> {
        let start = HEADER_WORDS + (number % SLOTS) * SLOT_WORDS;
        Slot(&self.0[start..start + SLOT_WORDS])
    }

    /// Holds the last life of the server in which the postmaster told us to stop.
    pub fn told_word(&self) -> &'a AtomicU64 {
        &self.0[TOLD]
    }

    /// That life.
    pub fn told(&self) -> i64 {
        i64::from_ne_bytes(self.told_word().load(SeqCst).to_ne_bytes())
    }
}

fn header(identity: Identity) -> [u64; TOLD] {
    [MAGIC, LAYOUT, identity.system, u64::from(identity.timeline), identity.device, identity.inode]
}

impl<'a> Slot<'a> {
    fn get(&self, word: usize) -> u64 {
        self.0[word].load(SeqCst)
    }

    fn set(&self, word: usize, value: u64) {
        self.0[word].store(value, SeqCst);
    }

    /// A transaction is about to run jobs: one that runs `alone`, perhaps one that is `known` for crashes.
    pub fn begin(&self, owner: Owner, alone: bool, known: bool) {
        self.set(EPOCH, u64::from_ne_bytes(owner.epoch.to_ne_bytes()));
        self.set(OWNER, high_low(owner.pid.unsigned_abs(), owner.database));
        self.set(SEQUENCE, self.get(SEQUENCE).wrapping_add(1));
        self.set(COUNT, 0);
        self.set(MARK, 0);
        self.set(STATE, BUSY | if alone { ALONE } else { 0 } | if known { KNOWN } else { 0 });
    }

    /// This job runs next.
    pub fn job(&self, id: i64, attempt: i32) {
        let count = self.get(COUNT);
        let Some(at) = usize::try_from(count).ok().filter(|n| *n < ENTRIES) else { return };
        let check = check(id, attempt, self.get(SEQUENCE));
        self.set(HEAD_WORDS + 2 * at, u64::from_ne_bytes(id.to_ne_bytes()));
        self.set(HEAD_WORDS + 2 * at + 1, high_low(attempt.unsigned_abs(), check));
        self.set(COUNT, count + 1);
    }

    /// Nothing runs any more: the transaction committed or rolled back.
    pub fn clear(&self) {
        self.set(STATE, 0);
    }

    /// Does nothing run?
    pub fn is_clear(&self) -> bool {
        self.get(STATE) == 0
    }

    /// Takes `STOPPED` from a signal handler.
    pub fn mark_word(&self) -> &'a AtomicU64 {
        &self.0[MARK]
    }

    /// What was running here; `None` for nothing, or nothing that makes sense. Jobs that were written in part are
    /// left out.
    pub fn read(&self) -> Option<Record> {
        let state = self.get(STATE);
        if state & BUSY == 0 || state & !(BUSY | ALONE | KNOWN) != 0 {
            return None;
        }
        let count = usize::try_from(self.get(COUNT)).ok().filter(|n| *n <= ENTRIES)?;
        let (pid, database) = halves(self.get(OWNER));
        let jobs = (0..count).filter_map(|at| self.entry(at)).collect();
        Some(Record {
            owner: Owner {
                epoch: i64::from_ne_bytes(self.get(EPOCH).to_ne_bytes()),
                pid: i32::try_from(pid).ok()?,
                database,
            },
            alone: state & ALONE != 0,
            known: state & KNOWN != 0,
            stopped: self.get(MARK) == STOPPED,
            jobs,
        })
    }

    fn entry(&self, at: usize) -> Option<(i64, i32)> {
        let id = i64::from_ne_bytes(self.get(HEAD_WORDS + 2 * at).to_ne_bytes());
        let (attempt, found) = halves(self.get(HEAD_WORDS + 2 * at + 1));
        let attempt = i32::try_from(attempt).ok()?;
        (found == check(id, attempt, self.get(SEQUENCE)) && id > 0).then_some((id, attempt))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MINE: Identity = Identity { system: 7, timeline: 1, device: 3, inode: 99 };
    const OWNER_1: Owner = Owner { epoch: 100, pid: 4711, database: 16_384 };

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn with_slot(test: impl Fn(Journal<'_>, Slot<'_>)) {
        let words = words();
        let journal = Journal::format(&words, MINE).unwrap();
        test(journal, journal.slot(5));
    }

    #[test]
    fn a_new_journal_is_ours_and_empty() {
        let words = words();
        assert_eq!(Journal::open(&words, MINE).err(), Some(Unusable::Foreign));
        Journal::format(&words, MINE).unwrap();
        let journal = Journal::open(&words, MINE).unwrap();
        assert!((0..SLOTS).all(|n| journal.slot(n).is_clear() && journal.slot(n).read().is_none()));
        assert_eq!(journal.told(), 0);
    }

    #[test]
    fn a_copy_a_promoted_server_and_another_layout_are_not_ours() {
        let words = words();
        Journal::format(&words, MINE).unwrap();
        for other in [
            Identity { system: 8, ..MINE },
            Identity { timeline: 2, ..MINE },
            Identity { device: 4, ..MINE },
            Identity { inode: 100, ..MINE },
        ] {
            assert_eq!(Journal::open(&words, other).err(), Some(Unusable::Copied));
        }
        words[1].store(LAYOUT + 1, SeqCst);
        assert_eq!(Journal::open(&words, MINE).err(), Some(Unusable::Foreign));
        assert_eq!(Journal::open(&words[1..], MINE).err(), Some(Unusable::Short));
        assert!(Journal::format(&words[1..], MINE).is_none());
    }

    #[test]
    fn a_record_names_what_began_until_it_is_cleared() {
        with_slot(|_, slot| {
            slot.begin(OWNER_1, false, false);
            slot.job(1, 1);
            slot.job(i64::MAX, i32::MAX);
            let record = slot.read().unwrap();
            assert_eq!(record.jobs, [(1, 1), (i64::MAX, i32::MAX)]);
            assert_eq!((record.owner, record.alone, record.known, record.stopped), (OWNER_1, false, false, false));
            slot.clear();
            assert!(slot.is_clear() && slot.read().is_none());
        });
    }

    #[test]
    fn slots_do_not_touch_each_other() {
        with_slot(|journal, slot| {
            for n in [4, 6] {
                journal.slot(n).begin(OWNER_1, true, false);
                (0..2 * ENTRIES).for_each(|job| journal.slot(n).job(i64::try_from(job).unwrap() + 1, 1));
                assert_eq!(journal.slot(n).read().unwrap().jobs.len(), ENTRIES);
            }
            assert!(slot.is_clear());
            assert_eq!(journal.slot(SLOTS + 4).read(), journal.slot(4).read());
        });
    }

    #[test]
    fn a_torn_entry_and_one_of_an_earlier_transaction_are_left_out() {
        with_slot(|_, slot| {
            slot.begin(OWNER_1, false, false);
            (1..=3).for_each(|id| slot.job(id, 1));
            slot.set(HEAD_WORDS + 2, 77);
            assert_eq!(slot.read().unwrap().jobs, [(1, 1), (3, 1)]);
            slot.begin(OWNER_1, false, false);
            slot.set(COUNT, 3);
            assert_eq!(slot.read().unwrap().jobs, []);
        });
    }

    #[test]
    fn a_hostile_slot_is_read_as_nothing() {
        with_slot(|_, slot| {
            slot.begin(OWNER_1, true, false);
            slot.job(1, 1);
            slot.set(COUNT, u64::MAX);
            assert!(slot.read().is_none());
            slot.set(COUNT, 1);
            slot.set(STATE, u64::MAX);
            assert!(slot.read().is_none());
            slot.set(STATE, BUSY);
            slot.set(OWNER, u64::MAX);
            assert!(slot.read().is_none());
            assert!(!slot.is_clear());
        });
    }

    #[test]
    fn every_word_may_be_anything() {
        let words = words();
        let journal = Journal::format(&words, MINE).unwrap();
        let mut seed = 1_u64;
        for round in 0..2_000 {
            let slot = journal.slot(round % SLOTS);
            for word in 0..HEAD_WORDS + 8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                slot.set(word, [seed, seed >> 60, seed & 7, u64::MAX, 0][round % 5]);
            }
            if let Some(record) = slot.read() {
                assert!(record.jobs.len() <= ENTRIES && record.jobs.iter().all(|(id, n)| *id > 0 && *n >= 0));
                record.blame(1, 2);
            }
        }
    }

    fn record(alone: bool, known: bool, stopped: bool) -> Record {
        Record { owner: OWNER_1, alone, known, stopped, jobs: vec![(1, 1)] }
    }

    #[test]
    fn only_who_died_of_himself_and_alone_is_charged() {
        // The server started over (epoch 200) and had told us to stop: we know who died first.
        assert_eq!(record(true, false, false).blame(200, 100), Blame::Server);
        assert_eq!(record(true, true, true).blame(200, 100), Blame::Nobody);
        assert_eq!(record(false, false, false).blame(200, 100), Blame::Quarantine);
        // The same life of the server: only the worker died.
        assert_eq!(record(true, false, false).blame(100, 0), Blame::Worker);
        assert_eq!(record(false, false, false).blame(100, 0), Blame::Quarantine);
    }

    #[test]
    fn where_the_whole_server_died_only_quarantine_is_charged() {
        assert_eq!(record(true, false, false).blame(200, 0), Blame::Quarantine);
        assert_eq!(record(true, true, false).blame(200, 0), Blame::Server);
        let company = Record { jobs: vec![(1, 1), (2, 1)], ..record(true, true, false) };
        assert_eq!(company.blame(200, 0), Blame::Quarantine);
    }
}
