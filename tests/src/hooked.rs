//! A PostgreSQL of its own with the build of pgq that has hooks: points at which a test lets a
//! process die (`src/pg/hooks.rs`). The installed build, which has none, is left alone: the
//! server's programs are copied to another place, where they find their libraries beside them.

use crate::process;
use crate::server::{binary, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// The directory of the installed library.
pub fn installed_library() -> PathBuf {
    asked("--pkglibdir").join("pgq.so")
}

fn asked(what: &str) -> PathBuf {
    let output = Command::new(binary("pg_config")).arg(what).output().expect("pg_config is there");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// The server's program in the copy.
///
/// # Panics
/// When it cannot be made.
pub fn postgres() -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(copy).clone()
}

/// Programs find their files by paths relative to themselves, so all of them move together.
fn copy() -> PathBuf {
    let root = process::make_directory("h");
    for what in ["--bindir", "--pkglibdir", "--sharedir"] {
        let from = asked(what);
        let to = below(&root, &from);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        let copied = Command::new("/bin/cp").arg("-rT").arg(&from).arg(&to).status().expect("cp is there");
        assert!(copied.success(), "{} was not copied", from.display());
    }
    let place = below(&root, &asked("--pkglibdir")).join("pgq.so");
    fs::remove_file(&place).expect("the installed build was copied");
    fs::copy(library(), &place).expect("the build with hooks");
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(&root).status().expect("chmod is there");
    assert!(open.success());
    below(&root, &asked("--bindir")).join("postgres")
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").expect("pg_config prints whole paths"))
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
