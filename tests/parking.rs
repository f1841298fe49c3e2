//! Parking: a role or function that changes parks its own handlers, with a reason in words and the command that
//! mends it, and nobody else's. No job is touched, no attempt is used up, and the log has a line for each change.

use std::time::Duration;

use pgq_tests::server::Builder;
use pgq_tests::{count, one, run, wait_for, wait_until, Ledger, Server};
use postgres::Client;

const PATIENCE: Duration = Duration::from_secs(60);
/// What the catalog shows is seen at the next look, at most a second later: ten times that.
const NEXT_LOOK: Duration = Duration::from_secs(10);

/// A role `app` with a schema and a handler of its own, which anybody may execute, and a role `calm` with another.
const SETUP: &str = "
    CREATE ROLE app LOGIN; CREATE ROLE calm LOGIN; CREATE ROLE eve;
    REVOKE CONNECT ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO app, calm;
    CREATE SCHEMA app AUTHORIZATION app; CREATE SCHEMA calm AUTHORIZATION calm;
    CREATE FUNCTION app.f(id bigint, args jsonb) RETURNS void LANGUAGE sql
        AS 'INSERT INTO public.ledger VALUES (id)';
    CREATE FUNCTION calm.f(id bigint, args jsonb) RETURNS void LANGUAGE sql
        AS 'INSERT INTO public.ledger VALUES (id)';
    ALTER FUNCTION app.f OWNER TO app; ALTER FUNCTION calm.f OWNER TO calm;
    SELECT pgq.register('app', 'app.f', run_as => 'app'), pgq.register('calm', 'calm.f', run_as => 'calm')";

fn start() -> (Server, Client, Ledger) {
    start_with(|builder| builder)
}

fn start_with(describe: impl FnOnce(Builder) -> Builder) -> (Server, Client, Ledger) {
    let server = describe(Server::builder()).start();
    let mut client = server.create_database("shop");
    let ledger = Ledger::create(&mut client, "ledger");
    run(&mut client, SETUP);
    (server, client, ledger)
}

fn put(client: &mut Client, queue: &str, n: usize) -> Vec<i64> {
    let sql = format!("SELECT pgq.bulk_put('{queue}', args => array_fill('{{}}'::jsonb, ARRAY[{n}]))");
    client.query(&sql, &[]).expect("bulk_put").iter().map(|row| row.get(0)).collect()
}

fn drained(client: &mut Client, queue: &str) {
    let left = format!("pgq.job WHERE queue = '{queue}'");
    wait_until(PATIENCE, &format!("queue {queue} to be drained"), || count(client, &left) == 0);
}

fn recorded(client: &mut Client, queue: &str) -> Option<String> {
    one(client, &format!("SELECT parked FROM pgq.handler WHERE queue = '{queue}'"))
}

/// Says everywhere what is expected, in these words; and gives the command.
fn is_parked(client: &mut Client, id: i64, reason: &str) -> String {
    wait_until(NEXT_LOOK, &format!("the record of: {reason}"), || recorded(client, "app").as_deref() == Some(reason));
    assert_eq!(one::<String>(client, "SELECT parked FROM pgq.stats('app')"), reason);
    let waiting: String = one(client, &format!("SELECT pgq.waiting({id})"));
    assert_eq!(waiting, format!("its handler is parked: {reason}"));
    let sql = "SELECT detail, fix FROM pgq.doctor() WHERE check_name = 'parked handlers' AND NOT ok";
    let rows = client.query(sql, &[]).expect("pgq.doctor");
    assert_eq!(rows.len(), 1, "nobody else's handler is parked");
    let (detail, fix): (String, String) = (rows[0].get(0), rows[0].get(1));
    assert!(detail.starts_with("queue \"app\"") && detail.ends_with(reason), "{detail}");
    fix
}

/// (what breaks it, the reason, what doctor's command needs besides)
const CHANGES: &[(&str, &str, &str)] = &[
    ("ALTER ROLE app NOLOGIN", "role \"app\" may not log in", ""),
    (
        "REVOKE CONNECT ON DATABASE shop FROM app",
        "role \"app\" may not connect to database \"shop\"",
        "",
    ),
    (
        "ALTER SCHEMA app OWNER TO postgres; REVOKE ALL ON SCHEMA app FROM app",
        "role \"app\" may not use schema \"app\"",
        "",
    ),
    (
        "REVOKE ALL ON FUNCTION app.f FROM PUBLIC, app",
        "role \"app\" may not execute app.f(bigint, jsonb)",
        "",
    ),
    (
        "REASSIGN OWNED BY app TO eve; GRANT USAGE ON SCHEMA app TO app; GRANT EXECUTE ON FUNCTION app.f TO app",
        "app.f(bigint, jsonb) belongs to \"eve\", who could act as \"app\"",
        "",
    ),
    ("ALTER ROLE app SUPERUSER", "role \"app\" is a superuser, and handlers may not run as one", ""),
    ("ALTER ROLE app RENAME TO web", "role \"app\" has been renamed to \"web\": register again", ""),
    ("ALTER ROLE web RENAME TO app", "role \"web\" has been renamed to \"app\": register again", ""),
    (
        "REASSIGN OWNED BY app TO postgres; DROP OWNED BY app; DROP ROLE app",
        "role \"app\" is gone",
        "GRANT CONNECT ON DATABASE shop TO app; GRANT USAGE ON SCHEMA app TO app; GRANT EXECUTE ON FUNCTION app.f TO app;",
    ),
    (
        "REASSIGN OWNED BY app TO postgres; DROP OWNED BY app; DROP ROLE app; CREATE ROLE app LOGIN;
         GRANT CONNECT ON DATABASE shop TO app; GRANT USAGE ON SCHEMA app TO app; GRANT EXECUTE ON FUNCTION app.f TO app",
        "role \"app\" was re-created: register again",
        "",
    ),
    (
        "DROP FUNCTION app.f",
        "function app.f(bigint, jsonb) does not exist",
        "CREATE FUNCTION app.f(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.ledger VALUES (id)';",
    ),
];

#[test]
fn each_change_parks_its_own_handler_with_its_reason_until_it_is_mended() {
    let (server, mut client, ledger) = start_with(|b| b.conf("pgq.allow_superuser_handlers", "off"));
    let mut all = Vec::new();
    for (n, (change, reason, besides)) in CHANGES.iter().enumerate() {
        all.extend(put(&mut client, "app", 20));
        drained(&mut client, "app");
        // One that was asked for before the change, and comes after it, would be in vain.
        wait_until(NEXT_LOOK, "executors to be there", || {
            count(&mut client, "pgq.executors() WHERE state = 'starting'") == 0
        });
        run(&mut client, change);
        let ids = put(&mut client, "app", 20);
        let fix = is_parked(&mut client, ids[0], reason);
        all.extend(put(&mut client, "calm", 20));
        drained(&mut client, "calm");
        let untouched = "pgq.job WHERE queue = 'app' AND state = 'ready' AND attempt = 0 AND failures = 0";
        assert_eq!(count(&mut client, untouched), 20, "after {change}");
        let lines = || (server.log().matches(" is parked: ").count(), server.log().matches(" runs again").count());
        assert_eq!(lines().0, n + 1, "one line for each change: {change}");
        // A comment says that no command is known.
        let (first, rest) = fix.split_once(';').unwrap_or_default();
        run(&mut client, &format!("{first}; {besides} {rest}"));
        drained(&mut client, "app");
        wait_until(NEXT_LOOK, "the record to go", || recorded(&mut client, "app").is_none());
        all.extend(ids);
    }
    ledger.verify(&mut client, &all).assert_exact();
    let log = server.log();
    assert!(!log.contains("FATAL"), "no executor was started in vain");
    assert!(!log.contains("could not go on") && !log.contains("a look at the queues failed"), "{log}");
}

/// The executor is there and has work. What it has begun it finishes; the next transaction asks again.
#[test]
fn a_connected_executor_stops_when_its_role_may_no_longer_log_in() {
    let (server, mut client, ledger) = start();
    let ids = put(&mut client, "app", 20_000);
    wait_until(PATIENCE, "the first jobs", || count(&mut client, "ledger") > 0);
    run(&mut client, "ALTER ROLE app NOLOGIN");
    is_parked(&mut client, *ids.last().expect("ids"), "role \"app\" may not log in");
    let left = count(&mut client, "pgq.job");
    assert!(left > 0, "the change came in the middle");
    let calm = put(&mut client, "calm", 100);
    drained(&mut client, "calm");
    assert_eq!(count(&mut client, "pgq.job"), left, "nothing runs while it is parked");
    run(&mut client, "ALTER ROLE app LOGIN");
    drained(&mut client, "app");
    ledger.verify(&mut client, &[ids, calm].concat()).assert_exact();
    assert_eq!(server.log().matches(" is parked: ").count(), 1);
}

/// The role owns nothing and has no grant of its own, so that nothing of PostgreSQL's keeps it.
#[test]
fn a_role_is_dropped_under_its_running_job_and_a_thousand_that_wait() {
    for waiting in [0, 1, 1_000] {
        let (_server, mut client, _) = start();
        run(
            &mut client,
            "CREATE ROLE guest LOGIN; GRANT CONNECT ON DATABASE shop TO PUBLIC;
             CREATE FUNCTION slow() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(1)';
             SELECT pgq.register('guest', 'slow', run_as => 'guest', concurrency => 1), pgq.put('guest')",
        );
        let runs = "pgq.running WHERE queue = 'guest'";
        wait_until(PATIENCE, "the job to run", || count(&mut client, runs) == 1);
        let ids = if waiting > 0 { put(&mut client, "guest", waiting) } else { Vec::new() };
        run(&mut client, "DROP ROLE guest");
        let gone = "SELECT parked FROM pgq.stats('guest')";
        assert_eq!(one::<String>(&mut client, gone), "role \"guest\" is gone");
        wait_until(PATIENCE, "the running job to end", || count(&mut client, runs) == 0);
        let executors = "pgq.workers WHERE role IS NULL";
        wait_until(PATIENCE, "its executor to leave", || count(&mut client, executors) == 0);
        let left = "pgq.job WHERE queue = 'guest' AND failures = 0 AND state = 'ready'";
        let waits = count(&mut client, left);
        // What ran when the role went may have ended well or have been rolled back.
        assert!(waits == ids.len() as i64 || waits == ids.len() as i64 + 1, "{waits} of {waiting} wait");
        assert_eq!(count(&mut client, "pgq.job"), waits);
        run(&mut client, "CREATE ROLE guest LOGIN");
        run(&mut client, "CREATE OR REPLACE FUNCTION slow() RETURNS void LANGUAGE sql AS ''");
        assert_eq!(one::<String>(&mut client, gone), "role \"guest\" was re-created: register again");
        run(&mut client, "SELECT pgq.register('guest', 'slow', run_as => 'guest')");
        drained(&mut client, "guest");
    }
}

#[test]
fn superuser_handlers_are_switched_off_and_on_while_they_have_work() {
    let (server, mut client, _) = start();
    run(
        &mut client,
        "ALTER FUNCTION app.f OWNER TO postgres; SELECT pgq.register('app', 'app.f', run_as => 'postgres')",
    );
    put(&mut client, "app", 5);
    drained(&mut client, "app");
    let switch = |client: &mut Client, to: &str| {
        run(client, &format!("ALTER SYSTEM SET pgq.allow_superuser_handlers = {to}"));
        run(client, "SELECT pg_reload_conf()");
    };
    switch(&mut client, "off");
    wait_until(PATIENCE, "the setting", || one::<String>(&mut client, "SHOW pgq.allow_superuser_handlers") == "off");
    let ids = put(&mut client, "app", 5);
    is_parked(&mut client, ids[0], "role \"postgres\" is a superuser, and handlers may not run as one");
    put(&mut client, "calm", 5);
    drained(&mut client, "calm");
    switch(&mut client, "on");
    drained(&mut client, "app");
    assert_eq!(server.log().matches(" is parked: ").count(), 1);
}

/// Whoever may create in the schema puts a function of his own in the place of the handler's.
#[test]
fn a_function_put_in_the_place_of_the_handlers_does_not_run() {
    let (server, mut client, ledger) = start();
    run(
        &mut client,
        "ALTER ROLE eve LOGIN; GRANT CONNECT ON DATABASE shop TO eve; GRANT USAGE, CREATE ON SCHEMA app TO eve",
    );
    run(&mut client, "DROP FUNCTION app.f");
    let mut eve = server.connect_as("shop", "eve");
    run(
        &mut eve,
        "CREATE FUNCTION app.f(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.ledger VALUES (-1)'",
    );
    let ids = put(&mut client, "app", 3);
    let fix = is_parked(&mut client, ids[0], "app.f(bigint, jsonb) belongs to \"eve\", who could act as \"app\"");
    assert!(fix.starts_with("ALTER ROUTINE app.f(bigint, jsonb) OWNER TO \"app\""), "{fix}");
    // By hand neither: in a session of the role itself.
    run(&mut client, "GRANT USAGE ON SCHEMA pgq TO app; GRANT EXECUTE ON FUNCTION pgq.run TO app");
    let mut app = server.connect_as("shop", "app");
    assert!(app.batch_execute(&format!("SELECT pgq.run({})", ids[0])).is_err());
    assert_eq!(ledger.count(&mut client), 0);
}

/// Nothing in the catalog says so: an executor is started, does not come, its handlers are parked, and it is tried
/// again after pgq.recheck_interval. Here it waits for a lock as it connects, and is terminated.
#[test]
fn what_the_catalog_does_not_show_is_tried_again_after_the_recheck_interval() {
    let (server, mut client, ledger) = start_with(|b| b.conf("pgq.recheck_interval", "1s"));
    let all = put(&mut client, "calm", 1);
    drained(&mut client, "calm");
    // Connecting reads it; so does each look of an executor, which is why the other queue is not used meanwhile.
    let mut locker = server.connect("shop");
    run(&mut locker, "BEGIN; LOCK TABLE pg_db_role_setting IN ACCESS EXCLUSIVE MODE");
    let ids = put(&mut client, "app", 3);
    let stuck = |client: &mut Client| {
        let sql = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'pg_db_role_setting'::regclass LIMIT 1";
        client.query_opt(sql, &[]).expect("pg_locks").map(|row| row.get::<_, i32>(0))
    };
    let end_one = |client: &mut Client| {
        let pid = wait_for(Duration::from_secs(15), "an executor that connects", || stuck(client));
        run(client, &format!("SELECT pg_terminate_backend({pid})"));
    };
    end_one(&mut client);
    is_parked(&mut client, ids[0], "no worker could connect as role \"app\": the server's log says why");
    end_one(&mut client);
    run(&mut locker, "COMMIT");
    drained(&mut client, "app");
    assert_eq!(server.log().matches(" is parked: ").count(), 1, "one line, however often it was tried");
    wait_until(NEXT_LOOK, "the record to go", || recorded(&mut client, "app").is_none());
    assert_eq!(server.log().matches(" runs again").count(), 1);
    ledger.verify(&mut client, &[ids, all].concat()).assert_exact();
}

#[test]
fn a_function_whose_library_is_missing_parks_its_handler_only() {
    let (server, mut client, _) = start_with(|b| b.conf("pgq.recheck_interval", "1s"));
    run(
        &mut client,
        "CREATE FUNCTION app.c() RETURNS void LANGUAGE c AS '$libdir/dict_snowball', 'dsnowball_init';
         UPDATE pg_proc SET probin = '/nowhere/at_all' WHERE oid = 'app.c'::regproc;
         SELECT pgq.register('app', 'app.c', run_as => 'app')",
    );
    let ids = put(&mut client, "app", 3);
    let reason = "app.c() could not be loaded: could not access file \"/nowhere/at_all\": No such file or directory";
    is_parked(&mut client, ids[0], reason);
    put(&mut client, "calm", 100);
    drained(&mut client, "calm");
    let first: String = one(&mut client, "SELECT parked_until::text FROM pgq.handler WHERE queue = 'app'");
    let later = format!("pgq.handler WHERE queue = 'app' AND parked_until > '{first}'");
    wait_until(Duration::from_secs(15), "one more try", || count(&mut client, &later) == 1);
    assert_eq!(server.log().matches(" is parked: ").count(), 1);
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'app' AND attempt = 0"), 3);
    run(&mut client, "DROP FUNCTION app.c; CREATE FUNCTION app.c() RETURNS void LANGUAGE sql AS ''");
    drained(&mut client, "app");
}

/// The scheduler has left: the launcher sends one again, after the recheck interval where a parked handler has work.
#[test]
fn what_was_mended_while_no_scheduler_was_there_is_seen_after_the_recheck_interval() {
    let (server, mut client, _) =
        start_with(|b| b.conf("pgq.recheck_interval", "1s").conf("pgq.idle_timeout", "100ms"));
    run(&mut client, "ALTER ROLE app NOLOGIN");
    let ids = put(&mut client, "app", 3);
    is_parked(&mut client, ids[0], "role \"app\" may not log in");
    wait_until(PATIENCE, "the workers to leave", || server.worker_pids(Some("shop")).is_empty());
    run(&mut client, "ALTER ROLE app LOGIN");
    let left = "pgq.job WHERE queue = 'app'";
    wait_until(Duration::from_secs(15), "the jobs to run", || count(&mut client, left) == 0);
    assert_eq!(server.log().matches(" is parked: ").count(), 1);
}

/// register refuses with the same words with which a registered handler is parked.
#[test]
fn register_refuses_what_would_be_parked() {
    let (_server, mut client, _) = start_with(|b| b.conf("pgq.allow_superuser_handlers", "off"));
    for (change, reason, _) in CHANGES {
        if reason.contains("register again") || reason.contains("gone") || reason.contains("not exist") {
            continue;
        }
        run(&mut client, &format!("BEGIN; {change}"));
        let error = client.batch_execute("SELECT pgq.register('app', 'app.f', run_as => 'app')").expect_err(reason);
        assert_eq!(error.as_db_error().expect("the server's").message(), *reason);
        run(&mut client, "ROLLBACK");
    }
}

/// An executor that was there ran all the work of a handler that was mended before the scheduler looked.
#[test]
fn a_record_that_is_out_of_date_goes_where_there_is_no_work_too() {
    let (server, mut client, ledger) = start_with(|b| b.conf("pgq.recheck_interval", "1h"));
    let ids = put(&mut client, "app", 1);
    drained(&mut client, "app");
    for (n, words) in
        ["role \"app\" may not log in", "no worker could connect as role \"app\": the server's log says why"]
            .into_iter()
            .enumerate()
    {
        let words = words.replace('\'', "''");
        let until = if n == 0 { "NULL" } else { "now() + interval '1 h'" };
        run(
            &mut client,
            &format!(
                "UPDATE pgq.handler SET parked = '{words}', parked_at = now(), parked_until = {until} WHERE queue = 'app'"
            ),
        );
        wait_until(NEXT_LOOK, "the record to go", || recorded(&mut client, "app").is_none());
        wait_until(NEXT_LOOK, "the line", || server.log().matches(" runs again").count() == n + 1);
    }
    ledger.verify(&mut client, &ids).assert_exact();
}
