//! Hands on jobs that run, and what a handler meets: cancel, pause, time limits, its arguments, its
//! result, the job it runs for, and how many of it run at a time.

use pgq_tests::{count, one, run, timed, wait_until, Server};
use postgres::Client;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Ten times the 100 ms within which nothing may wait for a running job.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A function and a procedure that sleep as many seconds as their args say, for queues `f` and `p`.
const SLEEPERS: &str = "
    CREATE TABLE ledger (id bigint);
    CREATE FUNCTION f(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO ledger VALUES (id); PERFORM pg_sleep(args::float8); END $$;
    CREATE PROCEDURE p(id bigint, args jsonb) LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO ledger VALUES (id); PERFORM pg_sleep(args::float8); END $$;
    SELECT pgq.configure(queue, keep_done => '1 day', max_attempts => 1), pgq.register(queue, queue)
      FROM unnest(ARRAY['f', 'p']) AS queue;";

fn start(workers: usize) -> (Server, Client) {
    let server = Server::builder().conf("pgq.max_workers", workers).start();
    let client = server.create_database("app");
    (server, client)
}

/// Puts a job and waits until a worker is inside its handler's pg_sleep.
fn running(client: &mut Client, put: &str) -> i64 {
    let id: i64 = one(client, put);
    let sleeps = format!(
        "pgq.running AS r JOIN pg_stat_activity AS a USING (pid)
          WHERE r.job = {id} AND a.wait_event = 'PgSleep'"
    );
    wait_until(PATIENCE, "the job to run", || count(client, &sleeps) == 1);
    id
}

/// (state, SQLSTATE of the error) that pgq.wait ends with.
fn outcome(client: &mut Client, id: i64) -> (String, String) {
    let sql = format!("SELECT state, coalesce(error ->> 'sqlstate', '') FROM pgq.wait({id}, '60 s')");
    let row = client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    (row.get(0), row.get(1))
}

fn is(state: &str, sqlstate: &str) -> (String, String) {
    (state.to_owned(), sqlstate.to_owned())
}

/// What is typed while a job runs: (expression, answer while a function runs, while a procedure runs).
const WHILE_RUNNING: [(&str, &str, &str); 10] = [
    ("pgq.put('Q', '0', key => 'k') > ID", "true", "true"),
    ("pgq.put('Q', '0', key => 'k', on_conflict => 'replace') > ID", "true", "true"),
    ("pgq.cancel(ID)", "running", "leased"),
    ("pgq.retry(ID)", "false", "false"),
    ("pgq.fail(ID, 7) IS NULL", "true", "true"),
    ("pgq.complete(ID, 7)", "false", "false"),
    ("pgq.release(ID, 7)", "false", "false"),
    ("pgq.purge('Q', 'scheduled')", "0", "0"),
    ("pgq.purge('Q', 'ready')", "1", "1"),
    ("pgq.waiting(ID) LIKE 'running in process %'", "true", "true"),
];

#[test]
fn nothing_waits_for_a_running_job() {
    let (_server, mut client) = start(4);
    run(&mut client, SLEEPERS);
    for queue in ["f", "p"] {
        run(&mut client, &format!("SELECT pgq.register('{queue}', '{queue}', concurrency => 1)"));
    }
    let f = running(&mut client, "SELECT pgq.put('f', '10', key => 'k')");
    let p = running(&mut client, "SELECT pgq.put('p', '10', key => 'k')");
    let mut longest = Duration::ZERO;
    for (expression, of_function, of_procedure) in WHILE_RUNNING {
        for (queue, id, expected) in [("f", f, of_function), ("p", p, of_procedure)] {
            let expression = expression.replace('Q', queue).replace("ID", &id.to_string());
            let sql = format!("SELECT ({expression})::text");
            let (answer, took) = timed(|| one::<String>(&mut client, &sql));
            assert_eq!(answer, expected, "{sql}");
            assert!(took < AT_ONCE, "{sql} took {took:?}");
            longest = longest.max(took);
        }
    }
    for id in [f, p] {
        let (error, took) = timed(|| client.batch_execute(&format!("SELECT pgq.run({id})")));
        let error = error.expect_err("a running job cannot be run here");
        assert_eq!(error.code().map(|code| code.code()), Some("55000"));
        longest = longest.max(took);
    }
    let (_, took) = timed(|| one::<i64>(&mut client, "SELECT count(*) FROM pgq.stats()"));
    longest = longest.max(took);
    assert!(longest < AT_ONCE, "{longest:?}");
    println!("the longest call took {:.1} ms", longest.as_secs_f64() * 1e3);
    for id in [f, p] {
        assert_eq!(outcome(&mut client, id), is("done", ""), "undisturbed");
    }
    assert_eq!(count(&mut client, "ledger"), 2);
}

#[test]
fn the_key_of_a_running_job_is_free_and_a_failed_run_returns_without_it() {
    let (_server, mut client) = start(4);
    run(
        &mut client,
        "CREATE FUNCTION fails(args jsonb) RETURNS void LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_sleep(args::float8); RAISE 'no'; END $$;
         SELECT pgq.register('q', 'fails', concurrency => 1, backoff => '1 h')",
    );
    let first = running(&mut client, "SELECT pgq.put('q', '1', key => 'k')");
    let second: i64 = one(&mut client, "SELECT pgq.put('q', '0', key => 'k', delay => '1 h')");
    assert_ne!(first, second);
    assert_eq!(one::<i64>(&mut client, "SELECT pgq.put('q', key => 'k')"), second);
    let state = format!("SELECT state || coalesce(key, '-') FROM pgq.job WHERE id = {first}");
    wait_until(PATIENCE, "the failed run to be recorded", || one::<String>(&mut client, &state) == "scheduled-");
    let failures = format!("SELECT failures FROM pgq.job WHERE id = {first}");
    assert_eq!(one::<i32>(&mut client, &failures), 1);
    let kept = format!("pgq.job WHERE id = {second} AND key = 'k'");
    assert_eq!(count(&mut client, &kept), 1);
}

#[test]
fn a_forced_cancel_interrupts_the_job_and_nothing_else() {
    let (_server, mut client) = start(4);
    run(&mut client, SLEEPERS);
    run(
        &mut client,
        "CREATE FUNCTION stubborn(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            BEGIN PERFORM pg_sleep(args::float8); EXCEPTION WHEN query_canceled THEN NULL; END;
            INSERT INTO ledger VALUES (0); END $$;
         SELECT pgq.register('s', 'stubborn')",
    );
    for queue in ["f", "p", "s"] {
        let id = running(&mut client, &format!("SELECT pgq.put('{queue}', '60')"));
        let pid: i32 = one(&mut client, &format!("SELECT pid FROM pgq.running WHERE job = {id}"));
        let cancel = format!("SELECT pgq.cancel({id}, force => true)");
        let (answer, took) = timed(|| one::<String>(&mut client, &cancel));
        assert_eq!(answer, "running", "{queue}");
        assert!(took < AT_ONCE, "{queue}: {took:?}");
        let (state, ended) = timed(|| outcome(&mut client, id));
        assert_eq!(state.0, "cancelled", "{queue}");
        assert!(ended < Duration::from_secs(10), "{queue}: {ended:?}");
        println!("{queue}: cancelled after {:.1} ms", ended.as_secs_f64() * 1e3);
        // Its worker goes on, and the next job is not hit by a cancel that came late.
        let next: i64 = one(&mut client, &format!("SELECT pgq.put('{queue}', '0.2')"));
        let alive = format!("pg_stat_activity WHERE pid = {pid}");
        assert_eq!(count(&mut client, &alive), 1, "{queue}: the worker lives");
        let expected = if queue == "s" { "gone" } else { "done" };
        assert_eq!(outcome(&mut client, next), is(expected, ""), "{queue}");
    }
    assert_eq!(count(&mut client, "ledger"), 3, "a cancelled job left effects");
    let gone: bool = one(&mut client, "SELECT pgq.cancel(-1, true) IS NULL");
    assert!(gone);
}

/// Somebody has the leased row locked as its procedure ends: the end is recorded when he lets go, and
/// the procedure does not run again.
#[test]
fn a_procedure_whose_row_is_locked_as_it_ends_completes_once() {
    let (server, mut client) = start(2);
    run(&mut client, SLEEPERS);
    let mut other = server.connect("app");
    for end in ["ROLLBACK", "COMMIT"] {
        let id = running(&mut client, "SELECT pgq.put('p', '0.5')");
        run(&mut other, &format!("BEGIN; SELECT FROM pgq.job WHERE id = {id} FOR UPDATE"));
        let asleep = "pg_stat_activity WHERE backend_type = 'pgq executor' AND wait_event = 'PgSleep'";
        wait_until(PATIENCE, "the procedure to end", || count(&mut client, asleep) == 0);
        // As long as it takes to run another job to its end.
        let next: i64 = one(&mut client, "SELECT pgq.put('f', '0.2')");
        assert_eq!(outcome(&mut client, next), is("done", ""));
        run(&mut other, end);
        assert_eq!(outcome(&mut client, id), is("done", ""), "{end}");
        let runs = format!("ledger WHERE id = {id}");
        assert_eq!(count(&mut client, &runs), 1, "{end}: it ran again");
    }
}

/// The mark of the first cancel must not hit the second run, which is short.
#[test]
fn a_cancelled_job_that_is_retried_runs() {
    let (_server, mut client) = start(1);
    let body = "BEGIN PERFORM pg_sleep(CASE job.attempt WHEN 1 THEN 60 ELSE 0 END); END";
    for (kind, returns, queue) in [("FUNCTION", "RETURNS void", "f"), ("PROCEDURE", "", "p")] {
        run(
            &mut client,
            &format!(
                "CREATE {kind} {queue}(job pgq.job) {returns} LANGUAGE plpgsql AS $$ {body} $$;
                 SELECT pgq.register('{queue}', '{queue}'), pgq.configure('{queue}', keep_done => '1 day')"
            ),
        );
        let id = running(&mut client, &format!("SELECT pgq.put('{queue}')"));
        let cancel = format!("SELECT pgq.cancel({id}, force => true)");
        assert_eq!(one::<String>(&mut client, &cancel), "running", "{queue}");
        assert_eq!(outcome(&mut client, id).0, "cancelled", "{queue}");
        assert!(one::<bool>(&mut client, &format!("SELECT pgq.retry({id})")));
        assert_eq!(outcome(&mut client, id).0, "done", "{queue}");
    }
}

/// A signal for a job that has just ended reaches a worker that has none.
#[test]
fn a_cancel_that_reaches_idle_workers_loses_nothing() {
    let (_server, mut client) = start(2);
    run(&mut client, SLEEPERS);
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let id: i64 = one(&mut client, "SELECT pgq.put('f', '0')");
        assert_eq!(outcome(&mut client, id), is("done", ""));
        let signal = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                       WHERE backend_type LIKE 'pgq %'";
        assert!(one::<i64>(&mut client, signal) >= 1);
        let (id, took) = timed(|| {
            let id: i64 = one(&mut client, "SELECT pgq.put('f', '0')");
            assert_eq!(outcome(&mut client, id), is("done", ""));
            id
        });
        assert!(took < Duration::from_secs(20), "job {id} took {took:?}");
        longest = longest.max(took);
    }
    println!("a job after signals to all workers took at most {:.1} ms", longest.as_secs_f64() * 1e3);
    assert_eq!(count(&mut client, "ledger"), 40);
}

#[test]
fn a_waiting_job_is_cancelled_by_its_row() {
    let (_server, mut client) = start(2);
    for put in ["pgq.put('q')", "pgq.put('q', delay => '1 h')"] {
        let id: i64 = one(&mut client, &format!("SELECT {put}"));
        let cancel = format!("SELECT pgq.cancel({id})");
        assert_eq!(one::<String>(&mut client, &cancel), "cancelled");
        assert_eq!(outcome(&mut client, id), is("cancelled", ""));
        assert!(one::<bool>(&mut client, &format!("SELECT pgq.retry({id})")));
        assert_eq!(count(&mut client, &format!("pgq.job WHERE id = {id}")), 1);
    }
}

#[test]
fn a_paused_queue_finishes_what_runs_and_starts_nothing() {
    let (_server, mut client) = start(4);
    run(&mut client, SLEEPERS);
    let runs = running(&mut client, "SELECT pgq.put('f', '1')");
    for queue in ["'f'", "NULL"] {
        run(&mut client, &format!("SELECT pgq.pause({queue})"));
        let waits: i64 = one(&mut client, "SELECT pgq.put('f', '0')");
        assert_eq!(outcome(&mut client, runs).0, "done");
        assert_eq!(count(&mut client, "pgq.claim('f', 10)"), 0);
        let why = format!("SELECT pgq.waiting({waits}) LIKE '%paused%'");
        assert!(one::<bool>(&mut client, &why));
        // Another queue shows that the workers had time for it.
        if queue == "'f'" {
            let other: i64 = one(&mut client, "SELECT pgq.put('p', '0.5')");
            assert_eq!(outcome(&mut client, other).0, "done");
        }
        assert_eq!(count(&mut client, &format!("ledger WHERE id = {waits}")), 0);
        let paused = "SELECT paused FROM pgq.stats('f')";
        assert!(one::<bool>(&mut client, paused));
        assert!(one::<i64>(&mut client, &format!("SELECT pgq.resume({queue})")) >= 1);
        assert_eq!(outcome(&mut client, waits), is("done", ""));
    }
}

#[test]
fn a_job_that_takes_too_long_is_stopped_and_charged() {
    let (_server, mut client) = start(4);
    run(&mut client, SLEEPERS);
    run(
        &mut client,
        "CREATE FUNCTION stubborn(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            BEGIN PERFORM pg_sleep(args::float8); EXCEPTION WHEN query_canceled THEN NULL; END;
            INSERT INTO ledger VALUES (0); END $$;
         CREATE FUNCTION loops(args jsonb) RETURNS void LANGUAGE plpgsql
            AS $$ BEGIN WHILE args <> '0' LOOP END LOOP; END $$;
         SELECT pgq.register(q, h, timeout => '300 ms', max_attempts => 1) FROM
            (VALUES ('f', 'f'), ('p', 'p'), ('s', 'stubborn'), ('l', 'loops')) AS v (q, h)",
    );
    for queue in ["f", "p", "s", "l"] {
        // The put too: it may run before the put returns.
        let (state, took) = timed(|| {
            let id = one(&mut client, &format!("SELECT pgq.put('{queue}', '60')"));
            outcome(&mut client, id)
        });
        assert_eq!(state, is("dead", "57014"), "{queue}");
        println!("{queue}: stopped after {:.0} ms of 300", took.as_secs_f64() * 1e3);
        assert!(took >= Duration::from_millis(280), "{queue}: {took:?}");
        assert!(took < Duration::from_secs(5), "{queue}: {took:?}");
        let next: i64 = one(&mut client, &format!("SELECT pgq.put('{queue}', '0')"));
        assert!(["done", "gone"].contains(&outcome(&mut client, next).0.as_str()));
    }
    // The setting holds where the handler says nothing.
    run(&mut client, "SELECT pgq.register('f', 'f', max_attempts => 1)");
    // By a session that has called pgq: any other does not know its settings unless it is preloaded.
    run(&mut client, "ALTER SYSTEM SET pgq.job_timeout = '200ms'");
    run(&mut client, "SELECT pg_reload_conf()");
    // An executor hears of it when the signal reaches it: a job that it took before that runs without a limit.
    wait_until(PATIENCE, "the new limit to stop a job", || {
        let id: i64 = one(&mut client, "SELECT pgq.put('f', '2')");
        outcome(&mut client, id) == is("dead", "57014")
    });
}

/// Handlers of each shape, as functions and as procedures, and what each was given.
#[test]
fn handlers_of_every_shape_get_their_arguments() {
    let (_server, mut client) = start(4);
    run(&mut client, "CREATE TABLE got (queue text, what text)");
    let shapes = [
        ("nothing", "", "'-'"),
        ("args", "args jsonb", "args::text"),
        ("id_args", "id bigint, args jsonb", "id || ' ' || args::text"),
        (
            "job",
            "job pgq.job",
            "concat_ws(' ', job.id, job.queue, job.task, job.args, job.priority,
            job.attempt, job.failures, job.max_attempts, job.key, job.state)",
        ),
    ];
    for (shape, parameters, expression) in shapes {
        for (kind, returns, queue) in
            [("FUNCTION", "RETURNS void", format!("f.{shape}")), ("PROCEDURE", "", format!("p.{shape}"))]
        {
            let name = queue.replace('.', "_");
            run(
                &mut client,
                &format!(
                    "CREATE {kind} {name}({parameters}) {returns} LANGUAGE plpgsql AS $$ BEGIN
                        INSERT INTO got VALUES ('{queue}', {expression}); END $$;
                     SELECT pgq.register('{queue}', '{name}', task => 't');
                     SELECT pgq.configure('{queue}', keep_done => '1 day')"
                ),
            );
            let put = format!(
                "SELECT pgq.put('{queue}', '{{\"a\": [1, null]}}', 3, task => 't', key => 'k', max_attempts => 9)"
            );
            let id: i64 = one(&mut client, &put);
            assert_eq!(outcome(&mut client, id), is("done", ""), "{queue}");
            let got: String = one(&mut client, &format!("SELECT what FROM got WHERE queue = '{queue}'"));
            let args = "{\"a\": [1, null]}";
            let expected = match shape {
                "nothing" => "-".to_owned(),
                "args" => args.to_owned(),
                "id_args" => format!("{id} {args}"),
                _ => format!("{id} {queue} t {args} 3 1 0 9 k "),
            };
            // The word of the state is not part of what a handler is promised.
            assert!(got.starts_with(&expected), "{queue}: {got}");
        }
    }
}

#[test]
fn results_are_kept_where_the_queue_keeps_done_jobs() {
    let (_server, mut client) = start(2);
    let results = [
        ("jsonb", "'{\"a\": 1}'::jsonb", "{\"a\": 1}"),
        ("int", "42", "42"),
        ("text", "'forty \"two\"'::text", "\"forty \\\"two\\\"\""),
        ("int[]", "ARRAY[1, NULL]", "[1, null]"),
        ("date", "'2020-02-29'::date", "\"2020-02-29\""),
        ("boolean", "NULL::boolean", ""),
        ("void", "NULL", ""),
    ];
    for (n, (kind, expression, expected)) in results.into_iter().enumerate() {
        run(
            &mut client,
            &format!(
                "CREATE FUNCTION h{n}() RETURNS {kind} LANGUAGE sql AS $$ SELECT {expression} $$;
                 SELECT pgq.register('q{n}', 'h{n}')"
            ),
        );
        for keep in [false, true] {
            if keep {
                run(&mut client, &format!("SELECT pgq.configure('q{n}', keep_done => '1 day')"));
            }
            let id: i64 = one(&mut client, &format!("SELECT pgq.put('q{n}')"));
            let wait = format!("SELECT state || coalesce(' ' || result::text, '') FROM pgq.wait({id})");
            let answer: String = one(&mut client, &wait);
            let kept = format!("done {expected}");
            assert_eq!(answer, if keep { kept.trim() } else { "gone" }, "{kind}");
        }
    }
    assert_eq!(count(&mut client, "pgq.finished_job"), 7);
}

#[test]
fn current_job_is_the_one_that_runs() {
    let (_server, mut client) = start(2);
    run(
        &mut client,
        "CREATE TABLE got (id bigint, own bigint, attempt int);
         CREATE FUNCTION f(id bigint, args jsonb) RETURNS void LANGUAGE sql SECURITY DEFINER
            AS $$ INSERT INTO got SELECT f.id, c.id, c.attempt FROM pgq.current_job() AS c $$;
         CREATE PROCEDURE p(id bigint, args jsonb) LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO got SELECT p.id, c.id, c.attempt FROM pgq.current_job() AS c; COMMIT;
            INSERT INTO got SELECT p.id, c.id, c.attempt FROM pgq.current_job() AS c; END $$;
         SELECT pgq.register('f', 'f'), pgq.register('p', 'p');
         SELECT pgq.put('f') FROM generate_series(1, 200); SELECT pgq.put('p')",
    );
    wait_until(PATIENCE, "all jobs", || count(&mut client, "got") == 202);
    let wrong = "got WHERE own IS DISTINCT FROM id OR attempt IS DISTINCT FROM 1";
    assert_eq!(count(&mut client, wrong), 0);
    let outside = "pgq.current_job() AS c WHERE c.id IS NOT NULL";
    assert_eq!(count(&mut client, outside), 0, "outside a handler");
}

/// Each run takes one of two locks; a third at the same time would find none and die.
#[test]
fn no_more_than_its_concurrency_run_at_a_time() {
    let (_server, mut client) = start(8);
    for (kind, returns) in [("FUNCTION", "RETURNS void"), ("PROCEDURE", "")] {
        run(
            &mut client,
            &format!(
                "CREATE {kind} {kind}_h() {returns} LANGUAGE plpgsql AS $$ BEGIN
                    IF NOT (pg_try_advisory_xact_lock(1) OR pg_try_advisory_xact_lock(2)) THEN
                        RAISE 'a third one';
                    END IF;
                    PERFORM pg_sleep(0.02); END $$;
                 SELECT pgq.register('{kind}', '{kind}_h', concurrency => 2, max_attempts => 1);
                 SELECT pgq.put('{kind}') FROM generate_series(1, 100)"
            ),
        );
        let mut most = 0;
        wait_until(PATIENCE, "all jobs", || {
            most = most.max(count(&mut client, "pgq.running"));
            count(&mut client, "pgq.job") == 0
        });
        assert_eq!(count(&mut client, "pgq.dead"), 0, "{kind}");
        assert_eq!(most, 2, "{kind}: as many as allowed");
    }
}
