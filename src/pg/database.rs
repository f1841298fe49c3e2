//! Databases as the server sees them: which there are, and whether somebody wants one for himself.

use pgrx::pg_sys;

/// This process's database.
pub fn current() -> u32 {
    // SAFETY: set at connect.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The tag of a lock on a database object (SET_LOCKTAG_OBJECT, lock.h); `database` 0 for shared objects.
pub(super) fn object_tag(database: u32, class: u32, object: u32) -> pg_sys::LOCKTAG {
    part_tag(database, class, object, 0)
}

/// The same of a part of the object.
pub(super) fn part_tag(database: u32, class: u32, object: u32, part: u16) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database,
        locktag_field2: class,
        locktag_field3: object,
        locktag_field4: part,
        // LockTagType is a C enum of small values; DEFAULT_LOCKMETHOD is 1.
        locktag_type: u8::try_from(pg_sys::LockTagType::LOCKTAG_OBJECT).unwrap_or(0),
        locktag_lockmethodid: 1,
    }
}

/// Does nobody hold or wait for `database` exclusively (DROP, RENAME, CREATE … TEMPLATE)? Inside a transaction.
pub fn is_free(database: u32) -> bool {
    let mode = i32::try_from(pg_sys::RowExclusiveLock).unwrap_or(3);
    // SAFETY: ConditionalLockSharedObject and its release at once, by tag (lmgr.c).
    unsafe {
        let tag = object_tag(0, pg_sys::DatabaseRelationId.to_u32(), database);
        if pg_sys::LockAcquire(&tag, mode, false, true) == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return false;
        }
        pg_sys::LockRelease(&tag, mode, false);
        true
    }
}

/// Does this process's own database still take sessions, and is it no template, which others are made from? Only such
/// a database is served. Inside a transaction.
pub fn is_open() -> bool {
    // SAFETY: a syscache look-up; the tuple is released after its fields are read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            i32::try_from(pg_sys::SysCacheIdentifier::DATABASEOID).unwrap_or(0),
            pg_sys::Datum::from(pg_sys::MyDatabaseId),
        );
        if tuple.is_null() {
            return false;
        }
        let row: *const pg_sys::FormData_pg_database = pg_sys::GETSTRUCT(tuple).cast();
        let open = (*row).datallowconn && !(*row).datistemplate;
        pg_sys::ReleaseSysCache(tuple);
        open
    }
}

/// The databases that can be connected to, templates left out. Inside a transaction, by a table scan, as
/// autovacuum's launcher does it (autovacuum.c, get_database_list): without a database there is no SPI.
pub fn connectable() -> Vec<u32> {
    let mut found = Vec::new();
    // SAFETY: the scan of a shared catalog with a registered snapshot of its own; rows are read before the next fetch.
    unsafe {
        let lock = i32::try_from(pg_sys::AccessShareLock).unwrap_or(1);
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row: *const pg_sys::FormData_pg_database = pg_sys::GETSTRUCT(tuple).cast();
            if (*row).datallowconn && !(*row).datistemplate {
                found.push((*row).oid.to_u32());
            }
        }
        if let Some(end) = (*(*(*scan).rs_rd).rd_tableam).scan_end {
            end(scan);
        }
        pg_sys::table_close(relation, lock);
    }
    found
}
