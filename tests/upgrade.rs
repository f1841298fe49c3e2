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
    GRANT EXECUTE ON FUNCTION note, fails TO app;
    SELECT pgq.grant_usage('app', 'produce', 'quick'), pgq.grant_usage('boss', 'admin'), pgq.grant_usage('clerk', 'monitor');
    SELECT pgq.register('quick', 'note', run_as => 'app', concurrency => 2), pgq.register('fails', 'fails', run_as => 'app'),
           pgq.register('parked', 'note', run_as => 'guest'), pgq.register('later', 'note', task => 't', run_as => 'app');
    SELECT pgq.configure('fails', max_attempts => 1, keep_dead => '3 days'), pgq.configure('quick', backoff => '7 s'),
           pgq.pause('later');
    ALTER ROLE guest NOLOGIN;";

/// Everything that must survive, as text.
fn contents(client: &mut Client) -> Vec<String> {
    let mut lines = Vec::new();
    for from in [
        "pgq.job AS x WHERE queue <> 'quick'",
        "pgq.finished_job AS x",
        "pgq.queue_setting AS x",
        "pgq.handler AS x",
        "pgq.queue_grant AS x",
    ] {
        let sql = format!("SELECT to_jsonb(x)::text FROM {from} ORDER BY 1");
        let rows = client.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    lines
}

#[test]
fn an_upgrade_loses_nothing_while_workers_run() {
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
        run(
            &mut client,
            "SELECT pgq.put('fails'), pgq.put('later', delay => '1 day', task => 't', key => 'k'),
            pgq.put('push', '{\"a\": 1}'), pgq.put('push'), pgq.put('parked')",
        );
        run(&mut client, "SELECT pgq.claim('push', lease => '1 day')");
        wait_until(PATIENCE, "the dead job", || count(&mut client, "pgq.dead") == 1);
        wait_until(PATIENCE, "the parked one", || count(&mut client, "pgq.handler WHERE parked IS NOT NULL") == 1);
        let before = contents(&mut client);
        let done = AtomicBool::new(false);
        let put = thread::scope(|scope| {
            let producer = scope.spawn(|| {
                let mut producer = server.connect_as(&database, "app");
                let mut put: Vec<i64> = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    put.push(one(&mut producer, "SELECT pgq.put('quick')"));
                }
                put
            });
            wait_until(PATIENCE, "jobs to run", || ledger.count(&mut client) > 50);
            run(&mut client, "ALTER EXTENSION pgq UPDATE");
            let seen = ledger.count(&mut client);
            wait_until(PATIENCE, "more of them", || ledger.count(&mut client) > seen + 50);
            done.store(true, Ordering::SeqCst);
            producer.join().expect("the producer")
        });
        wait_until(PATIENCE, "the rest", || count(&mut client, "pgq.job WHERE queue = 'quick'") == 0);
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
    run(client, "ALTER ROLE guest LOGIN; GRANT EXECUTE ON FUNCTION note TO guest; GRANT INSERT ON ledger TO guest");
    wait_until(PATIENCE, "the parked handler", || count(client, "pgq.job WHERE queue = 'parked'") == 0);
}

/// Everything that a client calls, and a handler that works.
fn use_all_of_it(server: &Server, client: &mut Client, database: &str) {
    Ledger::create(client, "ledger");
    run(client, SHOP);
    run(&mut server.connect_as(database, "app"), "SELECT pgq.put('quick')");
    wait_until(PATIENCE, "a handler to run", || count(client, "ledger") == 1);
    run(client, "SELECT pgq.put('fails')");
    wait_until(PATIENCE, "one to fail", || count(client, "pgq.dead") == 1);
    for call in [
        "waiting(pgq.put('parked'))",
        "complete(c.id, c.attempt) FROM pgq.claim('push', lease => '1 min') AS c",
        "fail(pgq.put('push'), 0)",
        "stats()",
        "unregister('later', 't')",
        "register('later', 'public.note', run_as => 'app')",
        "grant_usage('clerk', 'admin')",
        "revoke_usage('clerk', 'admin')",
        "redrive('fails')",
        "cancel(pgq.put('later', delay => '1 day'))",
        "resume()",
    ] {
        run(client, &format!("SELECT pgq.{call}"));
    }
    run(client, "SET pgq.eager = on");
    run(
        client,
        "CREATE FUNCTION public.own() RETURNS void LANGUAGE sql AS 'SELECT'; SELECT pgq.register('own', 'own')",
    );
    run(client, "SELECT pgq.put('own'); RESET pgq.eager");
    for view in ["queues", "running", "workers", "dead"] {
        run(client, &format!("SELECT * FROM pgq.{view}"));
    }
}

#[test]
fn a_database_that_is_not_upgraded_yet_is_served_and_says_so() {
    let server = Server::builder().preload(true).start();
    run(
        &mut server.connect("postgres"),
        "CREATE ROLE app LOGIN; CREATE ROLE boss LOGIN; CREATE ROLE clerk LOGIN;
        CREATE ROLE guest LOGIN",
    );
    for (n, version) in earlier().iter().enumerate() {
        let database = format!("old{n}");
        let mut client = create(&server, &database, version);
        run(&mut client, "ALTER ROLE guest LOGIN");
        use_all_of_it(&server, &mut client, &database);
        let row = "pgq.doctor() WHERE check_name = 'version'";
        let (detail, fix): (String, String) = (
            one(&mut client, &format!("SELECT detail FROM {row} AND NOT ok")),
            one(&mut client, &format!("SELECT fix FROM {row}")),
        );
        assert_eq!(detail, format!("the library is of version {OWN}, the tables of this database are of {version}"));
        assert_eq!(fix, "ALTER EXTENSION pgq UPDATE;");
        run(&mut client, &fix);
        assert_eq!(count(&mut client, &format!("{row} AND ok")), 1);
        let before = count(&mut client, "ledger");
        run(&mut client, "SELECT pgq.put('quick')");
        wait_until(PATIENCE, "its handler to run on", || count(&mut client, "ledger") > before);
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
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT'; SELECT pgq.register('a', 'f'), pgq.put('a')",
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
