//! T34: a standby is promoted under load, with synchronous replication. Nobody works on it before; afterwards every put
//! that was acknowledged has been done exactly once, and one whose answer was lost at most once.

use super::{Part, Run};
use crate::sql::{count, one, run as execute};
use crate::{wait_until, Server, Stop};
use postgres::{Client, NoTls};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T34",
    title: "promotion of a synchronous standby under load",
    unit: "promotions",
    quick: 1,
    full: 10,
    run: promote,
}];

const PATIENCE: Duration = Duration::from_secs(60);
/// The promise: so long after the promotion jobs run again.
const GOES_ON: Duration = Duration::from_secs(5);
/// Producers at the same time.
const PRODUCERS: usize = 4;

/// Functions, sets of jobs, and jobs that are long enough to be under way at the end.
const SHOP: &str = "
    CREATE TABLE ledger (id bigint, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO ledger VALUES (id)';
    CREATE FUNCTION note_all(jobs pgq.job[]) RETURNS void LANGUAGE sql AS 'INSERT INTO ledger SELECT id FROM unnest(jobs)';
    CREATE FUNCTION sleeps(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO ledger VALUES (id); PERFORM pg_sleep(0.2); END $$;
    SELECT pgq.register('quick', 'note'), pgq.register('sets', 'note_all'), pgq.register('slow', 'sleeps');";

const CALLS: [&str; 4] = [
    "pgq.put('quick')",
    "pgq.put('sets')",
    "pgq.put('slow') FROM pg_sleep(0.2)",
    "pgq.put('quick', delay => '1 s', priority => 3)",
];

fn promote(run: &mut Run) {
    while run.goes_on() {
        let primary = run.server().conf("wal_level", "replica").start();
        let mut client = primary.create_database("shop");
        execute(&mut client, SHOP);
        let standby = primary.standby();
        primary.set("synchronous_standby_names", "*");
        wait_until(PATIENCE, "synchronous replication", || {
            count(&mut client, "pg_stat_replication WHERE sync_state = 'sync'") == 1
        });
        let acknowledged = load(run, &primary, &standby, &mut client);
        let promoted = Instant::now();
        let mut client = standby.connect("shop");
        let moment: String = one(&mut client, "SELECT clock_timestamp()::text");
        execute(&mut client, "SELECT pg_promote(true, 60)");
        wait_until(run.allow(GOES_ON) + PATIENCE, "a job to run on the new primary", || {
            count(&mut client, &format!("ledger WHERE at > '{moment}'")) > 0
        });
        run.took_at_most("first job after the promotion", promoted.elapsed(), GOES_ON);
        run.fault("promotion");
        wait_until(PATIENCE, "the rest", || count(&mut client, "pgq.job") == 0);
        compare(run, &mut client, &acknowledged);
        run.did(1);
    }
}

/// Puts until the primary is stopped; what was acknowledged.
fn load(run: &mut Run, primary: &Server, standby: &Server, client: &mut Client) -> Vec<i64> {
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|n| {
            let (config, acknowledged) = (primary.config("shop", "postgres"), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let mut client = config.connect(NoTls).expect("the primary");
                // Until it is gone.
                while let Ok(row) = client.query_one(&format!("SELECT {}", CALLS[n]), &[]) {
                    acknowledged.lock().expect("not poisoned").push(row.get::<_, i64>(0));
                }
            })
        })
        .collect();
    let until = count(client, "ledger") + i64::try_from(run.rng.between(200, 600)).unwrap_or(200);
    wait_until(PATIENCE, "jobs to run", || count(client, "ledger") >= until);
    // Else there is nobody to be promoted for, and nothing to go on with.
    wait_until(PATIENCE, "jobs to wait", || count(client, "pgq.job") > 0);
    if !standby.worker_pids(None).is_empty() || standby.log().contains("pgq:") {
        run.differ("somebody worked on the standby");
    }
    primary.stop(Stop::Immediate);
    producers.into_iter().for_each(|producer| producer.join().expect("a producer ends by itself"));
    let acknowledged = acknowledged.lock().expect("not poisoned").clone();
    acknowledged
}

fn compare(run: &mut Run, client: &mut Client, acknowledged: &[i64]) {
    let rows = client.query("SELECT id, count(*) FROM ledger GROUP BY id", &[]).expect("the ledger");
    let ran: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let lost = acknowledged.iter().filter(|id| !ran.contains_key(id)).count();
    let doubled = ran.values().filter(|times| **times > 1).count();
    let unanswered = ran.len() - (acknowledged.len() - lost);
    eprintln!("T34: {} acknowledged, {} ran, {unanswered} of them without an answer", acknowledged.len(), ran.len());
    if lost > 0 || doubled > 0 || unanswered > PRODUCERS {
        run.differ(format!("{lost} lost, {doubled} doubled, {unanswered} unanswered"));
    }
}
