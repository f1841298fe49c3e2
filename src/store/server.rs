//! What doctor asks of the server itself, beside our tables.

use crate::error::Result;
use crate::pg::spi::{Arg, Statement, Type};

/// A view of the server; locks nothing. Whatever is none of the server's own processes is a background worker, of
/// whatever type it says it is.
static WORKER_PROCESSES: Statement = Statement::new(
    "SELECT pg_catalog.current_setting('max_worker_processes')::pg_catalog.int8,
            (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a
              WHERE a.backend_type <> ALL ($1))",
    &[Type::Texts],
);

/// The server's own kinds of processes (GetBackendTypeDesc, miscinit.c, of 15 to 18).
const OWN: [&str; 20] = [
    "archiver",
    "autovacuum launcher",
    "autovacuum worker",
    "background writer",
    "checkpointer",
    "client backend",
    "dead-end client backend",
    "io worker",
    "io_worker",
    "logger",
    "not initialized",
    "postmaster",
    "slotsync worker",
    "standalone backend",
    "startup",
    "walreceiver",
    "walsender",
    "walsummarizer",
    "walwriter",
    "wal summarizer",
];

/// (how many background workers the server allows, how many there are).
pub fn worker_processes() -> Result<(i64, i64)> {
    let own: Vec<Option<String>> = OWN.iter().map(|kind| Some((*kind).to_owned())).collect();
    Ok(WORKER_PROCESSES.row(&[Arg::Texts(&own)], |row| Ok((row.must(1)?, row.must(2)?)))?.unwrap_or((0, 0)))
}

/// Reads a counter in shared memory.
static NOTIFY_QUEUE: Statement =
    Statement::new("SELECT (pg_catalog.pg_notification_queue_usage() * 1000)::pg_catalog.int8", &[]);

/// How full the server's queue of NOTIFY is, in thousandths.
pub fn notify_queue() -> Result<i64> {
    Ok(NOTIFY_QUEUE.row(&[], |row| row.must(1))?.unwrap_or(0))
}

/// Reads the names of the files in the extension directory, and none of the files: pg_available_extension_versions()
/// raises an error when a control file of anybody is malformed. The older PgQ has had versions from 2.1 to 3.5 under our
/// name, and brings the others with it.
static OLDER_PGQ: Statement = Statement::new(
    "SELECT pg_catalog.string_agg(f.name, ', ' ORDER BY f.name COLLATE \"C\")
       FROM pg_catalog.pg_config() AS c, pg_catalog.pg_ls_dir(c.setting || '/extension', true, false) AS f (name)
      WHERE c.name = 'SHAREDIR'
        AND (f.name LIKE 'pgq--2.%' OR f.name LIKE 'pgq--3.%'
             OR f.name = ANY (ARRAY['pgq_coop.control', 'pgq_ext.control', 'pgq_node.control', 'londiste.control']))",
    &[],
);

/// What there is of the older PgQ in this installation.
pub fn older_pgq() -> Result<Option<String>> {
    Ok(OLDER_PGQ.row(&[], |row| Ok(row.get(1)))?.flatten())
}
