//! pg_dump and pg_restore, as people use them: a database goes through a file into another one, of the same server or of
//! another.

use crate::process::owner;
use crate::programs::succeed;
use crate::server::{binary, Server};
use std::path::PathBuf;
use std::process::Command;

/// How a dump is written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// SQL, read by psql.
    Plain,
    /// One file, read by pg_restore.
    Custom,
    /// A directory, written and read by two processes at a time.
    TwoJobs,
    /// As `Custom`, over what is there.
    Clean,
}

/// Dumps a database into a file, or a directory, beside the server's data.
///
/// # Panics
/// When `pg_dump` fails.
pub fn dump(server: &Server, database: &str, format: Format) -> PathBuf {
    let path = server.socket_directory().join(format!("{database}-{format:?}.dump"));
    let mut command = program(server, "pg_dump", database);
    match format {
        Format::Plain => command.arg("-Fp"),
        Format::Custom | Format::Clean => command.arg("-Fc"),
        Format::TwoJobs => command.args(["-Fd", "-j2"]),
    };
    succeed(command.arg("-f").arg(&path));
    path
}

/// Reads it into a database that is there.
///
/// # Panics
/// When psql or `pg_restore` fails.
pub fn restore(server: &Server, database: &str, format: Format, path: &PathBuf) {
    let mut command = match format {
        Format::Plain => program(server, "psql", database),
        _ => program(server, "pg_restore", database),
    };
    match format {
        Format::Plain => command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]),
        Format::Custom => command.arg("--exit-on-error"),
        Format::TwoJobs => command.args(["--exit-on-error", "-j2"]),
        Format::Clean => command.args(["--exit-on-error", "--clean", "--if-exists"]),
    };
    succeed(command.arg(path));
}

fn program(server: &Server, name: &str, database: &str) -> Command {
    let mut command = owner().command(binary(name));
    command.arg("-h").arg(server.socket_directory());
    command.args(["-p", &server.port().to_string(), "-U", "postgres", "-d", database]);
    command
}
