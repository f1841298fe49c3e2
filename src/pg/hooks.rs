//! Points at which the tests let this build die or wait. Compiled in only with the feature `test-hooks`; a
//! release build has neither the points nor the symbol that the tests look for.
//!
//! A file `pgq_hook` in the data directory names a point and what happens there: `after claim: kill`. It is removed
//! first, so that the point is hit once.

/// This point is reached.
#[cfg(not(feature = "test-hooks"))]
#[inline(always)]
pub fn at(_point: &str) {}

#[cfg(feature = "test-hooks")]
pub use hooked::at;

#[cfg(feature = "test-hooks")]
mod hooked {
    use crate::pg::latch;
    use std::fs;

    /// Tells a build with hooks from one without.
    #[unsafe(no_mangle)]
    pub static PGQ_TEST_HOOKS: u32 = 1;

    // SAFETY: the declaration of kill(2).
    unsafe extern "C" {
        fn kill(pid: i32, signal: i32) -> i32;
    }

    /// This point is reached.
    pub fn at(point: &str) {
        let Ok(text) = fs::read_to_string("pgq_hook") else { return };
        let Some((wanted, action)) = text.trim().split_once(": ") else { return };
        // Whoever removes it is the one who is hit.
        if wanted != point || fs::remove_file("pgq_hook").is_err() {
            return;
        }
        let _ = fs::write("pgq_hook_hit", point);
        match action {
            // SAFETY: a signal to this very process.
            "kill" => unsafe {
                kill(latch::my_pid(), 9);
            },
            // SAFETY: as above.
            "terminate" => unsafe {
                kill(latch::my_pid(), 15);
            },
            // SAFETY: as above; held in this place until somebody lets it go on.
            "stop" => unsafe {
                kill(latch::my_pid(), 19);
            },
            _ => {}
        }
    }
}
