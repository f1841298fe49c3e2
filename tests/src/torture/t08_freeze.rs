//! T08: an executor is stopped in the middle of a job and goes on later; workers outside are paused
//! past the end of their leases, and come back with what is no longer theirs.

use super::faults::Fault;
use super::stage::{Stage, DATABASE};
use super::{Part, Rng, Run};
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use postgres::{Client, Config, NoTls};
use std::thread;
use std::time::{Duration, Instant};

/// The parts of this file.
pub const PARTS: &[Part] = &[
    Part {
        id: "T08",
        title: "SIGSTOP of an executor in the middle of a job, then SIGCONT",
        unit: "pauses",
        quick: 10,
        full: 200,
        run: freeze,
    },
    Part {
        id: "T08b",
        title: "workers outside that come back after their lease has ended",
        unit: "late workers",
        quick: 60,
        full: 2_000,
        run: come_late,
    },
];

/// How long the last jobs may take.
const LAST: Duration = Duration::from_secs(60);

fn freeze(run: &mut Run) {
    let mut stage = Stage::open(run.server(), Rules::default());
    stage.begin(run, &Mix::default());
    while run.goes_on() {
        if Fault::Freeze.strike(&mut stage, &mut run.rng) {
            run.fault("SIGSTOP");
            run.did(1);
        }
    }
    stage.close(run);
}

/// A completion that was accepted is written down in the same transaction: two of one job are a
/// double, one of an attempt that was not the last is a miscount.
const ACCEPT: &str = "WITH ended AS (SELECT pgq.complete($1, $2) AS accepted)
    INSERT INTO led_eff SELECT $1, $2, 0, 0, step, 0, '0', clock_timestamp(), $3, NULL
      FROM ended, generate_series(1, 2) AS step WHERE accepted";

const CLAIM: &str = "SELECT id, attempt, (args->>'qty')::bigint FROM pgq.claim('outside', lease => '100 ms')";

fn come_late(run: &mut Run) {
    // Every lease that ended is an attempt without a failure, which the books' rules allow to
    // procedures only; that an attempt is accepted once is looked at by the rows.
    let mut stage = Stage::open(run.server(), Rules { at_least_once: true, ..Rules::default() });
    stage.begin(run, &Mix { queue: "outside", producers: 1, hopeless: 0, failing: 0, ..Mix::default() });
    while run.goes_on() {
        let config = stage.server.config(DATABASE, "postgres");
        let late: Vec<_> = (0..4).map(|_| (config.clone(), run.rng.fork())).collect();
        let late: Vec<_> = late.into_iter().map(|(config, rng)| thread::spawn(|| be_late(config, rng))).collect();
        for thread in late {
            match thread.join().expect("a worker outside ends by itself") {
                Ok(true) => {
                    run.fault("late");
                    run.did(1);
                }
                Ok(false) => {}
                Err(what) => run.differ(what),
            }
        }
    }
    stage.end_load(run);
    let mut client = stage.server.connect(DATABASE);
    // What is leased at the moment, by one that was late or by us, comes back.
    let last = Instant::now();
    while crate::count(&mut client, "pgq.job") > 0 && last.elapsed() < LAST {
        match client.query_opt(CLAIM, &[]).expect("a claim") {
            Some(row) => drop(accept(&mut client, &row).expect("a completion")),
            None => thread::sleep(Duration::from_millis(50)),
        }
    }
    stage.close(run);
}

fn accept(client: &mut Client, row: &postgres::Row) -> Result<bool, postgres::Error> {
    let (id, attempt, qty): (i64, i32, i64) = (row.get(0), row.get(1), row.get(2));
    Ok(client.execute(ACCEPT, &[&id, &attempt, &qty])? > 0)
}

/// Claims, sleeps past the end of the lease until somebody else has the job, and then tries all that
/// a holder may do. Whether it was late; an error when it got through.
fn be_late(config: Config, mut rng: Rng) -> Result<bool, String> {
    let say = |error: postgres::Error| format!("a worker outside got {error:?}");
    let mut client = config.connect(NoTls).map_err(say)?;
    let Some(row) = client.query_opt(CLAIM, &[]).map_err(say)? else { return Ok(false) };
    if rng.chance(50) {
        // In time, or just not: either is accepted once.
        thread::sleep(Duration::from_millis(rng.between(60, 120)));
        accept(&mut client, &row).map_err(say)?;
        return Ok(false);
    }
    let (id, attempt): (i64, i32) = (row.get(0), row.get(1));
    thread::sleep(Duration::from_millis(150));
    let taken = "SELECT count(*) FROM (SELECT 1) AS one
                  WHERE NOT EXISTS (SELECT FROM pgq.job WHERE id = $1 AND attempt = $2)";
    for _ in 0..200 {
        if client.query_one(taken, &[&id, &attempt]).map_err(say)?.get::<_, i64>(0) == 1 {
            break;
        }
        // Another of us takes what comes back; nobody may be there to do it but this one.
        if let Some(other) = client.query_opt(CLAIM, &[]).map_err(say)? {
            accept(&mut client, &other).map_err(say)?;
        }
    }
    let late = [
        "SELECT pgq.complete($1, $2)",
        "SELECT pgq.extend($1, $2, '1 s') IS NOT NULL",
        "SELECT pgq.release($1, $2)",
        "SELECT pgq.fail($1, $2) IS NOT NULL",
        "SELECT count(*) > 0 FROM pgq.bulk_complete(ARRAY[$1::bigint], ARRAY[$2::int])",
    ];
    for sql in late {
        if client.query_one(sql, &[&id, &attempt]).map_err(say)?.get(0) {
            return Err(format!("{sql} was accepted for attempt {attempt} of job {id}, which had gone on"));
        }
    }
    Ok(true)
}
