//! A database with one queue of every kind, run by an ordinary role, and a round of everything a job can do: what must
//! work whatever is set for sessions.

use crate::server::Builder;
use crate::{count, one, run, wait_until, Server};
use postgres::{Client, NoTls};
use std::time::Duration;

/// Jobs run within milliseconds of their time; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// A preloaded server whose workers leave soon, with the role that runs the handlers.
///
/// # Panics
/// When it does not start.
pub fn start(builder: Builder) -> Server {
    let server = builder.preload(true).conf("pgq.max_workers", 16).conf("pgq.idle_timeout", "2s").start();
    run(&mut server.connect("postgres"), "CREATE ROLE app LOGIN");
    server
}

/// A database with these settings, and the queues in it. The session that is returned can see what workers do: it
/// itself has no limits and looks with fresh eyes.
///
/// # Panics
/// When the server refuses.
pub fn open(server: &Server, database: &str, settings: &[&str]) -> Client {
    let mut admin = server.connect("postgres");
    run(&mut admin, &format!("CREATE DATABASE {database}"));
    for setting in settings {
        run(&mut admin, &format!("ALTER DATABASE {database} SET {setting}"));
    }
    // With the connection: a session that is idle for 1 ms may be gone before its first SET.
    let mut config = server.config(database, "postgres");
    // Nor by workers of a parallel query: they begin with the database's settings.
    let none =
        "-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 -c max_parallel_workers_per_gather=0";
    let from_17 = if has_setting(&mut admin, "transaction_timeout") { " -c transaction_timeout=0" } else { "" };
    config.options(&format!("{none}{from_17}"));
    let mut client = config.connect(NoTls).expect("a session that none of the database's timeouts ends");
    run(&mut client, "SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'");
    run(&mut client, "CREATE EXTENSION pgq");
    run(&mut client, QUEUES);
    client
}

/// Does this version of PostgreSQL have this setting, if need be by a newer name?
pub fn has_setting(client: &mut Client, name: &str) -> bool {
    one(client, &format!("SELECT pg_catalog.current_setting('{name}', true) IS NOT NULL"))
}

/// One of everything, and all of it comes to its end. Once a database.
///
/// # Panics
/// When something does not.
pub fn everything_works(client: &mut Client) {
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
    outside_works(client);
    let stands: i64 = one(client, "SELECT pg_catalog.count(*) FROM pgq.stats() WHERE parked IS NOT NULL OR paused");
    assert_eq!(stands, 0, "nothing is parked");
    assert!(count(client, "pgq.doctor()") > 3, "doctor answers");
    assert_eq!(one::<i64>(client, "SELECT pgq.redrive('fails')"), 1);
    wait_until(PATIENCE, "the dead job to die again", || count(client, "pgq.dead") == 1);
}

fn outside_works(client: &mut Client) {
    let row = client.query_one("SELECT id, attempt FROM pgq.claim('outside', lease => '1 minute')", &[]);
    let row = row.expect("a job to claim");
    let claim = format!("{}, {}", row.get::<_, i64>(0), row.get::<_, i32>(1));
    let extended = format!("SELECT pgq.extend({claim}, '1 hour') > pg_catalog.clock_timestamp() + '59 min'");
    assert!(one::<bool>(client, &extended), "an hour more");
    assert!(one::<bool>(client, &format!("SELECT pgq.complete({claim})")), "completed");
}

/// What workers complained of since `from`, the failures of [`everything_works`] left out.
pub fn complaints(server: &Server, from: usize) -> Vec<String> {
    let log = server.log();
    let loud = log[from..].lines().filter(|line| line.contains("] pgq ") && !line.contains("no \"secret\""));
    loud.filter(|line| line.contains("WARNING") || line.contains("ERROR")).map(str::to_owned).collect()
}
