//! T19: jobs that share transactions, with some among them that fail, deadlock with others or run
//! into a lock timeout: the good ones are not charged.

use super::stage::Stage;
use super::{Part, Run};
use crate::ledger::verdict::Rules;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T19",
    title: "batches of 32 with failing jobs, deadlocks and lock timeouts among them",
    unit: "batches",
    quick: 120,
    full: 5_000,
    run: batches,
}];

/// No sleep, so that jobs share transactions. `mood`: deadlock takes two rows in one order or the
/// other and holds the first for a moment; lock waits 10 ms for a row that somebody may hold for longer.
const MOODS: &str = "
    CREATE TABLE led_row (n int PRIMARY KEY, uses bigint NOT NULL);
    INSERT INTO led_row SELECT n, 0 FROM generate_series(0, 2) AS n;
    GRANT SELECT, UPDATE ON led_row TO worker;
    CREATE FUNCTION moody(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM led_note(job, 1);
        IF job.failures < (job.args->>'fails')::int THEN
            RAISE EXCEPTION 'job % fails as it was told', job.id;
        END IF;
        CASE job.args->>'mood'
        WHEN 'deadlock' THEN
            UPDATE led_row SET uses = uses + 1 WHERE n = (job.id % 2);
            PERFORM pg_sleep(0.02);
            UPDATE led_row SET uses = uses + 1 WHERE n = ((job.id + 1) % 2);
        WHEN 'lock' THEN
            SET LOCAL lock_timeout = '10 ms';
            UPDATE led_row SET uses = uses + 1 WHERE n = 2;
            PERFORM pg_sleep(0.02 * random());
        ELSE
        END CASE;
        PERFORM led_note(job, 2);
    END $$;
    SELECT pgq.register('moody', 'moody', run_as => 'worker', backoff => '10 ms', max_backoff => '50 ms');";

/// 32 jobs, a few of them moody; $1 failing jobs, $2 of the others deadlock, $3 wait for the lock.
const BATCH: &str = "
    WITH job AS (
        SELECT n, CASE WHEN n <= $1 THEN 1 ELSE 0 END AS fails,
               CASE WHEN n BETWEEN 5 AND 4 + $2 THEN 'deadlock' WHEN n BETWEEN 11 AND 10 + $3 THEN 'lock'
                    ELSE 'good' END AS mood
          FROM generate_series(1, 32) AS n),
    put AS (
        SELECT p.id, p.n FROM pgq.bulk_put('moody', args => (
            SELECT array_agg(jsonb_build_object('qty', n, 'fails', fails, 'mood', mood) ORDER BY md5(n::text)) FROM job))
            WITH ORDINALITY AS p (id, n)),
    shuffled AS (SELECT job.*, row_number() OVER (ORDER BY md5(job.n::text)) AS place FROM job)
    INSERT INTO led_put SELECT put.id, shuffled.n, shuffled.fails FROM put JOIN shuffled ON shuffled.place = put.n";

/// Deadlocks and lock timeouts are retried up to 20 times without counting; a job that still gets
/// one after that is charged, as is promised.
fn batches(run: &mut Run) {
    let builder = run.server().conf("deadlock_timeout", "20ms");
    let rules = Rules { intruder: Some("40P01"), excuses: true, ..Rules::default() };
    let mut stage = Stage::open(builder, rules);
    stage.expected.push("could not obtain lock");
    stage.watch.ask(|client| client.batch_execute(MOODS));
    while run.goes_on() {
        let backlog = stage.watch.number("SELECT count(*) FROM (SELECT FROM pgq.job LIMIT 1000) AS waiting");
        if backlog >= 500 {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let moods: [i32; 3] = [3, 3, 3].map(|most| i32::try_from(run.rng.below(most)).unwrap_or(0));
        stage.watch.ask(|client| client.execute(BATCH, &[&moods[0], &moods[1], &moods[2]]));
        run.fault("batch");
        run.did(1);
    }
    let charged = "SELECT count(*) FROM led_eff AS e JOIN led_put AS p USING (job)
                    WHERE e.step = 1 AND e.failures > p.fails AND p.fails = 0 AND p.qty NOT BETWEEN 5 AND 12";
    let deadlocks = stage.watch.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    stage.drain(run);
    let charged = stage.watch.number(charged);
    eprintln!("{}: {deadlocks} deadlocks, {charged} good jobs charged", run.part.id);
    if charged > 0 {
        run.differ(format!("{charged} good jobs were charged for others"));
    }
    if deadlocks == 0 && run.done() >= 100 {
        run.differ("no deadlock came up");
    }
    stage.close(run);
}
