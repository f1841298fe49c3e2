//! Dynamic shared memory for what is too large for the main segment: made by whoever needs it first, kept until the
//! server stops or crashes, attached once a backend.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use pgrx::pg_sys;

/// The memory that `handle` names, made and initialised by `prepare` when it names none. `None` when there is no
/// memory to be had. Outside of callbacks only: what the server raises is caught, but it may take a while.
///
/// The memory stays mapped as long as the process lives.
pub fn attach(handle: &AtomicU32, size: usize, prepare: impl Fn(*mut u8)) -> Option<*mut u8> {
    let work = std::panic::AssertUnwindSafe(|| {
        let known = handle.load(SeqCst);
        if known != 0 {
            return map(known);
        }
        make(handle, size, &prepare).or_else(|| map(handle.load(SeqCst)))
    });
    pgrx::PgTryBuilder::new(work).catch_others(|_| None).execute()
}

fn map(handle: u32) -> Option<*mut u8> {
    // SAFETY: a handle that was published once its segment was pinned, so that it is there until the server's shared
    // memory goes with it; called once a process, because the caller keeps what it gets. The mapping is taken out of
    // the resource owner at once.
    unsafe {
        let segment = pg_sys::dsm_attach(handle);
        if segment.is_null() {
            return None;
        }
        pg_sys::dsm_pin_mapping(segment);
        Some(pg_sys::dsm_segment_address(segment).cast())
    }
}

/// `None` when somebody else was first, or nobody can.
fn make(handle: &AtomicU32, size: usize, prepare: &impl Fn(*mut u8)) -> Option<*mut u8> {
    // SAFETY: a segment of our own until its handle is published; zeroed, because the part of main shared memory that
    // min_dynamic_shared_memory sets aside is used again. Whoever comes second lets go of his: the last mapping of a
    // segment that is not pinned destroys it.
    unsafe {
        let segment = pg_sys::dsm_create(size, i32::try_from(pg_sys::DSM_CREATE_NULL_IF_MAXSEGMENTS).unwrap_or(1));
        if segment.is_null() {
            return None;
        }
        let memory: *mut u8 = pg_sys::dsm_segment_address(segment).cast();
        std::ptr::write_bytes(memory, 0, size);
        prepare(memory);
        pg_sys::dsm_pin_segment(segment);
        let name = pg_sys::dsm_segment_handle(segment);
        if handle.compare_exchange(0, name, SeqCst, SeqCst).is_err() {
            pg_sys::dsm_unpin_segment(name);
            pg_sys::dsm_detach(segment);
            return None;
        }
        pg_sys::dsm_pin_mapping(segment);
        Some(memory)
    }
}
