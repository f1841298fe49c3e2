//! What one sample costs the server: processor time, WAL, commits.

use super::stage::Stage;
use crate::process;
use std::thread;
use std::time::Duration;

/// One measurement of one arm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Jobs, rows or transactions that were done.
    pub jobs: f64,
    /// In this time.
    pub seconds: f64,
    /// Processor time of all processes of the server, in seconds.
    pub cpu: f64,
    /// Bytes written to the WAL.
    pub wal: f64,
    /// Transactions that committed.
    pub commits: f64,
}

impl Sample {
    /// Jobs a second.
    pub fn rate(&self) -> f64 {
        self.jobs / self.seconds
    }

    /// Processor time for a job, in microseconds.
    pub fn cpu_per_job(&self) -> f64 {
        self.cpu * 1e6 / self.jobs
    }

    /// WAL for a job, in bytes.
    pub fn wal_per_job(&self) -> f64 {
        self.wal / self.jobs
    }

    /// Commits for a job.
    pub fn commits_per_job(&self) -> f64 {
        self.commits / self.jobs
    }
}

/// The server's counters at a moment.
struct Reading {
    cpu: Duration,
    wal: f64,
    commits: f64,
}

/// Sessions that have ended send their counts a moment after their client has gone.
const SETTLING: Duration = Duration::from_millis(30);

fn read(stage: &mut Stage) -> Reading {
    let cpu = process::cpu_time_below(stage.server.pid()).unwrap_or_default();
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, \
               (SELECT sum(xact_commit)::float8 FROM pg_stat_database)";
    let row = stage.client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    Reading { cpu, wal: row.get(0), commits: row.get(1) }
}

/// Does the work, which returns how many jobs it did in how many seconds, and reads what it cost.
pub fn metered(stage: &mut Stage, work: impl FnOnce(&mut Stage) -> (f64, f64)) -> Sample {
    let before = read(stage);
    let (jobs, seconds) = work(stage);
    thread::sleep(SETTLING);
    let after = read(stage);
    Sample {
        jobs,
        seconds,
        cpu: after.cpu.saturating_sub(before.cpu).as_secs_f64(),
        wal: after.wal - before.wal,
        commits: after.commits - before.commits,
    }
}
