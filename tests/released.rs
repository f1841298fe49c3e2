//! The way from a release with that release's own library: a server that still has it in memory when the new files
//! arrive. `PGQ_RELEASED` names the library of 0.1.0; building it takes minutes, so this is no part of an ordinary run
//! (see `tests/run`).

use pgq_tests::installation::{library, Installation};
use pgq_tests::{count, one, run, wait_until, Ledger, Server, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const OWN: &str = env!("CARGO_PKG_VERSION");

/// With the library of 0.1.0, and the scripts of all versions.
fn released() -> Installation {
    let old = std::env::var_os("PGQ_RELEASED").expect("PGQ_RELEASED names the library of 0.1.0");
    let installation = Installation::copy();
    installation.replace_library(&PathBuf::from(old));
    installation
}

fn shop(server: &Server) -> Client {
    run(&mut server.connect("postgres"), "CREATE DATABASE shop");
    let mut client = server.connect("shop");
    run(&mut client, "CREATE EXTENSION pgq VERSION '0.1.0'");
    Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO ledger VALUES (id)';
        SELECT pgq.register('quick', 'note')",
    );
    assert_eq!(one::<String>(&mut client, "SELECT pgq.version()"), "0.1.0");
    client
}

fn runs(client: &mut Client) {
    let before = count(client, "ledger");
    run(client, "SELECT pgq.put('quick')");
    wait_until(PATIENCE, "a job to run", || count(client, "ledger") == before + 1);
}

fn version(client: &mut Client) -> String {
    one(client, "SELECT extversion FROM pg_extension WHERE extname = 'pgq'")
}

#[test]
fn a_preloaded_library_refuses_the_upgrade_until_the_restart_and_the_new_one_waits_for_it() {
    let installation = released();
    let server = Server::builder().of(&installation).preload(true).start();
    let mut client = shop(&server);
    runs(&mut client);
    installation.replace_library(&library());
    let error = client.batch_execute("ALTER EXTENSION pgq UPDATE").expect_err("not in the library in memory");
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_FUNCTION), "{error:?}");
    assert_eq!(version(&mut client), "0.1.0");
    runs(&mut client);
    drop(client);
    server.restart(Stop::Fast);
    let mut client = server.connect("shop");
    assert_eq!(one::<String>(&mut client, "SELECT pgq.version()"), OWN);
    let error = client.batch_execute("SELECT pgq.put('quick')").expect_err("not upgraded yet");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
    run(&mut client, "ALTER EXTENSION pgq UPDATE");
    assert_eq!(version(&mut client), OWN);
    runs(&mut client);
}

/// Not preloaded, each session has the library of the day it first called pgq.
#[test]
fn a_session_with_the_library_of_before_must_reconnect_and_its_workers_are_replaced() {
    let installation = released();
    let server = Server::builder().of(&installation).start();
    let mut old = shop(&server);
    runs(&mut old);
    let workers = server.worker_pids(None);
    assert!(!workers.is_empty());
    installation.replace_library(&library());
    let mut new = server.connect("shop");
    assert_eq!(one::<String>(&mut new, "SELECT pgq.version()"), OWN);
    run(&mut new, "ALTER EXTENSION pgq UPDATE");
    runs(&mut new);
    let error = old.batch_execute("SELECT pgq.put('quick')").expect_err("not in the library in memory");
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_FUNCTION), "{error:?}");
    runs(&mut server.connect("shop"));
    wait_until(PATIENCE, "the old workers to be gone", || {
        server.worker_pids(None).iter().all(|pid| !workers.contains(pid))
    });
}

/// A procedure of the library of before is waited for: the new one would take it for abandoned.
#[test]
fn an_upgrade_is_refused_while_a_procedure_runs() {
    let installation = released();
    let server = Server::builder().of(&installation).start();
    let mut old = shop(&server);
    run(
        &mut old,
        "CREATE TABLE began (id bigint);
        CREATE PROCEDURE slow(id bigint, args jsonb) LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO began VALUES (id); COMMIT; PERFORM pg_sleep(4); INSERT INTO ledger VALUES (id); END $$;
        SELECT pgq.register('slow', 'slow')",
    );
    run(&mut old, "SELECT pgq.put('slow')");
    wait_until(PATIENCE, "the procedure to begin", || count(&mut old, "began") == 1);
    installation.replace_library(&library());
    let mut new = server.connect("shop");
    let refused = new.batch_execute("ALTER EXTENSION pgq UPDATE").expect_err("it runs");
    assert_eq!(refused.code(), Some(&SqlState::OBJECT_IN_USE), "{refused:?}");
    wait_until(PATIENCE, "the procedure to end", || count(&mut new, "pgq.job") == 0);
    run(&mut new, "ALTER EXTENSION pgq UPDATE");
    runs(&mut new);
    assert_eq!((count(&mut new, "ledger"), count(&mut new, "began")), (2, 1));
}
