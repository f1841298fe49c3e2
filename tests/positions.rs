//! What lies behind the remembered positions is found, and in time: a row that somebody had locked, a lower id that
//! committed late, jobs of a prepared transaction, rows written by hand; and claims go on where the index cannot be used.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ten times the two seconds within which the look from the very start comes by and somebody runs what it found.
const SOON: Duration = Duration::from_secs(20);

const SETUP: &str = "
    CREATE TABLE ran (id bigint);
    CREATE FUNCTION work(id bigint, args jsonb) RETURNS void LANGUAGE sql BEGIN ATOMIC
        INSERT INTO ran VALUES (id); END;
    SELECT pgq.register('q', 'work');";

fn start() -> (Server, Client) {
    let server = Server::builder().conf("pgq.max_workers", 2).conf("max_prepared_transactions", 2).start();
    let mut client = server.create_database("app");
    run(&mut client, SETUP);
    (server, client)
}

/// So many jobs run, and the positions are behind them.
fn pass(client: &mut Client, jobs: i64) {
    let before = count(client, "ran");
    run(client, &format!("SELECT count(pgq.put('q')) FROM generate_series(1, {jobs})"));
    wait_until(PATIENCE, "the jobs", || count(client, "ran") == before + jobs);
}

fn runs(client: &mut Client, id: i64) -> Duration {
    wait_until(SOON, "the job that lay behind", || count(client, &format!("ran WHERE id = {id}")) == 1)
}

#[test]
fn a_row_that_somebody_locked_runs_when_he_lets_it_go() {
    let (server, mut client) = start();
    run(&mut client, "SELECT pgq.pause('q')");
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    for lock in ["FOR UPDATE", "FOR KEY SHARE"] {
        let mut other = server.connect("app");
        let held: i64 = one(&mut client, "SELECT min(id) FROM pgq.job");
        run(&mut other, &format!("BEGIN; SELECT FROM pgq.job WHERE id = {held} {lock}"));
        run(&mut client, "SELECT pgq.resume('q')");
        pass(&mut client, 500);
        assert_eq!(count(&mut client, &format!("ran WHERE id = {held}")), 0, "{lock}");
        run(&mut other, "ROLLBACK");
        println!("{lock}: after {:?}", runs(&mut client, held));
        run(&mut client, "SELECT pgq.pause('q'); SELECT pgq.put('q')");
    }
    assert_eq!(count(&mut client, &format!("ran WHERE id = {id}")), 1);
}

#[test]
fn a_lower_id_that_commits_late_runs_at_once() {
    let (server, mut client) = start();
    let mut other = server.connect("app");
    for put in ["SELECT pgq.put('q')", "SELECT min(i) FROM pgq.bulk_put('q', args => '{1,2,3}'::jsonb[]) AS i"] {
        run(&mut other, "BEGIN");
        let id: i64 = one(&mut other, put);
        pass(&mut client, 500);
        run(&mut other, "COMMIT");
        let took = runs(&mut client, id);
        println!("{put}: after {took:?}");
        // Ten times 50 ms: nobody waits for the look from the start.
        assert!(took < Duration::from_millis(500), "{put}: {took:?}");
    }
    run(&mut other, "BEGIN");
    let id: i64 = one(&mut other, "SELECT pgq.put('q')");
    run(&mut other, "PREPARE TRANSACTION 'late'");
    pass(&mut client, 500);
    run(&mut other, "COMMIT PREPARED 'late'");
    println!("prepared: after {:?}", runs(&mut client, id));
}

#[test]
fn rows_by_hand_and_a_sequence_set_back_are_found() {
    let (_server, mut client) = start();
    pass(&mut client, 500);
    let by_hand = "INSERT INTO pgq.job (id, queue, args, priority, execute_at, state)
                   VALUES (-9223372036854775808, 'q', '1', 0, now(), 'ready'), (-5, 'q', '1', 7, now(), 'ready')";
    run(&mut client, by_hand);
    runs(&mut client, i64::MIN);
    runs(&mut client, -5);
    run(&mut client, "SELECT setval('pgq.job_id_seq', 100000); SELECT pgq.put('q')");
    runs(&mut client, 100_001);
    run(&mut client, "SELECT setval('pgq.job_id_seq', 50000)");
    let began = Instant::now();
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    runs(&mut client, id);
    println!("after the sequence was set back: {:?}", began.elapsed());
}

#[test]
fn claims_go_on_without_the_index_and_with_a_new_one() {
    let (_server, mut client) = start();
    pass(&mut client, 500);
    let define = "SELECT pg_get_indexdef('pgq.job_ready_idx'::regclass)";
    let definition: String = one(&mut client, define);
    run(&mut client, "DROP INDEX pgq.job_ready_idx");
    pass(&mut client, 500);
    run(&mut client, &definition);
    pass(&mut client, 500);
    run(&mut client, "REINDEX INDEX CONCURRENTLY pgq.job_ready_idx");
    pass(&mut client, 500);
    // One that looks alike is not taken for it.
    run(&mut client, "DROP INDEX pgq.job_ready_idx");
    run(&mut client, "CREATE INDEX job_ready_idx ON pgq.job (queue, priority, id) WHERE state = 'ready'");
    run(&mut client, "CREATE INDEX other_idx ON pgq.job (queue, priority DESC, id) WHERE state = 'leased'");
    pass(&mut client, 500);
}

#[test]
fn more_priorities_than_positions_run_best_first() {
    let server = Server::builder().conf("pgq.max_workers", 1).start();
    let mut client = server.create_database("app");
    run(&mut client, SETUP);
    for _ in 0..3 {
        run(&mut client, "SELECT pgq.pause('q'); TRUNCATE ran");
        run(&mut client, "ALTER TABLE ran ADD COLUMN IF NOT EXISTS place serial");
        let put = "SELECT count(pgq.put('q', priority => (n * 37) % 101 - 50)) FROM generate_series(1, 2000) AS n";
        run(&mut client, put);
        run(&mut client, "CREATE TABLE IF NOT EXISTS wanted (id bigint, priority int); TRUNCATE wanted");
        run(&mut client, "INSERT INTO wanted SELECT id, priority FROM pgq.job");
        run(&mut client, "SELECT pgq.resume('q')");
        wait_until(PATIENCE, "the jobs", || count(&mut client, "ran") == 2000);
        let wrong =
            "(SELECT priority - lag(priority) OVER (ORDER BY place) AS step FROM ran JOIN wanted USING (id)) AS s
                     WHERE step > 0";
        assert_eq!(count(&mut client, wrong), 0, "a larger priority runs first");
    }
}
