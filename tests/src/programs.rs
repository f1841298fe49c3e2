//! The programs of the PostgreSQL under test, and a fresh data directory.

use crate::process::{self, owner};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A program of the PostgreSQL under test: `PG_CONFIG` names it, Debian's 15 unless set.
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let pg_config =
            std::env::var("PG_CONFIG").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pg_config".to_owned());
        let output = Command::new(&pg_config).arg("--bindir").output();
        let output = output.unwrap_or_else(|error| panic!("{pg_config}: {error}"));
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    });
    directory.join(name)
}

/// Copies a fresh data directory: initdb takes a second, and one run needs many servers.
pub fn copy_template(to: &Path) {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let path = process::make_directory("t").join("data");
        let mut initdb = owner().command(binary("initdb"));
        initdb.arg("-D").arg(&path).args(["-U", "postgres", "--auth=trust", "--no-sync"]);
        succeed(initdb.args(["--encoding=UTF8", "--locale=C.UTF-8"]));
        path
    });
    succeed(owner().command("/bin/cp").arg("-a").arg(template).arg(to));
}

/// Runs it to its end.
///
/// # Panics
/// When it fails.
pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let signal = output.status.signal();
    assert!(output.status.success(), "{command:?} failed (signal {signal:?}):\n{stdout}\n{stderr}");
}
