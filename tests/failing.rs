//! Jobs that fail: what is kept of the error, when they run again, what costs nothing, who is buried,
//! and that their neighbours do not notice.

use pgq_tests::{count, one, run, wait_until, Ledger, Server};
use postgres::Client;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn start(workers: usize) -> (Server, Client) {
    let server = Server::builder().conf("pgq.max_workers", workers).start();
    let client = server.create_database("app");
    (server, client)
}

/// Puts one job, waits for its end and returns (state, attempt, error).
fn outcome(client: &mut Client, queue: &str) -> (String, i32, String) {
    let id: i64 = one(client, &format!("SELECT pgq.put('{queue}')"));
    let sql =
        format!("SELECT state, coalesce(attempt, 0), coalesce(error ->> 'message', '') FROM pgq.wait({id}, '60 s')");
    let row = client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn the_error_is_kept_with_sqlstate_detail_hint_and_context() {
    let (_server, mut client) = start(2);
    let raise = "RAISE 'it broke' USING ERRCODE = 'P7777', DETAIL = 'the detail', HINT = 'the hint'";
    run(
        &mut client,
        &format!(
            "CREATE FUNCTION inner_one() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {raise}; END $$;
             CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM inner_one(); END $$;
             CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; PERFORM inner_one(); END $$"
        ),
    );
    for queue in ["f", "p"] {
        run(&mut client, &format!("SELECT pgq.register('{queue}', '{queue}', max_attempts => 1)"));
        let (state, attempt, message) = outcome(&mut client, queue);
        assert_eq!((state.as_str(), attempt, message.as_str()), ("dead", 1, "it broke"));
        let dead = format!(
            "pgq.dead WHERE queue = '{queue}' AND sqlstate = 'P7777' AND message = 'it broke'
               AND error ->> 'detail' = 'the detail' AND error ->> 'hint' = 'the hint'
               AND error ->> 'context' LIKE '%inner_one() line 1 at RAISE%'
               AND error ->> 'context' LIKE '%function {queue}() line 1 at PERFORM%'"
        );
        let kept: String = one(&mut client, &format!("SELECT error::text FROM pgq.dead WHERE queue = '{queue}'"));
        assert_eq!(count(&mut client, &dead), 1, "{queue}: {kept}");
    }
    // An error of the server's own, without anything but its message.
    run(
        &mut client,
        "CREATE FUNCTION divides() RETURNS int LANGUAGE sql AS 'SELECT 1 / 0';
         SELECT pgq.register('d', 'divides', max_attempts => 1)",
    );
    assert_eq!(outcome(&mut client, "d").2, "division by zero");
    assert_eq!(count(&mut client, "pgq.dead WHERE sqlstate = '22012'"), 1);
}

/// A procedure notes each attempt and commits that before it fails.
#[test]
fn the_waits_between_attempts_double_up_to_their_limit() {
    let (_server, mut client) = start(2);
    run(
        &mut client,
        "CREATE TABLE tries (attempt int, failures int, at timestamptz, due timestamptz);
         CREATE PROCEDURE p(job pgq.job) LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO tries VALUES (job.attempt, job.failures, clock_timestamp(), job.execute_at);
            COMMIT; RAISE 'no'; END $$;
         SELECT pgq.register('p', 'p', max_attempts => 6, backoff => '200 ms', max_backoff => '1 s')",
    );
    assert_eq!(outcome(&mut client, "p"), ("dead".into(), 6, "no".into()));
    let rows = client
        .query(
            "SELECT attempt, failures,
                    extract(epoch FROM at - lag(at) OVER (ORDER BY at))::float8 * 1000
               FROM tries ORDER BY at",
            &[],
        )
        .expect("the tries");
    let found: Vec<(i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)]);
    let waits: Vec<f64> = rows[1..].iter().map(|row| row.get(2)).collect();
    println!("waits of 200, 400, 800, 1000, 1000 ms: {waits:.0?}");
    for (wait, plain) in waits.into_iter().zip([200.0, 400.0, 800.0, 1000.0, 1000.0]) {
        assert!(wait >= plain * 0.9, "{wait} ms instead of {plain}");
        // A tenth is chance; the rest is how long it takes to notice.
        assert!(wait < plain * 1.1 + 1_000.0, "{wait} ms instead of {plain}");
    }
}

#[test]
fn the_first_given_number_of_attempts_wins() {
    let (_server, mut client) = start(2);
    run(
        &mut client,
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         SELECT pgq.configure('a', max_attempts => 3, backoff => '0'),
                pgq.configure('b', max_attempts => 3, backoff => '0');
         SELECT pgq.register('a', 'f'), pgq.register('b', 'f', max_attempts => 2)",
    );
    assert_eq!(outcome(&mut client, "a").1, 3, "the queue's");
    assert_eq!(outcome(&mut client, "b").1, 2, "the handler's");
    let id: i64 = one(&mut client, "SELECT pgq.put('b', max_attempts => 1)");
    let attempts = format!("SELECT attempt FROM pgq.wait({id})");
    assert_eq!(one::<i32>(&mut client, &attempts), 1, "the job's");
}

/// A sequence counts the tries: it is the one thing that a rollback leaves.
#[test]
fn the_dead_come_back_by_redrive_and_retry() {
    let (_server, mut client) = start(2);
    run(
        &mut client,
        "CREATE SEQUENCE tries;
         CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') <= 2 THEN RAISE 'not yet'; END IF; END $$;
         SELECT pgq.register('q', 'f', max_attempts => 1), pgq.configure('q', keep_done => '1 h')",
    );
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    let wait = format!("SELECT state || attempt FROM pgq.wait({id})");
    assert_eq!(one::<String>(&mut client, &wait), "dead1");
    assert_eq!(one::<i64>(&mut client, "SELECT pgq.redrive('q')"), 1);
    assert_eq!(one::<String>(&mut client, &wait), "dead2");
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.retry({id})")));
    assert_eq!(one::<String>(&mut client, &wait), "done3");
    assert!(!one::<bool>(&mut client, &format!("SELECT pgq.retry({id})")));
}

#[test]
fn passing_errors_are_retried_soon_and_for_nothing_but_not_for_ever() {
    let (_server, mut client) = start(4);
    for (n, sqlstate) in ["40001", "40P01", "55P03"].into_iter().enumerate() {
        for (kind, returns, first) in [("FUNCTION", "RETURNS void", "f"), ("PROCEDURE", "", "p")] {
            let name = format!("{first}{n}");
            run(
                &mut client,
                &format!(
                    "CREATE SEQUENCE {name}_tries;
                     CREATE {kind} {name}() {returns} LANGUAGE plpgsql AS $$ BEGIN
                        IF nextval('{name}_tries') <= 3 THEN
                            RAISE 'the moment is bad' USING ERRCODE = '{sqlstate}';
                        END IF; END $$;
                     SELECT pgq.register('{name}', '{name}', max_attempts => 1, backoff => '1 h'),
                            pgq.configure('{name}', keep_done => '1 h')"
                ),
            );
            let (state, attempt, _) = outcome(&mut client, &name);
            assert_eq!((state.as_str(), attempt), ("done", 4), "{name}: {sqlstate}");
            let free = format!("pgq.finished_job WHERE queue = '{name}' AND failures = 0");
            assert_eq!(count(&mut client, &free), 1, "{name} was charged");
        }
    }
    run(
        &mut client,
        "CREATE FUNCTION hopeless() RETURNS void LANGUAGE plpgsql
            AS $$ BEGIN RAISE 'never' USING ERRCODE = '40001'; END $$;
         SELECT pgq.register('h', 'hopeless', max_attempts => 1)",
    );
    let (state, attempt, _) = outcome(&mut client, "h");
    assert_eq!(state, "dead");
    println!("always 40001: dead after {attempt} attempts");
    assert!(attempt > 3 && attempt < 100, "{attempt}");
}

/// Jobs that lock two rows in opposite orders, three at a time, with one attempt each.
#[test]
fn real_deadlocks_bury_nobody() {
    let server = Server::builder().conf("deadlock_timeout", "20ms").start();
    let mut client = server.create_database("app");
    let ledger = Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "CREATE TABLE pair (n int PRIMARY KEY, hits int); INSERT INTO pair VALUES (0, 0), (1, 0);
         CREATE FUNCTION f(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO ledger VALUES (f.id);
            UPDATE pair SET hits = hits + 1 WHERE n = f.id % 2;
            PERFORM pg_sleep(0.01);
            UPDATE pair SET hits = hits + 1 WHERE n = (f.id + 1) % 2; END $$;
         SELECT pgq.register('q', 'f', max_attempts => 1)",
    );
    let rows = client.query("SELECT pgq.put('q') FROM generate_series(1, 100)", &[]);
    let ids: Vec<i64> = rows.expect("put").iter().map(|row| row.get(0)).collect();
    wait_until(PATIENCE, "all jobs to end", || count(&mut client, "pgq.job") == 0);
    let verdict = ledger.verify(&mut client, &ids);
    verdict.assert_exact();
    assert_eq!(verdict.dead, 0);
    assert_eq!(one::<i32>(&mut client, "SELECT min(hits) FROM pair"), 100);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'app'";
    // The workers report their statistics at most once a second.
    wait_until(PATIENCE, "a deadlock to be counted", || one::<i64>(&mut client, deadlocks) > 0);
    println!("{} deadlocks", one::<i64>(&mut client, deadlocks));
}

#[test]
fn failing_jobs_among_many_disturb_no_other() {
    let (_server, mut client) = start(4);
    let ledger = Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "CREATE TABLE strict (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO strict VALUES (0);
         CREATE FUNCTION f(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
         DECLARE n int := (job.args ->> 'n')::int; BEGIN
            INSERT INTO ledger VALUES (job.id);
            IF n % 100 = 0 THEN RAISE 'always'; END IF;
            IF n % 10 = 3 AND job.attempt = 1 THEN RAISE 'at first'; END IF;
            IF n % 100 = 57 AND job.attempt = 1 THEN PERFORM 1 / 0; END IF;
            -- Fails at the commit, after the handler has returned.
            IF n % 250 = 8 THEN INSERT INTO strict VALUES (0); END IF;
            BEGIN RAISE 'caught'; EXCEPTION WHEN OTHERS THEN NULL; END;
         END $$;
         SELECT pgq.register('q', 'f', max_attempts => 2, backoff => '50 ms')",
    );
    let put = "SELECT id FROM pgq.bulk_put('q', args =>
        (SELECT array_agg(jsonb_build_object('n', n) ORDER BY n) FROM generate_series(1, 5000) AS n)) AS id";
    let rows = client.query(put, &[]).expect("bulk_put");
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    wait_until(PATIENCE, "all jobs to end", || count(&mut client, "pgq.job") == 0);
    let verdict = ledger.verify(&mut client, &ids);
    verdict.assert_exact();
    assert_eq!(verdict.dead, 50 + 20, "always, and at the commit");
    let charged = "pgq.dead WHERE failures <> 2 OR attempt < 2";
    assert_eq!(count(&mut client, charged), 0);
    let at_commit = "pgq.dead WHERE sqlstate = '23505'";
    assert_eq!(count(&mut client, at_commit), 20);
    let failed = "SELECT failed_total FROM pgq.stats('q')";
    let failed: i64 = one(&mut client, failed);
    // Each of the dead twice, each that failed at first once: nobody was charged for a neighbour.
    assert_eq!(failed, 2 * 70 + 500 + 50);
}

/// What a function must not do, and what a handler may leave behind in its session.
#[test]
fn a_handler_leaves_nothing_behind_in_its_session() {
    let (_server, mut client) = start(1);
    run(
        &mut client,
        "CREATE TABLE seen (search_path text, work_mem text, timeout text);
         CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen SELECT current_setting('search_path'),
                current_setting('work_mem'), current_setting('statement_timeout');
            SET search_path = pg_catalog; SET LOCAL work_mem = '1MB';
            PERFORM set_config('statement_timeout', '1h', false); END $$;
         CREATE FUNCTION ends() RETURNS void LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
         SELECT pgq.register('f', 'f'), pgq.register('ends', 'ends', max_attempts => 1);
         SELECT pgq.put('f') FROM generate_series(1, 200)",
    );
    wait_until(PATIENCE, "all jobs", || count(&mut client, "pgq.job") == 0);
    assert_eq!(count(&mut client, "seen"), 200);
    assert_eq!(count(&mut client, "(SELECT DISTINCT * FROM seen) AS s"), 1);
    assert_eq!(outcome(&mut client, "ends").0, "dead", "COMMIT in a function");
    assert_eq!(count(&mut client, "pgq.dead WHERE sqlstate = '2D000'"), 1);
}

/// Dropped after it was registered: only its own queue waits, and says why.
#[test]
fn a_handler_that_is_gone_is_parked_and_stops_its_own_queue_only() {
    let (_server, mut client) = start(2);
    let create = "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS ''";
    run(
        &mut client,
        &format!(
            "{create}; CREATE FUNCTION g() RETURNS void LANGUAGE sql AS '';
             SELECT pgq.register('a', 'f'), pgq.register('b', 'g'); DROP FUNCTION f()"
        ),
    );
    let id: i64 = one(&mut client, "SELECT pgq.put('a')");
    let parked = "SELECT parked IS NOT NULL FROM pgq.stats('a')";
    wait_until(PATIENCE, "the handler to be parked", || one(&mut client, parked));
    let why: String = one(&mut client, &format!("SELECT pgq.waiting({id})"));
    assert!(why.contains("parked"), "{why}");
    assert_eq!(outcome(&mut client, "b").0, "gone");
    assert_eq!(count(&mut client, &format!("pgq.job WHERE id = {id} AND attempt = 0")), 1);
    run(&mut client, &format!("{create}; SELECT pgq.register('a', 'f')"));
    let wait = format!("SELECT state FROM pgq.wait({id})");
    assert_eq!(one::<String>(&mut client, &wait), "gone");
}
