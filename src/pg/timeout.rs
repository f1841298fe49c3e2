//! A time limit on the code that runs: cancels it with 57014, as statement_timeout would, and leaves a
//! mark, so that a handler which swallows the cancel is found out afterwards.
//!
//! pgrx does not bind utils/timeout.h, so its functions are declared here.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

/// USER_TIMEOUT: the first id that RegisterTimeout takes for "the next free one" (utils/timeout.h).
#[cfg(any(feature = "pg15", feature = "pg16"))]
const USER_TIMEOUT: i32 = 12;
/// From 17 on TRANSACTION_TIMEOUT stands before it.
#[cfg(any(feature = "pg17", feature = "pg18"))]
const USER_TIMEOUT: i32 = 13;

// SAFETY: the declarations of utils/timeout.h.
unsafe extern "C-unwind" {
    fn RegisterTimeout(id: i32, handler: Option<unsafe extern "C-unwind" fn()>) -> i32;
    fn enable_timeout_after(id: i32, delay_ms: i32);
    fn disable_timeout(id: i32, keep_indicator: bool);
}

static EXPIRED: AtomicBool = AtomicBool::new(false);
static ID: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

/// Takes a timer for this process. Once, at a worker's start.
pub fn register() {
    // SAFETY: InitializeTimeouts ran in StartBackgroundWorker; ten user timeouts are to be had.
    let id = unsafe { RegisterTimeout(USER_TIMEOUT, Some(expire)) };
    ID.store(id, Ordering::Relaxed);
}

/// Lets `millis` pass (at least 1), then cancels what runs. Replaces an earlier limit.
pub fn arm(millis: i64) {
    EXPIRED.store(false, Ordering::Relaxed);
    let id = ID.load(Ordering::Relaxed);
    if id >= 0 {
        let delay = i32::try_from(millis.max(1)).unwrap_or(i32::MAX);
        // SAFETY: a registered id. A timer that is running is replaced: disabled first, as timeout.c asks.
        unsafe {
            disable_timeout(id, false);
            enable_timeout_after(id, delay);
        }
    }
}

/// No limit any more; a cancel of ours that nobody took yet is taken back.
pub fn disarm() {
    let id = ID.load(Ordering::Relaxed);
    if id >= 0 {
        // SAFETY: a registered id; disabling an inactive timer is allowed.
        unsafe { disable_timeout(id, false) };
    }
    if EXPIRED.load(Ordering::Relaxed) {
        // SAFETY: a flag of this process that only its signal handlers set.
        unsafe { pg_sys::QueryCancelPending = 0 };
    }
}

/// No limit, and none that ran out: a new transaction begins.
pub fn forget() {
    disarm();
    EXPIRED.store(false, Ordering::Relaxed);
}

/// Did the limit that was armed last run out?
pub fn expired() -> bool {
    EXPIRED.load(Ordering::Relaxed)
}

/// # Safety
/// Called by timeout.c from the SIGALRM handler: only stores, and SetLatch, which is made for that.
unsafe extern "C-unwind" fn expire() {
    EXPIRED.store(true, Ordering::Relaxed);
    // SAFETY: what StatementCancelHandler does (postgres.c), without the signal.
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}
