//! T16: eight claimers on one row, one winner each. A round is a queue with one job, for which eight
//! sessions ask, every second one with a lease. A batch of rounds is put at once and each session goes
//! through it by itself, a transaction a round: who finds nothing is quicker than who wins, so they
//! stay together. How often a session saw the row and did not get it is printed.

use super::{Part, Run};
use crate::{one, run as execute, Server};
use postgres::Client;
use std::thread;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T16",
    title: "eight claimers on one row, one winner each",
    unit: "rounds",
    quick: 10_000,
    full: 1_000_000,
    run: race,
}];

const SESSIONS: u64 = 8;
const BATCH: u64 = 5_000;

/// `won` has no unique index: a second winner is to be seen. Who claims without a lease rolls back every tenth time
/// and asks again.
const SCHEMA: &str = "
    CREATE UNLOGGED TABLE won (round bigint NOT NULL, session int NOT NULL);
    CREATE UNLOGGED TABLE contended (n bigint NOT NULL);
    CREATE PROCEDURE race(session int, rounds bigint) LANGUAGE plpgsql AS $$
    DECLARE
        q text;
        seen boolean;
        got pgq.job;
        lost bigint := 0;
    BEGIN
        FOR round IN 1 .. rounds LOOP
            q := 'r' || round;
            seen := EXISTS (SELECT FROM pgq.job AS j WHERE j.queue = q AND j.state = 'ready');
            IF round % 2 = 0 THEN
                SELECT * INTO got FROM pgq.claim(q, lease => '1 h');
            ELSE
                SELECT * INTO got FROM pgq.claim(q);
                IF got.id % 10 = 1 THEN
                    ROLLBACK;
                    SELECT * INTO got FROM pgq.claim(q);
                END IF;
            END IF;
            IF got.id IS NOT NULL THEN
                IF got.attempt <> 1 THEN RAISE 'round % was attempt %', round, got.attempt; END IF;
                INSERT INTO won VALUES (round, session);
                COMMIT;
                IF round % 2 = 0 AND NOT pgq.complete(got.id, 1) THEN RAISE 'round % was not completed', round; END IF;
            ELSIF seen THEN
                lost := lost + 1;
            END IF;
            COMMIT;
        END LOOP;
        INSERT INTO contended VALUES (lost);
    END $$;";

fn race(run: &mut Run) {
    let server = run.server().conf("max_connections", 30).conf("synchronous_commit", "off").start();
    let mut client = server.create_database("shop");
    execute(&mut client, SCHEMA);
    while run.goes_on() {
        let rounds = run.left().min(BATCH);
        execute(&mut client, "TRUNCATE won, contended");
        execute(&mut client, &format!("SELECT count(pgq.put('r' || n)) FROM generate_series(1, {rounds}) AS n"));
        if let Err(error) = all_race(&server, rounds) {
            run.differ(error);
        }
        look(run, &mut client, rounds);
        run.did(rounds);
    }
}

fn all_race(server: &Server, rounds: u64) -> Result<(), String> {
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|session| {
            let mut client = server.connect("shop");
            thread::spawn(move || {
                let call = format!("CALL race({session}, {rounds})");
                client.batch_execute(&call).map_err(|error| format!("{error:?}"))
            })
        })
        .collect();
    sessions.into_iter().try_for_each(|session| session.join().expect("a session ends"))
}

/// Whoever gives a row back asks again at once, so that it cannot be left when all others have passed by.
fn look(run: &mut Run, client: &mut Client, rounds: u64) {
    let winners: i64 = one(client, "SELECT count(*) FROM won");
    let rounds_won: i64 = one(client, "SELECT count(DISTINCT round) FROM won");
    let left: i64 = one(client, "SELECT count(*) FROM pgq.job");
    if u64::try_from(winners) != Ok(rounds) || winners != rounds_won || left != 0 {
        run.differ(format!("{rounds} rounds: {winners} winners of {rounds_won}, {left} jobs left"));
    }
    let contended: i64 = one(client, "SELECT coalesce(sum(n), 0)::bigint FROM contended");
    (0..contended).for_each(|_| run.fault("race lost with the row in sight"));
}
