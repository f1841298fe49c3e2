//! T20: a handler that opens a thousand subtransactions for each job, and a bystander with short
//! queries beside it. The jobs of one transaction are few, savepoints of ours are at most sixty in
//! one transaction, and the bystander is hardly ever seen to wait for the log of subtransactions: not
//! never, because whoever opens a thousand of them, in a job or not, writes each into that log.

use super::{Part, Run};
use crate::{one, run as execute, wait_until, Server};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T20",
    title: "a thousand exception blocks in each job, and the cap on jobs in a transaction",
    unit: "jobs",
    quick: 300,
    full: 100_000,
    run: blocks,
}];

const BATCH: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(180);
/// engine::pace, savepoints: the most jobs in a transaction. 64 subtransactions fit into what every
/// backend can see without looking into the log (PGPROC_MAX_CACHED_SUBXIDS, storage/proc.h).
const SAVEPOINTS: i64 = 60;

/// `quick` is what is to share transactions; with one failure in it, for the next thousand jobs under savepoints. It has
/// a role, and so an executor, of its own: each executor has its own memory of failures.
const SCHEMA: &str = "
    CREATE ROLE worker LOGIN;
    CREATE ROLE single LOGIN;
    CREATE TABLE effect (kind text NOT NULL, job bigint NOT NULL, xact xid8 NOT NULL);
    CREATE TABLE row (n int PRIMARY KEY, uses bigint NOT NULL);
    INSERT INTO row SELECT n, 0 FROM generate_series(1, 100) AS n;
    GRANT SELECT, INSERT ON effect TO worker, single;
    GRANT SELECT, UPDATE ON row TO worker;
    CREATE FUNCTION blocks(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        FOR n IN 1 .. 1000 LOOP
            BEGIN
                UPDATE row SET uses = uses + 1 WHERE row.n = 1 + blocks.id % 100;
                IF n % 50 = 0 THEN RAISE EXCEPTION 'undone'; END IF;
            EXCEPTION WHEN raise_exception THEN
            END;
        END LOOP;
        INSERT INTO effect VALUES ('blocks', id, pg_current_xact_id());
    END $$;
    CREATE FUNCTION quick(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF job.args->>'fails' = '1' AND job.failures = 0 THEN RAISE EXCEPTION 'as told'; END IF;
        INSERT INTO effect VALUES ('quick', job.id, pg_current_xact_id());
    END $$;
    SELECT pgq.register('blocks', 'blocks', run_as => 'worker');
    SELECT pgq.register('quick', 'quick', run_as => 'single', backoff => '10 ms', concurrency => 1);";

fn blocks(run: &mut Run) {
    let server = run.server().start();
    let mut client = server.create_database("shop");
    execute(&mut client, SCHEMA);
    learn(&mut client);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| stand_by(&server, &over));
        let watcher = scope.spawn(|| watch(&server, &over));
        while run.goes_on() {
            let jobs = run.left().min(BATCH);
            one_batch(run, &mut client, jobs);
            run.did(jobs);
        }
        over.store(true, Ordering::Relaxed);
        let times = bystander.join().expect("the bystander ends");
        run.took("bystander's query, 99 in 100", times);
        let (waits, looks) = watcher.join().expect("the watcher ends");
        (0..waits).for_each(|_| run.fault("look at a bystander waiting for subtransactions"));
        if waits * 10 > looks {
            run.differ(format!("in {waits} of {looks} looks the bystander waited for subtransactions"));
        }
    });
}

/// A new handler runs one job a transaction until it has shown that its jobs are short.
fn learn(client: &mut Client) {
    execute(client, "SELECT count(*) FROM pgq.bulk_put('quick', args => array_fill('{}'::jsonb, ARRAY[500]))");
    wait_until(PATIENCE, "the first jobs", || one::<i64>(client, "SELECT count(*) FROM pgq.job") == 0);
}

fn one_batch(run: &mut Run, client: &mut Client, jobs: u64) {
    execute(client, "TRUNCATE effect");
    execute(
        client,
        &format!(
            "SELECT pgq.put('quick', '{{\"fails\": 1}}');
             SELECT count(*) FROM pgq.bulk_put('blocks', args => array_fill('{{}}'::jsonb, ARRAY[{jobs}]))"
        ),
    );
    // The failure is recorded before the others of its queue are there: from then on there are savepoints.
    let failed = "SELECT EXISTS (SELECT FROM pgq.job WHERE queue = 'quick' AND failures = 1)
                      OR NOT EXISTS (SELECT FROM pgq.job WHERE queue = 'quick')";
    wait_until(PATIENCE, "the failure", || one(client, failed));
    execute(client, "SELECT count(*) FROM pgq.bulk_put('quick', args => array_fill('{}'::jsonb, ARRAY[900]))");
    wait_until(PATIENCE, "all jobs of a batch", || one::<i64>(client, "SELECT count(*) FROM pgq.job") == 0);
    // xmin is the subtransaction that wrote the row.
    let most = |client: &mut Client, kind: &str, of: &str| -> i64 {
        let sql = format!(
            "SELECT coalesce(max(n), 0) FROM (SELECT {of} AS n FROM effect WHERE kind = $1 GROUP BY xact) AS x"
        );
        client.query_one(&sql, &[&kind]).expect("a number").get(0)
    };
    let savepoints = most(client, "quick", "count(DISTINCT xmin::text)");
    let blocks = most(client, "blocks", "count(*)");
    if savepoints > SAVEPOINTS {
        run.differ(format!("{savepoints} savepoints in one transaction"));
    }
    if savepoints > 1 {
        run.fault("batch under savepoints");
    }
    // One batch time holds a few of them.
    if blocks > SAVEPOINTS {
        run.differ(format!("{blocks} jobs of a thousand subtransactions each in one transaction"));
    }
    let twice: i64 = one(client, "SELECT count(*) - count(DISTINCT (kind, job)) FROM effect");
    let done: i64 = one(client, "SELECT count(*) FROM effect");
    if twice != 0 || u64::try_from(done) != Ok(jobs + 901) {
        run.differ(format!("{done} effects of {} jobs, {twice} twice", jobs + 901));
    }
}

/// Short queries over the rows that the handler changes; the time that 99 in 100 of them stay below.
fn stand_by(server: &Server, over: &AtomicBool) -> Duration {
    let mut client = server.connect("shop");
    execute(&mut client, "SET application_name = 'bystander'");
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        execute(&mut client, "SELECT sum(uses) FROM row");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// How often it was seen waiting for pg_subtrans or its buffers, in how many looks.
fn watch(server: &Server, over: &AtomicBool) -> (i64, i64) {
    let mut client = server.connect("shop");
    let (mut waits, mut looks) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        looks += 1;
        waits += one::<i64>(
            &mut client,
            "SELECT count(*) FROM pg_stat_activity
              WHERE application_name = 'bystander' AND wait_event ILIKE 'subtrans%'",
        );
        thread::sleep(Duration::from_millis(1));
    }
    (waits, looks)
}
