//! What a role, a database or the server sets for every session also holds for workers. Whatever it is, pgq's own
//! statements do not depend on it: jobs run, retry, die, wait for their time, and are claimed and completed as ever.
//! Where a setting has a meaning for jobs (read only, isolation), that meaning is shown here.

use pgq_tests::shop::{complaints, everything_works, open, start};
use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::thread;
use std::time::Duration;

/// Jobs run within milliseconds of their time; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tables, functions, operators and types that are found before pgq's and PostgreSQL's own.
#[test]
fn a_search_path_full_of_traps_is_not_looked_at() {
    let server = start(Server::builder());
    let mut client = open(&server, "shop", &["search_path = trap, pg_catalog, public"]);
    run(
        &mut client,
        "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC;
         CREATE TABLE trap.job (id text); CREATE TABLE trap.handler (id text); CREATE TABLE trap.ledger (id text);
         CREATE FUNCTION trap.sprung() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''sprung''; END';
         CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql RETURN trap.sprung()::text::timestamptz;
         CREATE FUNCTION trap.count() RETURNS bigint LANGUAGE sql RETURN trap.sprung()::int;
         CREATE FUNCTION trap.same(bigint, bigint) RETURNS boolean LANGUAGE sql RETURN trap.sprung();
         CREATE FUNCTION trap.same(text, text) RETURNS boolean LANGUAGE sql RETURN trap.sprung();
         CREATE FUNCTION trap.same(integer, integer) RETURNS boolean LANGUAGE sql RETURN trap.sprung();
         CREATE OPERATOR trap.= (FUNCTION = trap.same, LEFTARG = bigint, RIGHTARG = bigint);
         CREATE OPERATOR trap.= (FUNCTION = trap.same, LEFTARG = integer, RIGHTARG = integer);",
    );
    run(&mut client, "SET search_path = pg_catalog");
    everything_works(&mut client);
}

#[test]
fn strict_isolation_gives_each_job_its_own_transaction_and_retries_conflicts_uncounted() {
    for level in ["repeatable read", "serializable"] {
        let server = start(Server::builder());
        let setting = format!("default_transaction_isolation = '{level}'");
        let mut client = open(&server, "shop", &[&setting, "default_transaction_deferrable = on"]);
        everything_works(&mut client);
        let before = server.log().len();
        run(
            &mut client,
            "CREATE TABLE counter (n int); INSERT INTO counter VALUES (0);
             GRANT SELECT, UPDATE ON counter TO app;
             CREATE TABLE xids (xid xid8); GRANT INSERT ON xids TO app;
             CREATE FUNCTION bump() RETURNS void LANGUAGE plpgsql AS $f$
             BEGIN
                 INSERT INTO xids VALUES (pg_current_xact_id());
                 PERFORM n FROM counter;
                 PERFORM pg_sleep(0.001);
                 UPDATE counter SET n = n + 1;
             END $f$;
             SELECT pgq.register('bump', 'bump', run_as => 'app', concurrency => 4);
             SELECT pgq.configure('bump', keep_done => '1 day');",
        );
        run(&mut client, "BEGIN ISOLATION LEVEL SERIALIZABLE");
        run(&mut client, "SELECT pgq.bulk_put('bump', args => array_fill('{}'::jsonb, ARRAY[300])); COMMIT");
        wait_until(PATIENCE * 2, "the counter to be complete", || {
            one::<i32>(&mut client, "SELECT n FROM counter") == 300
        });
        assert_eq!(
            count(&mut client, "pgq.finished_job WHERE queue = 'bump' AND (outcome = 'dead' OR failures > 0)"),
            0,
            "a conflict is no failure"
        );
        let (jobs, transactions) =
            (count(&mut client, "xids"), count(&mut client, "(SELECT DISTINCT xid FROM xids) AS x"));
        assert_eq!((jobs, transactions), (300, 300), "one job a transaction");
        let retries: i64 =
            one(&mut client, "SELECT coalesce(sum(attempt), 0)::bigint FROM pgq.finished_job WHERE queue = 'bump'");
        println!("{level}: 300 jobs on one row took {retries} attempts");
        assert!(retries > 300, "no conflict, so nothing was shown");
        assert_eq!(complaints(&server, before), Vec::<String>::new());
        wait_until(PATIENCE, "no rest", || count(&mut client, "pgq.job WHERE queue = 'bump'") == 0);
    }
}

/// statement_timeout, idle_…_timeout, and transaction_timeout from 17 on: what ends a session's statement, transaction or
/// the session itself ends no job.
#[test]
fn timeouts_of_sessions_end_no_job() {
    let server = start(Server::builder());
    let names =
        "SELECT name FROM pg_settings WHERE name LIKE '%_timeout' AND context = 'user' AND name <> 'lock_timeout'";
    let names = server.connect("postgres").query(names, &[]).expect("the server's settings");
    let settings: Vec<String> = names.iter().map(|row| format!("{} = '100ms'", row.get::<_, &str>(0))).collect();
    assert!(settings.len() >= 3, "{settings:?}");
    let mut client = open(&server, "shop", &settings.iter().map(String::as_str).collect::<Vec<_>>());
    let before = server.log().len();
    run(
        &mut client,
        "CREATE FUNCTION sleeps(args jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.5)';
         CREATE PROCEDURE naps(args jsonb) LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); COMMIT; PERFORM pg_sleep(0.5); END';
         SELECT pgq.register('sleeps', 'sleeps', run_as => 'app'), pgq.register('naps', 'naps', run_as => 'app'),
                pgq.configure('sleeps', keep_done => '1 day'), pgq.configure('naps', keep_done => '1 day'),
                pgq.put('sleeps'), pgq.put('naps')",
    );
    let done =
        "pgq.finished_job WHERE queue IN ('sleeps', 'naps') AND outcome = 'done' AND failures = 0 AND crashes = 0";
    wait_until(PATIENCE, "both jobs to be done", || count(&mut client, done) == 2);
    everything_works(&mut client);
    let ended: Vec<String> =
        server.log()[before..].lines().filter(|l| l.contains("timeout")).map(str::to_owned).collect();
    assert_eq!(ended, Vec::<String>::new());
}

/// Lines per second that workers write while nothing is to be done and while jobs run.
#[test]
fn log_statement_all_does_not_log_the_statements_of_workers() {
    let builder = Server::builder().conf("log_statement", "all").conf("log_min_duration_statement", "0");
    let server = start(builder.conf("log_lock_waits", "on").conf("log_connections", "on").conf("log_duration", "on"));
    let mut client = open(&server, "shop", &[]);
    everything_works(&mut client);
    let before = server.log().len();
    thread::sleep(Duration::from_secs(5));
    let lines = server.log()[before..].lines().filter(|line| line.contains("] pgq ")).count();
    assert_eq!(lines, 0, "idle workers are silent");
}

/// Read only by a setting of the role, of the database, of the server: its jobs wait, and pgq says why.
#[test]
fn where_transactions_are_read_only_by_default_jobs_wait_uncounted_and_say_why() {
    let server = start(Server::builder());
    let mut client = open(&server, "shop", &[]);
    everything_works(&mut client);
    run(&mut client, "TRUNCATE public.ledger");
    let mut admin = server.connect("postgres");
    let levels = [
        ("ALTER ROLE app SET default_transaction_read_only = on", "ALTER ROLE app RESET default_transaction_read_only"),
        (
            "ALTER DATABASE shop SET default_transaction_read_only = on",
            "ALTER DATABASE shop RESET default_transaction_read_only",
        ),
        ("ALTER SYSTEM SET default_transaction_read_only = on", "ALTER SYSTEM RESET default_transaction_read_only"),
    ];
    for (n, (on, off)) in levels.into_iter().enumerate() {
        let before = server.log().len();
        run(&mut admin, on);
        run(&mut admin, "SELECT pg_reload_conf()");
        // A worker that is connected goes on with what it started with, as any session does.
        wait_until(PATIENCE, "the workers to leave", || {
            server.worker_pids_like("pgq executor", Some("shop")).is_empty()
        });
        let ids: Vec<i64> = ["works", "commits"]
            .iter()
            .map(|queue| one(&mut client, &format!("SELECT pgq.put('{queue}', '{{\"name\": \"frozen\"}}')")))
            .collect();
        for id in &ids {
            let why =
                "its handler is parked: default_transaction_read_only is on for its role, this database or the server";
            wait_until(PATIENCE, "the reason", || {
                one::<String>(&mut client, &format!("SELECT pgq.waiting({id})")) == why
            });
            let charged: i32 = one(&mut client, &format!("SELECT attempt FROM pgq.job WHERE id = {id}"));
            assert_eq!(charged, 0, "nothing is counted");
        }
        let parked = "pgq.doctor() WHERE NOT ok AND detail LIKE '%default_transaction_read_only is on%'";
        assert_eq!(count(&mut client, parked), 2);
        // Delayed jobs still fall due: bookkeeping goes on.
        let id: i64 = one(&mut client, "SELECT pgq.put('outside', delay => '100 ms')");
        wait_until(PATIENCE, "it to be ready", || {
            count(&mut client, &format!("pgq.job WHERE id = {id} AND state = 'ready'")) == 1
        });
        refused_in_read_only(&mut server.connect("shop"), id);
        let said = server.log()[before..].matches("is parked: ").count();
        assert!(said <= 16, "{said} lines about two handlers: at most one from each worker that met it");
        run(&mut admin, off);
        run(&mut admin, "SELECT pg_reload_conf()");
        assert_eq!(count(&mut client, "public.ledger"), 2 * i64::try_from(n).expect("small"), "nothing ran meanwhile");
        // At once, instead of within a minute.
        run(&mut client, "SELECT pgq.register('works', 'public.works', run_as => 'app')");
        run(&mut client, "SELECT pgq.register('commits', 'public.commits', run_as => 'app')");
        for id in ids {
            wait_until(PATIENCE, "the job to run", || {
                count(&mut client, &format!("public.ledger WHERE id = {id}")) == 1
            });
        }
    }
}

/// What writes is refused with PostgreSQL's own error.
fn refused_in_read_only(client: &mut Client, waits: i64) {
    let cancel = format!("pgq.cancel({waits})");
    for call in [
        "pgq.put('works')",
        "pgq.put('works', key => 'k')",
        "pgq.put('works', key => 'k', on_conflict => 'replace')",
        "pgq.bulk_put('works', '[{\"key\": \"k\"}]')",
        "pgq.claim('outside')",
        "pgq.claim('outside', lease => '1 s')",
        "pgq.complete(1, 1)",
        "pgq.pause('works')",
        "pgq.register('works', 'public.works')",
        &cancel,
    ] {
        let sql = format!("BEGIN READ ONLY; SELECT {call}");
        let error = client.batch_execute(&sql).expect_err(&sql);
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{sql}: {error:?}");
        run(client, "ROLLBACK");
    }
    let stats: i64 = one(client, "SELECT count(*) FROM pgq.stats()");
    assert!(stats > 0, "what only reads works");
}
