//! What a role, a database or the server sets for every session also holds for workers. Whatever it is, pgq's own
//! statements do not depend on it: jobs run, retry, die, wait for their time, and are claimed and completed as ever.
//! Where a setting has a meaning for jobs (read only, isolation), that meaning is shown here.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::thread;
use std::time::Duration;

/// Jobs run within milliseconds of their time; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything a job can do, each in a queue of its own; run by an ordinary role.
const QUEUES: &str = "
    CREATE TABLE public.ledger (queue text, id bigint);
    GRANT INSERT, SELECT ON public.ledger TO app;
    CREATE FUNCTION public.note(job pgq.job) RETURNS double precision LANGUAGE sql
        RETURN CASE WHEN job.id IS NULL THEN 0 ELSE 0.1 END;
    CREATE FUNCTION public.works(id bigint, args jsonb) RETURNS text LANGUAGE plpgsql AS $f$
    BEGIN
        INSERT INTO public.ledger VALUES ('works', id);
        RETURN args OPERATOR(pg_catalog.->>) 'name';
    END $f$;
    CREATE FUNCTION public.fails(args jsonb) RETURNS void LANGUAGE plpgsql AS $f$
    BEGIN
        RAISE 'no %', args;
    END $f$;
    CREATE PROCEDURE public.commits(id bigint, args jsonb) LANGUAGE plpgsql AS $f$
    BEGIN
        COMMIT;
        INSERT INTO public.ledger VALUES ('commits', id);
        COMMIT;
    END $f$;
    SELECT pgq.register('works', 'public.works', run_as => 'app');
    SELECT pgq.register('notes', 'public.note(pgq.job)', run_as => 'app');
    SELECT pgq.register('fails', 'public.fails', run_as => 'app', max_attempts => 2, backoff => '50 ms');
    SELECT pgq.register('commits', 'public.commits', run_as => 'app');
    SELECT pgq.configure('works', keep_done => '1 day'), pgq.configure('notes', keep_done => '1 day');";

fn start(builder: pgq_tests::server::Builder) -> Server {
    let server = builder.preload(true).conf("pgq.max_workers", 16).conf("pgq.idle_timeout", "2s").start();
    run(&mut server.connect("postgres"), "CREATE ROLE app LOGIN");
    server
}

/// A database with those settings and the queues. The statements are run where its settings hold already.
fn shop(server: &Server, database: &str, settings: &[&str]) -> Client {
    let mut admin = server.connect("postgres");
    run(&mut admin, &format!("CREATE DATABASE {database}"));
    for setting in settings {
        run(&mut admin, &format!("ALTER DATABASE {database} SET {setting}"));
    }
    let mut client = server.connect(database);
    run(&mut client, "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0;");
    // What is looked at is what workers make of it.
    run(&mut client, "SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'");
    run(&mut client, "CREATE EXTENSION pgq");
    run(&mut client, QUEUES);
    client
}

/// One of everything, and all of it comes to its end.
fn everything_works(client: &mut Client) {
    run(
        client,
        "SELECT pgq.put('works', '{\"name\": \"one\"}');
         SELECT pgq.put('works', '{\"name\": \"two\"}', delay => '200 ms', key => 'k');
         SELECT pgq.put('works', '{\"name\": \"two\"}', delay => '200 ms', key => 'k');
         SELECT pgq.bulk_put('works', '[{\"args\": {\"name\": \"three\"}, \"delay\": \"0.1 s\", \"key\": \"l\"}]');
         SELECT pgq.bulk_put('works', args => pg_catalog.array_fill('{\"name\": \"many\"}'::jsonb, ARRAY[100]));
         SELECT pgq.put('notes'), pgq.put('fails', '\"secret\"'), pgq.put('commits'), pgq.put('outside');",
    );
    let ends = [
        ("public.ledger WHERE queue = 'works'", 103),
        ("public.ledger WHERE queue = 'commits'", 1),
        ("pgq.finished_job WHERE queue = 'notes' AND outcome = 'done' AND result IS NOT NULL", 1),
        ("pgq.dead WHERE queue = 'fails' AND message = 'no \"secret\"' AND sqlstate = 'P0001'", 1),
        ("pgq.finished_job WHERE queue = 'works' AND result = '\"two\"'", 1),
        ("pgq.job WHERE queue <> 'outside'", 0),
    ];
    for (what, number) in ends {
        wait_until(PATIENCE, what, || count(client, what) == number);
    }
    let claimed: (i64, i32) = {
        let row = client.query_one("SELECT id, attempt FROM pgq.claim('outside', lease => '1 minute')", &[]);
        let row = row.expect("a job to claim");
        (row.get(0), row.get(1))
    };
    let extended: bool = one(
        client,
        &format!("SELECT pgq.extend({}, {}, '1 hour') > pg_catalog.clock_timestamp() + '59 min'", claimed.0, claimed.1),
    );
    assert!(extended);
    assert!(one::<bool>(client, &format!("SELECT pgq.complete({}, {})", claimed.0, claimed.1)));
    let stands: i64 = one(client, "SELECT pg_catalog.count(*) FROM pgq.stats() WHERE parked IS NOT NULL OR paused");
    assert_eq!(stands, 0);
    assert!(count(client, "pgq.doctor()") > 3);
    assert_eq!(one::<i64>(client, "SELECT pgq.redrive('fails')"), 1);
    wait_until(PATIENCE, "the dead job to die again", || count(client, "pgq.dead") == 1);
}

/// No line of the log is a complaint of a worker's.
fn assert_quiet(server: &Server, from: usize) {
    let log = server.log()[from..].to_owned();
    let loud: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("pgq ") && (line.contains("WARNING") || line.contains("ERROR")))
        .filter(|line| !line.contains("no \"secret\""))
        .collect();
    assert!(loud.is_empty(), "workers complained:\n{}", loud.join("\n"));
}

#[test]
fn formats_limits_and_planner_settings_of_a_database_change_nothing() {
    let server = start(Server::builder());
    let groups: [(&str, &[&str]); 4] = [
        (
            "formats",
            &[
                "datestyle = 'SQL, DMY'",
                "intervalstyle = sql_standard",
                "timezone = 'Asia/Kathmandu'",
                "extra_float_digits = -15",
                "bytea_output = escape",
                "standard_conforming_strings = off",
                "escape_string_warning = on",
                "array_nulls = off",
                "transform_null_equals = on",
                "quote_all_identifiers = on",
                "client_encoding = 'LATIN1'",
                "xmloption = document",
            ],
        ),
        (
            "limits",
            &[
                "statement_timeout = '1ms'",
                "lock_timeout = '1ms'",
                "idle_in_transaction_session_timeout = '1ms'",
                "idle_session_timeout = '1ms'",
                "deadlock_timeout = '1ms'",
                "work_mem = '64kB'",
                "max_parallel_workers_per_gather = 8",
                "parallel_setup_cost = 0",
                "force_parallel_mode = on",
            ],
        ),
        (
            "planner",
            &[
                "enable_indexscan = off",
                "enable_indexonlyscan = off",
                "enable_seqscan = on",
                "enable_nestloop = off",
                "enable_tidscan = off",
                "plan_cache_mode = force_custom_plan",
                "jit = on",
                "jit_above_cost = 0",
                "join_collapse_limit = 1",
                "constraint_exclusion = on",
            ],
        ),
        (
            "replica",
            &[
                "session_replication_role = replica",
                "row_security = off",
                "synchronous_commit = off",
                "check_function_bodies = off",
                "track_activities = off",
                "track_counts = off",
                "allow_system_table_mods = on",
                "debug_assertions_nonexistent.x = on",
                "exit_on_error = off",
                "zero_damaged_pages = on",
            ],
        ),
    ];
    for (database, settings) in groups {
        let before = server.log().len();
        let mut client = shop(&server, database, settings);
        everything_works(&mut client);
        assert_quiet(&server, before);
        println!("{database}: everything works");
    }
}

/// Tables, functions, operators and types that are found before pgq's and PostgreSQL's own.
#[test]
fn a_search_path_full_of_traps_is_not_looked_at() {
    let server = start(Server::builder());
    let mut client = shop(&server, "shop", &["search_path = trap, pg_catalog, public"]);
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
        let mut client = shop(&server, "shop", &[&setting, "default_transaction_deferrable = on"]);
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
        assert_quiet(&server, before);
        wait_until(PATIENCE, "no rest", || count(&mut client, "pgq.job WHERE queue = 'bump'") == 0);
    }
}

/// Lines per second that workers write while nothing is to be done and while jobs run.
#[test]
fn log_statement_all_does_not_log_the_statements_of_workers() {
    let builder = Server::builder().conf("log_statement", "all").conf("log_min_duration_statement", "0");
    let server = start(builder.conf("log_lock_waits", "on").conf("log_connections", "on").conf("log_duration", "on"));
    let mut client = shop(&server, "shop", &[]);
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
    let mut client = shop(&server, "shop", &[]);
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
