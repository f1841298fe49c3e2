//! The counters that stats shows: what the tables hold whenever nothing is in flight, whatever happened before.

use pgq_tests::numbers::{by_counters, compare, counted};
use pgq_tests::random::{search, server as random_server, Player};
use pgq_tests::torture::rng::Rng;
use pgq_tests::{one, run, wait_until, Server, Stop};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const QUEUES: &str = "
    CREATE FUNCTION sometimes(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF id % 5 = 0 THEN
            RAISE 'no';
        END IF;
        BEGIN
            PERFORM pgq.put('outside', args);
            IF id % 3 = 0 THEN
                RAISE 'not this';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            PERFORM pgq.put('outside', args, delay => '1 day');
        END;
    END $$;
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        IF id % 4 = 0 THEN
            RAISE 'no';
        END IF;
    END $$;
    SELECT pgq.register('quick', 'sometimes', max_attempts => 2, backoff => '10 ms');
    SELECT pgq.register('procedure', 'commits', max_attempts => 2, backoff => '10 ms');
    SELECT pgq.configure('quick', keep_done => '1 h');";

/// A server whose counters are counted once, and then not again.
fn server(conf: &[(&str, &str)]) -> (Server, Client) {
    let mut builder = Server::builder()
        .preload(true)
        .conf("max_prepared_transactions", 4)
        .conf("pgq.recount_interval", "1d")
        .conf("pgq.log_jobs", "none");
    for (name, value) in conf {
        builder = builder.conf(name, value);
    }
    let server = builder.start();
    let mut client = server.create_database("counters");
    settle(&mut client);
    (server, client)
}

/// Waits until the counters are shown.
fn settle(client: &mut Client) {
    run(client, "SELECT pgq.start()");
    wait_until(PATIENCE, "the count", || by_counters(client));
}

fn same(client: &mut Client) {
    assert!(by_counters(client), "the tables are counted");
    if let Err(difference) = compare(client) {
        panic!("{difference}");
    }
}

fn set(client: &mut Client, name: &str, value: &str) {
    run(client, &format!("ALTER SYSTEM SET {name} = '{value}'"));
    run(client, "SELECT pg_reload_conf()");
}

/// Lets the workers end what they do, and go.
fn stop(client: &mut Client) {
    set(client, "pgq.enabled", "off");
    wait_until(PATIENCE, "the workers", || one(client, "SELECT NOT EXISTS (SELECT FROM pgq.workers)"));
}

fn one_call(rng: &mut Rng) -> String {
    let queue = ["quick", "procedure", "outside", "other"][usize::try_from(rng.below(4)).unwrap_or(0)];
    match rng.below(16) {
        0..=3 => format!("SELECT pgq.put('{queue}', '1', delay => '{} s')", rng.below(2) * 100),
        4 => format!(
            "SELECT pgq.put('{queue}', '1', key => 'k', on_conflict => 'replace', delay => '{} s')",
            rng.below(2)
        ),
        5 => format!("SELECT pgq.bulk_put('{queue}', args => array_fill('1'::jsonb, ARRAY[5]))"),
        6 => format!("SELECT pgq.bulk_put('{queue}', '[{{}}, {{\"delay\": \"1 h\"}}]')"),
        7 => "SELECT id FROM pgq.claim('outside', 3)".into(),
        8 => {
            "SELECT pgq.fail(id, attempt, permanent => id % 2 = 0) FROM pgq.claim('outside', 3, lease => '1 h')".into()
        }
        9 => "SELECT pgq.complete(id, attempt) FROM pgq.claim('other', 2, lease => '1 h')".into(),
        10 => "SELECT pgq.release(id, attempt, delay => '1 h') FROM pgq.claim('other', 1, lease => '1 h')".into(),
        11 => "SELECT count(*) FROM pgq.claim('outside', 1, lease => '0.1 s')".into(),
        12 => format!("SELECT pgq.redrive('{queue}', 2)"),
        13 => format!(
            "SELECT pgq.purge('{queue}', '{}')",
            ["scheduled", "done", "dead"][usize::try_from(rng.below(3)).unwrap_or(0)]
        ),
        14 => "SELECT pgq.cancel(id) FROM (SELECT id FROM pgq.job ORDER BY random() LIMIT 1) AS j".into(),
        _ => "SELECT pgq.retry(id) FROM (SELECT id FROM pgq.finished_job WHERE outcome <> 'done' LIMIT 1) AS j".into(),
    }
}

/// Calls in autocommit, in transactions that commit or do not, under savepoints that are kept or rolled back.
fn some_calls(client: &mut Client, rng: &mut Rng) {
    let mut sql = String::new();
    let is_block = rng.below(2) == 0;
    if is_block {
        sql += "BEGIN;";
    }
    let mut open = Vec::new();
    for n in 0..=rng.below(6) {
        sql += &one_call(rng);
        sql.push(';');
        match rng.below(4) {
            0 if is_block => {
                sql += &format!("SAVEPOINT s{n};");
                open.push(n);
            }
            1 => sql += &open.pop().map_or(String::new(), |n| format!("RELEASE s{n};")),
            2 => sql += &open.last().map_or(String::new(), |n| format!("ROLLBACK TO s{n};")),
            _ => {}
        }
    }
    if is_block {
        sql += if rng.below(3) == 0 { "ROLLBACK" } else { "COMMIT" };
    }
    // Deadlocks between two of us are part of it.
    if client.batch_execute(&sql).is_err() {
        let _ = client.batch_execute("ROLLBACK");
    }
}

/// Ends the calls also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn many_calls(server: &Server, over: &AtomicBool, first_seed: u64) {
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut client = server.connect("counters");
                let mut rng = Rng::new(first_seed + seed);
                while !over.load(Ordering::SeqCst) {
                    some_calls(&mut client, &mut rng);
                }
            });
        }
    });
}

#[test]
fn stats_is_what_the_tables_hold_after_many_calls_and_runs() {
    let (server, mut client) = server(&[]);
    run(&mut client, QUEUES);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| many_calls(&server, &over, 1));
        std::thread::sleep(Duration::from_secs(8));
        over.store(true, Ordering::SeqCst);
    });
    stop(&mut client);
    same(&mut client);
}

#[test]
fn a_count_in_the_middle_of_commits_is_exact() {
    let (server, mut client) = server(&[]);
    run(&mut client, QUEUES);
    run(&mut client, "SELECT pgq.bulk_put('heap', args => array_fill('1'::jsonb, ARRAY[50000]))");
    settle(&mut client);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| many_calls(&server, &over, 11));
        let _end = End(&over);
        let mut client = server.connect("counters");
        for n in 0..4 {
            // By hand, in a queue that no call touches: a count has seen it when stats shows it.
            let by_hand = format!(
                "INSERT INTO pgq.finished_job (id, queue, args, priority, created_at, attempt, failures, crashes, outcome)
                 VALUES (-{n}, 'by_hand{n}', '{{}}', 0, now(), 1, 0, 0, 'done')"
            );
            run(&mut client, &by_hand);
            set(&mut client, "pgq.recount_interval", "1s");
            wait_until(PATIENCE, "the count", || {
                one(&mut client, &format!("SELECT EXISTS (SELECT FROM pgq.stats('by_hand{n}'))"))
            });
            set(&mut client, "pgq.recount_interval", "1d");
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    stop(&mut client);
    same(&mut client);
}

#[test]
fn a_prepared_transaction_is_seen_when_it_is_over() {
    let (_server, mut client) = server(&[]);
    run(&mut client, "BEGIN; SELECT pgq.put('later'); PREPARE TRANSACTION 'p'");
    assert!(compare(&mut client).is_ok(), "it is not there yet");
    run(&mut client, "COMMIT PREPARED 'p'");
    assert_eq!(compare(&mut client), Ok(()));
    settle(&mut client);
    same(&mut client);
    run(&mut client, "BEGIN; SELECT * FROM pgq.claim('later'); PREPARE TRANSACTION 'p'");
    run(&mut client, "ROLLBACK PREPARED 'p'");
    assert_eq!(compare(&mut client), Ok(()));
    settle(&mut client);
    same(&mut client);
}

#[test]
fn after_a_crash_and_a_restart_the_tables_are_counted_first() {
    let (server, mut client) = server(&[]);
    run(&mut client, "SELECT pgq.bulk_put('a', args => array_fill('1'::jsonb, ARRAY[10]))");
    for how in [Stop::Immediate, Stop::Fast] {
        server.restart(how);
        client = server.connect("counters");
        assert_eq!(compare(&mut client), Ok(()));
        run(&mut client, "SELECT pgq.put('a')");
        assert_eq!(compare(&mut client), Ok(()));
        settle(&mut client);
        same(&mut client);
    }
    let victim: i32 = one(&mut client, "SELECT pg_backend_pid()");
    server.kill_9(u32::try_from(victim).expect("a pid"));
    wait_until(PATIENCE, "the crash", || server.log().contains("all server processes terminated"));
    wait_until(PATIENCE, "the server", || server.try_connect("counters", "postgres").is_ok());
    client = server.connect("counters");
    assert_eq!(compare(&mut client), Ok(()));
    settle(&mut client);
    same(&mut client);
}

#[test]
fn what_was_changed_by_hand_is_seen() {
    let (_server, mut client) = server(&[]);
    run(&mut client, "SELECT pgq.put('a'), pgq.put('b')");
    run(&mut client, "TRUNCATE pgq.job");
    assert_eq!(compare(&mut client), Ok(()), "a truncated table is counted");
    settle(&mut client);
    run(&mut client, "SELECT pgq.put('a') FROM generate_series(1, 3)");
    run(&mut client, "DELETE FROM pgq.job WHERE id = (SELECT min(id) FROM pgq.job)");
    assert_eq!(one::<i64>(&mut client, "SELECT ready FROM pgq.stats('a')"), 3, "the counters are shown");
    set(&mut client, "pgq.recount_interval", "1s");
    wait_until(PATIENCE, "the count", || compare(&mut client).is_ok());
}

#[test]
fn a_transaction_sees_its_own_changes() {
    let (_server, mut client) = server(&[]);
    let seen = |client: &mut Client| -> Option<i64> {
        client.query_opt("SELECT ready FROM pgq.stats('own')", &[]).expect("stats").map(|row| row.get(0))
    };
    run(&mut client, "BEGIN; SELECT pgq.put('own'); SAVEPOINT a; SELECT pgq.put('own')");
    assert_eq!(seen(&mut client), Some(2));
    run(&mut client, "ROLLBACK TO a");
    assert_eq!(seen(&mut client), Some(1));
    run(&mut client, "ROLLBACK");
    assert_eq!(seen(&mut client), None);
    same(&mut client);
}

#[test]
fn many_queues_and_then_too_many() {
    let (_server, mut client) = server(&[("pgq.idle_timeout", "1h")]);
    run(&mut client, "SELECT pgq.put('queue' || n % 100) FROM generate_series(1, 1000) AS n");
    same(&mut client);
    run(&mut client, "SELECT pgq.put('many' || n) FROM generate_series(1, 4000) AS n");
    assert!(!by_counters(&mut client), "there is no room for so many queues");
    assert_eq!(compare(&mut client), Ok(()));
    assert_eq!(counted(&mut client).map(|rows| rows.len()), Ok(4_100));
    run(&mut client, "SELECT pgq.purge('many' || n, 'ready') FROM generate_series(1, 4000) AS n");
    settle(&mut client);
    same(&mut client);
    assert_eq!(counted(&mut client).map(|rows| rows.len()), Ok(100));
}

#[test]
fn a_server_that_is_not_preloaded_has_counters_too() {
    let server = Server::builder().conf("pgq.recount_interval", "1d").start();
    let mut client = server.create_database("counters");
    settle(&mut client);
    run(&mut client, "SELECT pgq.put('a')");
    same(&mut client);
    let mut other = server.create_database("other");
    run(&mut other, "SELECT pgq.put('a') FROM generate_series(1, 5)");
    settle(&mut other);
    same(&mut other);
    same(&mut client);
}

#[test]
fn random_calls_with_a_scheduler_leave_the_right_numbers() {
    let server = random_server(true);
    let mut player = Player::new(&server, true);
    if let Err(script) = search(&mut player, 60, 5) {
        panic!("{script}");
    }
}
