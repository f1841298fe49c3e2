//! When the effects of jobs are seen, and when they are on disk.
//!
//! A commit waits for the disk before anybody sees it. That of a function handler need not: if the server crashes
//! before it is on disk, effects and removal are undone together and the job is there again, which is the promise. The
//! apply workers of logical replication do not wait for the same reason (`synchronous_commit` of CREATE SUBSCRIPTION).
//! WAL has one order, so whoever saw the effects and commits something takes them to disk with it. So they are seen
//! first and on disk a moment later: an executor flushes before it rests and before a commit that is 10 ms after the one
//! that waits, the WAL writer within three times `wal_writer_delay`, and `pgq.wait` before it says that a job is finished.
//!
//! Only where `synchronous_commit` is `on` and no standby is waited for: any other value is somebody's wish.

use std::cell::Cell;

use pgrx::pg_sys;

use super::{clock, xact};

/// How much older than a commit one before it may be that is not on disk: the length of a transaction of many jobs
/// (`pgq.batch_time`), so that jobs with a transaction each share a flush as those of one transaction do. Microseconds.
const LAG: i64 = 10_000;
/// SizeOfXLogLongPHD, of a segment's first page, and SizeOfXLogShortPHD (access/xlog_internal.h).
const LONG_HEADER: u64 = 40;
const SHORT_HEADER: u64 = 24;
const OFF: i32 = pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32;
/// `on` (SYNCHRONOUS_COMMIT_ON, access/xact.h).
const ON: i32 = pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH as i32;

thread_local! {
    /// The end of our last commit that did not wait, and when the first one was that is not on disk.
    static PENDING: Cell<(pg_sys::XLogRecPtr, i64)> = const { Cell::new((0, 0)) };
    /// Is the setting changed for the commit that is under way?
    static CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Commits a worker's transaction: seen when this returns, on disk after `settle`.
///
/// # Safety
/// As CommitTransactionCommand. After an error `restore` is called.
pub(super) unsafe fn commit_early() {
    let (end, since) = PENDING.get();
    if end != 0 && clock::now() - since >= LAG {
        settle();
    }
    // SAFETY: RecordTransactionCommit (xact.c) reads the variable after the deferred triggers have run. What they set
    // it to for the transaction is taken back to our value (AtEOXact_GUC), and `restore` takes that back.
    unsafe {
        if pg_sys::synchronous_commit == ON && !waits_for_standbys() {
            pg_sys::synchronous_commit = OFF;
            CHANGED.set(true);
        }
        pg_sys::CommitTransactionCommand();
    }
    if CHANGED.get() {
        let since = if PENDING.get().0 == 0 { clock::now() } else { PENDING.get().1 };
        // SAFETY: a variable of this backend (xact.c); after a transaction that wrote nothing it is an older one's.
        PENDING.set((unsafe { pg_sys::XactLastCommitEnd }, since));
    }
    restore();
}

/// After a commit of `commit_early`, or an abort instead.
pub(super) fn restore() {
    if CHANGED.replace(false) {
        // SAFETY: what the setting was, in this backend. Outside a transaction, so nothing is on the settings' stack.
        unsafe { pg_sys::synchronous_commit = ON };
    }
}

/// Returns when all that this worker committed is on disk.
pub fn settle() {
    let (end, _) = PENDING.replace((0, 0));
    if end != 0 {
        // SAFETY: the end of a record that was written. What is on disk already costs a comparison.
        unsafe { pg_sys::XLogFlush(end) };
    }
}

/// Returns when everything that is seen at this moment is on disk, whoever committed it.
pub fn settle_all() {
    if xact::in_recovery() {
        return;
    }
    // SAFETY: reads shared state of xlog.c; the size of a segment is fixed when the server starts.
    let (next, segment) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size.unsigned_abs()) };
    let end = end_of_last(next, segment.into());
    // SAFETY: see above.
    unsafe { pg_sys::XLogFlush(end) };
}

/// Where the last record ended, if the next one comes to `next`: where it ended at the end of a page, behind the header of
/// the new page (XLogBytePosToRecPtr, xlog.c), and further than the page's start cannot be flushed
/// (WaitXLogInsertionsToFinish).
pub(super) fn end_of_last(next: pg_sys::XLogRecPtr, segment: u64) -> pg_sys::XLogRecPtr {
    let block = u64::from(pg_sys::XLOG_BLCKSZ);
    let header = if next % segment < block { LONG_HEADER } else { SHORT_HEADER };
    if next % block == header {
        next - header
    } else {
        next
    }
}

/// Does a commit wait for a standby?
fn waits_for_standbys() -> bool {
    // SAFETY: a setting's C string, or null (SyncStandbysDefined, syncrep.h).
    unsafe { !pg_sys::SyncRepStandbyNames.is_null() && *pg_sys::SyncRepStandbyNames != 0 }
}
