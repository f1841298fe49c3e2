//! From the commit of a put to its effect: how fast, after what, and what a rollback leaves. Without
//! and with preloading, after restarts, with workers that have left, and with prepared transactions.

use pgq_tests::{median, one, run, wait_until, Ledger, Server, Stop};
use postgres::Client;
use std::fs;
use std::time::{Duration, Instant};

/// Ten times the 100 ms within which the effect of a put is there.
const SOON: Duration = Duration::from_secs(1);
/// Ten times the 2 s that the first put of all may take, which has to start every process.
const FIRST: Duration = Duration::from_secs(20);

/// Inserts the job's id into the ledger.
const HANDLER: &str = "CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO ledger VALUES (id); END $$";

/// A database `app` in which queue `q` notes its jobs in the ledger.
fn noting(server: &Server) -> (Client, Ledger) {
    let mut client = server.create_database("app");
    let ledger = Ledger::create(&mut client, "ledger");
    run(&mut client, HANDLER);
    run(&mut client, "SELECT pgq.register('q', 'note')");
    (client, ledger)
}

fn has_run(client: &mut Client, id: i64) -> bool {
    one(client, &format!("SELECT EXISTS (SELECT FROM ledger WHERE id = {id})"))
}

/// Puts a job and waits until it has run: whatever came before it in the queue has run then, too,
/// if it could run at all.
fn sentinel(client: &mut Client) -> Duration {
    let id: i64 = one(client, "SELECT pgq.put('q', priority => -1000)");
    wait_until(FIRST, "the sentinel to run", || has_run(client, id))
}

/// The numbers of a measurement, in milliseconds.
fn show(what: &str, times: &[Duration]) -> Duration {
    let middle = median(times);
    let most = times.iter().max().copied().unwrap_or_default();
    println!(
        "{what}: median {:.1} ms, longest {:.1} ms of {}",
        middle.as_secs_f64() * 1e3,
        most.as_secs_f64() * 1e3,
        times.len()
    );
    middle
}

/// Check 2 as a reader of the README does it: psql, nothing preloaded, no restart.
#[test]
fn a_server_that_does_not_preload_runs_jobs_at_once() {
    let server = Server::builder().start();
    let mut watcher = server.connect("postgres");
    let mut psql = server.session("postgres", "postgres");
    let setup = format!(
        "CREATE EXTENSION pgq;\nCREATE TABLE ledger (id bigint);\n{HANDLER};\n\
         SELECT pgq.register('q', 'note');"
    );
    let reply = psql.execute(&setup).expect("psql answers");
    assert!(reply.errors().is_empty(), "{}", reply.stderr);
    let mut times = Vec::new();
    for n in 1..=21_i64 {
        let reply = psql.execute("BEGIN;\nSELECT pgq.put('q');").expect("psql");
        assert_eq!(reply.sqlstate, "00000", "{}", reply.stderr);
        let reply = psql.execute("COMMIT;").expect("psql");
        let committed = Instant::now();
        assert_eq!(reply.sqlstate, "00000", "{}", reply.stderr);
        wait_until(FIRST, "the effect of the put", || one::<i64>(&mut watcher, "SELECT count(*) FROM ledger") == n);
        times.push(committed.elapsed());
    }
    show("the first put of all", &times[..1]);
    assert!(times[0] < FIRST, "{:?}", times[0]);
    assert!(show("put to effect, not preloaded", &times[1..]) < SOON);
}

#[test]
fn a_preloading_server_runs_jobs_at_once() {
    let server = Server::builder().preload(true).start();
    let (mut client, _) = noting(&server);
    show("the first put, preloaded", &[sentinel(&mut client)]);
    let times: Vec<Duration> = (0..20).map(|_| sentinel(&mut client)).collect();
    assert!(show("put to effect, preloaded", &times) < SOON);
}

/// All executors and the scheduler have left: the launcher brings them back.
#[test]
fn a_put_wakes_a_database_whose_workers_have_left() {
    for preload in [false, true] {
        let server = Server::builder().preload(preload).conf("pgq.idle_timeout", "100ms").start();
        let (mut client, _) = noting(&server);
        let mut times = Vec::new();
        for _ in 0..5 {
            sentinel(&mut client);
            let left = "the workers of the database to leave";
            wait_until(FIRST, left, || server.worker_pids(Some("app")).is_empty());
            times.push(sentinel(&mut client));
        }
        assert!(show("put to effect, all workers gone", &times) < SOON);
    }
}

/// The handler writes a file, so that nobody needs to connect to see that it ran.
#[test]
fn jobs_put_before_a_restart_run_after_it_without_anybody_connecting() {
    for mode in [Stop::Fast, Stop::Immediate] {
        let server = Server::builder().preload(true).start();
        let mut client = server.create_database("app");
        let sign = server.data_directory().join("it_ran");
        let handler = format!(
            "CREATE FUNCTION write_file() RETURNS void LANGUAGE sql
             AS $$ COPY (SELECT 1) TO '{}' $$",
            sign.display()
        );
        run(&mut client, &handler);
        run(&mut client, "SELECT pgq.register('q', 'write_file')");
        server.set("pgq.enabled", "off");
        let left = "the workers to leave";
        wait_until(FIRST, left, || server.worker_pids(Some("app")).is_empty());
        run(&mut client, "SELECT pgq.put('q')");
        // Not reloaded: it holds from the restart on.
        run(&mut client, "ALTER SYSTEM RESET pgq.enabled");
        assert!(!sign.exists(), "it ran while pgq was switched off");
        drop(client);
        server.restart(mode);
        let ready = Instant::now();
        wait_until(FIRST, "a job put before the restart to run", || fs::exists(&sign).unwrap_or(false));
        show(&format!("ready after {mode:?} to effect"), &[ready.elapsed()]);
    }
}

#[test]
fn a_put_that_is_rolled_back_runs_nothing_and_leaves_nothing() {
    let server = Server::builder().start();
    let (mut client, ledger) = noting(&server);
    let mut kept: Vec<i64> = Vec::new();
    for _ in 0..10 {
        run(&mut client, "BEGIN; SELECT pgq.put('q'); ROLLBACK");
        run(&mut client, "BEGIN; SELECT pgq.bulk_put('q', args => '{\"{}\",\"{}\"}'); ROLLBACK");
        let failed = client.batch_execute("BEGIN; SELECT pgq.put('q'); SELECT 1/0; COMMIT");
        assert!(failed.is_err(), "1/0 is an error");
        run(&mut client, "ROLLBACK");
        run(&mut client, "BEGIN; SAVEPOINT a; SELECT pgq.put('q')");
        run(&mut client, "SAVEPOINT b; SELECT pgq.put('q'); RELEASE b; ROLLBACK TO a");
        kept.push(one(&mut client, "SELECT pgq.put('q')"));
        run(&mut client, "COMMIT");
        let in_block = "DO $$ BEGIN
            BEGIN PERFORM pgq.put('q'); RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$";
        run(&mut client, in_block);
    }
    kept.push(one(&mut client, "SELECT pgq.put('q', priority => -1)"));
    // Each, as two executors may share them.
    wait_until(FIRST, "all jobs", || kept.iter().all(|id| has_run(&mut client, *id)));
    ledger.verify(&mut client, &kept).assert_exact();
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM pgq.job"), 0);
    let finished = "SELECT count(*) FROM pgq.finished_job";
    assert_eq!(one::<i64>(&mut client, finished), 0);
}

/// Nothing tells the workers of COMMIT PREPARED, so they poll while there is such a transaction,
/// even when they would have left long ago.
#[test]
fn a_put_in_a_prepared_transaction_runs_after_commit_prepared() {
    let server = Server::builder().conf("max_prepared_transactions", 10).conf("pgq.idle_timeout", "200ms").start();
    let (mut client, ledger) = noting(&server);
    sentinel(&mut client);
    let before = ledger.count(&mut client);
    let mut kept: Vec<i64> = Vec::new();
    let mut times = Vec::new();
    for n in 0..5 {
        run(&mut client, "BEGIN");
        kept.push(one(&mut client, "SELECT pgq.put('q')"));
        run(&mut client, &format!("PREPARE TRANSACTION 'keep{n}'"));
        run(&mut client, "BEGIN; SELECT pgq.put('q')");
        run(&mut client, &format!("PREPARE TRANSACTION 'drop{n}'"));
        // Workers without anything else to do leave; the one that polls stays.
        wait_until(FIRST, "idle executors to leave", || {
            server.worker_pids_like("pgq executor", Some("app")).is_empty()
        });
        assert!(!has_run(&mut client, kept[n]), "it ran while prepared");
        run(&mut client, &format!("COMMIT PREPARED 'keep{n}'"));
        let id = kept[n];
        times.push(wait_until(Duration::from_secs(10), "a job to run after COMMIT PREPARED", || {
            has_run(&mut client, id)
        }));
        run(&mut client, &format!("ROLLBACK PREPARED 'drop{n}'"));
    }
    show("COMMIT PREPARED to effect", &times);
    sentinel(&mut client);
    let ran = ledger.count(&mut client) - before - 1;
    assert_eq!(usize::try_from(ran).ok(), Some(kept.len()));
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM pgq.job"), 0);
}

/// The server stops while the transaction is prepared; what the workers remembered of it is gone.
#[test]
fn a_prepared_put_survives_a_restart_and_runs_after_commit_prepared() {
    for mode in [Stop::Fast, Stop::Immediate] {
        let server = Server::builder()
            .preload(true)
            .conf("max_prepared_transactions", 10)
            .conf("pgq.idle_timeout", "200ms")
            .conf("pgq.poll_interval", "100ms")
            .start();
        let (mut client, _) = noting(&server);
        run(&mut client, "BEGIN");
        let id: i64 = one(&mut client, "SELECT pgq.put('q')");
        run(&mut client, "PREPARE TRANSACTION 'a'");
        drop(client);
        server.restart(mode);
        let mut client = server.connect("app");
        // Long enough for workers to leave who do not know that there is such a transaction.
        let up = "SELECT now() > pg_postmaster_start_time() + interval '4 s'";
        wait_until(FIRST, "four seconds", || one(&mut client, up));
        run(&mut client, "COMMIT PREPARED 'a'");
        let took = wait_until(Duration::from_secs(10), "the prepared job to run", || has_run(&mut client, id));
        show("COMMIT PREPARED after a restart to effect", &[took]);
    }
}

/// A later put that is due earlier must not wait for the one that is due later.
#[test]
fn delayed_jobs_run_when_they_are_due_and_not_before() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    let setup = "CREATE TABLE ran (id bigint, due timestamptz, at timestamptz);
        CREATE FUNCTION note_time(job pgq.job) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ran VALUES (job.id, job.execute_at, clock_timestamp()) $$;
        SELECT pgq.register('q', 'note_time');
        SELECT pgq.put('q', delay => '2 s');
        SELECT pgq.put('q', delay => '1 s');
        SELECT pgq.put('q', execute_at => clock_timestamp() + interval '300 ms');
        SELECT pgq.put('q', delay => '100 ms');
        SELECT pgq.put('q', execute_at => '-infinity') WHERE false;
        SELECT pgq.put('q', execute_at => now() - interval '1 day')";
    run(&mut client, setup);
    wait_until(FIRST, "all delayed jobs to run", || one::<i64>(&mut client, "SELECT count(*) FROM ran") == 5);
    let early = "SELECT count(*) FROM ran WHERE at < due";
    assert_eq!(one::<i64>(&mut client, early), 0, "a job ran before its time");
    let late = "SELECT 1000 * max(extract(epoch FROM at - due)::float8) FROM ran
                 WHERE due > now() - interval '1 hour'";
    let late: f64 = one(&mut client, late);
    println!("a delayed job began at most {late:.1} ms after its time");
    assert!(late < 10_000.0, "{late} ms late");
}

/// The scheduler leaves when nothing is due for longer than idle_timeout: the launcher has to know
/// when it must be back, or hears of an earlier job by the put.
#[test]
fn a_job_due_after_all_workers_left_still_runs_on_time() {
    let server = Server::builder().conf("pgq.idle_timeout", "200ms").conf("pgq.poll_interval", "50ms").start();
    let (mut client, _) = noting(&server);
    sentinel(&mut client);
    let id: i64 = one(&mut client, "SELECT pgq.put('q', delay => '3 s')");
    let put = Instant::now();
    wait_until(Duration::from_secs(3), "all workers to leave", || server.worker_pids(Some("app")).is_empty());
    wait_until(FIRST, "the job to run when due", || has_run(&mut client, id));
    let late = put.elapsed().as_secs_f64() - 3.0;
    println!("it ran {:.1} ms after its time", late * 1e3);
    assert!(late > -0.001, "it ran before its time");
    assert!(late < 10.0, "{late} s late");
}

/// Makes the executor of queue `q` idle, with `q` as the queue it worked for last.
fn idle(client: &mut Client) {
    sentinel(client);
    let rests = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pgq executor' AND state = 'idle')";
    wait_until(FIRST, "the executor to rest", || one(client, rests));
}

/// The put calls the idle executor of the queue and nobody else. Where the job is another role's, the one that was
/// called tells the scheduler; if it did not, each of these would wait for the next poll, a second later.
#[test]
fn a_call_that_reaches_the_wrong_executor_is_passed_on() {
    const PUTS: u32 = 20;
    let server = Server::builder().conf("pgq.poll_interval", "1h").start();
    let (mut client, _) = noting(&server);
    run(
        &mut client,
        "CREATE ROLE other LOGIN; GRANT INSERT ON ledger TO other;
         SELECT pgq.register('q', 'note', task => 'other', run_as => 'other')",
    );
    let put = "SELECT pgq.put('q', task => 'other')";
    let first: i64 = one(&mut client, put);
    wait_until(FIRST, "the other role's executor", || has_run(&mut client, first));
    let began = Instant::now();
    for _ in 0..PUTS {
        idle(&mut client);
        let id: i64 = one(&mut client, put);
        wait_until(FIRST, "the job of the other role", || has_run(&mut client, id));
    }
    let took = began.elapsed();
    println!("{PUTS} jobs of another role: {:.1} ms each", took.as_secs_f64() * 1e3 / f64::from(PUTS));
    assert!(took < Duration::from_secs(1) * PUTS / 2, "{took:?}");
}

/// An idle executor goes on with the handler it remembers, but not when that has changed since.
#[test]
fn an_idle_executor_hears_of_a_change_before_its_next_job() {
    let server = Server::builder().start();
    let (mut client, _) = noting(&server);
    run(
        &mut client,
        "CREATE TABLE said (id bigint, what text);
         CREATE FUNCTION one(id bigint, args jsonb) RETURNS void LANGUAGE sql
            AS $$ INSERT INTO ledger VALUES (id); INSERT INTO said VALUES (id, 'one ' || current_setting('work_mem')) $$;
         CREATE FUNCTION two(id bigint, args jsonb) RETURNS void LANGUAGE sql
            AS $$ INSERT INTO ledger VALUES (id); INSERT INTO said VALUES (id, 'two ' || current_setting('work_mem')) $$",
    );
    for n in 0..20 {
        let (function, work_mem) = (["one", "two"][n % 2], format!("{}kB", 1_025 + n));
        idle(&mut client);
        run(&mut client, &format!("SELECT pgq.register('q', '{function}')"));
        run(&mut client, &format!("ALTER DATABASE app SET work_mem = '{work_mem}'"));
        let id: i64 = one(&mut client, "SELECT pgq.put('q')");
        wait_until(FIRST, "the job", || has_run(&mut client, id));
        let said = format!("SELECT what FROM said WHERE id = {id}");
        assert_eq!(one::<String>(&mut client, &said), format!("{function} {work_mem}"), "after change {n}");
        // Its say on keeping is read with the handler.
        idle(&mut client);
        run(&mut client, "SELECT pgq.configure('q', keep_done => '1 h')");
        let id: i64 = one(&mut client, "SELECT pgq.put('q')");
        wait_until(FIRST, "the job that is kept", || has_run(&mut client, id));
        let kept = format!("SELECT EXISTS (SELECT FROM pgq.finished_job WHERE id = {id})");
        assert!(one::<bool>(&mut client, &kept), "after change {n}");
        run(&mut client, "SELECT pgq.configure('q', keep_done => '0')");
    }
}
