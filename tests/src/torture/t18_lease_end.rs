//! T18: the end of a lease, its holder's `complete` and somebody's `extend` at the same moment, and a
//! second claimer behind them: one accepted completion for each job, whoever it was.

use super::{Part, Run};
use crate::{one, run as execute, wait_until, Server};
use postgres::Client;
use std::thread;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T18",
    title: "the end of a lease against complete against extend",
    unit: "leases",
    quick: 2_000,
    full: 10_000,
    run: ends,
}];

const BATCH: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(120);

/// The leases of a batch end one after the other, a millisecond apart. The first holder and the one who extends come to
/// each within a millisecond of its end, before or after; the second claimer takes what is there.
const SCHEMA: &str = "
    CREATE TABLE accepted (id bigint NOT NULL, attempt int NOT NULL);
    CREATE TABLE held (id bigint NOT NULL, ends_at timestamptz NOT NULL);
    CREATE FUNCTION await(moment timestamptz) RETURNS void LANGUAGE sql AS $$
        SELECT pg_sleep(greatest(0, extract(epoch FROM moment - clock_timestamp()) + 0.001 * (2 * random() - 1)))
    $$;
    CREATE PROCEDURE complete_all() LANGUAGE plpgsql AS $$
    DECLARE h held;
    BEGIN
        FOR h IN SELECT * FROM held ORDER BY ends_at LOOP
            PERFORM await(h.ends_at);
            IF pgq.complete(h.id, 1) THEN INSERT INTO accepted VALUES (h.id, 1); END IF;
            COMMIT;
        END LOOP;
    END $$;
    CREATE PROCEDURE extend_all() LANGUAGE plpgsql AS $$
    DECLARE h held;
    BEGIN
        FOR h IN SELECT * FROM held ORDER BY ends_at LOOP
            PERFORM await(h.ends_at);
            PERFORM pgq.extend(h.id, 1, make_interval(secs => 0.002 * random() + 0.000001));
            COMMIT;
        END LOOP;
    END $$;
    CREATE PROCEDURE claim_all(until bigint) LANGUAGE plpgsql AS $$
    DECLARE j pgq.job;
    BEGIN
        WHILE (SELECT count(*) FROM accepted) < until AND EXISTS (SELECT FROM pgq.job) LOOP
            SELECT * INTO j FROM pgq.claim('q', lease => '1 h');
            COMMIT;
            IF j.id IS NULL THEN
                PERFORM pg_sleep(0.001);
            ELSIF pgq.complete(j.id, j.attempt) THEN
                INSERT INTO accepted VALUES (j.id, j.attempt);
            END IF;
            COMMIT;
        END LOOP;
    END $$;
    SELECT pgq.configure('q', keep_done => '1 day', max_attempts => 1000);";

fn ends(run: &mut Run) {
    let server = run.server().conf("synchronous_commit", "off").start();
    let mut client = server.create_database("shop");
    execute(&mut client, SCHEMA);
    while run.goes_on() {
        let leases = run.left().min(BATCH);
        execute(&mut client, "TRUNCATE accepted, held, pgq.finished_job");
        execute(&mut client, &format!("SELECT count(pgq.put('q')) FROM generate_series(1, {leases})"));
        // Claimed as one does, then made to end one by one: with leases of these lengths the claim of the last would
        // have to come at the end of the first.
        execute(
            &mut client,
            &format!(
                "BEGIN; SELECT count(*) FROM pgq.claim('q', {leases}, '1 h');
                 INSERT INTO held SELECT id, clock_timestamp() + interval '100 ms' + interval '1 ms' * row_number() OVER (ORDER BY id)
                   FROM pgq.job;
                 UPDATE pgq.job AS j SET execute_at = h.ends_at FROM held AS h WHERE h.id = j.id; COMMIT"
            ),
        );
        race(run, &server, leases);
        wait_until(PATIENCE, "every lease to end", || one::<i64>(&mut client, "SELECT count(*) FROM pgq.job") == 0);
        judge(run, &mut client, leases);
        run.did(leases);
    }
}

fn race(run: &mut Run, server: &Server, leases: u64) {
    let calls = ["CALL complete_all()".to_owned(), "CALL extend_all()".to_owned(), format!("CALL claim_all({leases})")];
    let sessions = calls.map(|call| {
        let mut client = server.connect("shop");
        thread::spawn(move || client.batch_execute(&call).map_err(|error| format!("{call}: {error:?}")))
    });
    for session in sessions {
        if let Err(error) = session.join().expect("a session ends") {
            run.differ(error);
        }
    }
}

fn judge(run: &mut Run, client: &mut Client, leases: u64) {
    let wrong: i64 = one(
        client,
        "SELECT count(*) FROM held AS h
          WHERE (SELECT count(*) FROM accepted AS a WHERE a.id = h.id) <> 1
             OR NOT EXISTS (SELECT FROM pgq.finished_job AS f JOIN accepted AS a ON a.id = f.id AND a.attempt = f.attempt
                             WHERE f.id = h.id AND f.outcome = 'done')",
    );
    let all: i64 = one(client, "SELECT count(*) FROM held");
    if wrong != 0 || u64::try_from(all) != Ok(leases) {
        run.differ(format!("{wrong} of {all} leases without exactly one accepted completion"));
    }
    let late: i64 = one(client, "SELECT count(*) FROM accepted WHERE attempt > 1");
    (0..late).for_each(|_| run.fault("lease that ended"));
}
