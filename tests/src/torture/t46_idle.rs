//! T46: a server with nothing to do but 1,000 jobs for tomorrow, and queues that nobody serves or that are paused: no
//! transaction id, no snapshot held, hardly any WAL, hardly any processor time.

use super::{Part, Run};
use crate::process::cpu_time;
use crate::{one, run as execute, wait_until};
use postgres::Client;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T46",
    title: "idle with 1,000 delayed jobs: no transaction id, no snapshot, no WAL, no processor time",
    unit: "seconds",
    quick: 15,
    full: 600,
    run: idle,
}];

const START: Duration = Duration::from_secs(60);
/// How far apart the looks at `pg_stat_activity` are. What is open in two of them in a row is held open; the
/// scheduler's own look takes less than a millisecond.
const LOOK: Duration = Duration::from_millis(100);
/// Of a core, for each process.
const SHARE: f64 = 0.005;
/// Bytes a second, of the whole server.
const WAL: f64 = 1024.0;

const QUEUES: &str = "
    CREATE TABLE ledger (id bigint);
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO ledger VALUES (id) $$;
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        INSERT INTO ledger VALUES (id);
    END $$;
    SELECT pgq.register('quick', 'note'), pgq.register('procedure', 'commits'), pgq.register('stopped', 'note');
    SELECT pgq.pause('stopped');
    SELECT pgq.put('outside'), pgq.put('stopped') FROM generate_series(1, 100);
    SELECT pgq.put('quick', delay => '1 day') FROM generate_series(1, 1000);
    SELECT pgq.put('quick'), pgq.put('procedure');";

fn idle(run: &mut Run) {
    // Autovacuum uses transaction ids of its own; the workers stay, because what they cost is looked at.
    let server = run.server().conf("autovacuum", "off").conf("pgq.idle_timeout", "1h").start();
    let mut client = server.create_database("shop");
    execute(&mut client, QUEUES);
    wait_until(START, "the two jobs that are due", || {
        one::<i64>(&mut client, "SELECT count(*) FROM pgq.job WHERE state = 'leased' OR queue = 'procedure'") == 0
            && one::<i64>(&mut client, "SELECT count(*) FROM ledger") == 2
    });
    execute(&mut client, "CHECKPOINT");
    let there = workers(&mut client);
    for kind in ["pgq launcher", "pgq scheduler", "pgq executor"] {
        if !there.values().any(|k| k == kind) {
            run.differ(format!("no {kind} in {there:?}"));
        }
    }
    measure(run, &mut client, &there);
    if workers(&mut client) != there {
        run.differ("not the same workers all the time");
    }
}

/// The pids of pgq's processes and what each is.
fn workers(client: &mut Client) -> BTreeMap<u32, String> {
    let sql = "SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'pgq%'";
    let rows = client.query(sql, &[]).expect("pg_stat_activity");
    rows.iter().map(|row| (u32::try_from(row.get::<_, i32>(0)).expect("a pid"), row.get(1))).collect()
}

fn measure(run: &mut Run, client: &mut Client, workers: &BTreeMap<u32, String>) {
    const NEXT_XID: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    const WAL_AT: &str = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let times = || -> Vec<Duration> { workers.keys().map(|pid| cpu_time(*pid).expect("it runs")).collect() };
    let (xid, wal, before, began): (i64, i64, _, _) =
        (one(client, NEXT_XID), one(client, WAL_AT), times(), Instant::now());
    let (mut last, mut looks, mut seen) = (Vec::new(), 0, 0);
    while run.goes_on() {
        let now = open(client);
        for held in now.iter().filter(|one| last.contains(*one)) {
            run.differ(format!("held open: {held}"));
        }
        looks += 1;
        seen += usize::from(!now.is_empty());
        last = now;
        thread::sleep(LOOK);
        run.did(began.elapsed().as_secs().saturating_sub(run.done()));
    }
    let wall = began.elapsed().as_secs_f64();
    let (xids, written) = (one::<i64>(client, NEXT_XID) - xid, one::<i64>(client, WAL_AT) - wal);
    println!(
        "T46: {wall:.0} s, {xids} transaction ids, {written} bytes of WAL, something open in {seen} of {looks} looks"
    );
    if xids != 0 {
        run.differ(format!("{xids} transaction ids"));
    }
    if written as f64 / wall >= WAL {
        run.differ(format!("{written} bytes of WAL"));
    }
    for ((after, before), kind) in times().iter().zip(&before).zip(workers.values()) {
        let share = (*after - *before).as_secs_f64() / wall;
        println!("T46: {kind}: {:.3} % of a core", share * 100.0);
        if share >= SHARE {
            run.differ(format!("a {kind} used {share} of a core"));
        }
    }
}

/// What pgq has open now.
fn open(client: &mut Client) -> Vec<String> {
    const OPEN: &str = "SELECT format('%s %s since %s, xmin %s, xid %s', backend_type, pid, xact_start, backend_xmin,
                                      backend_xid)
                          FROM pg_stat_activity
                         WHERE backend_type LIKE 'pgq%'
                           AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR xact_start IS NOT NULL)";
    let rows = client.query(OPEN, &[]).expect("pg_stat_activity");
    rows.iter().map(|row| row.get(0)).collect()
}
