//! The signal handlers of our workers: `die` for SIGTERM, so that a handler in a long query obeys a fast
//! shutdown; SIGINT cancels (set by the server); SIGHUP reloads; SIGUSR1 is never touched.

use pgrx::pg_sys;

// SAFETY: the declarations of tcop/tcopprot.h and postmaster/interrupt.h. Here as plain symbols: pgrx's own are wrappers, which cannot be installed as handlers.
unsafe extern "C-unwind" {
    fn die(signal: i32);
    fn SignalHandlerForConfigReload(signal: i32);
}

const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;

/// Installs them and lets signals in. First thing in a worker's main.
pub fn install() {
    // SAFETY: start of a background worker, signals still blocked; these are the server's own handlers.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            pg_sys::pqsignal(SIGHUP, Some(SignalHandlerForConfigReload));
            pg_sys::pqsignal(SIGTERM, Some(die));
        }
        #[cfg(feature = "pg18")]
        {
            pg_sys::pqsignal_be(SIGHUP, Some(SignalHandlerForConfigReload));
            pg_sys::pqsignal_be(SIGTERM, Some(die));
        }
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}
