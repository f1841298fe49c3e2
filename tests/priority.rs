//! Who runs first, and who must not wait for whom: slow jobs beside fast ones, a long queue beside a
//! short one, priorities among waiting jobs, and many jobs that become due at one moment.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ten times the 100 ms by which a slow job may delay others.
const DELAY: Duration = Duration::from_secs(1);

/// What the handlers of these tests do: they note when each job began, in which transaction, and
/// sleep or compute as long as its args say.
const SETUP: &str = "
    CREATE TABLE ran (id bigint, queue text, priority int, due timestamptz, at timestamptz, began timestamptz);
    CREATE FUNCTION work(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        at timestamptz := clock_timestamp();
    BEGIN
        IF job.args ? 'sleep' THEN PERFORM pg_sleep((job.args ->> 'sleep')::float8); END IF;
        WHILE clock_timestamp() < at + make_interval(secs => coalesce((job.args ->> 'busy')::float8, 0)) LOOP
        END LOOP;
        INSERT INTO ran VALUES (job.id, job.queue, job.priority, job.execute_at, at, now());
    END $$;";

fn start(workers: usize) -> (Server, Client) {
    let server = Server::builder().conf("pgq.max_workers", workers).start();
    let mut client = server.create_database("app");
    run(&mut client, SETUP);
    (server, client)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs so many fast jobs of a queue that its handler is trusted to share transactions.
fn warm_up(client: &mut Client, queue: &str) {
    let before = count(client, &format!("ran WHERE queue = '{queue}'"));
    run(client, &format!("SELECT count(pgq.put('{queue}')) FROM generate_series(1, 2000)"));
    wait_until(PATIENCE, "the warming up", || count(client, &format!("ran WHERE queue = '{queue}'")) == before + 2000);
}

/// The pids of executors that are inside a job of `pg_sleep` now.
fn sleeping(client: &mut Client) -> i64 {
    count(client, "pg_stat_activity WHERE backend_type LIKE 'pgq%' AND wait_event = 'PgSleep'")
}

/// Puts jobs one after the other and returns the longest time from put to effect.
fn longest_of(client: &mut Client, queue: &str, jobs: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..jobs {
        let id: i64 = one(client, &format!("SELECT pgq.put('{queue}')"));
        let took =
            wait_until(PATIENCE, "a job beside a sleeping one", || count(client, &format!("ran WHERE id = {id}")) == 1);
        longest = longest.max(took);
    }
    longest
}

/// With two workers: jobs of another queue, jobs of the same handler where it may have both workers.
#[test]
fn a_sleeping_job_delays_no_other() {
    let (_server, mut client) = start(2);
    run(&mut client, "SELECT pgq.register('x', 'work', concurrency => 2)");
    run(&mut client, "SELECT pgq.register('y', 'work')");
    for queue in ["x", "y"] {
        warm_up(&mut client, queue);
    }
    run(&mut client, "SELECT pgq.put('x', '{\"sleep\": 60}')");
    wait_until(PATIENCE, "the slow job to run", || sleeping(&mut client) == 1);
    for queue in ["y", "x"] {
        let longest = longest_of(&mut client, queue, 20);
        let ms = milliseconds(longest);
        println!("beside a job of x in pg_sleep(60), one of {queue} took at most {ms:.1} ms");
        assert!(longest < DELAY, "{longest:?}");
    }
    assert_eq!(sleeping(&mut client), 1, "the slow job still runs");
}

/// A claim is sized by the jobs before it. Where these turn out slower, the rest of it goes back in time, so that the
/// transaction does not run into the limit of company and all its work is in vain. A sequence counts the starts.
#[test]
fn a_claim_that_turns_out_too_large_goes_back_and_nothing_runs_in_vain() {
    let (_server, mut client) = start(1);
    run(
        &mut client,
        "CREATE SEQUENCE starts;
         CREATE FUNCTION counted(job pgq.job) RETURNS void LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('starts'); PERFORM work(job); END $$;
         SELECT pgq.register('x', 'counted')",
    );
    warm_up(&mut client, "x");
    let before: i64 = one(&mut client, "SELECT last_value FROM starts");
    run(&mut client, "SELECT count(pgq.put('x', '{\"busy\": 0.001}')) FROM generate_series(1, 600)");
    wait_until(PATIENCE, "the slower jobs", || count(&mut client, "ran WHERE queue = 'x'") == 2600);
    let starts = one::<i64>(&mut client, "SELECT last_value FROM starts") - before;
    println!("600 jobs that were slower than expected took {starts} starts");
    assert!(starts < 640, "{starts} starts");
}

/// The sleeping job comes in the middle of others, put by one transaction and so claimed together.
#[test]
fn a_sleeping_job_in_the_middle_of_a_batch_delays_no_other() {
    let (_server, mut client) = start(2);
    run(&mut client, "SELECT pgq.register('x', 'work', concurrency => 2)");
    warm_up(&mut client, "x");
    run(&mut client, "TRUNCATE ran");
    run(
        &mut client,
        "SELECT count(pgq.put('x', CASE n WHEN 50 THEN '{\"sleep\": 60}' ELSE '{}' END::jsonb))
           FROM generate_series(1, 100) AS n",
    );
    let took = wait_until(PATIENCE, "the 99 other jobs", || count(&mut client, "ran") == 99);
    println!("99 jobs around a sleeping one took {:.1} ms", milliseconds(took));
    assert!(took < DELAY, "{took:?}");
    wait_until(PATIENCE, "the slow job to run", || sleeping(&mut client) == 1);
    let longest = longest_of(&mut client, "x", 10);
    println!("those put later at most {:.1} ms", milliseconds(longest));
    assert!(longest < DELAY, "{longest:?}");
    assert_eq!(count(&mut client, "pgq.finished_job"), 0);
    let failed = "SELECT failed_total FROM pgq.stats('x')";
    assert_eq!(one::<i64>(&mut client, failed), 0, "somebody was charged");
}

#[test]
fn a_long_queue_and_its_sleeping_jobs_leave_room_for_another_queue() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    run(&mut client, SETUP);
    run(&mut client, "SELECT pgq.register('x', 'work')");
    run(&mut client, "SELECT pgq.register('y', 'work')");
    let put = "SELECT count(pgq.put('x', '{\"sleep\": 60}')) FROM generate_series(1, 20);
        SELECT count(*) FROM pgq.bulk_put('x', args =>
            (SELECT array_agg(to_jsonb(n)) FROM generate_series(1, 100000) AS n))";
    run(&mut client, put);
    wait_until(PATIENCE, "the slow jobs to take their workers", || sleeping(&mut client) >= 3);
    for n in 0..10 {
        let id: i64 = one(&mut client, "SELECT pgq.put('y')");
        let put = Instant::now();
        wait_until(Duration::from_secs(10), "a job of the other queue", || {
            count(&mut client, &format!("ran WHERE id = {id}")) == 1
        });
        println!("job {n} of the short queue: {:.1} ms", milliseconds(put.elapsed()));
    }
    assert!(count(&mut client, "pgq.job") >= 100_000, "the long queue waits");
}

/// One executor: what began after the COMMIT of the higher one had returned, in a transaction that
/// began after it too, and before the higher one, was preferred to it.
#[test]
fn a_higher_priority_starts_before_all_that_had_not_started() {
    let (_server, mut client) = start(4);
    run(&mut client, "SELECT pgq.register('x', 'work', concurrency => 1)");
    warm_up(&mut client, "x");
    let put = "SELECT count(pgq.put('x', '{\"busy\": 0.0005}')) FROM generate_series(1, 4000)";
    run(&mut client, put);
    let mut longest: f64 = 0.0;
    for n in 1..=40 {
        let id: i64 = one(&mut client, &format!("SELECT pgq.put('x', priority => {n})"));
        // The COMMIT has returned, so the clock is read after it.
        let committed: f64 = one(&mut client, "SELECT extract(epoch FROM clock_timestamp())::float8");
        wait_until(PATIENCE, "the preferred job", || count(&mut client, &format!("ran WHERE id = {id}")) == 1);
        let started = format!("SELECT extract(epoch FROM at)::float8 FROM ran WHERE id = {id}");
        let started: f64 = one(&mut client, &started);
        let preferred = format!(
            "ran AS r, ran AS mine WHERE mine.id = {id} AND r.priority < mine.priority
               AND r.began > to_timestamp({committed:.6}) AND r.at < mine.at"
        );
        assert_eq!(count(&mut client, &preferred), 0, "job {id} was passed");
        longest = longest.max((started - committed) * 1e3);
    }
    println!("a preferred job began at most {longest:.1} ms after its COMMIT (batch_time 10 ms)");
    assert!(count(&mut client, "pgq.job") > 0, "all was done before the last one came");
    assert!(longest < 1_000.0, "{longest} ms");
}

/// The same with all workers of a handler, where only the time can be told.
#[test]
fn several_workers_prefer_the_higher_priority_within_a_batch_time() {
    let (_server, mut client) = start(4);
    run(&mut client, "SELECT pgq.register('x', 'work')");
    warm_up(&mut client, "x");
    let put = "SELECT count(pgq.put('x', '{\"busy\": 0.0005}')) FROM generate_series(1, 8000)";
    run(&mut client, put);
    let mut longest: f64 = 0.0;
    for n in 1..=40 {
        let id: i64 = one(&mut client, &format!("SELECT pgq.put('x', priority => {n})"));
        let committed: f64 = one(&mut client, "SELECT extract(epoch FROM clock_timestamp())::float8");
        wait_until(PATIENCE, "the preferred job", || count(&mut client, &format!("ran WHERE id = {id}")) == 1);
        let started = format!("SELECT extract(epoch FROM at)::float8 FROM ran WHERE id = {id}");
        longest = longest.max((one::<f64>(&mut client, &started) - committed) * 1e3);
    }
    println!("a preferred job began at most {longest:.1} ms after its COMMIT (3 workers)");
    assert!(count(&mut client, "pgq.job") > 0, "all was done before the last one came");
    assert!(longest < 1_000.0, "{longest} ms");
}

/// All wait while the queue is paused; one worker then takes them in their order.
#[test]
fn waiting_jobs_run_by_priority_and_then_by_id() {
    let (_server, mut client) = start(4);
    run(&mut client, "SELECT pgq.register('x', 'work', concurrency => 1)");
    run(&mut client, "SELECT pgq.pause('x')");
    let put = "SELECT count(pgq.put('x', priority => (n * 7919 % 11 - 5)::int))
                 FROM generate_series(1, 500) AS n";
    run(&mut client, put);
    run(&mut client, "SELECT pgq.resume('x')");
    wait_until(PATIENCE, "all jobs", || count(&mut client, "ran") == 500);
    let wrong = "(SELECT lag(priority) OVER w < priority
                      OR (lag(priority) OVER w = priority AND lag(id) OVER w > id) AS wrong
                    FROM ran WINDOW w AS (ORDER BY at)) AS pairs WHERE wrong";
    assert_eq!(count(&mut client, wrong), 0);
}

#[test]
fn a_thousand_delayed_jobs_start_when_they_are_due() {
    let (_server, mut client) = start(4);
    run(&mut client, "SELECT pgq.register('x', 'work')");
    for round in 1..=2 {
        run(&mut client, "TRUNCATE ran");
        run(&mut client, "SELECT count(pgq.put('x', delay => '2 s')) FROM generate_series(1, 1000)");
        wait_until(PATIENCE, "the delayed jobs", || count(&mut client, "ran") == 1000);
        let times = "SELECT min(extract(epoch FROM at - due)::float8) * 1000,
                            max(extract(epoch FROM at - due)::float8) * 1000 FROM ran";
        let row = client.query_one(times, &[]).expect("the times");
        let (first, last): (f64, f64) = (row.get(0), row.get(1));
        println!("round {round}: 1,000 delayed jobs began {first:.1} to {last:.1} ms after they were due");
        assert!(first >= 0.0, "one began {first} ms before its time");
        assert!(last < 10_000.0, "the last began {last} ms late");
    }
}
