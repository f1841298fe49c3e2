//! Handlers that take a set of jobs: one call is exactly once as a whole, a set that fails is halved until the jobs
//! that fail are alone, and only these are charged.

use pgq_tests::{count, one, run, wait_for, wait_until, Ledger, Server};
use postgres::Client;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Jobs whose args are a number; the ledger gets their ids, `calls` a number for each call, committed or not: a
/// sequence is the one thing that a rollback leaves.
const ENTER: &str = "
    CREATE SEQUENCE calls;
    CREATE FUNCTION enter(jobs pgq.job[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM nextval('calls');
        INSERT INTO ledger SELECT id FROM unnest(jobs);
        IF EXISTS (SELECT FROM unnest(jobs) WHERE args = '0') THEN RAISE 'bad'; END IF;
        END $$;
    SELECT pgq.register('q', 'enter', max_attempts => 1);";

fn start(workers: usize) -> (Server, Client, Ledger) {
    let server = Server::builder().conf("pgq.max_workers", workers).start();
    let mut client = server.create_database("app");
    let ledger = Ledger::create(&mut client, "ledger");
    run(&mut client, ENTER);
    (server, client, ledger)
}

fn ids(client: &mut Client, sql: &str) -> Vec<i64> {
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Puts `n` jobs whose args are 1, or 0 where `is_bad` holds for n.
fn put(client: &mut Client, n: usize, is_bad: &str) -> Vec<i64> {
    ids(
        client,
        &format!(
            "SELECT pgq.bulk_put('q', args => (SELECT array_agg(CASE WHEN {is_bad} THEN '0' ELSE '1' END::jsonb ORDER BY n)
               FROM generate_series(1, {n}) AS n))"
        ),
    )
}

fn drained(client: &mut Client) {
    wait_until(PATIENCE, "all jobs to end", || count(client, "pgq.job") == 0);
}

fn calls(client: &mut Client) -> i64 {
    let calls = one(client, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM calls");
    println!("{calls} calls");
    calls
}

#[test]
fn a_set_of_many_jobs_is_exactly_once_in_few_calls() {
    let (_server, mut client, ledger) = start(2);
    let put = put(&mut client, 10_000, "false");
    drained(&mut client);
    ledger.verify(&mut client, &put).assert_exact();
    let calls = calls(&mut client);
    assert!((10..40).contains(&calls), "{calls}");
    assert_eq!(one::<i64>(&mut client, "SELECT done_total FROM pgq.stats('q')"), 10_000);
}

#[test]
fn of_a_set_only_the_jobs_that_fail_are_charged() {
    let (_server, mut client, ledger) = start(2);
    run(&mut client, "SELECT pgq.configure('q', keep_done => '1 h')");
    // The sets are large by then.
    let before = put(&mut client, 2_000, "false");
    drained(&mut client);
    let calm = calls(&mut client);
    run(&mut client, "SELECT pgq.pause('q')");
    let put = put(&mut client, 1_000, "n IN (1, 2, 3, 500, 501, 999, 1000)");
    run(&mut client, "SELECT pgq.resume('q')");
    drained(&mut client);
    let verdict = ledger.verify(&mut client, &[before, put].concat());
    verdict.assert_exact();
    assert_eq!(verdict.dead, 7);
    assert_eq!(count(&mut client, "pgq.dead WHERE (attempt, failures, message) = (1, 1, 'bad') AND args = '0'"), 7);
    let good = "pgq.finished_job WHERE outcome = 'done' AND (attempt, failures) = (1, 0) AND result IS NULL";
    assert_eq!(count(&mut client, good), 2_993);
    // Each is found in 2 log2(1000) calls at most, by at most two executors.
    let search = calls(&mut client) - calm;
    assert!(search <= 2 * 7 * 2 * 10, "{search} calls");
}

#[test]
fn where_all_jobs_fail_each_is_charged_once() {
    let (_server, mut client, ledger) = start(2);
    let put = put(&mut client, 500, "true");
    drained(&mut client);
    let verdict = ledger.verify(&mut client, &put);
    verdict.assert_exact();
    assert_eq!((verdict.dead, verdict.ran), (500, 0));
    assert!(calls(&mut client) <= 2 * 500);
}

#[test]
fn a_deferred_constraint_that_fails_at_the_commit_is_found_too() {
    let (_server, mut client, ledger) = start(1);
    run(
        &mut client,
        "CREATE TABLE strict (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO strict VALUES (0);
         CREATE FUNCTION late(jobs pgq.job[]) RETURNS void LANGUAGE sql BEGIN ATOMIC
            INSERT INTO ledger SELECT id FROM unnest(jobs);
            INSERT INTO strict SELECT 0 FROM unnest(jobs) WHERE args = '0';
         END;
         SELECT pgq.register('q', 'late', max_attempts => 2, backoff => '10 ms')",
    );
    let put = put(&mut client, 300, "n % 100 = 7");
    drained(&mut client);
    let verdict = ledger.verify(&mut client, &put);
    verdict.assert_exact();
    assert_eq!(count(&mut client, "pgq.dead WHERE (failures, sqlstate) = (2, '23505')"), 3);
}

/// The time limit is the call's: a set that runs into it is halved, and the one job that always does is charged.
#[test]
fn a_job_that_will_not_end_is_charged_with_its_time_limit_and_no_other_is() {
    let (_server, mut client, ledger) = start(1);
    run(
        &mut client,
        "CREATE FUNCTION slow(jobs pgq.job[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO ledger SELECT id FROM unnest(jobs);
            IF EXISTS (SELECT FROM unnest(jobs) WHERE args = '0') THEN
                BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
            END IF; END $$;
         SELECT pgq.register('q', 'slow', timeout => '100 ms', max_attempts => 1)",
    );
    let put = put(&mut client, 100, "n = 33");
    drained(&mut client);
    let verdict = ledger.verify(&mut client, &put);
    verdict.assert_exact();
    assert_eq!(count(&mut client, "pgq.dead WHERE (args, sqlstate) = ('0', '57014')"), 1);
}

/// Sets that update the same rows in opposite orders.
#[test]
fn sets_that_deadlock_bury_nobody() {
    let server = Server::builder().conf("pgq.max_workers", 4).conf("deadlock_timeout", "20ms").start();
    let mut client = server.create_database("app");
    let ledger = Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "CREATE TABLE pair (n int PRIMARY KEY, hits int); INSERT INTO pair VALUES (0, 0), (1, 0);
         CREATE FUNCTION f(jobs pgq.job[]) RETURNS void LANGUAGE plpgsql AS $$ DECLARE k int := jobs[1].id % 2; BEGIN
            INSERT INTO ledger SELECT id FROM unnest(jobs);
            UPDATE pair SET hits = hits + cardinality(jobs) WHERE n = k;
            PERFORM pg_sleep(0.01);
            UPDATE pair SET hits = hits + cardinality(jobs) WHERE n <> k; END $$;
         SELECT pgq.register('q', 'f', max_attempts => 1, batch => 5)",
    );
    let put = put(&mut client, 500, "false");
    drained(&mut client);
    let verdict = ledger.verify(&mut client, &put);
    verdict.assert_exact();
    assert_eq!(verdict.dead, 0);
    assert_eq!(one::<i32>(&mut client, "SELECT min(hits) FROM pair"), 500);
}

/// A function that sleeps as long as a lock is held by the test, in sets of all jobs that are there.
const HELD: &str = "
    CREATE FUNCTION held(jobs pgq.job[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO ledger SELECT id FROM unnest(jobs);
        INSERT INTO seen SELECT cardinality(jobs), pgq.current_job() IS NULL;
        PERFORM pg_advisory_xact_lock_shared(7); END $$;
    CREATE TABLE seen (jobs int, nobody boolean);
    SELECT pgq.pause('q'), pgq.register('q', 'held', concurrency => 1), pgq.configure('q', keep_done => '1 h');
    SELECT pg_advisory_lock(7)";

/// Ten jobs in one call, which waits for the lock.
fn held(client: &mut Client) -> Vec<i64> {
    run(client, HELD);
    let put = put(client, 10, "false");
    run(client, "SELECT pgq.resume('q')");
    let waits = "pg_stat_activity WHERE backend_type LIKE 'pgq%' AND wait_event = 'advisory'";
    wait_until(PATIENCE, "the set to run", || count(client, waits) == 1);
    put
}

#[test]
fn each_job_of_a_set_is_known_to_run_and_a_forced_cancel_takes_only_the_one() {
    let (_server, mut client, ledger) = start(2);
    let put = held(&mut client);
    assert_eq!(ids(&mut client, "SELECT job FROM pgq.running"), [put[0]]);
    for id in &put {
        let why: String = one(&mut client, &format!("SELECT pgq.waiting({id})"));
        assert!(why.starts_with("running in process "), "{why}");
        assert_eq!(one::<String>(&mut client, &format!("SELECT state FROM pgq.wait({id}, '0')")), "running");
        assert_eq!(one::<String>(&mut client, &format!("SELECT pgq.cancel({id})")), "running");
    }
    let victim = put[6];
    assert_eq!(one::<String>(&mut client, &format!("SELECT pgq.cancel({victim}, force => true)")), "running");
    let state = format!("SELECT state FROM pgq.wait({victim}, '60 s')");
    assert_eq!(one::<String>(&mut client, &state), "cancelled");
    run(&mut client, "SELECT pg_advisory_unlock(7)");
    drained(&mut client);
    let cancelled = "SELECT id FROM pgq.finished_job WHERE outcome = 'cancelled'";
    ledger.verify_with(&mut client, &put, cancelled).assert_exact();
    assert_eq!(count(&mut client, "pgq.finished_job WHERE (outcome, attempt, failures) = ('done', 1, 0)"), 9);
    assert_eq!(count(&mut client, "seen WHERE nobody"), count(&mut client, "seen"));
    // It comes back, and its old cancel is forgotten.
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.retry({victim})")));
    assert_eq!(one::<String>(&mut client, &state), "done");
}

#[test]
fn a_worker_killed_in_the_middle_of_a_set_costs_nobody_anything() {
    let (server, mut client, ledger) = start(2);
    let put = held(&mut client);
    let pid: i32 = one(&mut client, "SELECT pid FROM pgq.running");
    server.kill_9(u32::try_from(pid).expect("a pid"));
    wait_until(PATIENCE, "the server to notice", || client.batch_execute("SELECT 1").is_err());
    let mut client = wait_for(PATIENCE, "the server to be back", || server.try_connect("app", "postgres").ok());
    drained(&mut client);
    ledger.verify(&mut client, &put).assert_exact();
    let unharmed = "pgq.finished_job WHERE (outcome, attempt, failures, crashes) = ('done', 1, 0, 0)";
    assert_eq!(count(&mut client, unharmed), 10);
    // Each ran alone: nobody knows which of them it was.
    assert_eq!(count(&mut client, "seen WHERE jobs = 1"), 10);
}

#[test]
fn kills_in_the_midst_of_sets_lose_and_double_nothing() {
    let server = Server::builder().preload(true).conf("pgq.log_jobs", "none").start();
    let mut client = server.create_database("app");
    let ledger = Ledger::create(&mut client, "ledger");
    run(&mut client, ENTER);
    run(&mut client, "SELECT pgq.register('q', 'enter', max_attempts => 2, backoff => '10 ms')");
    let put = put(&mut client, 20_000, "n % 1000 = 500");
    for _ in 0..5 {
        let running = "SELECT pid FROM pgq.running LIMIT 1";
        let pid = wait_for(PATIENCE, "a set to run", || {
            let row = client.query_opt(running, &[]).expect("it answers");
            row.map(|row| Some(row.get::<_, i32>(0))).or_else(|| (count(&mut client, "pgq.job") == 0).then_some(None))
        });
        let Some(pid) = pid else { break };
        if !server.try_signal(u32::try_from(pid).expect("a pid"), 9) {
            continue;
        }
        wait_until(PATIENCE, "the server to notice", || client.batch_execute("SELECT 1").is_err());
        client = wait_for(PATIENCE, "the server to be back", || server.try_connect("app", "postgres").ok());
    }
    drained(&mut client);
    let verdict = ledger.verify(&mut client, &put);
    verdict.assert_exact();
    assert_eq!(verdict.dead, 20);
    assert_eq!(count(&mut client, "pgq.finished_job WHERE crashes > 0 OR failures <> 2"), 0);
}

/// A role whose transactions see one moment only: sets of one.
#[test]
fn strict_isolation_gets_sets_of_one() {
    let (_server, mut client, ledger) = start(2);
    run(
        &mut client,
        "CREATE ROLE strict LOGIN; ALTER ROLE strict SET default_transaction_isolation = 'serializable';
         CREATE TABLE seen (jobs int); GRANT INSERT ON seen TO strict; GRANT USAGE ON SCHEMA pgq TO strict;
         CREATE FUNCTION f(jobs pgq.job[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO ledger SELECT id FROM unnest(jobs); INSERT INTO seen VALUES (cardinality(jobs)); END $$;
         SELECT pgq.register('q', 'f', run_as => 'strict')",
    );
    let put = put(&mut client, 50, "false");
    drained(&mut client);
    ledger.verify(&mut client, &put).assert_exact();
    assert_eq!(count(&mut client, "seen WHERE jobs = 1"), 50);
}
