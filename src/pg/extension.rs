//! The extension itself: its oid, its version, and the lock that lets DROP EXTENSION wait for us cleanly.
//!
//! DROP EXTENSION takes AccessExclusiveLock on the extension object before anything else. Each of our
//! workers' transactions takes AccessShareLock on it first, and only then touches tables: one order,
//! no deadlock.

use std::cell::Cell;

use pgrx::pg_sys;

/// The extension's oid in this database, zero when it is not there.
pub fn oid() -> u32 {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::get_extension_oid(c"pgq".as_ptr(), true) }.to_u32()
}

/// Runs `work` in an upgrade script as if it was typed after it: what is granted there is then no part of the extension
/// as it was installed (recordExtensionInitPriv, aclchk.c), so that pg_dump dumps it and DROP ROLE finds it. `None` when
/// no script runs.
pub fn after_script<T>(work: impl FnOnce() -> T) -> Option<T> {
    struct Script;
    impl Drop for Script {
        fn drop(&mut self) {
            // SAFETY: as below. On an error extension.c sets it anew anyway (execute_extension_script).
            unsafe { pg_sys::creating_extension = true }
        }
    }
    // SAFETY: a variable of extension.c in a backend of one thread; nothing that runs here creates objects.
    unsafe {
        if !pg_sys::creating_extension {
            return None;
        }
        pg_sys::creating_extension = false;
    }
    let _script = Script;
    Some(work())
}

/// Waits for the lock, held to the end of the transaction. True when the extension is still `expected`.
pub fn lock(expected: u32) -> bool {
    // SAFETY: a lock of the ordinary lock manager inside a transaction; waits are interruptible.
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::ExtensionRelationId,
            pg_sys::Oid::from(expected),
            0,
            i32::try_from(pg_sys::AccessShareLock).unwrap_or(1),
        );
    }
    is(expected)
}

thread_local! {
    /// The extension that was here, and the oid of its pgq.job.
    static SEEN: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

/// Is it still this extension? Its table says so from the system caches, where the extension itself would be searched
/// for in the catalog: the table goes with it.
fn is(expected: u32) -> bool {
    let here = (expected, job_table());
    if here.1 != 0 && SEEN.get() == here {
        return true;
    }
    let same = oid() == expected;
    if same {
        SEEN.set(here);
    }
    same
}

/// The same without waiting: `None` when somebody drops it or waits to.
pub fn try_lock(expected: u32) -> Option<bool> {
    // SAFETY: ConditionalLockDatabaseObject is LockAcquire with dontWait on the tag that SET_LOCKTAG_OBJECT makes.
    let got = unsafe {
        let tag =
            super::database::object_tag(pg_sys::MyDatabaseId.to_u32(), pg_sys::ExtensionRelationId.to_u32(), expected);
        pg_sys::LockAcquire(&tag, i32::try_from(pg_sys::AccessShareLock).unwrap_or(1), false, true)
    };
    if got == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
        return None;
    }
    // SAFETY: as LockDatabaseObject does after it got the lock: look at what happened meanwhile.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    Some(is(expected))
}

/// A transaction-level lock on (the job table, `hash`): two producers of one key take turns. A collision of
/// hashes costs a wait, no more. False, only with `wait = false`, when somebody else has it.
pub fn lock_key(table: u32, hash: u32, wait: bool) -> bool {
    // SAFETY: as above; ExclusiveLock conflicts with itself and nobody else uses this tag. A standby grants no such
    // lock and would say so in its own words (LockAcquireExtended, lock.c), so the INSERT it is for is refused before.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(c"INSERT".as_ptr());
        let tag = super::database::object_tag(pg_sys::MyDatabaseId.to_u32(), table, hash);
        let got = pg_sys::LockAcquire(&tag, i32::try_from(pg_sys::ExclusiveLock).unwrap_or(7), false, !wait);
        got != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// What a lock of a group is the lock of, beside the keys (`lock_key`).
const GROUP: u16 = 1;

/// Waits until nobody else looks whose turn it is in the group of this number, which takes him as long as a look.
pub fn lock_group(hash: u32) {
    // SAFETY: as `lock_key`; to the end of the transaction, unless it is given back before.
    unsafe {
        let tag = super::database::part_tag(pg_sys::MyDatabaseId.to_u32(), job_table(), hash, GROUP);
        pg_sys::LockAcquire(&tag, i32::try_from(pg_sys::ExclusiveLock).unwrap_or(7), false, false);
    }
}

/// Gives `lock_group` back.
pub fn unlock_group(hash: u32) {
    // SAFETY: a lock that this transaction holds.
    unsafe {
        let tag = super::database::part_tag(pg_sys::MyDatabaseId.to_u32(), job_table(), hash, GROUP);
        pg_sys::LockRelease(&tag, i32::try_from(pg_sys::ExclusiveLock).unwrap_or(7), false);
    }
}

/// The oid of pgq.job, zero when it is not there.
pub fn job_table() -> u32 {
    // SAFETY: syscache look-ups inside a transaction.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgq".as_ptr(), true);
        pg_sys::get_relname_relid(c"job".as_ptr(), schema).to_u32()
    }
}
