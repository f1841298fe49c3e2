//! Settings: reserving our prefix, and taking back what a piece of code set.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Makes an unknown `prefix.name` an error (MarkGUCPrefixReserved).
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: called from _PG_init after the settings are defined; the string is static.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// An open level of settings: everything SET, SET LOCAL or set_config did since is taken back by
/// `close`. An error needs no `close`: the (sub)transaction's abort does it (AtEOXact_GUC).
#[must_use]
pub struct Nest(i32);

impl Nest {
    /// Opens a level.
    pub fn open() -> Self {
        // SAFETY: plain counter in guc.c.
        Nest(unsafe { pg_sys::NewGUCNestLevel() })
    }

    /// Sets `name` until the level closes.
    pub fn set(&self, name: &CStr, value: &CStr) {
        // SAFETY: static strings; GUC_ACTION_SAVE ties the value to the nest level that `open` began.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }

    /// Takes everything back.
    pub fn close(self) {
        // SAFETY: levels are closed in the order opposite to opening: a Nest is not Clone, and every user holds it on its stack.
        unsafe { pg_sys::AtEOXact_GUC(false, self.0) }
    }
}

/// Reads the configuration files again when SIGHUP asked for it.
pub fn reload_if_asked() {
    // SAFETY: ConfigReloadPending is set by SignalHandlerForConfigReload in this process; ProcessConfigFile
    // is called between transactions, as every worker's main loop in PostgreSQL does.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// RESET SESSION AUTHORIZATION, RESET ROLE and RESET ALL: after code that could change these for the session. RESET
/// ALL alone leaves the first two (GUC_NO_RESET_ALL). In a transaction of its own, which keeps them at its commit:
/// SetPGVariable asks whether the present user is a superuser, and outside a transaction that look-up crashes (tried).
pub fn reset_all() {
    // SAFETY: as DISCARD ALL does it (discard.c), inside a transaction; no nest level is open.
    unsafe {
        pg_sys::SetPGVariable(c"session_authorization".as_ptr(), std::ptr::null_mut(), false);
        pg_sys::SetPGVariable(c"role".as_ptr(), std::ptr::null_mut(), false);
        pg_sys::ResetAllOptions();
    }
}
