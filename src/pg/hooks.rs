//! Points at which the tests let this build die or wait. Compiled in only with the feature `test-hooks`; a
//! release build has neither the points nor the symbol that the tests look for.
//!
//! Each line of a file `pgq_hook` in the data directory names a point and what happens there: `claimed: kill`. The
//! first line counts; it is removed before its action, so that each is hit once. `pgq_hook_hit` says which were.

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
    use std::io::Write;

    /// Tells a build with hooks from one without.
    #[unsafe(no_mangle)]
    pub static PGQ_TEST_HOOKS: u32 = 1;

    // SAFETY: the declaration of kill(2).
    unsafe extern "C" {
        fn kill(pid: i32, signal: i32) -> i32;
    }

    const FILE: &str = "pgq_hook";

    /// The first line, as point and action, and the lines behind it.
    fn first(text: &str) -> Option<(&str, &str, &str)> {
        let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
        let (point, action) = line.split_once(": ")?;
        Some((point, action, rest))
    }

    /// This point is reached.
    pub fn at(point: &str) {
        let Ok(text) = fs::read_to_string(FILE) else { return };
        let Some((_, action, rest)) = first(&text).filter(|(wanted, ..)| *wanted == point) else { return };
        // Whoever takes the file away is the one who is hit.
        let taken = format!("{FILE}_{}", latch::my_pid());
        if fs::rename(FILE, &taken).is_err() {
            return;
        }
        if !rest.is_empty() {
            let _ = fs::write(&taken, rest).and_then(|()| fs::rename(&taken, FILE));
        }
        let hit = fs::OpenOptions::new().append(true).create(true).open("pgq_hook_hit");
        let _ = hit.and_then(|mut file| writeln!(file, "{point}"));
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
