//! A PostgreSQL of its own with the build of pgq that has hooks: points at which a test lets a
//! process die (`src/pg/hooks.rs`). The installed build, which has none, is left alone.

use crate::installation::Installation;
use crate::process;
use crate::server::Server;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// What the library with hooks exports, and no other.
pub const SYMBOL: &[u8] = b"PGQ_TEST_HOOKS";

/// The library with hooks, as `tests/run` and `tests/torture` have built it.
///
/// # Panics
/// When nobody has.
pub fn library() -> PathBuf {
    let path = std::env::var_os("PGQ_HOOKS").expect("PGQ_HOOKS is not set: use tests/run or tests/torture");
    PathBuf::from(path)
}

/// The server's program in the copy.
///
/// # Panics
/// When it cannot be made.
pub fn postgres() -> PathBuf {
    static COPY: OnceLock<Installation> = OnceLock::new();
    let installation = COPY.get_or_init(|| {
        let installation = Installation::copy();
        installation.replace_library(&library());
        installation
    });
    installation.postgres()
}

/// Tells the server which points are hit next, and that whoever reaches one dies there.
///
/// # Panics
/// When the data directory cannot be written.
pub fn arm(server: &Server, points: &[&str]) {
    let text: Vec<String> = points.iter().map(|point| format!("{point}: kill")).collect();
    write(server, &text.join("\n"));
}

/// Whoever reaches this point next is held there.
///
/// # Panics
/// As [`arm`].
pub fn hold(server: &Server, point: &str) {
    write(server, &format!("{point}: stop"));
}

fn write(server: &Server, text: &str) {
    let new = server.data_directory().join("pgq_hook_new");
    fs::write(&new, text).expect("a file in the data directory");
    process::owner().give(&new);
    fs::rename(new, server.data_directory().join("pgq_hook")).expect("the same file system");
}

/// How many points were hit in all.
pub fn hits(server: &Server) -> usize {
    fs::read_to_string(server.data_directory().join("pgq_hook_hit")).map_or(0, |text| text.lines().count())
}
