//! What code leaves behind in a session, and taking it back: the pieces of DISCARD ALL (DiscardAll, discard.c), which
//! itself cannot run where we are.
//!
//! Two of its pieces are not here. UNLISTEN: a background worker cannot LISTEN (utility.c). The plan cache: no code
//! can see it, and our own statements would be planned anew.

use std::ffi::CStr;

use pgrx::{direct_function_call, pg_sys, IntoDatum};

use super::guc;
use super::user::Role;

// SAFETY: the declaration of commands/sequence.h, which pgrx does not bind. It frees memory and raises nothing.
unsafe extern "C-unwind" {
    fn ResetSequenceCaches();
}

/// What needs no transaction and next to no time: held cursors, settings, prepared statements, session locks.
/// Outside a transaction.
pub fn tidy() {
    // SAFETY: in DiscardAll's order, between transactions. No portal is active there, and a held one has its rows
    // already, so no user's code runs (portalmem.c). ResetAllOptions calls assign hooks only, which must bear that,
    // because an abort calls them too (guc.c). Without a transaction there are no transaction-level locks to lose.
    unsafe {
        pg_sys::PortalHashTableDeleteAll();
        pg_sys::ResetAllOptions();
        pg_sys::DropAllPreparedStatements();
        pg_sys::LockReleaseAll(user_locks(), true);
    }
}

/// Is the session `role` acting as itself, and did its last transaction touch no temporary object? Outside a
/// transaction. If not, `tidy` was not enough.
pub fn is_tidy(role: Role) -> bool {
    // SAFETY: reads statics. MyXactFlags stays what the last transaction left until the next one begins (xact.c).
    unsafe {
        let own = pg_sys::Oid::from(role);
        let flags = u32::try_from(pg_sys::MyXactFlags).unwrap_or(0);
        pg_sys::GetUserId() == own
            && pg_sys::GetSessionUserId() == own
            && flags & pg_sys::XACT_FLAGS_ACCESSEDTEMPNAMESPACE == 0
    }
}

/// All of DISCARD ALL, and a new seed for random(). In a transaction of its own, which must commit.
pub fn discard() {
    // SAFETY: in DiscardAll's order, with a snapshot as it has one from its portal: dropping temporary objects reads
    // catalogs. No user's code runs: what a cursor held was computed before. The transaction is ours and fresh: no
    // transaction-level lock is lost.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::PortalHashTableDeleteAll();
        guc::reset_all();
        pg_sys::DropAllPreparedStatements();
        pg_sys::LockReleaseAll(user_locks(), true);
        pg_sys::ResetTempTableNamespace();
        ResetSequenceCaches();
        pg_sys::PopActiveSnapshot();
    }
    reseed();
}

/// After setseed() the next numbers of random() are known: a seed that nobody knows.
fn reseed() {
    let mut bytes = [0_u8; 4];
    // SAFETY: fills our four bytes; setseed takes a double between -1 and 1 (float.c).
    unsafe {
        if pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) {
            let seed = f64::from(i32::from_ne_bytes(bytes)) / f64::from(i32::MIN);
            direct_function_call::<()>(pg_sys::setseed, &[seed.into_datum()]);
        }
    }
}

fn user_locks() -> u16 {
    u16::try_from(pg_sys::USER_LOCKMETHOD).unwrap_or(2)
}

/// Makes a setting's value the session's own: above those of ALTER ROLE and ALTER DATABASE, and what RESET returns to.
pub(super) fn pin(name: &CStr, value: &CStr) {
    // SAFETY: PGC_S_OVERRIDE is what InitializeSessionUserId uses for session_authorization (miscinit.c): it sets the
    // value and the one that RESET returns to.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Acts as the role that this worker is connected as, whatever ALTER ROLE … SET role said, and so does RESET ROLE.
pub fn be_oneself() {
    // "none" needs no look-up in a catalog (check_role, variable.c).
    pin(c"role", c"none");
}

/// No transaction_timeout holds for this worker (from 17 on): it would end the process, where our limits cancel a job.
/// The other timeouts of a session are armed for clients only; this one is by StartTransaction (xact.c) in every process.
/// Autovacuum keeps it away in the same manner (autovacuum.c).
pub(super) fn outlast_timeouts() {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    pin(c"transaction_timeout", c"0");
}

/// Keeps cancels out until `work` is done: one that was meant for a job and comes late must not end what cleans up
/// after it. It is still pending afterwards.
pub fn without_cancel<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: HOLD_CANCEL_INTERRUPTS and RESUME_CANCEL_INTERRUPTS (miscadmin.h). An error sets the count to zero
    // (errfinish, elog.c), so that it may be zero already.
    unsafe {
        pg_sys::QueryCancelHoldoffCount += 1;
        let result = work();
        pg_sys::QueryCancelHoldoffCount = pg_sys::QueryCancelHoldoffCount.saturating_sub(1);
        result
    }
}

/// The rows of ALTER ROLE … SET and ALTER DATABASE … SET that a session of this role in this database starts with: the
/// transactions that wrote them. There is no cache of this catalog that would tell of a change. In a transaction.
pub fn settings_mark(database: u32, role: Role) -> [u32; 4] {
    // pg_db_role_setting and its index, fixed in pg_db_role_setting.h.
    const CATALOG: u32 = 2964;
    const INDEX: u32 = 2965;
    let lock = i32::try_from(pg_sys::AccessShareLock).unwrap_or(1);
    let equal = u16::try_from(pg_sys::BTEqualStrategyNumber).unwrap_or(3);
    // SAFETY: the scan of ApplySetting (pg_db_role_setting.c), under a catalog snapshot of its own; the row's header is
    // read before the scan ends.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::Oid::from(CATALOG), lock);
        let mark = [(database, role), (0, role), (database, 0), (0, 0)].map(|pair| {
            let mut keys = [pg_sys::ScanKeyData::default(); 2];
            for (key, (column, oid)) in keys.iter_mut().zip([(1, pair.0), (2, pair.1)]) {
                let value = pg_sys::Datum::from(pg_sys::Oid::from(oid));
                pg_sys::ScanKeyInit(key, column, equal, pg_sys::Oid::from(pg_sys::F_OIDEQ), value);
            }
            let index = pg_sys::Oid::from(INDEX);
            let scan = pg_sys::systable_beginscan(relation, index, true, std::ptr::null_mut(), 2, keys.as_mut_ptr());
            let tuple = pg_sys::systable_getnext(scan);
            let writer = if tuple.is_null() { 0 } else { (*(*tuple).t_data).t_choice.t_heap.t_xmin.into_inner() };
            pg_sys::systable_endscan(scan);
            writer
        });
        pg_sys::table_close(relation, lock);
        mark
    }
}
