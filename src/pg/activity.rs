//! What pg_stat_activity says about this worker.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::session;

/// Shows `what` as the running statement.
pub fn running(what: &str) {
    if let Some(text) = super::encoding::to_server_c(what) {
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

/// Sets application_name, so that it comes back after a handler set another.
pub fn name(name: &CStr) {
    session::pin(c"application_name", name);
}
