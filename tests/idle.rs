//! Idle workers leave, and come back for whatever is put or falls due. What they cost as long as they stay is torture
//! part T46.

use pgq_tests::{wait_until, Server};
use postgres::Client;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Starting a worker takes milliseconds; a busy machine takes longer.
const START: Duration = Duration::from_secs(20);
/// Twice what is promised for jobs that fall due: 1 s.
const DUE: Duration = Duration::from_secs(2);
/// A queue that runs, and everything that waits for something other than a worker: what has no
/// handler, what is paused, what is due tomorrow.
const QUEUES: &str = "
    CREATE TABLE ledger (id bigint, at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger VALUES (id);
    END $$;
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        INSERT INTO ledger VALUES (id);
    END $$;
    SELECT pgq.register('quick', 'note');
    SELECT pgq.register('procedure', 'commits');
    SELECT pgq.register('stopped', 'note');
    SELECT pgq.pause('stopped');
    SELECT pgq.put('outside') FROM generate_series(1, 100);
    SELECT pgq.put('stopped') FROM generate_series(1, 100);
    SELECT pgq.put('quick', delay => '1 day');";

fn execute(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn number(client: &mut Client, sql: &str) -> i64 {
    let row = client.query_one(sql, &[]);
    row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

fn ran(client: &mut Client, id: i64) -> bool {
    number(client, &format!("SELECT count(*) FROM ledger WHERE id = {id}")) == 1
}

fn start(preload: bool, idle_timeout: &str) -> (Server, Client) {
    // Autovacuum uses transaction ids of its own.
    let builder = Server::builder().preload(preload).conf("autovacuum", "off");
    let server = builder.conf("pgq.idle_timeout", idle_timeout).start();
    let mut client = server.create_database("shop");
    execute(&mut client, QUEUES);
    (server, client)
}

/// The pids of pgq's processes and what each is.
fn workers(client: &mut Client) -> BTreeMap<u32, String> {
    let sql = "SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'pgq%'";
    let rows = client.query(sql, &[]).expect("pg_stat_activity");
    rows.iter().map(|row| (u32::try_from(row.get::<_, i32>(0)).expect("a pid"), row.get(1))).collect()
}

#[test]
fn idle_workers_leave_and_come_back_for_a_put_and_for_what_falls_due_without_preloading() {
    leave_and_come_back(false);
}

#[test]
fn idle_workers_leave_and_come_back_for_a_put_and_for_what_falls_due_preloaded() {
    leave_and_come_back(true);
}

fn leave_and_come_back(preload: bool) {
    let (server, mut client) = start(preload, "1s");
    for round in ["first", "second"] {
        let id = number(&mut client, "SELECT pgq.put('quick')");
        let took = wait_until(START, "the job to run", || ran(&mut client, id));
        println!("preloaded {preload}: the {round} put ran after {took:?}");
        wait_until_alone(&server, preload);
    }
    let id = number(&mut client, "SELECT pgq.put('procedure')");
    wait_until(START, "the procedure to run", || ran(&mut client, id));

    // Far enough ahead that the workers leave before.
    let id = number(&mut client, "SELECT pgq.put('quick', delay => '5 s')");
    let due: SystemTime =
        client.query_one("SELECT execute_at FROM pgq.job WHERE id = $1", &[&id]).expect("it waits").get(0);
    wait_until_alone(&server, preload);
    assert!(!ran(&mut client, id), "they left before it was due");
    wait_until(START, "the delayed job to run", || ran(&mut client, id));
    let at: SystemTime = client.query_one("SELECT at FROM ledger WHERE id = $1", &[&id]).expect("it ran").get(0);
    let late = at.duration_since(due).expect("not before it was due");
    println!("preloaded {preload}: a job that fell due with nobody there ran {late:?} later");
    assert!(late < DUE, "{late:?} late");
}

fn wait_until_alone(server: &Server, preload: bool) {
    let took = wait_until(START, "all but the launcher to leave", || {
        let mut client = server.connect("postgres");
        workers(&mut client).values().all(|kind| kind == "pgq launcher")
    });
    println!("preloaded {preload}: only the launcher was left after {took:?}");
}
