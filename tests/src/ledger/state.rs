//! What a server must not be left with when the work is done: locks on our tables, open
//! transactions, processes, files, broken indexes, a PANIC in the log.

use crate::process;
use crate::server::Server;
use postgres::Client;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long what is transient may take to go: a vacuum of a small table, the last look of a worker.
const SETTLED: Duration = Duration::from_secs(20);

/// Locks on our tables and on the extension, held by anybody else.
const LOCKS: &str = "
    SELECT count(*) FROM pg_locks AS l
     WHERE l.pid IS DISTINCT FROM pg_backend_pid()
       AND (l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) OR l.pid IS NULL)
       AND (l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'pgq'::regnamespace)
            OR l.locktype IN ('advisory', 'object'))";

/// Workers that have a transaction, a snapshot or an xid, and transactions that somebody prepared.
const OPEN: &str = "
    SELECT (SELECT count(*) FROM pg_stat_activity
             WHERE backend_type LIKE 'pgq%' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL))
         + (SELECT count(*) FROM pg_prepared_xacts)";

/// What is left that should not be, one line each.
///
/// # Panics
/// When the server refuses a query.
pub fn leftovers(server: &Server, client: &mut Client) -> Vec<String> {
    let mut found = Vec::new();
    for (what, sql) in [("locks of others on our tables", LOCKS), ("open transactions", OPEN)] {
        if let Some(number) = settle(client, sql) {
            found.push(format!("{number} {what} {SETTLED:?} after the last job"));
        }
    }
    found.extend(broken_indexes(client));
    found.extend(temporary_files(&server.data_directory()));
    found.extend(orphans(server).iter().map(|pid| format!("process {pid} is no child of the postmaster")));
    found
}

/// Nothing, or the number that did not become 0. A worker's look is a transaction, so what is asked
/// is whether there is a moment without one.
fn settle(client: &mut Client, sql: &str) -> Option<i64> {
    let began = Instant::now();
    loop {
        let number: i64 = crate::one(client, sql);
        if number == 0 {
            return None;
        }
        if began.elapsed() > SETTLED {
            return Some(number);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Every index of ours against its table, with PostgreSQL's own checker, and the tables themselves.
fn broken_indexes(client: &mut Client) -> Vec<String> {
    crate::run(client, "SET lock_timeout = '20 s'; CREATE EXTENSION IF NOT EXISTS amcheck");
    let checks = "
        SELECT format('SELECT bt_index_check(%s, true)', quote_literal(c.oid::regclass)) FROM pg_class AS c
          JOIN pg_am AS a ON a.oid = c.relam AND a.amname = 'btree'
         WHERE c.relkind = 'i' AND c.relnamespace = 'pgq'::regnamespace
        UNION ALL
        SELECT format('SELECT 1 / (count(*) = 0)::int FROM verify_heapam(%s)', quote_literal(c.oid::regclass))
          FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'pgq'::regnamespace";
    let checks: Vec<String> = client.query(checks, &[]).expect("our indexes").iter().map(|row| row.get(0)).collect();
    assert!(checks.len() >= 6, "our indexes and tables are there to be checked: {checks:?}");
    let failed = |sql: &String| client.batch_execute(sql).err().map(|error| format!("{sql}: {error:?}"));
    checks.iter().filter_map(failed).collect()
}

fn temporary_files(data: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["base/pgsql_tmp", "pg_twophase", "pg_logical/snapshots", "pg_replslot"] {
        for entry in fs::read_dir(data.join(folder)).into_iter().flatten().flatten() {
            found.push(format!("a file is left: {folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Processes that work in the data directory and are neither the postmaster nor its children.
pub fn orphans(server: &Server) -> Vec<u32> {
    let postmaster = server.pid();
    let all = process::working_in(&server.data_directory());
    all.into_iter()
        .filter(|pid| *pid != postmaster && process::parent_of(*pid).is_ok_and(|ppid| ppid != postmaster))
        .collect()
}

/// Lines of the log from `start` that no fault explains: `expected` are pieces of those that do.
pub fn alarms(log: &str, start: usize, expected: &[&str]) -> Vec<String> {
    const ALARMS: [&str; 5] = ["PANIC:", "TRAP:", "was terminated by signal", "ERROR:  could not ", "stuck spinlock"];
    let lines = log.get(start..).unwrap_or_default().lines();
    let is_alarm = |line: &&str| ALARMS.iter().any(|alarm| line.contains(alarm));
    let is_expected = |line: &&str| expected.iter().any(|piece| line.contains(piece));
    lines.filter(is_alarm).filter(|line| !is_expected(line)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_what_no_fault_explains() {
        let log = "LOG:  ready\nPANIC:  lost\nserver process (PID 7) was terminated by signal 9: Killed\n\
                   server process (PID 8) was terminated by signal 11: Segmentation fault\n";
        assert_eq!(alarms(log, 0, &["signal 9"]).len(), 2);
        assert_eq!(alarms(log, 0, &[]).len(), 3);
        assert_eq!(alarms(log, log.find("(PID 8)").expect("it is there"), &[]).len(), 1);
    }
}
