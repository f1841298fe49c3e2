//! T27: ten thousand jobs that are due at the same instant. None runs before it, each runs once, and
//! the last begins as late as so many ready jobs take, and a second.

use super::{Part, Run};
use crate::{one, run as execute, timed, wait_until};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T27",
    title: "ten thousand jobs due at the same instant",
    unit: "instants",
    quick: 2,
    full: 20,
    run: instants,
}];

const JOBS: i64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(120);

const SCHEMA: &str = "
    CREATE ROLE worker LOGIN;
    CREATE TABLE began (job bigint NOT NULL, at timestamptz NOT NULL);
    GRANT INSERT ON began TO worker;
    CREATE FUNCTION begin_job(id bigint, args jsonb) RETURNS void LANGUAGE sql AS
        'INSERT INTO began VALUES (id, clock_timestamp())';
    SELECT pgq.register('q', 'begin_job', run_as => 'worker');";

fn instants(run: &mut Run) {
    let server = run.server().start();
    let mut client = server.create_database("shop");
    execute(&mut client, SCHEMA);
    // A new handler runs one job a transaction until it has shown that its jobs are short.
    let ready = format!("SELECT count(*) FROM pgq.bulk_put('q', args => array_fill('{{}}'::jsonb, ARRAY[{JOBS}]))");
    execute(&mut client, &ready);
    drain(&mut client);
    while run.goes_on() {
        execute(&mut client, &ready);
        let (_, usual) = timed(|| drain(&mut client));
        execute(&mut client, "TRUNCATE began");
        let due = format!(
            "SELECT count(*) FROM pgq.bulk_put('q', args => array_fill('{{}}'::jsonb, ARRAY[{JOBS}]),
                                               execute_at => date_trunc('second', clock_timestamp()) + interval '2 s')"
        );
        execute(&mut client, &due);
        execute(&mut client, "CREATE TEMP TABLE due AS SELECT execute_at AS at FROM pgq.job LIMIT 1");
        drain(&mut client);
        let early: i64 = one(&mut client, "SELECT count(*) FROM began, due WHERE began.at < due.at");
        let once: bool =
            one(&mut client, &format!("SELECT count(*) = {JOBS} AND count(DISTINCT job) = {JOBS} FROM began"));
        if early > 0 || !once {
            run.differ(format!("{early} began too early; each once: {once}"));
        }
        let last: f64 =
            one(&mut client, "SELECT extract(epoch FROM max(began.at) - max(due.at))::float8 FROM began, due");
        run.took("as many ready ones", usual);
        run.took_at_most("the last began", Duration::from_secs_f64(last.max(0.0)), usual + Duration::from_secs(1));
        execute(&mut client, "DROP TABLE due");
        run.did(1);
    }
}

fn drain(client: &mut Client) {
    wait_until(PATIENCE, "all jobs to be done", || one::<bool>(client, "SELECT NOT EXISTS (SELECT FROM pgq.job)"));
}
