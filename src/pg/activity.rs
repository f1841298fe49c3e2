//! What pg_stat_activity says about this worker.

use std::ffi::CStr;
use std::io::Write;

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

/// What is shown of a handler's jobs: all of it but the job's number is put together once.
#[derive(Debug, Default)]
pub struct Line {
    before: Vec<u8>,
    after: Vec<u8>,
    whole: Vec<u8>,
}

impl Line {
    /// The texts before and after the number. Neither has a zero byte: both are from the database.
    pub fn new(before: &str, after: &str) -> Self {
        let bytes = |text| super::encoding::to_server(text).into_owned();
        Line { before: bytes(before), after: bytes(after), whole: Vec::new() }
    }

    /// Shows it as the running statement, with this number.
    pub fn running(&mut self, number: i64) {
        self.whole.clear();
        self.whole.extend_from_slice(&self.before);
        // Into memory: cannot fail.
        let _ = write!(self.whole, "{number}");
        self.whole.extend_from_slice(&self.after);
        self.whole.push(0);
        // SAFETY: the text ends with a zero byte, and is copied into shared memory (backend_status.c).
        unsafe {
            pg_sys::debug_query_string = std::ptr::null();
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, self.whole.as_ptr().cast());
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
