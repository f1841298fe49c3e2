//! T23: puts in all the corners of transactions: savepoints, functions, triggers, COPY, foreign key
//! cascades, prepared transactions. A job is there if and only if its transaction committed.

use super::stage::{Stage, DATABASE};
use super::{Part, Rng, Run};
use crate::ledger::verdict::Rules;
use crate::Stop;
use postgres::{Client, Error};
use std::io::Write;
use std::time::{Duration, Instant};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T23",
    title: "puts in savepoints, triggers, COPY, cascades and prepared transactions",
    unit: "transactions",
    quick: 800,
    full: 10_000,
    run: mixed,
}];

/// Each row of `parent` and `child` puts a job as it comes and as it goes.
const SCHEMA: &str = "
    CREATE FUNCTION led_job(qty int) RETURNS bigint LANGUAGE sql AS $$
        INSERT INTO led_put SELECT pgq.put('work', jsonb_build_object('qty', qty, 'fails', 0, 'ms', 0)), qty, 0
        RETURNING job
    $$;
    CREATE FUNCTION led_nested(depth int) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM led_job(depth);
        IF depth > 0 THEN
            PERFORM led_nested(depth - 1);
            IF depth % 2 = 0 THEN RAISE EXCEPTION 'undone'; END IF;
        END IF;
    EXCEPTION WHEN raise_exception THEN
        PERFORM led_job(100 + depth);
    END $$;
    CREATE TABLE parent (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, qty int);
    CREATE TABLE child (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                        parent bigint REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, qty int);
    CREATE FUNCTION led_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM led_job(COALESCE(NEW.qty, OLD.qty));
        RETURN NULL;
    END $$;
    CREATE TRIGGER put AFTER INSERT OR DELETE ON parent FOR EACH ROW EXECUTE FUNCTION led_trigger();
    CREATE TRIGGER put AFTER INSERT OR DELETE ON child FOR EACH ROW EXECUTE FUNCTION led_trigger();
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON child DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION led_trigger();";

const PARENT: &str = "INSERT INTO parent (qty) VALUES (3)";
const CHILDREN: &str =
    "INSERT INTO child (parent, qty) SELECT max(id), 4 FROM parent, generate_series(1, 3) GROUP BY ()";

fn mixed(run: &mut Run) {
    let builder = run.server().conf("max_prepared_transactions", 20);
    let mut stage = Stage::open(builder, Rules::default());
    stage.watch.ask(|client| client.batch_execute(SCHEMA));
    let mut client = stage.server.connect(DATABASE);
    let mut next_restart = run.rng.between(200, 600);
    while run.goes_on() {
        if run.done() >= next_restart {
            next_restart = run.done() + run.rng.between(1_000, 3_000);
            leave_prepared(&mut client, &mut run.rng);
            stage.server.restart(*run.rng.pick(&[Stop::Fast, Stop::Immediate]));
            client = stage.server.connect(DATABASE);
            run.fault("restart with prepared transactions");
        }
        let kind = one_transaction(&mut client, &mut run.rng).expect("none of these fails");
        run.fault(kind);
        run.did(1);
    }
    leave_prepared(&mut client, &mut run.rng);
    finish_prepared(&mut client, &mut run.rng).expect("they are there");
    wait_for_the_poll(run, &mut client);
    stage.close(run);
}

fn one_transaction(client: &mut Client, rng: &mut Rng) -> Result<&'static str, Error> {
    match rng.below(8) {
        0 => {
            client.batch_execute(
                "BEGIN; SELECT led_job(1); SAVEPOINT a; SELECT led_job(2); SAVEPOINT b; SELECT led_job(3);
                 ROLLBACK TO a; SELECT led_job(4); RELEASE a; COMMIT",
            )?;
            Ok("savepoints")
        }
        1 => {
            client.batch_execute(&format!("SELECT led_nested({})", rng.below(6)))?;
            Ok("nested functions")
        }
        2 => {
            let end = *rng.pick(&["COMMIT", "ROLLBACK"]);
            client.batch_execute(&format!("BEGIN; {PARENT}; {CHILDREN}; {end}"))?;
            Ok("triggers")
        }
        3 => {
            let mut copy = client.copy_in("COPY parent (qty) FROM STDIN")?;
            for qty in 1..=rng.between(1, 20) {
                // What cannot be written is seen by `finish`.
                let _ = writeln!(copy, "{qty}");
            }
            copy.finish()?;
            Ok("COPY")
        }
        4 => {
            let sql = "DELETE FROM parent WHERE id IN (SELECT id FROM parent ORDER BY id LIMIT 2)";
            client.batch_execute(&format!("BEGIN; {sql}; SAVEPOINT s; {sql}; ROLLBACK TO s; COMMIT"))?;
            Ok("cascades")
        }
        5 => {
            client.batch_execute("BEGIN; SELECT led_job(5); ROLLBACK")?;
            Ok("rollbacks")
        }
        6 => {
            prepare(client, rng)?;
            Ok("prepared")
        }
        _ => {
            finish_prepared(client, rng)?;
            Ok("finishing prepared")
        }
    }
}

fn prepare(client: &mut Client, rng: &mut Rng) -> Result<(), Error> {
    let prepared: i64 = crate::count(client, "pg_prepared_xacts");
    if prepared < 15 {
        let name = rng.next_u64();
        client.batch_execute(&format!("BEGIN; SELECT led_job(6); {PARENT}; PREPARE TRANSACTION '{name}'"))?;
    }
    Ok(())
}

/// Some of them commit, the others roll back.
fn finish_prepared(client: &mut Client, rng: &mut Rng) -> Result<(), Error> {
    for row in client.query("SELECT gid FROM pg_prepared_xacts", &[])? {
        let gid: String = row.get(0);
        let end = *rng.pick(&["COMMIT", "COMMIT", "ROLLBACK"]);
        client.batch_execute(&format!("{end} PREPARED '{gid}'"))?;
    }
    Ok(())
}

fn leave_prepared(client: &mut Client, rng: &mut Rng) {
    for _ in 0..3 {
        prepare(client, rng).expect("a transaction with a put can be prepared");
    }
}

/// COMMIT PREPARED tells no worker: the poll finds the job.
fn wait_for_the_poll(run: &mut Run, client: &mut Client) {
    const POLL: Duration = Duration::from_secs(2);
    let limit = run.allow(Duration::from_secs(10));
    crate::wait_until(limit, "the jobs before it", || crate::count(client, "pgq.job") == 0);
    crate::run(client, "BEGIN; SELECT led_job(7); PREPARE TRANSACTION 'last'");
    crate::run(client, "COMMIT PREPARED 'last'");
    let began = Instant::now();
    crate::wait_until(limit, "a job of a prepared transaction", || crate::count(client, "pgq.job") == 0);
    run.took_at_most("after COMMIT PREPARED", began.elapsed(), POLL);
}
