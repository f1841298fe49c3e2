//! The file of the crash journal (`engine::journal` has the format): `pgq/journal` below the data directory.
//!
//! The launcher makes it, one for each life of a data directory, and says in shared memory which file it is. The
//! others map that file and no other. Where it cannot be made (no space), jobs run without it: crashes are then
//! found by nobody, one line in the log says so, doctor() does too, and the launcher tries again every minute.

use std::cell::Cell;
use std::io::ErrorKind;
use std::sync::atomic::Ordering::SeqCst;

use crate::engine::journal::{Identity, Journal, Slot, Unusable, SLOTS, STOPPED, WORDS};
use crate::pg::mapped::{self, Mapped};
use crate::pg::shmem::{self, Shared};
use crate::pg::{log, signals};

const FILE: &str = "pgq/journal";
const _: () = assert!(SLOTS == shmem::EXECUTORS);

thread_local! {
    static ATTACHED: Cell<Option<(u64, Journal<'static>)>> = const { Cell::new(None) };
}

fn identity(mapped: &Mapped) -> Identity {
    let (system, timeline) = mapped::server_identity();
    Identity { system, timeline, device: mapped.device, inode: mapped.inode }
}

/// Sees to it that there is a journal, and that shared memory names it; what is wrong, if there is none. A file that
/// is not ours is replaced, with one line in the log.
pub fn prepare(shared: &Shared) -> Result<(), String> {
    let ours = |mapped: Mapped| Journal::open(mapped.words, identity(&mapped)).map(|_| mapped);
    let found = match mapped::open(FILE, WORDS) {
        Ok(mapped) if mapped.inode == shared.journal.load(SeqCst) && ATTACHED.get().is_some() => return Ok(()),
        Ok(mapped) => ours(mapped).map_err(Unusable::reason),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(Unusable::Short.reason()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(""),
        Err(_) => Err("it cannot be read"),
    };
    let made = found.or_else(|reason| {
        if !reason.is_empty() {
            log::warning(&format!("the crash journal \"{FILE}\" is ignored: {reason}"));
        }
        mapped::create(FILE, WORDS, |mapped| {
            Journal::format(mapped.words, identity(mapped));
        })
    });
    shared.journal.store(made.as_ref().map_or(0, |mapped| mapped.inode), SeqCst);
    attached(shared);
    made.map(|_| ()).map_err(|error| format!("\"{FILE}\" cannot be made: {error}"))
}

/// The journal that shared memory names, if there is one and it can be mapped.
pub fn attached(shared: &Shared) -> Option<Journal<'static>> {
    let inode = shared.journal.load(SeqCst);
    if inode == 0 {
        return None;
    }
    if let Some((_, journal)) = ATTACHED.get().filter(|(known, _)| *known == inode) {
        return Some(journal);
    }
    let mapped = mapped::open(FILE, WORDS).ok().filter(|mapped| mapped.inode == inode)?;
    let journal = Journal::open(mapped.words, identity(&mapped)).ok()?;
    ATTACHED.set(Some((inode, journal)));
    mark_on_quit(shared, journal, None);
    Some(journal)
}

/// The slot of executor `number`, which the SIGQUIT of the postmaster marks from now on.
pub fn slot(shared: &Shared, number: usize) -> Option<Slot<'static>> {
    let journal = attached(shared)?;
    let slot = journal.slot(number);
    mark_on_quit(shared, journal, Some(slot));
    Some(slot)
}

fn mark_on_quit(shared: &Shared, journal: Journal<'static>, slot: Option<Slot<'static>>) {
    let epoch = u64::from_ne_bytes(shared.started_at.load(SeqCst).to_ne_bytes());
    signals::mark_on_quit([Some((journal.told_word(), epoch)), slot.map(|slot| (slot.mark_word(), STOPPED))]);
}
