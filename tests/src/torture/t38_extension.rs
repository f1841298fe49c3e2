//! T38: the extension is dropped and created again while workers are busy in it: in two statements, in one transaction,
//! with a pause in which a worker that was just started meets another extension, rolled back, or failing.

use super::{Part, Run};
use crate::{count, one, run as execute, timed, wait_until, Server};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T38",
    title: "DROP EXTENSION, rolled back or not, and CREATE EXTENSION under load",
    unit: "cycles",
    quick: 5,
    full: 200,
    run: drop_and_create,
}];

/// Ten times the promised 5 s.
const WAY_MADE: Duration = Duration::from_secs(50);
const PATIENCE: Duration = Duration::from_secs(60);

const HANDLERS: &str = "
    CREATE TABLE ledger (id bigint);
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger VALUES (id);
    END $$;
    CREATE FUNCTION naps(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep((args->>'s')::float);
        INSERT INTO ledger VALUES (id);
    END $$;
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        PERFORM pg_sleep((args->>'s')::float);
        INSERT INTO ledger VALUES (id);
    END $$;";

const REGISTER: &str = "
    SELECT pgq.register('note', 'note', concurrency => 4), pgq.register('naps', 'naps'),
           pgq.register('commits', 'commits');
    TRUNCATE ledger;";

/// Long and short jobs, some of them for later. What is left of the last round stays.
const LOAD: &str = "
    SELECT pgq.put('naps', '{\"s\": 3600}'), pgq.put('commits', '{\"s\": 3600}');
    SELECT count(*) FROM pgq.bulk_put('note', args => array_fill('{}'::jsonb, ARRAY[5000]));
    SELECT pgq.put('note', delay => n * interval '10 ms') FROM generate_series(1, 50) AS n;";

/// Lines that may be in the log: a change of state, and workers that were told to go.
const ALLOWED: &[&str] = &[
    "the extension was dropped from this database",
    "terminating background worker",
    "terminating connection due to administrator command",
    "exited with exit code 1",
    "cannot drop extension pgq",
];

fn drop_and_create(run: &mut Run) {
    let server = run.server().conf("pgq.max_workers", 6).start();
    let mut client = server.create_database("shop");
    execute(&mut client, HANDLERS);
    execute(&mut client, REGISTER);
    execute(&mut client, "CREATE ROLE other; CREATE SCHEMA side");
    let (mut slowest, mut seen) = (Duration::ZERO, 0);
    while run.goes_on() {
        execute(&mut client, LOAD);
        wait_until(PATIENCE, "the long ones to run", || count(&mut client, "pgq.running WHERE queue <> 'note'") >= 2);
        let took = match run.rng.below(5) {
            0 => again(&server, run, &["DROP EXTENSION pgq", "CREATE EXTENSION pgq"]),
            1 => again(&server, run, &["BEGIN; DROP EXTENSION pgq; CREATE EXTENSION pgq; COMMIT"]),
            2 => {
                let pause = format!("SELECT pg_sleep({})", run.rng.below(1500) as f64 / 1000.0);
                again(&server, run, &["DROP EXTENSION pgq", &pause, "CREATE EXTENSION pgq"])
            }
            3 => rolled_back(&server, run),
            _ => failing(&server, run),
        };
        slowest = slowest.max(took);
        if took > WAY_MADE {
            run.differ(format!("it took {took:?}"));
        }
        let id: i64 = one(&mut client, "SELECT pgq.put('note', priority => 9)");
        let what = format!("ledger WHERE id = {id}");
        wait_until(PATIENCE, "a job to run afterwards", || count(&mut client, &what) == 1);
        twice(run, &mut client);
        unexpected(run, &server, &mut seen);
        wait_until(PATIENCE, "the long ones to end", || {
            // One that was given back starts anew between the two.
            execute(&mut client, "SELECT pgq.cancel(job, force => true) FROM pgq.running WHERE queue <> 'note'");
            execute(&mut client, "SELECT pgq.purge('naps', 'ready'), pgq.purge('commits', 'ready')");
            count(&mut client, "pgq.job WHERE queue <> 'note'") == 0
        });
        run.did(1);
    }
    println!("T38: the slowest took {slowest:?}");
}

/// Statements in a session of their own, then the registrations anew.
fn again(server: &Server, run: &mut Run, statements: &[&str]) -> Duration {
    run.fault("drop and create");
    let mut client = server.connect("shop");
    let (_, took) = timed(|| execute(&mut client, statements[0]));
    for statement in &statements[1..] {
        execute(&mut client, statement);
    }
    execute(&mut client, REGISTER);
    took
}

/// What was put is there afterwards, and nothing is counted against it.
fn rolled_back(server: &Server, run: &mut Run) -> Duration {
    run.fault("drop rolled back");
    let mut client = server.connect("shop");
    let kept: i64 = one(&mut client, "SELECT pgq.put('note', delay => '1 hour')");
    let (_, took) = timed(|| execute(&mut client, "BEGIN; DROP EXTENSION pgq"));
    execute(&mut client, &format!("SELECT pg_sleep({}); ROLLBACK", run.rng.below(1500) as f64 / 1000.0));
    let there = format!("pgq.job WHERE id = {kept} AND attempt = 0");
    if count(&mut client, &there) != 1 || count(&mut client, "pgq.job WHERE failures > 0") > 0 {
        run.differ("a DROP that was rolled back changed jobs");
    }
    execute(&mut client, &format!("SELECT pgq.cancel({kept})"));
    took
}

fn failing(server: &Server, run: &mut Run) -> Duration {
    run.fault("drop failed");
    let mut client = server.connect("shop");
    execute(&mut client, "CREATE VIEW side.mine AS SELECT id FROM pgq.job");
    let (error, took) = timed(|| client.batch_execute("DROP EXTENSION pgq").expect_err("a view is on it"));
    if error.code().map(|code| code.code()) != Some("2BP01") {
        run.differ(error);
    }
    execute(&mut client, "DROP VIEW side.mine");
    took
}

fn twice(run: &mut Run, client: &mut Client) {
    let doubles = count(client, "(SELECT FROM ledger GROUP BY id HAVING count(*) > 1) AS d");
    if doubles > 0 {
        run.differ(format!("{doubles} jobs ran twice"));
    }
}

/// Looks through what workers wrote since the last time.
fn unexpected(run: &mut Run, server: &Server, seen: &mut usize) {
    let log = server.log();
    for line in log[*seen..].lines().filter(|line| line.contains("] pgq ") || line.contains("PANIC")) {
        let message = ["LOG:", "WARNING:", "ERROR:", "FATAL:", "PANIC:"].iter().any(|level| line.contains(level));
        if message && !ALLOWED.iter().any(|allowed| line.contains(allowed)) {
            run.differ(line);
        }
    }
    *seen = log.len();
}
