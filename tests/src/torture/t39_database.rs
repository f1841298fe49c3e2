//! T39: statements that need a database for themselves, in databases whose workers are busy: rename, move to another
//! tablespace, copy, drop, drop by force, and a drop that fails because a client is there. T40: DROP DATABASE of another
//! database, which waits for every process of the server to take notice.

use super::{Part, Run};
use crate::{count, one, run as execute, timed, wait_until, Server};
use postgres::Client;
use std::sync::Mutex;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[
    Part {
        id: "T39",
        title: "DROP, RENAME, SET TABLESPACE and TEMPLATE of databases with busy workers",
        unit: "statements",
        quick: 5,
        full: 200,
        run: take_away,
    },
    Part {
        id: "T40",
        title: "DROP DATABASE of another database while executors run long queries",
        unit: "drops",
        quick: 5,
        full: 200,
        run: drop_others,
    },
];

const PATIENCE: Duration = Duration::from_secs(100);
/// As long as the server itself waits for others to leave (CountOtherDBBackends), and some time for its checkpoint.
const WAY_MADE: Duration = Duration::from_secs(15);
/// Ten times the promised 2 s.
const NOTICED: Duration = Duration::from_secs(20);
/// Databases at the same time: workers come back 10 s after they made way.
const SHOPS: usize = 4;

const SHOP: &str = "
    CREATE EXTENSION pgq;
    CREATE TABLE ledger (id bigint);
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO ledger VALUES (id) $$;
    CREATE FUNCTION sleeps(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep(3600) $$;
    CREATE FUNCTION counts(args jsonb) RETURNS bigint LANGUAGE sql
        AS $$ SELECT count(*) FROM generate_series(1, 1000000) AS a, generate_series(1, 1000000) AS b $$;
    CREATE PROCEDURE commits(args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; PERFORM pg_sleep(3600); END $$;
    SELECT pgq.register('note', 'note'), pgq.register('sleeps', 'sleeps'), pgq.register('commits', 'commits'),
           pgq.register('counts', 'counts', concurrency => 1);
    SELECT pgq.put('sleeps'), pgq.put('commits');";

fn open(server: &Server, name: &str) {
    execute(&mut server.connect("postgres"), &format!("CREATE DATABASE {name}"));
    execute(&mut server.connect(name), SHOP);
}

/// Both long jobs run, and a new one does: served.
fn wait_until_served(client: &mut Client) {
    let id: i64 = one(client, "SELECT pgq.put('note')");
    wait_until(PATIENCE, "a job to run", || count(client, &format!("ledger WHERE id = {id}")) == 1);
    wait_until(PATIENCE, "the long jobs to run", || count(client, "pgq.running WHERE queue <> 'note'") == 2);
    assert_eq!(count(client, "pgq.job WHERE failures > 0"), 0, "nothing is counted");
}

fn take_away(run: &mut Run) {
    let server = run.server().conf("pgq.max_workers", 32).conf("allow_in_place_tablespaces", "on").start();
    execute(&mut server.connect("postgres"), "CREATE TABLESPACE elsewhere LOCATION ''");
    let slowest = Mutex::new(Duration::ZERO);
    let shared = Mutex::new(run);
    std::thread::scope(|scope| {
        for n in 0..SHOPS {
            let (server, shared, slowest) = (&server, &shared, &slowest);
            scope.spawn(move || {
                let name = format!("shop{n}");
                open(server, &name);
                loop {
                    let which = {
                        let mut run = shared.lock().expect("not poisoned");
                        if !run.goes_on() {
                            return;
                        }
                        run.rng.below(6)
                    };
                    wait_until_served(&mut server.connect(&name));
                    let (kind, took) = one_statement(server, &name, which);
                    let mut run = shared.lock().expect("not poisoned");
                    run.fault(kind);
                    run.did(1);
                    if took > WAY_MADE {
                        run.differ(format!("{kind} took {took:?}"));
                    }
                    let mut slowest = slowest.lock().expect("not poisoned");
                    *slowest = took.max(*slowest);
                }
            });
        }
    });
    println!("T39: the slowest took {:?}", slowest.into_inner().expect("not poisoned"));
}

/// The database is there again afterwards.
fn one_statement(server: &Server, name: &str, which: u64) -> (&'static str, Duration) {
    let mut admin = server.connect("postgres");
    let mut take = |sql: String| timed(|| execute(&mut admin, &sql)).1;
    match which {
        0 => {
            let took = take(format!("ALTER DATABASE {name} RENAME TO {name}_b"));
            (("rename"), took.max(take(format!("ALTER DATABASE {name}_b RENAME TO {name}"))))
        }
        1 => {
            let took = take(format!("CREATE DATABASE {name}_copy TEMPLATE {name}"));
            ("template", took.max(take(format!("DROP DATABASE {name}_copy"))))
        }
        2 => {
            let took = take(format!("ALTER DATABASE {name} SET TABLESPACE elsewhere"));
            ("tablespace", took.max(take(format!("ALTER DATABASE {name} SET TABLESPACE pg_default"))))
        }
        3 => {
            let took = take(format!("DROP DATABASE {name}"));
            open(server, name);
            ("drop", took)
        }
        4 => {
            let took = take(format!("DROP DATABASE {name} WITH (FORCE)"));
            open(server, name);
            ("drop by force", took)
        }
        _ => {
            let in_the_way = server.connect(name);
            let (error, took) = timed(|| admin.batch_execute(&format!("DROP DATABASE {name}")).expect_err("a client"));
            assert_eq!(error.code().map(|code| code.code()), Some("55006"), "{error:?}");
            drop(in_the_way);
            ("failing drop", took)
        }
    }
}

fn drop_others(run: &mut Run) {
    let server = run.server().conf("pgq.max_workers", 8).start();
    open(&server, "shop");
    let mut client = server.connect("shop");
    // One that looks at interrupts all the time, one that sleeps, one that has committed before.
    execute(&mut client, "SELECT pgq.put('counts')");
    wait_until(PATIENCE, "three long jobs to run", || count(&mut client, "pgq.running") == 3);
    let long = "SELECT string_agg(format('%s %s', pid, job), ' ' ORDER BY job) FROM pgq.running WHERE queue <> 'note'";
    let before: String = one(&mut client, long);
    let mut admin = server.connect("postgres");
    let mut slowest = Duration::ZERO;
    while run.goes_on() {
        execute(&mut admin, "CREATE DATABASE other");
        if run.rng.chance(50) {
            execute(&mut server.connect("other"), "CREATE EXTENSION pgq");
        }
        let (_, took) = timed(|| execute(&mut admin, "DROP DATABASE other"));
        slowest = slowest.max(took);
        if took > Duration::from_secs(2) {
            run.fault("slower than 2 s");
        }
        if took > NOTICED {
            run.differ(format!("DROP DATABASE took {took:?}"));
        }
        run.did(1);
    }
    let after: String = one(&mut client, long);
    if before != after {
        run.differ(format!("the long jobs were disturbed: {before}, then {after}"));
    }
    println!("T40: the slowest took {slowest:?}");
}
