//! What is left after workers and servers were killed in the middle of their work: each job is in
//! the ledger or among the dead exactly once, nobody is charged for another's crash, and the workers come
//! back by themselves, preloaded or not.

use pgq_tests::{timed, wait_for, wait_until, Ledger, Server, Stop};
use postgres::Client;
use std::time::{Duration, Instant};

/// How long the workers may take to be back after a crash: the launcher's restart time is one
/// second, and the recovery of a busy machine takes some.
const BACK: Duration = Duration::from_secs(30);

/// What the long run does to its server.
struct Plan {
    preload: bool,
    jobs: i32,
    terminations: usize,
    stops: usize,
    limit: Duration,
}

/// How many of the blows fell while jobs ran.
#[derive(Debug, Default)]
struct Hits {
    terminations: usize,
    stops: usize,
}

#[test]
fn kills_and_immediate_stops_change_nothing_in_what_runs_once() {
    let hits = run_under_fire(&Plan {
        preload: true,
        jobs: 100_000,
        terminations: 50,
        stops: 3,
        limit: Duration::from_secs(120),
    });
    assert!(hits.terminations >= 40, "{hits:?}");
    assert_eq!(hits.stops, 3, "{hits:?}");
}

#[test]
fn the_same_holds_without_preloading_once_somebody_calls() {
    let hits = run_under_fire(&Plan {
        preload: false,
        jobs: 20_000,
        terminations: 10,
        stops: 1,
        limit: Duration::from_secs(60),
    });
    assert!(hits.terminations >= 8, "{hits:?}");
    assert_eq!(hits.stops, 1, "{hits:?}");
}

/// 10 % fail at their first attempt, 1 % always, each after its insert: a failure that left its row
/// behind would be found as well.
const ENTER: &str = "
    CREATE FUNCTION enter(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger VALUES (job.id, job.attempt);
        IF job.id % 100 = 0 OR (job.id % 10 = 5 AND job.attempt = 1) THEN
            RAISE EXCEPTION 'job % fails as it was told', job.id;
        END IF;
    END $$;
    CREATE ROLE worker LOGIN;
    SELECT pgq.register('fire', 'enter', run_as => 'worker', max_attempts => 3, backoff => '10 ms');";

fn run_under_fire(plan: &Plan) -> Hits {
    let server = Server::builder().preload(plan.preload).conf("pgq.log_jobs", "none").start();
    let mut client = server.create_database("shop");
    let ledger = Ledger::create(&mut client, "ledger");
    client.batch_execute("ALTER TABLE ledger ADD attempt int").expect("a column");
    client.batch_execute(ENTER).expect("a handler");
    let put: Vec<i64> = ids(
        &mut client,
        &format!("SELECT pgq.bulk_put('fire', args => array_fill('{{}}'::jsonb, ARRAY[{}]))", plan.jobs),
    );
    let began = Instant::now();
    let hits = fire(&server, plan);
    let mut client = server.connect("shop");
    wait_until(plan.limit, "every job to be done or dead", || left(&mut client) == 0);
    let took = began.elapsed();
    println!(
        "preloaded {}: {} of {} terminations and {} of {} immediate stops hit while jobs ran; {took:?} in all",
        plan.preload, hits.terminations, plan.terminations, hits.stops, plan.stops
    );
    ledger.verify(&mut client, &put).assert_exact();
    assert_nobody_else_was_charged(&mut client, i64::from(plan.jobs) / 100);
    assert!(took < plan.limit, "took {took:?}");
    hits
}

/// Blows, spread over the progress of the work.
fn fire(server: &Server, plan: &Plan) -> Hits {
    let blows = plan.terminations + plan.stops;
    let every = blows / (plan.stops + 1);
    let mut hits = Hits::default();
    let mut client = server.connect("shop");
    for blow in 1..=blows {
        let mark = i64::from(plan.jobs) * i64::try_from(blows - blow + 1).expect("few")
            / i64::try_from(blows + 1).expect("few");
        wait_until(plan.limit, "the work to go on", || left(&mut client) <= mark);
        let is_stop = blow % (every + 1) == 0;
        if !is_stop {
            hits.terminations += usize::from(terminate_one(&mut client));
            continue;
        }
        hits.stops += usize::from(wait_for_a_runner(&mut client));
        server.restart(Stop::Immediate);
        client = server.connect("shop");
        if !plan.preload {
            client.batch_execute("SELECT pgq.start()").expect("somebody calls");
        }
    }
    hits
}

/// Terminates an executor that runs a job; false when none is left to run, or when it went by itself meanwhile.
fn terminate_one(client: &mut Client) -> bool {
    let sql = "SELECT victim.pid, pg_terminate_backend(victim.pid)
                 FROM (SELECT pid FROM pgq.running ORDER BY random() LIMIT 1) AS victim";
    let row = wait_for(BACK, "a job to run", || {
        let row = client.query_opt(sql, &[]).expect("a superuser may");
        row.map(Some).or_else(|| (left(client) == 0).then_some(None))
    });
    let Some(row) = row else { return false };
    let (pid, sent): (i32, bool) = (row.get(0), row.get(1));
    // Not by the function's own timeout: it looks only ten times a second, and the others work on.
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    wait_until(BACK, "the terminated executor to go", || count(client, &there) == 0);
    sent
}

/// Waits until a job runs, unless none is left.
fn wait_for_a_runner(client: &mut Client) -> bool {
    wait_for(BACK, "a job to run", || {
        let running = count(client, "SELECT count(*) FROM pgq.running") > 0;
        (running || left(client) == 0).then_some(running)
    })
}

fn left(client: &mut Client) -> i64 {
    count(client, "SELECT count(*) FROM pgq.job")
}

/// A crash is nobody's failure: who did not raise ended at his first attempt, who raised once at
/// his second, and the dead have exactly the failures they were allowed.
fn assert_nobody_else_was_charged(client: &mut Client, dead: i64) {
    let wrong = "SELECT count(*) FROM ledger
                  WHERE attempt <> CASE WHEN id % 10 = 5 THEN 2 ELSE 1 END";
    assert_eq!(count(client, wrong), 0, "attempts of jobs that ended well");
    let right = "SELECT count(*) FROM pgq.dead WHERE id % 100 = 0 AND failures = 3 AND attempt = 3";
    assert_eq!(count(client, right), dead, "failures of the dead");
}

fn count(client: &mut Client, sql: &str) -> i64 {
    let row = client.query_one(sql, &[]);
    row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
}

fn ids(client: &mut Client, sql: &str) -> Vec<i64> {
    let rows = client.query(sql, &[]);
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Each crash is of another process, and one comes right after the other: what shared memory was
/// made of has to work again, and again.
#[test]
fn workers_come_back_after_crashes_in_a_row_without_preloading() {
    survive_crashes(false);
}

#[test]
fn workers_come_back_after_crashes_in_a_row_preloaded() {
    survive_crashes(true);
}

fn survive_crashes(preload: bool) {
    let server = Server::builder().preload(preload).start();
    let mut client = server.create_database("shop");
    let ledger = Ledger::create(&mut client, "ledger");
    gated_handler(&mut client);
    let mut put = Vec::new();
    for kind in ["pgq executor", "pgq executor", "pgq scheduler", "pgq launcher"] {
        let mut client = server.connect("shop");
        set_gate(&mut client, 3600.0);
        put.extend(ids(&mut client, "SELECT pgq.put('gated')"));
        let sleeps =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgq executor' AND wait_event = 'PgSleep'";
        wait_until(BACK, "the job to sleep", || count(&mut client, sleeps) == 1);
        // Read by the next run; this one sleeps already.
        set_gate(&mut client, 0.0);
        let victim = *server.worker_pids_like(kind, None).first().unwrap_or_else(|| panic!("no {kind} runs"));
        server.kill_9(victim);
        // Nobody calls pgq from here on: only the ledger is looked at.
        let (_, took) = timed(|| wait_for_rows(&server, &put));
        println!("preloaded {preload}, SIGKILL to the {kind}: the job was done {took:?} later");
    }
    let mut client = server.connect("shop");
    ledger.verify(&mut client, &put).assert_exact();
    // The crash is laid at the door of the job whose process died of itself, and of no other.
    let charged = format!("SELECT count(*) FROM ledger WHERE attempt <> CASE WHEN id <= {} THEN 2 ELSE 1 END", put[1]);
    assert_eq!(count(&mut client, &charged), 0, "who was charged");
}

fn wait_for_rows(server: &Server, put: &[i64]) {
    let expected = i64::try_from(put.len()).expect("few");
    wait_until(BACK, "the job to run again after the crash", || {
        let look = |mut client: Client| client.query_one("SELECT count(*) FROM ledger", &[]);
        let row = server.try_connect("shop", "postgres").and_then(look);
        row.is_ok_and(|row| row.get::<_, i64>(0) >= expected)
    });
}

/// A handler that writes, then sleeps as long as the gate says when it starts.
fn gated_handler(client: &mut Client) {
    client
        .batch_execute(
            "ALTER TABLE ledger ADD attempt int;
             CREATE TABLE gate (seconds double precision);
             INSERT INTO gate VALUES (0);
             CREATE FUNCTION gated(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO ledger VALUES (job.id, job.attempt);
                 PERFORM pg_sleep(seconds) FROM gate;
             END $$;
             SELECT pgq.register('gated', 'gated')",
        )
        .expect("a handler");
}

fn set_gate(client: &mut Client, seconds: f64) {
    client.execute("UPDATE gate SET seconds = $1", &[&seconds]).expect("the gate");
}

/// How a process is ended between two COMMITs.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Terminate,
    Kill,
    ImmediateStop,
}

#[test]
fn a_procedure_killed_between_two_commits_runs_again_without_preloading() {
    kill_procedures(false, &[Blow::Terminate, Blow::Kill]);
}

#[test]
fn a_procedure_killed_between_two_commits_runs_again_preloaded() {
    kill_procedures(true, &[Blow::Terminate, Blow::Kill, Blow::ImmediateStop]);
}

/// Commits three times; its first attempt stops behind the COMMIT that args name.
const THREE: &str = "
    CREATE TABLE step (id bigint, attempt int, n int);
    CREATE PROCEDURE three(job pgq.job) LANGUAGE plpgsql AS $$
    BEGIN
        FOR n IN 1 .. 3 LOOP
            INSERT INTO step VALUES (job.id, job.attempt, n);
            COMMIT;
            IF job.attempt = 1 AND n = (job.args->>'stop')::int THEN
                PERFORM pg_sleep(3600);
            END IF;
        END LOOP;
    END $$;
    SELECT pgq.configure('steps', keep_done => '1 day');
    SELECT pgq.register('steps', 'three');";

fn kill_procedures(preload: bool, blows: &[Blow]) {
    let server = Server::builder().preload(preload).start();
    server.create_database("shop").batch_execute(THREE).expect("a procedure");
    for blow in blows {
        for stop in [1, 2] {
            let mut client = server.connect("shop");
            let id = ids(&mut client, &format!("SELECT pgq.put('steps', '{{\"stop\": {stop}}}')"))[0];
            let committed = format!("SELECT count(*) FROM step WHERE id = {id}");
            wait_until(BACK, "the first steps to be committed", || count(&mut client, &committed) == stop);
            strike(&server, &mut client, *blow, id);
            drop(client);
            let (_, took) = timed(|| wait_for_completion(&server, id));
            println!("preloaded {preload}, {blow:?} behind COMMIT {stop}: completed {took:?} later");
            assert_ran_twice_and_completed_once(&server, id, stop);
        }
    }
}

fn strike(server: &Server, client: &mut Client, blow: Blow, id: i64) {
    let sql = format!("SELECT pid FROM pgq.running WHERE job = {id} AND attempt = 1");
    let pid: i32 = client.query_one(&sql, &[]).expect("it runs").get(0);
    match blow {
        Blow::Terminate => {
            let sql = format!("SELECT pg_terminate_backend({pid}, 10000)");
            client.batch_execute(&sql).expect("a superuser may");
        }
        Blow::Kill => server.kill_9(u32::try_from(pid).expect("a pid")),
        Blow::ImmediateStop => server.restart(Stop::Immediate),
    }
}

fn wait_for_completion(server: &Server, id: i64) {
    let sql = format!("SELECT count(*) FROM pgq.finished_job WHERE id = {id}");
    wait_until(BACK, "the procedure to be completed", || {
        let look = |mut client: Client| client.query_one(&sql, &[]);
        let row = server.try_connect("shop", "postgres").and_then(look);
        row.is_ok_and(|row| row.get::<_, i64>(0) == 1)
    });
}

/// The first attempt left what it had committed, the second ran to its end, and one completion was
/// accepted, at which nothing was counted against the job.
fn assert_ran_twice_and_completed_once(server: &Server, id: i64, stop: i64) {
    let mut client = server.connect("shop");
    let sql = "SELECT string_agg(attempt || '.' || n, ' ' ORDER BY attempt, n) FROM step WHERE id = $1";
    let steps: String = client.query_one(sql, &[&id]).expect("steps").get(0);
    let first = if stop == 1 { "1.1" } else { "1.1 1.2" };
    assert_eq!(steps, format!("{first} 2.1 2.2 2.3"));
    let sql = "SELECT outcome, attempt, failures FROM pgq.finished_job WHERE id = $1";
    let row = client.query_one(sql, &[&id]).expect("one completion");
    let end: (String, i32, i32) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(end, ("done".to_owned(), 2, 0));
    let live = format!("SELECT count(*) FROM pgq.job WHERE id = {id}");
    assert_eq!(count(&mut client, &live), 0);
}

/// Without a crash: the process is gone, and nobody else is. The scheduler has left once for want of work before,
/// and the second one was started by a launcher that is gone too.
#[test]
fn terminated_launchers_and_schedulers_are_replaced() {
    for preload in [false, true] {
        let server = Server::builder().preload(preload).conf("pgq.idle_timeout", "3s").start();
        let mut client = server.create_database("shop");
        Ledger::create(&mut client, "ledger");
        gated_handler(&mut client);
        let mut put = ids(&mut client, "SELECT pgq.put('gated')");
        wait_for_rows(&server, &put);
        wait_until(BACK, "the scheduler to leave", || server.worker_pids_like("pgq scheduler", None).is_empty());
        for kind in ["pgq scheduler", "pgq launcher", "pgq scheduler"] {
            put.extend(ids(&mut client, "SELECT pgq.put('gated')"));
            wait_for_rows(&server, &put);
            // Due after the blow, and told to nobody but the process that dies.
            put.extend(ids(&mut client, "SELECT pgq.put('gated', delay => '2 s')"));
            let victim = *server.worker_pids_like(kind, None).first().unwrap_or_else(|| panic!("no {kind} runs"));
            let sql = format!("SELECT pg_terminate_backend({victim}, 10000)");
            client.batch_execute(&sql).expect("a superuser may");
            let (_, took) = timed(|| wait_for_rows(&server, &put));
            println!("preloaded {preload}, {kind} terminated: a job due 2 s later was done after {took:?}");
        }
    }
}
