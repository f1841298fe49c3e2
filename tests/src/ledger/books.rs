//! The books of a run, in the database under test: what producers put, in the transactions that put
//! it, and what handlers did, in a table without any unique index.

use super::verdict::{Effect, End, Put, Record};
use crate::server::Server;
use postgres::{Client, Error};

/// The queue of the books' function.
pub const QUEUE: &str = "work";
/// The queue of the books' procedure.
pub const STEPS: &str = "steps";

/// `args`: qty, fails (how often it raises before it succeeds), ms (sleeps up to so long between its
/// two effects). A failure comes behind the first effect: a rollback that left it would be seen.
const SCHEMA: &str = "
    CREATE ROLE worker LOGIN;
    CREATE TABLE led_put (job bigint NOT NULL, qty bigint NOT NULL, fails int NOT NULL);
    CREATE TABLE led_purged (n bigint NOT NULL);
    CREATE TABLE led_eff (
        job bigint NOT NULL, attempt int NOT NULL, failures int NOT NULL, crashes int NOT NULL, step int NOT NULL,
        pid int NOT NULL, xid xid8 NOT NULL, at timestamptz NOT NULL, qty bigint NOT NULL, sqlstate text);
    GRANT INSERT ON led_eff TO worker;
    CREATE FUNCTION led_note(job pgq.job, step int) RETURNS void LANGUAGE sql AS $$
        INSERT INTO led_eff VALUES (job.id, job.attempt, job.failures, job.crashes, step, pg_backend_pid(),
            pg_current_xact_id(), clock_timestamp(), (job.args->>'qty')::bigint, job.error->>'sqlstate')
    $$;
    CREATE FUNCTION led_run(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM led_note(job, 1);
        PERFORM pg_sleep(random() * (job.args->>'ms')::float8 / 1000);
        IF job.failures < (job.args->>'fails')::int THEN
            RAISE EXCEPTION 'job % fails as it was told', job.id;
        END IF;
        PERFORM led_note(job, 2);
    END $$;
    CREATE PROCEDURE led_steps(job pgq.job) LANGUAGE plpgsql AS $$
    BEGIN
        FOR step IN 1 .. 3 LOOP
            PERFORM led_note(job, step);
            PERFORM pg_sleep(random() * (job.args->>'ms')::float8 / 1000);
            COMMIT;
        END LOOP;
    END $$;";

/// Creates the database with the extension, the books' tables and handlers that `worker` runs.
///
/// # Panics
/// When the server refuses.
pub fn open(server: &Server, database: &str, max_attempts: i32) -> Client {
    let mut client = server.create_database(database);
    crate::run(&mut client, SCHEMA);
    crate::run(&mut client, &registration(max_attempts));
    client
}

/// Registers the handlers: failed jobs come back quickly, and are dead after `max_attempts` failures.
pub fn registration(max_attempts: i32) -> String {
    let register = |(queue, handler): (&str, &str)| {
        format!(
            "SELECT pgq.register('{queue}', '{handler}', run_as => 'worker', max_attempts => {max_attempts},
                                 backoff => '10 ms', max_backoff => '50 ms');"
        )
    };
    [(QUEUE, "led_run"), (STEPS, "led_steps")].map(register).concat()
}

/// Reads all of it.
///
/// # Errors
/// When the server is not there.
pub fn read(client: &mut Client) -> Result<Record, Error> {
    let puts = client.query("SELECT job, qty, fails FROM led_put", &[])?;
    let effects =
        "SELECT job, attempt, failures, crashes, step, qty, sqlstate FROM led_eff ORDER BY job, attempt, step";
    let effects = client.query(effects, &[])?;
    let ends = "SELECT id, outcome, attempt, failures, COALESCE((args->>'qty')::bigint, 0) FROM pgq.finished_job";
    let ends = client.query(ends, &[])?;
    let live = client.query("SELECT id FROM pgq.job", &[])?;
    let purged: i64 = client.query_one("SELECT COALESCE(sum(n), 0)::bigint FROM led_purged", &[])?.get(0);
    let put = |row: &postgres::Row| Put { job: row.get(0), qty: row.get(1), fails: row.get(2) };
    let effect = |row: &postgres::Row| Effect {
        job: row.get(0),
        attempt: row.get(1),
        failures: row.get(2),
        crashes: row.get(3),
        step: row.get(4),
        qty: row.get(5),
        sqlstate: row.get(6),
    };
    let end = |row: &postgres::Row| End {
        job: row.get(0),
        outcome: row.get(1),
        attempt: row.get(2),
        failures: row.get(3),
        qty: row.get(4),
    };
    Ok(Record {
        puts: puts.iter().map(put).collect(),
        effects: effects.iter().map(effect).collect(),
        ends: ends.iter().map(end).collect(),
        live: live.iter().map(|row| row.get(0)).collect(),
        purged: u64::try_from(purged).unwrap_or(0),
    })
}
