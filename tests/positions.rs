//! What lies behind the remembered positions is found, and in time: a row that somebody had locked, a lower id that
//! committed late, jobs of a prepared transaction, rows written by hand; and claims go on where the index cannot be used.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::thread;
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
    run(&mut client, "SELECT pgq.register('q', 'work', task => 't')");
    for index in ["job_ready_idx", "job_task_idx"] {
        let definition: String = one(&mut client, &format!("SELECT pg_get_indexdef('pgq.{index}'::regclass)"));
        let mut pass = |change: &str| {
            run(&mut client, change);
            pass_both(&mut client, 500);
        };
        pass(&format!("DROP INDEX pgq.{index}"));
        pass(&definition);
        pass(&format!("REINDEX INDEX CONCURRENTLY pgq.{index}"));
        // One that looks alike is not taken for it.
        pass(&format!("DROP INDEX pgq.{index}; {}", definition.replace("priority DESC", "priority")));
        pass(&format!("DROP INDEX pgq.{index}; {}", definition.replace("'ready'", "'leased'")));
        pass(&format!("DROP INDEX pgq.{index}; {definition}"));
    }
    let define = "SELECT replace(pg_get_indexdef('pgq.job_task_idx'::regclass), 'task IS NOT NULL', 'task IS NULL')";
    let definition: String = one(&mut client, define);
    run(&mut client, &format!("DROP INDEX pgq.job_task_idx; {definition}"));
    pass_both(&mut client, 500);
}

/// As `pass`, for jobs without a task and for as many that have one.
fn pass_both(client: &mut Client, jobs: i64) {
    let before = count(client, "ran");
    let put = "SELECT count(pgq.put('q', task => CASE n % 2 WHEN 0 THEN 't' END)) FROM generate_series(1, 2 * ";
    run(client, &format!("{put}{jobs}) AS n"));
    wait_until(PATIENCE, "the jobs of both", || count(client, "ran") == before + 2 * jobs);
}

/// How many entries of the indexes of jobs were read.
fn read(client: &mut Client) -> i64 {
    one(client, "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relid = 'pgq.job'::regclass")
}

#[test]
fn nobody_walks_over_the_jobs_of_other_tasks_again_and_again() {
    const OTHERS: i64 = 50_000;
    let (_server, mut client) = start();
    run(&mut client, "SELECT pgq.register('busy', 'work')");
    for (others, task) in [("'nobody'", "NULL"), ("NULL", "'t'")] {
        run(
            &mut client,
            "SELECT pgq.unregister(queue, task) FROM pgq.handler WHERE queue = 'q'; TRUNCATE pgq.job, ran",
        );
        run(&mut client, &format!("SELECT count(pgq.put('q', task => {others})) FROM generate_series(1, {OTHERS})"));
        run(&mut client, &format!("SELECT pgq.register('q', 'work', task => {task})"));
        let one_more = |client: &mut Client| {
            // Two at once are the scheduler's to look for, and it looks for the jobs of every handler.
            let id: i64 = one(client, "SELECT max(pgq.put('busy')) FROM generate_series(1, 2)");
            runs(client, id);
        };
        one_more(&mut client);
        let (began, before) = (Instant::now(), read(&mut client));
        (0..50).for_each(|_| one_more(&mut client));
        // A process reports its statistics at most once a second (PGSTAT_MIN_INTERVAL), when it comes to rest.
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(1_100));
            one_more(&mut client);
        }
        let entries = read(&mut client) - before;
        // The look from the very start comes by once in 0.9 s.
        let looks = i64::try_from(began.elapsed().as_millis() / 900).expect("few") + 2;
        println!("53 looks for task {task} beside {OTHERS} of {others}: {entries} entries in {:?}", began.elapsed());
        assert!(entries < (looks + 5) * OTHERS, "{entries} entries were read in {looks} looks");
    }
}

#[test]
fn more_handlers_than_positions_lose_nothing() {
    let (_server, mut client) = start();
    let register = "SELECT count(pgq.register('m' || n / 3, 'work', task => NULLIF('t' || n % 3, 't0')))
                    FROM generate_series(0, 599) AS n";
    run(&mut client, register);
    for round in 1..=4 {
        let put = "SELECT count(pgq.put('m' || n / 3, task => NULLIF('t' || n % 3, 't0')))                    FROM generate_series(0, 599) AS n, generate_series(1, 5)";
        run(&mut client, put);
        wait_until(PATIENCE, "the jobs of all", || count(&mut client, "ran") == round * 3_000);
    }
    assert_eq!(count(&mut client, "(SELECT DISTINCT id FROM ran) AS all_of_them"), 12_000);
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
