//! Functions of the server without a boundary of their own. pgrx wraps each call into a sigsetjmp, which costs as much as
//! some of the functions themselves; what is done for every row of many calls these, inside one boundary.
//!
//! # Safety
//! To be called within `pg_sys::ffi::pg_guard_ffi_boundary` only, from a closure that owns nothing to be dropped: what the
//! server raises jumps out of it. No function of `pg_sys` may be called in there, whose own boundary would make a panic of
//! it. Else as the server's headers say.

use pgrx::pg_sys;

// SAFETY: the declarations of access/genam.h, executor/executor.h, executor/tuptable.h and utils/memutils.h.
unsafe extern "C-unwind" {
    pub(super) fn index_getnext_slot(
        scan: pg_sys::IndexScanDesc,
        direction: pg_sys::ScanDirection::Type,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool;
    pub(super) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, columns: i32);
    pub(super) fn ExecFetchSlotHeapTuple(
        slot: *mut pg_sys::TupleTableSlot,
        materialize: bool,
        should_free: *mut bool,
    ) -> pg_sys::HeapTuple;
    pub(super) fn ExecStoreVirtualTuple(slot: *mut pg_sys::TupleTableSlot) -> *mut pg_sys::TupleTableSlot;
    pub(super) fn ExecConstraints(
        info: *mut pg_sys::ResultRelInfo,
        slot: *mut pg_sys::TupleTableSlot,
        estate: *mut pg_sys::EState,
    );
    pub(super) fn ExecComputeStoredGenerated(
        info: *mut pg_sys::ResultRelInfo,
        estate: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
        command: pg_sys::CmdType::Type,
    );
    pub(super) fn ExecInsertIndexTuples(
        info: *mut pg_sys::ResultRelInfo,
        slot: *mut pg_sys::TupleTableSlot,
        estate: *mut pg_sys::EState,
        is_update: bool,
        no_duplicate_error: bool,
        conflict: *mut bool,
        arbiters: *mut pg_sys::List,
        #[cfg(not(feature = "pg15"))] only_summarizing: bool,
    ) -> *mut pg_sys::List;
    pub(super) fn MemoryContextReset(context: pg_sys::MemoryContext);
}
