//! The way from one version to the next: a fresh installation and an upgraded one are the same; nothing is lost on the
//! way, while workers run; and a library that meets tables of another version serves them, or says that it does not.

use pgq_tests::catalog::{self, difference};
use pgq_tests::dump::{dump, restore, Format};
use pgq_tests::installation::Installation;
use pgq_tests::{count, one, repository, run, wait_until, Ledger, Server};
use postgres::error::SqlState;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// The version that this tree is of.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Every version from which there must be a way: their install scripts are kept in tests/upgrade.
fn earlier() -> Vec<String> {
    let files = std::fs::read_dir(repository().join("tests/upgrade")).expect("tests/upgrade");
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    let version = |name: String| Some(name.strip_prefix("pgq--")?.strip_suffix(".sql")?.to_owned());
    let mut versions: Vec<String> = names.filter_map(version).collect();
    versions.sort();
    assert!(!versions.is_empty());
    versions
}

/// A database with the extension in an earlier version.
fn create(server: &Server, database: &str, version: &str) -> Client {
    run(&mut server.connect("postgres"), &format!("CREATE DATABASE {database}"));
    let mut client = server.connect(database);
    run(&mut client, &format!("CREATE EXTENSION pgq VERSION '{version}'"));
    client
}

#[test]
fn a_fresh_installation_and_an_upgraded_one_are_the_same() {
    let server = Server::builder().preload(true).conf("pgq.enabled", "off").start();
    run(&mut server.connect("postgres"), "CREATE ROLE dba SUPERUSER LOGIN");
    let fresh = catalog::of(&mut server.create_database("fresh"));
    assert!(fresh.len() > 400, "{}", fresh.len());
    for (n, version) in earlier().iter().enumerate() {
        let mut client = create(&server, &format!("upgraded{n}"), version);
        let before = catalog::of(&mut client);
        assert!(!difference(&before, &fresh).is_empty(), "{version} is another version");
        // By another superuser than the one who created it.
        let mut dba = server.connect_as(&format!("upgraded{n}"), "dba");
        let snapshot_of_before = dba.batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pgq.handler; ALTER EXTENSION pgq UPDATE",
        );
        let refused = snapshot_of_before.expect_err("it would not see what is just being registered");
        assert_eq!(refused.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{refused}");
        run(&mut dba, "ROLLBACK");
        run(&mut dba, "ALTER EXTENSION pgq UPDATE");
        let found = difference(&fresh, &catalog::of(&mut client));
        assert!(found.is_empty(), "from {version}:\n{}", found.join("\n"));
    }
}

const SHOP: &str = "
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO ledger VALUES (id)';
    CREATE FUNCTION fails() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
    GRANT EXECUTE ON FUNCTION note, fails TO app;";

/// What the library of an earlier version left in its tables: this one does not serve them. What was granted by hand is
/// kept, too.
const CONTENTS: &str = "
    INSERT INTO pgq.handler (queue, task, function, shape, is_procedure, run_as, run_as_oid, concurrency)
    SELECT v.queue, v.task, v.function, v.shape, false, r.rolname, r.oid, 2
      FROM (VALUES ('quick', NULL, 'public.note(bigint, jsonb)', 'id_args', 'app'),
                   ('fails', NULL, 'public.fails()', 'nothing', 'app'),
                   ('parked', NULL, 'public.note(bigint, jsonb)', 'id_args', 'guest'),
                   ('later', 't', 'public.note(bigint, jsonb)', 'id_args', 'app')) AS v (queue, task, function, shape, role)
      JOIN pg_roles AS r ON r.rolname = v.role;
    DO $$ BEGIN IF to_regclass('pgq.armed_handler') IS NOT NULL THEN
        INSERT INTO pgq.armed_handler SELECT h.id, h.registered_at, d.oid FROM pgq.handler AS h, pg_database AS d
         WHERE d.datname = current_database();
    END IF; END $$;
    INSERT INTO pgq.queue_grant (queue, role, role_oid, access)
    SELECT v.queue, r.rolname, r.oid, v.access
      FROM (VALUES ('quick', 'app', 'produce'), (NULL, 'boss', 'admin'), (NULL, 'clerk', 'monitor')) AS v (queue, role, access)
      JOIN pg_roles AS r ON r.rolname = v.role;
    GRANT USAGE ON SCHEMA pgq TO app, boss, clerk;
    GRANT EXECUTE ON FUNCTION pgq.put, pgq.stats TO app;
    GRANT EXECUTE ON FUNCTION pgq.put TO guest WITH GRANT OPTION;
    INSERT INTO pgq.queue_setting (queue, max_attempts, backoff, keep_dead, paused)
    VALUES ('fails', 1, NULL, '3 days', false), ('quick', NULL, '7 s', NULL, false), ('later', NULL, NULL, NULL, true);
    INSERT INTO pgq.finished_job (id, queue, args, priority, created_at, attempt, failures, crashes, outcome, error)
    VALUES (nextval('pgq.job_id_seq'), 'fails', '{}', 0, now(), 1, 1, 0, 'dead', '{\"message\": \"no\"}');
    INSERT INTO pgq.job (queue, task, args, execute_at, state, key, attempt)
    VALUES ('later', 't', '{}', now() + interval '1 day', 'scheduled', 'k', 0),
           ('push', NULL, '{\"a\": 1}', now() + interval '1 day', 'leased', NULL, 1),
           ('push', NULL, '{}', now(), 'ready', NULL, 0), ('parked', NULL, '{}', now(), 'ready', NULL, 0);";

/// Everything that must survive, as text, without the columns that are new.
fn contents(client: &mut Client) -> Vec<String> {
    let mut lines = Vec::new();
    for from in [
        "pgq.job AS x WHERE queue <> 'quick'",
        "pgq.finished_job AS x",
        "pgq.queue_setting AS x",
        "pgq.handler AS x",
        "pgq.queue_grant AS x",
    ] {
        let sql = format!(
            "SELECT (to_jsonb(x) - '{{group_key,flow,parents,has_children,group_running,group_holds,on_done,on_dead,\
                parked,parked_at,parked_until}}'::text[])::text FROM {from} ORDER BY 1"
        );
        let rows = client.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    lines
}

#[test]
fn an_upgrade_loses_nothing_while_others_write() {
    let server = Server::builder().preload(true).start();
    run(
        &mut server.connect("postgres"),
        "CREATE ROLE app LOGIN; CREATE ROLE boss LOGIN; CREATE ROLE clerk LOGIN;
        CREATE ROLE guest LOGIN",
    );
    for (n, version) in earlier().iter().enumerate() {
        let database = format!("shop{n}");
        let mut client = create(&server, &database, version);
        let ledger = Ledger::create(&mut client, "ledger");
        run(&mut client, SHOP);
        run(&mut client, CONTENTS);
        run(&mut client, "ALTER ROLE guest NOLOGIN");
        let before = contents(&mut client);
        let done = AtomicBool::new(false);
        let put = thread::scope(|scope| {
            let producer = scope.spawn(|| {
                let mut producer = server.connect(&database);
                let mut put: Vec<i64> = Vec::new();
                while !done.load(Ordering::SeqCst) && put.len() < 20_000 {
                    let by_hand = "INSERT INTO pgq.job (queue, args, execute_at, state)
                        VALUES ('quick', '{}', now(), 'ready') RETURNING id";
                    put.push(one(&mut producer, by_hand));
                }
                put
            });
            wait_until(PATIENCE, "jobs to wait", || count(&mut client, "pgq.job WHERE queue = 'quick'") > 50);
            assert_eq!(ledger.count(&mut client), 0, "this library does not serve {version}");
            run(&mut client, "ALTER EXTENSION pgq UPDATE");
            wait_until(PATIENCE, "jobs to run", || ledger.count(&mut client) > 100);
            done.store(true, Ordering::SeqCst);
            producer.join().expect("the producer")
        });
        wait_until(PATIENCE, "the rest", || count(&mut client, "pgq.job WHERE queue = 'quick'") == 0);
        wait_until(PATIENCE, "the parked one", || count(&mut client, "pgq.handler WHERE parked IS NOT NULL") == 1);
        ledger.verify_with(&mut client, &put, "SELECT 0::bigint WHERE false").assert_exact();
        assert_eq!(contents(&mut client), before);
        after(&server, &database, &mut client);
    }
}

/// What the new version has, it has for those who were there before.
fn after(server: &Server, database: &str, client: &mut Client) {
    assert_eq!(count(client, "pgq.armed_handler"), 4);
    assert_eq!(count(client, "pgq.doctor() WHERE check_name IN ('version', 'restored copy') AND ok"), 2);
    assert!(!one::<bool>(&mut server.connect_as(database, "boss"), "SELECT pgq.arm()"), "nothing is held");
    for other in ["app", "clerk"] {
        let refused = server.connect_as(database, other).batch_execute("SELECT pgq.arm()");
        assert_eq!(refused.expect_err("no admin").code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    }
    run(&mut server.connect_as(database, "app"), "SELECT pgq.put('quick', group_key => 'g')");
    // What was granted is nothing that the extension was installed with: pg_dump dumps it.
    let passed_on = "SELECT has_function_privilege('guest', p.oid, 'EXECUTE WITH GRANT OPTION')
        FROM pg_proc AS p WHERE p.proname = 'put' AND p.pronamespace = 'pgq'::regnamespace";
    assert!(one::<bool>(client, passed_on));
    let installed = "pg_init_privs AS i, aclexplode(i.initprivs) AS a JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE r.rolname IN ('app', 'boss', 'clerk', 'guest')";
    assert_eq!(count(client, installed), 0);
    run(client, "ALTER ROLE guest LOGIN; GRANT EXECUTE ON FUNCTION note TO guest; GRANT INSERT ON ledger TO guest");
    wait_until(PATIENCE, "the parked handler", || count(client, "pgq.job WHERE queue = 'parked'") == 0);
}

#[test]
fn a_database_that_is_not_upgraded_yet_stands_still_and_says_so() {
    let server = Server::builder().preload(true).start();
    run(
        &mut server.connect("postgres"),
        "CREATE ROLE app LOGIN; CREATE ROLE boss LOGIN; CREATE ROLE clerk LOGIN;
        CREATE ROLE guest LOGIN",
    );
    for (n, version) in earlier().iter().enumerate() {
        let database = format!("old{n}");
        let mut client = create(&server, &database, version);
        let ledger = Ledger::create(&mut client, "ledger");
        run(&mut client, SHOP);
        run(&mut client, CONTENTS);
        let by_hand = "INSERT INTO pgq.job (queue, args, execute_at, state) VALUES ('quick', '1', now(), 'ready')";
        run(&mut client, by_hand);
        for call in ["put('quick')", "claim('push')", "stats()", "pause('quick')"] {
            let error = client.batch_execute(&format!("SELECT pgq.{call}")).expect_err(call);
            let error = error.as_db_error().expect("of the server");
            assert_eq!(*error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{call}: {error:?}");
            assert_eq!(error.hint(), Some("ALTER EXTENSION pgq UPDATE;"), "{call}: {error:?}");
        }
        let row = "pgq.doctor() WHERE check_name = 'version'";
        let detail: String = one(&mut client, &format!("SELECT detail FROM {row} AND NOT ok"));
        assert!(detail.contains(&format!("extension pgq has version {version} in this database")), "{detail}");
        assert_eq!(one::<String>(&mut client, &format!("SELECT fix FROM {row}")), "ALTER EXTENSION pgq UPDATE;");
        thread::sleep(Duration::from_secs(2));
        assert_eq!(ledger.count(&mut client), 0, "nothing runs");
        run(&mut client, "ALTER EXTENSION pgq UPDATE;");
        assert_eq!(count(&mut client, &format!("{row} AND ok")), 1);
        wait_until(PATIENCE, "its handler to run", || ledger.count(&mut client) >= 1);
        run(&mut client, "SELECT pgq.put('quick')");
    }
}

/// Its dump has no more in it than that version had.
#[test]
fn a_dump_of_an_earlier_version_becomes_this_version_and_is_held() {
    let server = Server::builder().preload(true).conf("pgq.enabled", "off").start();
    for (n, version) in earlier().iter().enumerate() {
        let database = format!("old{n}");
        let mut client = create(&server, &database, version);
        run(
            &mut client,
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT';
             INSERT INTO pgq.handler (queue, function, shape, is_procedure, run_as, run_as_oid)
             SELECT 'a', 'public.f()', 'nothing', false, r.rolname, r.oid FROM pg_roles AS r WHERE r.rolname = current_user;
             INSERT INTO pgq.job (queue, args, execute_at, state) VALUES ('a', '{}', now(), 'ready')",
        );
        let path = dump(&server, &database, Format::Custom);
        run(&mut server.connect("postgres"), &format!("CREATE DATABASE new{n}"));
        restore(&server, &format!("new{n}"), Format::Custom, &path);
        let mut client = server.connect(&format!("new{n}"));
        assert_eq!(one::<String>(&mut client, "SELECT extversion FROM pg_extension WHERE extname = 'pgq'"), OWN);
        assert_eq!(count(&mut client, "pgq.job"), 1);
        assert!(one::<String>(&mut client, "SELECT parked FROM pgq.stats('a')").starts_with("held"));
        assert!(one::<bool>(&mut client, "SELECT pgq.arm()"));
        assert_eq!(one::<Option<String>>(&mut client, "SELECT parked FROM pgq.stats('a')"), None);
    }
}

/// A database that was upgraded for a library that this server has not loaded.
#[test]
fn a_version_that_the_library_does_not_know_stands_still_and_says_so() {
    let copy = Installation::copy();
    copy.write(&format!("pgq--{OWN}--9.9.sql"), "CREATE TABLE pgq.of_the_future ();");
    copy.write(&format!("pgq--9.9--{OWN}.sql"), "DROP TABLE pgq.of_the_future;");
    let server = Server::builder().of(&copy).preload(true).start();
    let mut client = server.create_database("shop");
    Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO ledger VALUES (id)';
        SELECT pgq.register('quick', 'note')",
    );
    let mut other = server.connect("shop");
    run(&mut other, "SELECT pgq.put('quick')");
    wait_until(PATIENCE, "the first job", || count(&mut client, "ledger") == 1);
    run(&mut client, "ALTER EXTENSION pgq UPDATE TO '9.9'");
    // A session that has known the tables for long, and one that has not.
    for client in [&mut other, &mut server.connect("shop")] {
        let error = client.batch_execute("SELECT pgq.put('quick')").expect_err("unknown tables");
        let error = error.as_db_error().expect("of the server");
        assert_eq!(*error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        assert!(error.message().contains("has version 9.9 in this database"), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("restart the server")), "{error:?}");
    }
    // As the new library would.
    run(&mut client, "INSERT INTO pgq.job (queue, args, execute_at, state) VALUES ('quick', '1', now(), 'ready')");
    let said = || server.log().matches("all queues stand still: extension pgq has version 9.9").count();
    wait_until(PATIENCE, "the line in the log", || said() == 1);
    let row = "pgq.doctor() WHERE check_name = 'version' AND NOT ok";
    assert!(one::<String>(&mut client, &format!("SELECT detail FROM {row}")).contains("all queues stand still"));
    assert!(one::<String>(&mut client, &format!("SELECT fix FROM {row}")).contains("library of version 9.9"));
    run(&mut client, "SELECT pgq.start()");
    thread::sleep(Duration::from_secs(2));
    assert_eq!((count(&mut client, "ledger"), said()), (1, 1), "nothing runs, and it is said once");
    run(&mut client, &format!("ALTER EXTENSION pgq UPDATE TO '{OWN}'"));
    wait_until(PATIENCE, "the job", || count(&mut client, "ledger") == 2);
    run(&mut other, "SELECT pgq.put('quick')");
    wait_until(PATIENCE, "another one", || count(&mut client, "ledger") == 3);
}
