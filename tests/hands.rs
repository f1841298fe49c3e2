//! What jobs find of those before them in the same worker; workers that are replaced for their age, their
//! memory or new settings; and those that keep dying. T47 and T59 of the torture parts do the first at length.

use pgq_tests::{count, one, run, timed, wait_for, wait_until, Server};
use postgres::Client;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

const SETUP: &str = "
    CREATE ROLE app LOGIN;
    CREATE ROLE other;
    GRANT other TO app;
    GRANT USAGE ON SCHEMA pgq TO app;
    GRANT EXECUTE ON FUNCTION pgq.put TO app;
    CREATE TABLE seen (what text, pid int DEFAULT pg_backend_pid(), at timestamptz DEFAULT clock_timestamp());
    GRANT ALL ON seen TO PUBLIC;
    GRANT ALL ON SCHEMA public TO app;";

/// A server with one executor at a time, unless said otherwise.
fn start(settings: &[(&str, &str)]) -> (Server, Client) {
    let builder = Server::builder().preload(true).conf("pgq.max_workers", 1);
    let server = settings.iter().fold(builder, |builder, (name, value)| builder.conf(name, value)).start();
    let mut client = server.create_database("shop");
    run(&mut client, SETUP);
    (server, client)
}

/// A function of this body for a queue of its name, run as `app`.
fn handler(client: &mut Client, name: &str, body: &str) {
    run(
        client,
        &format!(
            "CREATE FUNCTION {name}(args jsonb) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$;
             SELECT pgq.register('{name}', '{name}', run_as => 'app', max_attempts => 1)"
        ),
    );
}

/// Puts one job and waits until there is one line more: (what, pid).
fn seen(client: &mut Client, queue: &str) -> (String, i32) {
    let before = count(client, "seen");
    run(client, &format!("SELECT pgq.put('{queue}')"));
    wait_until(PATIENCE, "the job to be seen", || count(client, "seen") > before);
    let row = client.query_one("SELECT what, pid FROM seen ORDER BY at DESC LIMIT 1", &[]).expect("a line");
    (row.get(0), row.get(1))
}

fn lines(server: &Server, with: &str) -> usize {
    server.log().lines().filter(|line| line.contains(with)).count()
}

#[test]
fn jobs_that_leave_objects_behind_do_not_disturb_the_next_of_their_handler() {
    let (_server, mut client) = start(&[("pgq.log_jobs", "none")]);
    handler(
        &mut client,
        "leaves",
        "CREATE TEMP TABLE scratch (n int);
         EXECUTE 'PREPARE p AS SELECT 1';
         EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1';
         PERFORM pg_advisory_lock(1);
         INSERT INTO seen SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';",
    );
    run(&mut client, "SELECT pgq.put('leaves') FROM generate_series(1, 200)");
    wait_until(PATIENCE, "all jobs", || count(&mut client, "pgq.job") == 0);
    assert_eq!(count(&mut client, "seen WHERE what = '1'"), 200);
    assert_eq!(count(&mut client, "pgq.dead"), 0);
    let held = "pg_locks WHERE locktype = 'advisory'";
    assert_eq!(count(&mut client, held), 0, "a client gets the lock while the worker idles");
}

/// What README says of sequences and the seed.
#[test]
fn sequences_and_the_seed_stay_for_the_same_handler_only() {
    let (_server, mut client) = start(&[]);
    run(&mut client, "CREATE SEQUENCE numbers; GRANT ALL ON numbers TO app");
    let look = "INSERT INTO seen VALUES (lastval() || ' ' || (random() = (SELECT r FROM seeded)));";
    run(&mut client, "CREATE TABLE seeded (r float8); GRANT SELECT ON seeded TO app");
    run(&mut client, "DO 'BEGIN PERFORM setseed(0.1); INSERT INTO seeded VALUES (random()); END'");
    let uses = format!(
        "IF NOT EXISTS (SELECT FROM seen) THEN
             PERFORM nextval('numbers'), setseed(0.1);
             INSERT INTO seen VALUES ('used');
         ELSE {look} END IF;"
    );
    handler(&mut client, "uses", &uses);
    handler(
        &mut client,
        "looks",
        &format!("BEGIN {look} EXCEPTION WHEN OTHERS THEN INSERT INTO seen VALUES (SQLSTATE); END;"),
    );
    let (what, pid) = seen(&mut client, "uses");
    assert_eq!(what, "used");
    assert_eq!(seen(&mut client, "uses"), ("1 true".to_owned(), pid));
    assert_eq!(seen(&mut client, "looks"), ("55000".to_owned(), pid), "lastval is not yet defined");
}

#[test]
fn handlers_act_as_their_role_whatever_alter_role_set_role_says() {
    let (_server, mut client) = start(&[]);
    run(&mut client, "ALTER ROLE app SET role = other");
    let who = "INSERT INTO seen VALUES (concat_ws(' ', session_user, current_user, current_setting('role')));";
    handler(&mut client, "looks", who);
    handler(&mut client, "resets", &format!("SET ROLE other; RESET ROLE; {who}"));
    run(
        &mut client,
        &format!(
            "CREATE PROCEDURE commits(args jsonb) LANGUAGE plpgsql AS $$ BEGIN
                SET ROLE other; COMMIT; RESET ROLE; COMMIT; {who} SET ROLE other; END $$;
             SELECT pgq.register('commits', 'commits', run_as => 'app')"
        ),
    );
    for queue in ["looks", "resets", "commits", "looks"] {
        assert_eq!(seen(&mut client, queue).0, "app app none", "{queue}");
    }
}

/// Nothing that an honest handler does makes it fail, so a catalog is damaged: a temporary function that is not there.
#[test]
fn a_worker_that_cannot_clean_its_session_leaves_with_one_line() {
    let (server, mut client) = start(&[]);
    handler(&mut client, "looks", "INSERT INTO seen VALUES ('');");
    run(
        &mut client,
        "CREATE FUNCTION damages() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
            DELETE FROM pg_proc WHERE oid = 'pg_temp.f()'::regprocedure;
            INSERT INTO seen VALUES ('damaged'); END $$;
         SELECT pgq.register('damages', 'damages', run_as => 'postgres')",
    );
    let (what, pid) = seen(&mut client, "damages");
    assert_eq!(what, "damaged");
    wait_until(PATIENCE, "the worker to leave", || {
        count(&mut client, &format!("pg_stat_activity WHERE pid = {pid}")) == 0
    });
    assert_ne!(seen(&mut client, "looks").1, pid);
    assert_eq!(count(&mut client, "pgq.job"), 0, "the job itself was done");
    assert_eq!(lines(&server, "could not clean its session"), 1);
}

#[test]
fn workers_are_replaced_when_they_are_old_and_no_job_notices() {
    let (server, mut client) = start(&[("pgq.max_worker_age", "1s")]);
    handler(&mut client, "looks", "INSERT INTO seen VALUES (args->>'at');");
    let began = Instant::now();
    let mut put = 0;
    while began.elapsed() < Duration::from_secs(6) {
        run(&mut client, "SELECT pgq.put('looks', jsonb_build_object('at', clock_timestamp()))");
        put += 1;
    }
    wait_until(PATIENCE, "all jobs", || count(&mut client, "pgq.job") == 0);
    assert_eq!(count(&mut client, "seen"), put);
    let workers: i64 = one(&mut client, "SELECT count(DISTINCT pid) FROM seen");
    let worst: f64 =
        one(&mut client, "SELECT (max(extract(epoch FROM at - what::timestamptz)) * 1000)::float8 FROM seen");
    println!("{put} jobs, {workers} workers in 6 s, the longest wait {worst:.0} ms");
    assert!((3..=8).contains(&workers), "{workers}");
    // Ten times what the start of a process takes on a busy machine.
    assert!(worst < 1_000.0, "{worst}");
    assert_eq!(lines(&server, "pgq executor"), 0, "not a line about it: {}", server.log_tail());
}

#[test]
fn workers_are_replaced_when_their_memory_has_grown() {
    let (_server, mut client) = start(&[("pgq.max_worker_memory", "30MB")]);
    handler(&mut client, "looks", "INSERT INTO seen VALUES ('');");
    // What is looked up and not there is remembered in the catalog cache, for ever.
    let grows =
        "PERFORM to_regclass('nothing_' || n) FROM generate_series(1, 300000) AS n; INSERT INTO seen VALUES ('');";
    handler(&mut client, "grows", grows);
    let (_, pid) = seen(&mut client, "looks");
    // Measured once a second, and not in the first one.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(seen(&mut client, "looks").1, pid, "a small one stays");
    assert_eq!(seen(&mut client, "grows").1, pid);
    let successor = wait_for(PATIENCE, "another worker", || {
        let (_, now) = seen(&mut client, "looks");
        (now != pid).then_some(now)
    });
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(seen(&mut client, "looks").1, successor);
}

#[test]
fn a_changed_setting_of_the_role_or_the_database_holds_for_the_next_job() {
    let (server, mut client) = start(&[]);
    handler(&mut client, "looks", "INSERT INTO seen VALUES (current_setting('work_mem'));");
    let mut last = seen(&mut client, "looks");
    assert_eq!(last.0, "4MB");
    for (change, expected) in [
        ("ALTER ROLE app SET work_mem = '5MB'", "5MB"),
        ("ALTER ROLE app SET work_mem = '6MB'", "6MB"),
        ("ALTER ROLE app IN DATABASE shop SET work_mem = '7MB'", "7MB"),
        ("ALTER ROLE app IN DATABASE shop RESET work_mem", "6MB"),
        ("ALTER ROLE app RESET ALL", "4MB"),
        ("ALTER DATABASE shop SET work_mem = '8MB'", "8MB"),
        ("ALTER ROLE ALL SET work_mem = '9MB'", "8MB"),
        ("ALTER DATABASE shop RESET ALL", "9MB"),
    ] {
        run(&mut client, change);
        let (next, took) = timed(|| seen(&mut client, "looks"));
        assert_eq!(next.0, expected, "{change}");
        assert_ne!(next.1, last.1, "{change}: another process");
        assert!(took < Duration::from_secs(1), "{change}: {took:?}");
        last = next;
    }
    // Somebody else's are no reason.
    run(&mut client, "ALTER ROLE other SET work_mem = '1MB'; ALTER DATABASE postgres SET work_mem = '1MB'");
    assert_eq!(seen(&mut client, "looks"), last);
    assert_eq!(lines(&server, "held back"), 0);
}

#[test]
fn a_handler_that_ends_its_own_process_is_held_back_and_nobody_else() {
    let (server, mut client) = start(&[("pgq.max_workers", "4")]);
    run(&mut client, "CREATE ROLE calm LOGIN");
    handler(&mut client, "dies", "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60);");
    handler(&mut client, "looks", "INSERT INTO seen VALUES ('');");
    run(&mut client, "SELECT pgq.register('looks', 'looks', run_as => 'calm')");
    let began = Instant::now();
    run(&mut client, "SELECT pgq.put('dies') FROM generate_series(1, 100)");
    while began.elapsed() < Duration::from_secs(10) {
        let (_, took) = timed(|| seen(&mut client, "looks"));
        assert!(took < Duration::from_secs(1), "another role's jobs run on: {took:?}");
    }
    let deaths = lines(&server, "terminating background worker \"pgq executor\"");
    println!("{deaths} deaths in 10 s");
    // Up to three executors at once, four times: at first, and after one second, three and seven. Not hundreds.
    assert!((4..=20).contains(&deaths), "{deaths}");
    assert_eq!(lines(&server, "starting them is held back"), 1, "one line when it begins");
    // Held back is not given up.
    run(&mut client, "SELECT pgq.purge('dies', 'ready')");
    run(&mut client, "SELECT pgq.register('looks', 'looks', run_as => 'app')");
    seen(&mut client, "looks");
}

#[test]
fn a_scheduler_that_keeps_ending_is_held_back_with_one_line() {
    let (server, mut client) = start(&[]);
    handler(&mut client, "looks", "INSERT INTO seen VALUES ('');");
    seen(&mut client, "looks");
    let began = Instant::now();
    let mut ended = 0;
    let mut last = 0;
    while began.elapsed() < Duration::from_secs(5) {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgq scheduler' AND datname = 'shop'";
        let row = client.query_opt(sql, &[]).expect("a superuser may look");
        let Some(pid) = row.map(|row| row.get::<_, i32>(0)).filter(|pid| *pid != last) else { continue };
        run(&mut client, &format!("SELECT pg_terminate_backend({pid}, 10000)"));
        (ended, last) = (ended + 1, pid);
    }
    println!("{ended} schedulers in 5 s");
    assert!((4..=60).contains(&ended), "{ended}");
    assert_eq!(lines(&server, "starting them is held back"), 1);
    // A job that only a scheduler makes due.
    run(&mut client, "SELECT pgq.put('looks', delay => '10 ms')");
    wait_until(PATIENCE, "a scheduler to be back", || count(&mut client, "seen") == 2);
}
