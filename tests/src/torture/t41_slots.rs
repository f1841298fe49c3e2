//! T41: every worker slot of the server is taken by somebody else, and then freed: jobs are late, none is lost, pgq says
//! why, and the log has a few lines.

use super::{Part, Run};
use crate::{count, one, run as execute, wait_until};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T41",
    title: "max_worker_processes exhausted by others, then freed",
    unit: "shortages",
    quick: 3,
    full: 20,
    run: shortage,
}];

const PATIENCE: Duration = Duration::from_secs(60);
const SLOTS: i64 = 8;
/// Lines about one shortage.
const LINES: usize = 10;

/// The neighbours whose long jobs take all that is there.
const CROWD: &str = "
    CREATE FUNCTION sleeps() RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep(3600) $$;
    SELECT pgq.register('sleeps', 'sleeps', concurrency => 64);";

const SHOP: &str = "
    CREATE TABLE ledger (id bigint);
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO ledger VALUES (id) $$;
    SELECT pgq.register('note', 'note');";

fn shortage(run: &mut Run) {
    let builder = run.server().conf("max_worker_processes", SLOTS).conf("pgq.max_workers", 32);
    let server = builder.conf("pgq.idle_timeout", "500ms").conf("max_logical_replication_workers", 0).start();
    let mut crowd = server.create_database("crowd");
    execute(&mut crowd, CROWD);
    let mut shop = server.create_database("shop");
    execute(&mut shop, SHOP);
    while run.goes_on() {
        wait_until(PATIENCE, "the workers of the shop to leave", || server.worker_pids(Some("shop")).is_empty());
        fill(&mut crowd);
        let before = server.log().len();
        let puts = 1 + run.rng.below(20);
        for _ in 0..puts {
            execute(&mut shop, "SELECT pgq.put('note')");
        }
        says_why(&mut shop);
        std::thread::sleep(Duration::from_millis(500 + run.rng.below(3_000)));
        if count(&mut shop, "ledger") > 0 {
            run.differ("a job ran although no slot was free");
        }
        let log = server.log();
        let lines = log[before..].lines().filter(|line| line.contains("slot")).count();
        if lines > LINES {
            run.differ(format!("{lines} lines in the log"));
        }
        // First those that wait, or they take the places of those that end.
        execute(&mut crowd, "SELECT pgq.purge('sleeps', 'ready')");
        execute(&mut crowd, "SELECT pgq.cancel(job, force => true) FROM pgq.running");
        let puts = i64::try_from(puts).expect("few");
        wait_until(PATIENCE, "the late jobs to run", || count(&mut shop, "ledger") == puts);
        let short = "pgq.doctor() WHERE check_name = 'worker slots' AND detail LIKE 'none of the%'";
        wait_until(PATIENCE, "doctor to be content", || count(&mut shop, short) == 0);
        execute(&mut shop, "TRUNCATE ledger");
        run.fault("shortage");
        run.did(1);
    }
}

/// Until the server refuses: its launcher, the crowd's scheduler, and executors for all the rest.
fn fill(crowd: &mut Client) {
    let workers = "pg_stat_activity WHERE backend_type LIKE 'pgq%'";
    let jobs = format!("SELECT pgq.bulk_put('sleeps', args => array_fill('{{}}'::jsonb, ARRAY[{SLOTS}]))");
    execute(crowd, &jobs);
    wait_until(PATIENCE, "every slot to be taken", || count(crowd, workers) == SLOTS);
}

fn says_why(shop: &mut Client) {
    let id: i64 = one(shop, "SELECT min(id) FROM pgq.job");
    wait_until(PATIENCE, "waiting() to say why", || {
        one::<String>(shop, &format!("SELECT pgq.waiting({id})")).starts_with("no worker slot of the server is free")
    });
    assert_eq!(count(shop, "pgq.doctor() WHERE check_name = 'worker slots' AND NOT ok AND fix IS NOT NULL"), 1);
    let seen: (i64, i64) = {
        let row = shop.query_one("SELECT ready, workers FROM pgq.stats('note')", &[]).expect("stats");
        (row.get(0), row.get(1))
    };
    assert!(seen.0 > 0 && seen.1 == 0, "ready and nobody at work: {seen:?}");
}
