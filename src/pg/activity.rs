//! What pg_stat_activity says about this worker.

use std::ffi::CString;

use pgrx::pg_sys;

/// Shows `what` as the running statement.
pub fn running(what: &str) {
    if let Ok(text) = CString::new(what) {
        // SAFETY: the text is copied into shared memory (backend_status.c).
        unsafe {
            pg_sys::debug_query_string = std::ptr::null();
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr());
        }
    }
}

/// Shows that nothing runs; the last text stays, as with any idle session.
pub fn idle() {
    // SAFETY: see above; null keeps the text.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()) }
}

/// Sets application_name.
pub fn name(name: &str) {
    if let Ok(text) = CString::new(name) {
        // SAFETY: copied.
        unsafe { pg_sys::pgstat_report_appname(text.as_ptr()) }
    }
}
