//! T47: very many jobs through one worker, of functions and procedures, done and failed: its memory and its open files
//! are at the end what they were after the first ten thousand.

use super::{Part, Run};
use crate::{count, run as execute, wait_until};
use postgres::Client;
use std::fs;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T47",
    title: "jobs through one worker, whose memory does not grow",
    unit: "jobs",
    quick: 100_000,
    full: 5_000_000,
    run: work,
}];

/// Of a hundred jobs: seventy PL/pgSQL, twenty-five SQL, one a procedure that commits, four fail for ever. No temporary
/// tables: PostgreSQL's own caches keep some bytes for each (negative entries of pg_statistic, catcache.c).
const HANDLERS: &str = "
    CREATE TABLE effect (n bigint);
    CREATE FUNCTION plain(args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO effect VALUES ((args->>'n')::bigint);
        RETURN args;
    END $$;
    CREATE FUNCTION in_sql(id bigint, args jsonb) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO effect VALUES (id); SELECT set_config('app.n', args->>'n', false) $$;
    CREATE PROCEDURE commits(job pgq.job) LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO effect VALUES (job.id);
        COMMIT;
        PERFORM pg_advisory_lock(job.id), set_config('work_mem', '5MB', false);
        IF job.id % 2 = 0 THEN RAISE 'job % fails', job.id; END IF;
    END $$;
    CREATE FUNCTION fails(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        BEGIN
            INSERT INTO effect VALUES (job.id / 0);
        EXCEPTION WHEN division_by_zero THEN RAISE 'job % fails', job.id USING DETAIL = repeat('x', 10000);
        END;
    END $$;
    SELECT pgq.register('plain', 'plain'), pgq.register('in_sql', 'in_sql'),
           pgq.register('commits', 'commits', max_attempts => 1), pgq.register('fails', 'fails', max_attempts => 1);
    SELECT pgq.configure('plain', keep_done => '1 second');
    CREATE FUNCTION put(queue text, jobs int) RETURNS bigint LANGUAGE sql AS $$
        SELECT count(*) FROM pgq.bulk_put(queue, args => ARRAY(
            SELECT jsonb_build_object('n', n, 'text', repeat('y', n % 300)) FROM generate_series(1, jobs) AS n)) $$;";

/// Put, and waited for, at a time.
const PORTION: u64 = 10_000;
const DONE: Duration = Duration::from_secs(100);
/// What it may grow after the first portion.
const GROWTH_KB: u64 = 5 * 1024;
/// Descriptors besides those of tables that come and go: WAL, a temporary file.
const SPARE_FILES: usize = 4;

/// What one process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    pid: u32,
    memory_kb: u64,
    files: usize,
}

fn work(run: &mut Run) {
    let server = run.server().conf("pgq.max_workers", 1).conf("pgq.max_worker_age", 0).conf("autovacuum_naptime", "5s");
    let server = server.conf("pgq.keep_dead", "1s").conf("max_wal_size", "2GB").start();
    let mut client = server.create_database("shop");
    execute(&mut client, HANDLERS);
    portion(&mut client);
    run.did(PORTION);
    let holdings = || holdings(server.worker_pids_like("pgq executor", None));
    let first = holdings();
    let mut last = first;
    while run.goes_on() {
        portion(&mut client);
        run.did(PORTION);
        last = holdings();
        if last.pid != first.pid
            || last.memory_kb > first.memory_kb + GROWTH_KB
            || last.files > first.files + SPARE_FILES
        {
            run.differ(format!("after {} jobs {last:?}, at first {first:?}", run.done()));
        }
    }
    println!("T47: {} jobs: {last:?}, after the first {PORTION}: {first:?}", run.done());
}

fn portion(client: &mut Client) {
    for (queue, of_hundred) in [("plain", 70), ("in_sql", 25), ("commits", 1), ("fails", 4)] {
        execute(client, &format!("SELECT put('{queue}', {})", PORTION * of_hundred / 100));
    }
    wait_until(DONE, "a portion of jobs to be done", || count(client, "pgq.job") == 0);
    // Kept short, so that long runs do not fill the disk.
    for table in ["effect", "pgq.finished_job"] {
        execute(client, &format!("DELETE FROM {table}"));
        execute(client, &format!("VACUUM {table}"));
    }
}

fn holdings(pids: Vec<u32>) -> Holdings {
    let [pid] = pids[..] else { panic!("one executor, not {pids:?}") };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
    let memory_kb = own.trim().trim_end_matches(" kB").parse().expect("a number");
    let files = open_files(pid);
    Holdings { pid, memory_kb, files }
}

/// Descriptors of a process, each file of a table counted as nothing the first time: PostgreSQL keeps one for each
/// that it has read, catalogs included, which a worker comes to know over time (fd.c).
fn open_files(pid: u32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files");
    let targets: Vec<_> = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok()).collect();
    let mut of_tables: Vec<_> =
        targets.iter().filter(|target| target.to_string_lossy().contains("/data/base/")).collect();
    let all = of_tables.len();
    of_tables.sort();
    of_tables.dedup();
    targets.len() - all + (all - of_tables.len())
}
