//! T49: numbers and moments at their ends. Each is a clean error or goes on without wrapping, and none takes its queue
//! down.

use super::{Part, Run};
use crate::{count, one, run as execute, wait_until};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T49",
    title: "ids, attempts, times and delays at the ends of their ranges",
    unit: "rounds",
    quick: 2,
    full: 20,
    run: limits,
}];

const PATIENCE: Duration = Duration::from_secs(60);
const LAST_ATTEMPT: i32 = i32::MAX;

const SHOP: &str = "
    CREATE TABLE ledger (id bigint, attempt int);
    CREATE FUNCTION note(job pgq.job) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ledger VALUES (job.id, job.attempt) $$;
    CREATE FUNCTION fails(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
    CREATE PROCEDURE commits(job pgq.job) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        INSERT INTO ledger VALUES (job.id, job.attempt);
    END $$;
    SELECT pgq.register('note', 'note'), pgq.register('commits', 'commits'),
           pgq.register('fails', 'fails', max_attempts => 1000000, backoff => '0', max_backoff => '0');";

/// Calls and the error that each gives.
const REFUSED: &[(&str, &str)] = &[
    ("pgq.put('note', execute_at => 'infinity')", "22023"),
    ("pgq.put('note', execute_at => '-infinity')", "22023"),
    ("pgq.put('note', delay => '-1 us')", "22023"),
    ("pgq.put('note', delay => '200000 years')", "22023"),
    ("pgq.put('note', delay => '178000000 years')", "22023"),
    ("pgq.put('note', max_attempts => 0)", "22023"),
    ("pgq.put('note', max_attempts => -2147483648)", "22023"),
    ("pgq.bulk_put('note', '[{\"priority\": 2147483648}]')", "22023"),
    ("pgq.bulk_put('note', '[{\"execute_at\": \"infinity\"}]')", "22023"),
    ("pgq.bulk_put('note', '[{\"delay\": \"-1 s\"}]')", "22023"),
    ("pgq.claim('note', n => 0)", "22023"),
    ("pgq.claim('note', n => 2147483647)", "22023"),
    ("pgq.claim('note', lease => '0')", "22023"),
    ("pgq.claim('note', lease => '178000000 years')", "22023"),
    ("pgq.extend(1, 1, '-1 s')", "22023"),
    ("pgq.register('note', 'note', backoff => '-1 s')", "22023"),
    ("pgq.configure('note', keep_done => '-1 s')", "22023"),
    ("pgq.wait(1, '-1 s')", "22023"),
];

/// Calls about jobs that cannot be there: no error, and nothing happens.
const NOTHING: &[&str] = &[
    "pgq.complete(-9223372036854775808, -2147483648) IS FALSE",
    "pgq.fail(9223372036854775807, 2147483647) IS NULL",
    "pgq.release(0, 0) IS FALSE",
    "pgq.cancel(-1) IS NULL",
    "pgq.retry(9223372036854775807) IS FALSE",
    "pgq.extend(9223372036854775807, 2147483647, '1 s') IS NULL",
];

fn limits(run: &mut Run) {
    let server = run.server().start();
    while run.goes_on() {
        let mut client = server.create_database(&format!("shop{}", run.done()));
        execute(&mut client, SHOP);
        for (call, code) in REFUSED {
            refuses(run, &mut client, call, code);
        }
        for call in NOTHING {
            if !one::<bool>(&mut client, &format!("SELECT {call}")) {
                run.differ(call);
            }
        }
        attempts(run, &mut client);
        far_moments(run, &mut client);
        last_ids(run, &mut client);
        drop(client);
        run.did(1);
    }
}

fn refuses(run: &mut Run, client: &mut Client, call: &str, code: &str) {
    let got = client.batch_execute(&format!("SELECT {call}")).err();
    let got = got.and_then(|error| error.code().map(|code| code.code().to_owned()));
    if got.as_deref() != Some(code) {
        run.differ(format!("{call}: {got:?} instead of {code}"));
    }
}

/// A job at the last number of an attempt runs; one that fails there is dead; neither is in the way of others.
fn attempts(run: &mut Run, client: &mut Client) {
    execute(client, "SELECT pgq.pause()");
    let queues = ["note", "commits", "fails", "outside"];
    for queue in queues {
        execute(client, &format!("SELECT pgq.put('{queue}')"));
    }
    execute(client, &format!("UPDATE pgq.job SET attempt = {LAST_ATTEMPT}"));
    execute(client, "SELECT pgq.resume()");
    let lease = "SELECT attempt FROM pgq.claim('outside', lease => '1 min')";
    let attempt: i32 = one(client, lease);
    if attempt != LAST_ATTEMPT {
        run.differ(format!("a claim gave attempt {attempt}"));
    }
    let failed: String =
        one(client, &format!("SELECT pgq.fail(max(id), {LAST_ATTEMPT}) FROM pgq.job WHERE queue = 'outside'"));
    if failed != "dead" {
        run.differ(format!("the last attempt failed, and the job is {failed}"));
    }
    wait_until(PATIENCE, "all to end", || count(client, "pgq.job") == 0);
    let ends = [("ledger WHERE attempt = 2147483647", 2), ("pgq.dead WHERE attempt = 2147483647", 2)];
    for (what, number) in ends {
        if count(client, what) != number {
            run.differ(format!("{} {what}", count(client, what)));
        }
    }
    // Priorities at both ends keep their order.
    let rows = client
        .query("SELECT pgq.put('order', priority => p) FROM unnest('{-2147483648, 2147483647, 0}'::int[]) AS p", &[]);
    let ids: Vec<i64> = rows.expect("put").iter().map(|row| row.get(0)).collect();
    let rows = client.query("SELECT id FROM pgq.claim('order', n => 3, lease => '1 min')", &[]);
    let claimed: Vec<i64> = rows.expect("claim").iter().map(|row| row.get(0)).collect();
    if claimed != [ids[1], ids[2], ids[0]] {
        run.differ(format!("put {ids:?}, claimed {claimed:?}"));
    }
}

/// As far away as a timestamp goes: it waits, and nobody stumbles over it.
fn far_moments(run: &mut Run, client: &mut Client) {
    execute(
        client,
        "SELECT pgq.put('note', execute_at => '4000-01-01'), pgq.put('note', execute_at => '294276-12-31')",
    );
    execute(client, "SELECT pgq.put('note', execute_at => '4713-01-01 BC')");
    wait_until(PATIENCE, "the past one to run", || count(client, "pgq.job WHERE queue = 'note'") == 2);
    let waits: i64 = one(client, "SELECT scheduled FROM pgq.stats('note')");
    if waits != 2 {
        run.differ(format!("{waits} wait for far moments"));
    }
}

/// The sequence ends at 2^63 - 1: the last ids are good, then put says that there are no more.
fn last_ids(run: &mut Run, client: &mut Client) {
    execute(client, "SELECT setval('pgq.job_id_seq', 9223372036854775805)");
    for last in ["9223372036854775806", "9223372036854775807"] {
        let id: i64 = one(client, "SELECT pgq.put('note')");
        if id.to_string() != last {
            run.differ(format!("id {id} instead of {last}"));
        }
        wait_until(PATIENCE, "the last ones to run", || count(client, &format!("ledger WHERE id = {last}")) == 1);
    }
    for call in ["pgq.put('note')", "pgq.bulk_put('note', '[{}, {}]')", "pgq.put('note', key => 'k')"] {
        refuses(run, client, call, "2200H");
    }
}
