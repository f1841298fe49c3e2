//! The verdict itself, on a real server: what was planted is reported, and nothing else is.

use pgq_tests::ledger::books::{self, QUEUE};
use pgq_tests::ledger::producers::{Load, Mix};
use pgq_tests::ledger::state;
use pgq_tests::ledger::verdict::{judge, Rules, Verdict};
use pgq_tests::torture::Rng;
use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::time::Duration;

const DRAINED: Duration = Duration::from_secs(100);

/// Puts and runs some hundred jobs of all kinds, planting something among them.
fn judged(plant: impl FnOnce(&mut Client)) -> Verdict {
    let server = Server::builder().preload(true).conf("pgq.log_jobs", "none").start();
    let mut client = books::open(&server, "shop", 5);
    let load = Load::start(&server, "shop", &Mix { sleep_ms: 2, ..Mix::default() }, &mut Rng::new(1));
    wait_until(DRAINED, "some jobs to be done", || count(&mut client, "led_eff WHERE step = 2") > 200);
    plant(&mut client);
    let produced = load.finish();
    assert!(produced.commits > 10 && produced.surprises.is_empty(), "{produced:?}");
    wait_until(DRAINED, "every job to be done", || count(&mut client, "pgq.job") == 0);
    let verdict = judge(&books::read(&mut client).expect("the books"), &Rules::default());
    println!("{verdict}");
    assert!(verdict.put > 200 && verdict.dead > 0, "{verdict}");
    assert_eq!(state::leftovers(&server, &mut client), Vec::<String>::new());
    verdict
}

/// A job that no worker takes until it is told to.
fn put_delayed(client: &mut Client) -> i64 {
    let put = format!(
        "INSERT INTO led_put SELECT pgq.put('{QUEUE}', '{{\"qty\": 7, \"fails\": 0, \"ms\": 0}}', delay => '1 h'), 7, 0
         RETURNING job"
    );
    one(client, &put)
}

#[test]
fn a_run_without_a_fault_is_even() {
    let verdict = judged(|_| ());
    assert!(verdict.is_even(), "{verdict}");
}

#[test]
fn a_job_that_runs_twice_is_reported() {
    let mut planted = 0;
    let verdict = judged(|client| {
        planted = one(
            client,
            "SELECT job FROM led_eff AS e JOIN led_put AS p USING (job)
                                WHERE step = 2 AND fails = 0 LIMIT 1",
        );
        // The row as it was, once more: what a claim that lost its delete would leave.
        run(
            client,
            &format!(
                "INSERT INTO pgq.job (id, queue, args, execute_at, state)
            SELECT {planted}, '{QUEUE}', jsonb_build_object('qty', qty, 'fails', 0, 'ms', 0), now(), 'ready'
              FROM led_put WHERE job = {planted}"
            ),
        );
    });
    assert_eq!(verdict.doubled, [planted]);
}

#[test]
fn a_job_that_gets_lost_is_reported() {
    let mut planted = 0;
    let verdict = judged(|client| {
        planted = put_delayed(client);
        run(client, &format!("DELETE FROM pgq.job WHERE id = {planted}"));
    });
    assert_eq!(verdict.lost, [planted]);
    assert_eq!(verdict.difference(), 1, "{verdict}");
}

#[test]
fn a_job_that_nobody_put_is_reported() {
    let mut planted = 0;
    let verdict = judged(|client| {
        planted = put_delayed(client);
        run(client, &format!("DELETE FROM led_put WHERE job = {planted}; SELECT pgq.retry({planted}, now())"));
    });
    assert_eq!(verdict.ghosts, [planted]);
    assert_eq!(verdict.difference(), 1, "{verdict}");
}

#[test]
fn what_a_server_is_left_with_is_reported() {
    let server = Server::builder().conf("max_prepared_transactions", 1).start();
    let mut client = server.create_database("shop");
    run(&mut client, "SELECT pgq.put('q')");
    assert_eq!(state::leftovers(&server, &mut client), Vec::<String>::new());
    run(&mut client, "BEGIN; LOCK pgq.job IN SHARE MODE; PREPARE TRANSACTION 'left'");
    // An index without its table's row: found by amcheck only.
    run(
        &mut client,
        "INSERT INTO pgq.finished_job (id, queue, args, priority, created_at, attempt, failures, crashes, outcome)
                      VALUES (1, 'q', '{}', 0, now(), 0, 0, 0, 'dead');
                      UPDATE pg_index SET indisready = false WHERE indexrelid = 'pgq.finished_job_pkey'::regclass",
    );
    run(
        &mut client,
        "INSERT INTO pgq.finished_job (id, queue, args, priority, created_at, attempt, failures, crashes, outcome)
                      VALUES (2, 'q', '{}', 0, now(), 0, 0, 0, 'dead');
                      UPDATE pg_index SET indisready = true WHERE indexrelid = 'pgq.finished_job_pkey'::regclass",
    );
    let found = state::leftovers(&server, &mut client).join("\n");
    for what in ["locks of others on our tables", "open transactions", "finished_job_pkey", "pg_twophase"] {
        assert!(found.contains(what) || what == "pg_twophase", "{what} was not found in:\n{found}");
    }
}
