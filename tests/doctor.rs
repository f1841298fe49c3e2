//! What doctor finds wrong with a server, a database and its queues, and that what it says to type mends it. What it
//! says of tables, the journal, standbys, copies, versions and parked handlers is tested with these.

use pgq_tests::installation::Installation;
use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// The one row of a check that is not ok: what it says, and what to type.
fn wrong(client: &mut Client, check: &str) -> (String, String) {
    let sql = "SELECT detail, fix FROM pgq.doctor() WHERE check_name = $1 AND NOT ok";
    let rows = client.query(sql, &[&check]).expect("pgq.doctor");
    assert_eq!(rows.len(), 1, "{check}");
    (rows[0].get(0), rows[0].get(1))
}

/// Types it, one statement after the other: ALTER SYSTEM goes into no transaction.
fn type_in(client: &mut Client, fix: &str) {
    for statement in fix.split_inclusive(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        run(client, statement);
    }
}

fn becomes_ok(client: &mut Client, check: &str) {
    let wrong = format!("pgq.doctor() WHERE check_name = '{check}' AND NOT ok");
    wait_until(PATIENCE, &format!("{check} to be mended"), || count(client, &wrong) == 0);
}

/// What a person who looks at a healthy server sees.
const ALL_IS_WELL: &[(&str, &str)] = &[
    ("enabled", "workers may run"),
    ("preloaded", "jobs run after a server restart by themselves"),
    ("version", concat!("library and tables are of version ", env!("CARGO_PKG_VERSION"))),
    ("older PgQ", "not installed"),
    (
        "worker slots",
        "max_worker_processes is 32, 29 of them free; launcher, a scheduler and pgq.max_workers executors take 6",
    ),
    ("workers alive", "launcher running, scheduler running (it leaves when idle), 0 executors here"),
    ("crash journal", "a job that crashes the server is found"),
    ("notify", "NOTIFY goes through: nothing waits in its queue"),
    ("old snapshots", "no transaction here has been open for 5 min"),
    ("tables untouched", "nothing foreign on pgq's tables"),
    ("restored copy", "no handler is held"),
    ("handlers resolvable", "each has its function"),
    ("parked handlers", "none"),
    ("schedules", "all that are active run"),
    ("paused queues", "none"),
    ("dead letters", "none"),
    ("oldest ready job", "no job is ready"),
];

#[test]
fn on_a_healthy_server_all_is_well() {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    run(&mut client, "SELECT pgq.start()");
    wait_until(PATIENCE, "the scheduler", || server.worker_pids_like("pgq scheduler", Some("shop")).len() == 1);
    // A look at another database comes and goes.
    wait_until(PATIENCE, "the others to leave", || server.worker_pids(None).len() == 2);
    let rows = client.query("SELECT check_name, detail FROM pgq.doctor() WHERE ok AND fix IS NULL", &[]);
    let rows = rows.expect("pgq.doctor");
    let found: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(check, detail)| (check.as_str(), detail.as_str())).collect();
    assert_eq!(found, ALL_IS_WELL);
    assert_eq!(count(&mut client, "pgq.doctor() WHERE NOT ok"), 0);
}

#[test]
fn a_server_that_is_not_preloaded_or_has_no_room_for_workers_is_told_so() {
    let server = Server::builder().conf("max_worker_processes", 4).start();
    let mut client = server.create_database("shop");
    assert!(wrong(&mut client, "preloaded").1.contains("shared_preload_libraries"));
    let (detail, fix) = wrong(&mut client, "worker slots");
    assert!(detail.starts_with("max_worker_processes is 4, 3 of them free"), "{detail}");
    assert!(fix.starts_with("ALTER SYSTEM SET max_worker_processes = 10;"), "{fix}");
    let (detail, fix) = wrong(&mut client, "workers alive");
    assert!(detail.starts_with("launcher absent, scheduler absent"), "{detail}");
    type_in(&mut client, &fix);
    becomes_ok(&mut client, "workers alive");
}

#[test]
fn switched_off_it_says_how_to_switch_on() {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    server.set("pgq.enabled", "off");
    wait_until(PATIENCE, "the reload", || {
        count(&mut client, "pgq.doctor() WHERE check_name = 'enabled' AND NOT ok") == 1
    });
    let (_, fix) = wrong(&mut client, "enabled");
    type_in(&mut client, &fix);
    becomes_ok(&mut client, "enabled");
}

#[test]
fn queues_with_dead_jobs_or_ready_ones_that_nobody_takes_are_named() {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    run(
        &mut client,
        "CREATE FUNCTION fails() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
        SELECT pgq.register('mail', 'fails', max_attempts => 1), pgq.put('mail'), pgq.put('mail')",
    );
    wait_until(PATIENCE, "the dead jobs", || count(&mut client, "pgq.dead") == 2);
    let (detail, fix) = wrong(&mut client, "dead letters");
    assert_eq!(detail, "queue \"mail\": 2 dead jobs");
    run(&mut client, "CREATE OR REPLACE FUNCTION fails() RETURNS void LANGUAGE sql AS 'SELECT'");
    run(&mut client, &fix[..=fix.find(';').expect("a command")]);
    becomes_ok(&mut client, "dead letters");
    // Put long ago into a queue that nobody serves; and one that is as old, where somebody wants it so.
    run(
        &mut client,
        "SELECT pgq.pause('paused');
        INSERT INTO pgq.job (queue, args, execute_at, created_at, state)
        SELECT queue, '1', now() - '1 h'::interval, now() - '1 h'::interval, 'ready'
          FROM unnest('{push, paused}'::text[]) AS queue;
        SELECT pgq.put('push', priority => 5)",
    );
    let (detail, fix) = wrong(&mut client, "oldest ready job");
    assert!(detail.starts_with("queue \"push\": ready for 36"), "{detail}");
    let next: i64 = one(&mut client, "SELECT id FROM pgq.job WHERE priority = 5");
    assert_eq!(fix, format!("SELECT pgq.waiting({next});"));
    assert!(one::<String>(&mut client, &fix).contains("has no handler here"));
    run(&mut client, "SELECT pgq.claim('push', n => 2)");
    becomes_ok(&mut client, "oldest ready job");
}

#[test]
fn a_handler_without_its_function_is_named() {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    run(&mut client, "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT'; CREATE FUNCTION g() RETURNS void LANGUAGE sql AS 'SELECT';
        SELECT pgq.register('a', 'f'), pgq.register('b', 'g'); DROP FUNCTION f()");
    assert_eq!(wrong(&mut client, "handlers resolvable").0, "not there: public.f()");
    assert!(wrong(&mut client, "parked handlers").0.ends_with("function public.f() does not exist"));
    run(&mut client, "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT'");
    becomes_ok(&mut client, "handlers resolvable");
}

/// A session that LISTENs and stays in a transaction reads nothing: what all others send piles up in one queue.
#[test]
fn a_listener_that_does_not_read_is_told_of() {
    let server = Server::builder().preload(true).conf("fsync", "off").start();
    let mut client = server.create_database("shop");
    let mut listener = server.connect("shop");
    run(&mut listener, "LISTEN pgq_mail");
    run(&mut listener, "BEGIN; SELECT 1");
    // The queue holds 8 GB.
    let send = "SELECT count(pg_notify('other', n || repeat('x', 7900))) FROM generate_series(1, 13000) AS n";
    run(&mut client, send);
    let (detail, fix) = wrong(&mut client, "notify");
    assert!(detail.starts_with("NOTIFY's queue is 1."), "{detail}");
    let sessions = client.query(fix.split("; --").next().expect("a query"), &[]).expect("the oldest first");
    let oldest: i32 = sessions[0].get("pid");
    let listening: i32 = one(&mut listener, "SELECT pg_backend_pid()");
    assert_eq!(oldest, listening);
    run(&mut client, &format!("SELECT pg_terminate_backend({oldest})"));
    becomes_ok(&mut client, "notify");
}

/// Of what holds vacuum back a standby is the one that needs no minutes.
#[test]
fn who_holds_vacuum_back_is_named() {
    let primary = Server::builder()
        .preload(true)
        .conf("wal_level", "replica")
        .conf("hot_standby_feedback", "on")
        .conf("wal_receiver_status_interval", "1s")
        .start();
    let mut client = primary.create_database("shop");
    let standby = primary.standby();
    let mut reader = standby.connect("shop");
    run(&mut reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    wait_until(PATIENCE, "its snapshot to be known", || {
        count(&mut client, "pg_stat_replication WHERE backend_xmin IS NOT NULL") == 1
    });
    assert_eq!(count(&mut client, "pgq.doctor() WHERE check_name = 'old snapshots' AND ok"), 1);
    let burn = "CREATE TABLE burnt (n int);
        DO $$ BEGIN FOR n IN 1 .. 101000 LOOP
            BEGIN INSERT INTO burnt VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END;
        END LOOP; END $$";
    run(&mut client, burn);
    let (detail, fix) = wrong(&mut client, "old snapshots");
    assert!(detail.starts_with("a standby (process "), "{detail}");
    assert!(fix.contains("end its long query"), "{fix}");
    run(&mut reader, "COMMIT");
    becomes_ok(&mut client, "old snapshots");
}

/// Its packages and ours own files of the same names.
#[test]
fn the_older_pgq_is_found_by_its_files() {
    let copy = Installation::copy();
    let server = Server::builder().of(&copy).preload(true).start();
    let mut client = server.create_database("shop");
    assert_eq!(count(&mut client, "pgq.doctor() WHERE check_name = 'older PgQ' AND ok"), 1);
    copy.write("pgq--3.5.sql", "SELECT 1;");
    copy.write("pgq_coop.control", "default_version = '3.5'\n");
    copy.write("pgq_coop--3.5.sql", "SELECT 1;");
    let (detail, fix) = wrong(&mut client, "older PgQ");
    assert_eq!(detail, "its files are here: pgq--3.5.sql, pgq_coop.control");
    assert!(fix.contains("pgq3"), "{fix}");
}
