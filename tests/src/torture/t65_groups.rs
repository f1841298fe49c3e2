//! T65: executors are killed while jobs of many groups run, some of which fail once: within each group effects are in
//! the order of the ids, each once, and never two at a time.

use super::{Part, Run};
use crate::sql::{count, one, run as execute};
use crate::wait_until;
use std::thread;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T65",
    title: "kill -9 of executors while jobs of groups run in order",
    unit: "kills",
    quick: 3,
    full: 50,
    run: kill,
}];

const PATIENCE: Duration = Duration::from_secs(300);
const EACH: i64 = 100;

/// The handler notes the number in the group of the last job of which it sees the effect.
const SHOP: &str = "
    CREATE TABLE ran (id bigint, grp text, n int, seen int, began timestamptz, ended timestamptz);
    CREATE INDEX ON ran (grp, n DESC);
    CREATE FUNCTION note(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        began timestamptz := clock_timestamp();
        seen int := (SELECT r.n FROM ran AS r WHERE r.grp = (job).group_key ORDER BY r.n DESC LIMIT 1);
    BEGIN
        IF (job).attempt = 1 AND (job).id % 20 = 0 THEN RAISE 'no'; END IF;
        PERFORM pg_sleep(0.0002);
        INSERT INTO ran VALUES ((job).id, (job).group_key, (job).args::int, seen, began, clock_timestamp());
    END $$;
    SELECT pgq.register('q', 'note'), pgq.configure('q', backoff => '10 ms');";

const WRONG: [&str; 3] = [
    "ran WHERE seen IS DISTINCT FROM nullif(n - 1, 0)",
    "(SELECT id FROM ran GROUP BY id HAVING count(*) > 1) AS r",
    "(SELECT id, lag(id) OVER g AS before, began, lag(ended) OVER g AS free FROM ran
        WINDOW g AS (PARTITION BY grp ORDER BY n)) AS r WHERE before > id OR free > began",
];

fn kill(run: &mut Run) {
    let groups = if run.left() < 10 { 100 } else { 1_000 };
    let builder = run.server().conf("pgq.max_workers", 8).conf("max_worker_processes", 16);
    let server = builder.conf("pgq.max_crashes", 1_000).start();
    let mut client = server.create_database("shop");
    execute(&mut client, SHOP);
    let mut filled = 0;
    while run.goes_on() {
        if count(&mut client, "pgq.job") == 0 {
            filled += 1;
            let fill = format!(
                "SELECT count(*) FROM pgq.bulk_put('q', jobs => (
                    SELECT jsonb_agg(jsonb_build_object('group_key', '{filled}.' || g, 'args', n) ORDER BY n, g)
                      FROM generate_series(1, {groups}) AS g, generate_series(1, {EACH}) AS n))"
            );
            execute(&mut client, &fill);
        }
        thread::sleep(Duration::from_millis(run.rng.between(100, 500)));
        let found = server.worker_pids_like("pgq executor", Some("shop"));
        let Some(pid) = found.into_iter().max_by_key(|_| run.rng.between(0, 1_000)) else { continue };
        if !server.try_signal(pid, libc::SIGKILL) {
            continue;
        }
        run.fault("kill");
        run.did(1);
        wait_until(PATIENCE, "the crash", || client.batch_execute("SELECT 1").is_err());
        wait_until(PATIENCE, "the server to be back", || server.try_connect("shop", "postgres").is_ok());
        client = server.connect("shop");
    }
    wait_until(PATIENCE, "the jobs", || count(&mut client, "pgq.job") == 0);
    let expected = filled * groups * EACH;
    let (ran, dead): (i64, i64) = (one(&mut client, "SELECT count(*) FROM ran"), count(&mut client, "pgq.dead"));
    if ran != expected || dead > 0 {
        run.differ(format!("{expected} put, {ran} ran, {dead} dead"));
    }
    for wrong in WRONG {
        let n = count(&mut client, wrong);
        if n > 0 {
            run.differ(format!("{n} jobs out of order, twice, or two of a group at a time: {wrong}"));
        }
    }
    println!("{ran} jobs of {} groups", filled * groups);
}
