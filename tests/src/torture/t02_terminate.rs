//! T02: executors are terminated in the middle of their jobs, while producers go on.

use super::{Part, Run};
use crate::{count, run as execute, wait_until, Ledger};
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T02",
    title: "pg_terminate_backend on a random executor",
    unit: "terminations",
    quick: 200,
    full: 10_000,
    run: terminate,
}];

const DRAINED: Duration = Duration::from_secs(100);

const HANDLER: &str = "
    CREATE FUNCTION enter(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger VALUES (job.id);
        PERFORM pg_catalog.pg_sleep(0.005 * random());
    END $$;
    CREATE TABLE put (id bigint);
    SELECT pgq.register('q', 'enter')";

const GONE: Duration = Duration::from_secs(30);

const VICTIM: &str = "SELECT victim.pid, pg_terminate_backend(victim.pid)
    FROM (SELECT pid FROM pgq.running ORDER BY random() LIMIT 1) AS victim";

fn terminate(run: &mut Run) {
    let server = run.server().start();
    let mut client = server.create_database("shop");
    let ledger = Ledger::create(&mut client, "ledger");
    execute(&mut client, HANDLER);
    while run.goes_on() {
        if count(&mut client, "pgq.job") < 100 {
            execute(
                &mut client,
                "INSERT INTO put SELECT pgq.bulk_put('q', args => array_fill('{}'::jsonb, ARRAY[200]))",
            );
        }
        let Some(row) = client.query_opt(VICTIM, &[]).expect("a superuser may") else { continue };
        let (pid, sent): (i32, bool) = (row.get(0), row.get(1));
        // Until it is gone, so that none is hit twice.
        let there = format!("pg_stat_activity WHERE pid = {pid}");
        wait_until(GONE, "the terminated executor to go", || count(&mut client, &there) == 0);
        if sent {
            run.fault("terminate");
            run.did(1);
        }
    }
    wait_until(DRAINED, "every job to be done", || count(&mut client, "pgq.job") == 0);
    let put: Vec<i64> = client.query("SELECT id FROM put", &[]).expect("ids").iter().map(|row| row.get(0)).collect();
    let verdict = ledger.verify(&mut client, &put);
    if !verdict.is_exact() {
        run.differ(verdict);
    }
}
