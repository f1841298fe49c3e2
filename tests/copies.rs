//! Copies of a database, by dump and restore and as a template: the same jobs, and none of them runs there before
//! somebody says so, at no moment of the making.

use pgq_tests::dump::{dump, restore, Format};
use pgq_tests::{count, one, run, wait_until, Server};
use postgres::error::SqlState;
use postgres::Client;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// Several looks of a scheduler.
const LONG_ENOUGH: Duration = Duration::from_millis(2_500);
/// Ready jobs of the handler: enough that a restore takes a while.
const READY: i64 = 20_000;

const SHOP: &str = "
    CREATE TABLE ledger (id bigint);
    GRANT INSERT, SELECT ON ledger TO app;
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.ledger VALUES (id)';
    CREATE FUNCTION note_all(jobs pgq.job[]) RETURNS void LANGUAGE sql
        AS 'INSERT INTO public.ledger SELECT id FROM unnest(jobs)';
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.ledger VALUES (id); COMMIT; END $$;
    CREATE FUNCTION fails() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
    SELECT pgq.register('quick', 'note', run_as => 'app', concurrency => 2, timeout => '1 min'),
           pgq.register('sets', 'note_all', run_as => 'app', task => 't'),
           pgq.register('commits', 'commits', run_as => 'app'),
           pgq.register('fails', 'fails', run_as => 'app');
    SELECT pgq.configure('fails', max_attempts => 1), pgq.configure('quick', keep_done => '1 day', notify => true),
           pgq.grant_usage('app', 'produce', 'quick'),
           pgq.schedule('yearly', 'later', '@yearly', args => '{\"a\": 1}', task => 't', catchup => 'all');";

/// Jobs in every state that a job can be dumped in.
const JOBS: &str = "
    SELECT pgq.put('later', '{\"a\": [1, null, \"ä\"]}', execute_at => '2100-01-01', key => 'k', priority => 7, task => 't');
    SELECT pgq.put('later', after => array_agg(id), flow => pgq.flow('f', on_finished => 'later')) FROM pgq.job WHERE key = 'k';
    SELECT pgq.put('push'), pgq.put('push', max_attempts => 3), pgq.put('gone');
    SELECT pgq.claim('push', lease => '100 days');
    SELECT pgq.fail(id, attempt, 'later', retry_in => '100 days') FROM pgq.claim('gone', lease => '1 day');
    SELECT pgq.cancel(pgq.put('cancelled'));
    SELECT pgq.put('quick', key => 'first'), pgq.put('commits'), pgq.put('sets', task => 't'), pgq.put('fails');";

/// Everything of pgq's that a dump carries, and where the sequences are.
const CONTENTS: &str = "
    SELECT 'job ' || to_jsonb(t)::text FROM pgq.job AS t
    UNION ALL SELECT 'finished ' || to_jsonb(t)::text FROM pgq.finished_job AS t
    UNION ALL SELECT 'setting ' || to_jsonb(t)::text FROM pgq.queue_setting AS t
    UNION ALL SELECT 'handler ' || to_jsonb(t)::text FROM pgq.handler AS t
    UNION ALL SELECT 'grant ' || to_jsonb(t)::text FROM pgq.queue_grant AS t
    UNION ALL SELECT 'schedule ' || to_jsonb(t)::text FROM pgq.schedule AS t
    UNION ALL SELECT 'dependency ' || to_jsonb(t)::text FROM pgq.dependency AS t
    UNION ALL SELECT 'ended ' || to_jsonb(t)::text FROM pgq.ended AS t
    UNION ALL SELECT 'flow ' || to_jsonb(t)::text FROM pgq.flow_state AS t
    UNION ALL SELECT 'ledger ' || id FROM ledger
    UNION ALL SELECT format('sequence %s %s', last_value, is_called) FROM pgq.job_id_seq
    UNION ALL SELECT format('sequence %s %s', last_value, is_called) FROM pgq.handler_id_seq
    UNION ALL SELECT format('sequence %s %s', last_value, is_called) FROM pgq.flow_state_id_seq
    ORDER BY 1";

fn contents(client: &mut Client) -> Vec<String> {
    client.query(CONTENTS, &[]).expect("the tables").iter().map(|row| row.get(0)).collect()
}

struct Original {
    server: Server,
    /// What was dumped.
    contents: Vec<String>,
    /// The jobs that have a handler and are ready.
    ready: i64,
}

/// A database with handlers that have run, and with ready jobs that nobody runs at the moment.
fn original() -> Original {
    let server = Server::builder().preload(true).start();
    run(&mut server.connect("postgres"), "CREATE ROLE app LOGIN");
    let mut client = server.create_database("shop");
    run(&mut client, SHOP);
    run(&mut client, "SELECT pgq.put('quick'), pgq.put('fails')");
    wait_until(PATIENCE, "the handlers to run", || {
        count(&mut client, "pgq.finished_job") == 2 && count(&mut client, "ledger") == 1
    });
    server.set("pgq.enabled", "off");
    wait_until(PATIENCE, "the workers to leave", || server.worker_pids(Some("shop")).is_empty());
    run(&mut client, JOBS);
    run(
        &mut client,
        &format!("SELECT pgq.bulk_put('quick', args => array_agg('{{}}'::jsonb)) FROM generate_series(1, {READY})"),
    );
    let contents = contents(&mut client);
    let ready = count(&mut client, "pgq.job WHERE state = 'ready' AND queue <> 'push'");
    assert_eq!(ready, READY + 4);
    Original { server, contents, ready }
}

/// The same rows, and no sign of a handler; then, once it is told to, each job once.
fn is_held_until_armed(server: &Server, database: &str, original: &Original) {
    let mut client = server.connect(database);
    assert!(contents(&mut client) == original.contents, "{database}: the rows differ");
    run(&mut client, "SELECT pgq.start()");
    let log = || server.log();
    let held = |log: &str| log.matches("4 handlers are held, because this database is a copy").count();
    wait_until(PATIENCE, "the line in the log", || held(&log()) >= 1);
    thread::sleep(LONG_ENOUGH);
    assert!(contents(&mut client) == original.contents, "{database}: something ran");
    assert_eq!(server.worker_pids_like("pgq executor", Some(database)).len(), 0);
    says_held(&mut client);
    still_does_what_it_may(server, database, &mut client);
    let before = count(&mut client, "ledger");
    assert!(one::<bool>(&mut client, "SELECT pgq.arm()"));
    assert!(!one::<bool>(&mut client, "SELECT pgq.arm()"), "armed already");
    let left = "pgq.job WHERE queue IN ('quick', 'commits', 'sets', 'fails')";
    wait_until(PATIENCE, "the jobs to run", || count(&mut client, left) == 0);
    assert_eq!(count(&mut client, "ledger"), before + original.ready, "each once: one fails, one was put here");
    assert_eq!(count(&mut client, "(SELECT id FROM ledger GROUP BY id HAVING count(*) > 1) AS twice"), 0);
    assert_eq!(count(&mut client, "pgq.doctor() WHERE check_name = 'restored copy' AND ok"), 1);
    wait_until(PATIENCE, "the end in the log", || log().contains("no handler is held any more"));
}

fn says_held(client: &mut Client) {
    let words = "held: it came with a copy of a database, and runs after SELECT pgq.arm()";
    assert_eq!(one::<String>(client, "SELECT parked FROM pgq.stats('quick')"), words);
    let job: i64 = one(client, "SELECT min(id) FROM pgq.job WHERE queue = 'quick' AND state = 'ready'");
    assert_eq!(one::<String>(client, &format!("SELECT pgq.waiting({job})")), format!("its handler is {words}"));
    let row = "FROM pgq.doctor() WHERE check_name = 'restored copy' AND NOT ok";
    assert!(one::<String>(client, &format!("SELECT detail {row}")).starts_with("4 handlers are held"));
    assert_eq!(one::<String>(client, &format!("SELECT fix {row}")), "SELECT pgq.arm();");
    assert_eq!(count(client, "pgq.doctor() WHERE check_name = 'parked handlers' AND ok"), 1);
    let error = client.batch_execute(&format!("SELECT pgq.run({job})")).expect_err("held");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE));
    assert!(error.as_db_error().is_some_and(|e| e.hint().is_some_and(|hint| hint.contains("pgq.arm()"))), "{error:?}");
}

/// Puts, claims from outside, and a handler that is registered here.
fn still_does_what_it_may(server: &Server, database: &str, client: &mut Client) {
    let last: i64 =
        one(client, "SELECT max(id) FROM (SELECT id FROM pgq.job UNION SELECT id FROM pgq.finished_job) AS x");
    let put: i64 = one(client, "SELECT pgq.put('quick')");
    assert_eq!(put, last + 1, "ids go on");
    run(client, "SET pgq.eager = on");
    let eager: i64 = one(client, "SELECT pgq.put('quick', key => 'eager')");
    run(client, &format!("RESET pgq.eager; SELECT pgq.cancel({eager})"));
    assert_eq!(count(client, "pgq.claim('push')"), 1);
    let before = count(client, "ledger");
    run(client, "SELECT pgq.register('here', 'note', run_as => 'app'); SELECT pgq.put('here')");
    wait_until(PATIENCE, "what was registered here", || count(client, "ledger") == before + 1);
    assert_eq!(count(client, "pgq.job WHERE queue = 'quick'"), READY + 2);
    // Who may not, may not: app has "produce" here, or nothing, where its grant is that of another server's role.
    let refused = server.connect_as(database, "app").batch_execute("SELECT pgq.arm()").expect_err("no admin");
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

#[test]
fn a_restore_into_a_running_server_gives_the_same_jobs_and_runs_none() {
    let original = original();
    let server = &original.server;
    let dumps: Vec<_> = [Format::Plain, Format::Custom, Format::TwoJobs, Format::Clean]
        .map(|format| (format, dump(server, "shop", format)))
        .into();
    server.set("pgq.enabled", "on");
    let mut client = server.connect("shop");
    run(&mut client, "SELECT pgq.start()");
    wait_until(PATIENCE, "the original's jobs", || count(&mut client, "ledger") == original.ready);
    drop(client);
    for (format, path) in &dumps {
        let database = match format {
            Format::Clean => "shop".to_owned(),
            _ => format!("copy_{format:?}").to_lowercase(),
        };
        if *format != Format::Clean {
            run(&mut server.connect("postgres"), &format!("CREATE DATABASE {database}"));
        }
        restore(server, &database, *format, path);
        is_held_until_armed(server, &database, &original);
        if *format != Format::Clean {
            run(&mut server.connect("postgres"), &format!("DROP DATABASE {database}"));
        }
    }
}

#[test]
fn a_restore_into_another_server_knows_its_roles_by_name() {
    let original = original();
    let other = Server::builder().preload(true).start();
    run(&mut other.connect("postgres"), "CREATE ROLE somebody; CREATE ROLE app LOGIN");
    run(&mut other.connect("postgres"), "CREATE DATABASE shop");
    let path = dump(&original.server, "shop", Format::TwoJobs);
    restore(&other, "shop", Format::TwoJobs, &path);
    is_held_until_armed(&other, "shop", &original);
    let mut client = other.connect("shop");
    assert_eq!(count(&mut client, "pgq.handler WHERE run_as_oid <> run_as::text::regrole"), 0);
}

#[test]
fn what_is_made_from_a_template_is_held_and_the_template_runs_on() {
    let original = original();
    let server = &original.server;
    run(&mut server.connect("postgres"), "CREATE DATABASE copy TEMPLATE shop");
    server.set("pgq.enabled", "on");
    is_held_until_armed(server, "copy", &original);
    let mut client = server.connect("shop");
    wait_until(PATIENCE, "the original's jobs", || count(&mut client, "ledger") == original.ready);
}

/// The owner of all rights may arm; so may who has "admin" on all queues, who takes the roles that are his.
#[test]
fn arming_needs_admin_on_all_queues_and_takes_over_the_roles_of_the_caller_only() {
    let source = Server::builder().preload(true).conf("pgq.enabled", "off").start();
    let roles = "CREATE ROLE app LOGIN; CREATE ROLE boss LOGIN; CREATE ROLE clerk LOGIN; CREATE ROLE other LOGIN; GRANT app TO boss";
    run(&mut source.connect("postgres"), roles);
    let mut client = source.create_database("shop");
    run(
        &mut client,
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT';
        SELECT pgq.register('a', 'f', run_as => 'app'), pgq.register('b', 'f', run_as => 'other')",
    );
    let path = dump(&source, "shop", Format::Custom);
    let target = Server::builder().preload(true).start();
    run(&mut target.connect("postgres"), &format!("CREATE ROLE shift; {roles}"));
    run(&mut target.connect("postgres"), "CREATE DATABASE shop");
    restore(&target, "shop", Format::Custom, &path);
    let mut client = target.connect("shop");
    run(&mut client, "SELECT pgq.grant_usage('boss', 'admin'), pgq.grant_usage('clerk', 'admin', 'a')");
    let error = target.connect_as("shop", "clerk").batch_execute("SELECT pgq.arm()").expect_err("one queue");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    assert!(one::<bool>(&mut target.connect_as("shop", "boss"), "SELECT pgq.arm()"));
    run(&mut client, "SELECT pgq.put('a'), pgq.put('b')");
    wait_until(PATIENCE, "the job of his role", || count(&mut client, "pgq.job WHERE queue = 'a'") == 0);
    let parked: String = one(&mut client, "SELECT parked FROM pgq.stats('b')");
    assert_eq!(parked, "role \"other\" was re-created: register again");
    let fix: String = one(&mut client, "SELECT fix FROM pgq.doctor() WHERE check_name = 'parked handlers' AND NOT ok");
    run(&mut client, &fix);
    wait_until(PATIENCE, "the other one", || count(&mut client, "pgq.job WHERE queue = 'b'") == 0);
}
