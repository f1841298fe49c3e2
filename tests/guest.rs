//! What a DBA does to a server that has pgq on it, and what pgq does then: modes of the server in which it must keep
//! still, databases that take no sessions, limits on connections, other libraries, tables rewritten under load, wrong
//! values in the configuration. Each line of the README's table "A good guest" names one of these tests.

use pgq_tests::process::owner;
use pgq_tests::server::binary;
use pgq_tests::{count, one, run, wait_until, Server, Stop};
use postgres::Client;
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Starting a worker takes milliseconds; a busy machine takes longer.
const START: Duration = Duration::from_secs(20);

const HANDLER: &str = "
    CREATE TABLE IF NOT EXISTS ledger (id bigint);
    CREATE OR REPLACE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql
    AS $$ INSERT INTO ledger VALUES (id) $$;
    SELECT pgq.register('quick', 'note');";

fn shop(server: &Server) -> Client {
    let mut client = server.create_database("shop");
    run(&mut client, HANDLER);
    client
}

fn put(client: &mut Client) -> i64 {
    one(client, "SELECT pgq.put('quick')")
}

fn wait_for(client: &mut Client, id: i64) -> Duration {
    wait_until(START, "the job to run", || count(client, &format!("ledger WHERE id = {id}")) == 1)
}

fn runs(client: &mut Client) -> Duration {
    let id = put(client);
    wait_for(client, id)
}

fn pgq_lines(server: &Server, from: usize) -> Vec<String> {
    let log = server.log();
    // Not what says where the server's socket is.
    let lines = log[from..].lines().filter(|line| line.contains("pgq") && !line.contains("socket"));
    lines.map(str::to_owned).collect()
}

/// pg_upgrade starts both clusters with `-b`: nothing may change data behind its back.
#[test]
fn in_binary_upgrade_mode_no_worker_starts_and_put_works() {
    for preload in [false, true] {
        let server = Server::builder().preload(preload).start();
        let mut client = shop(&server);
        runs(&mut client);
        drop(client);
        server.stop(Stop::Fast);
        let before = server.log().len();
        server.start_with(&["-b"]);
        let mut client = server.connect("shop");
        let id = put(&mut client);
        assert!(!one::<bool>(&mut client, "SELECT pgq.start()"), "nobody can be started");
        // Ten times what a launcher takes to be there.
        thread::sleep(Duration::from_secs(3));
        assert_eq!(server.worker_pids(None), Vec::<u32>::new());
        assert_eq!(count(&mut client, &format!("pgq.job WHERE id = {id} AND attempt = 0")), 1);
        assert_eq!(pgq_lines(&server, before), Vec::<String>::new(), "and nothing is said");
        drop(client);
        server.restart(Stop::Fast);
        let mut client = server.connect("shop");
        run(&mut client, "SELECT pgq.start()");
        wait_for(&mut client, id);
    }
}

#[test]
fn in_single_user_mode_put_works_and_the_job_runs_when_the_server_is_back() {
    for preload in [false, true] {
        let server = Server::builder().preload(preload).start();
        let mut client = shop(&server);
        runs(&mut client);
        drop(client);
        server.stop(Stop::Fast);
        let mut command = owner().command(binary("postgres"));
        command.args(["--single", "-j", "-D"]).arg(server.data_directory()).arg("shop");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut single = command.spawn().expect("postgres --single");
        let script = "SELECT pgq.put('quick') AS id\n;\n\nSELECT pgq.put('quick', key => 'k')\n;\n\n\
                      SELECT id FROM pgq.claim('quick')\n;\n\nSELECT pgq.start()\n;\n\n\
                      SELECT pgq.waiting(3) AS why\n;\n\nSELECT count(*) FROM pgq.doctor()\n;\n\n";
        single.stdin.take().expect("its input").write_all(script.as_bytes()).expect("it reads");
        let output = single.wait_with_output().expect("it ends");
        let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}\n{warned}");
        assert!(!warned.contains("ERROR") && !warned.contains("FATAL"), "{warned}");
        assert!(said.contains("id = \"2\""), "{said}");
        server.start();
        let mut client = server.connect("shop");
        run(&mut client, "SELECT pgq.start()");
        // The first one was claimed, and so removed, by the statement that claimed it.
        wait_for(&mut client, 3);
        assert_eq!(count(&mut client, "ledger WHERE id = 2"), 0);
    }
}

/// CREATE DATABASE copies template1: nobody may sit in it.
#[test]
fn a_template_is_never_served_and_what_is_made_from_it_is() {
    let server = Server::builder().preload(true).start();
    let mut template = server.connect("template1");
    run(&mut template, "CREATE EXTENSION pgq");
    run(&mut template, HANDLER);
    let id = put(&mut template);
    drop(template);
    for name in ["one", "two", "three"] {
        let (_, took) = pgq_tests::timed(|| run(&mut server.connect("postgres"), &format!("CREATE DATABASE {name}")));
        assert!(took < Duration::from_secs(50), "CREATE DATABASE took {took:?}");
        println!("CREATE DATABASE {name}: {took:?}");
        // It is found within a minute, or when somebody calls.
        let mut copy = server.connect(name);
        run(&mut copy, "SELECT pgq.arm()");
        wait_for(&mut copy, id);
    }
    let mut template = server.connect("template1");
    assert_eq!(count(&mut template, "ledger"), 0, "nothing ran in the template");
    let why: String = one(&mut template, &format!("SELECT pgq.waiting({id})"));
    assert!(why.contains("template"), "{why}");
}

#[test]
fn a_database_that_takes_no_sessions_is_left_and_served_again_when_it_does() {
    let server = Server::builder().preload(true).start();
    let mut client = shop(&server);
    runs(&mut client);
    let mut admin = server.connect("postgres");
    let before = server.log().len();
    run(&mut admin, "ALTER DATABASE shop ALLOW_CONNECTIONS false");
    let took = wait_until(START, "the workers to leave", || server.worker_pids(Some("shop")).is_empty());
    println!("left after {took:?}");
    // The session that was there before may go on, also with putting.
    let id = put(&mut client);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(server.worker_pids(Some("shop")), Vec::<u32>::new());
    let said = pgq_lines(&server, before);
    let own = said.iter().filter(|line| line.contains("pgq: this database takes no sessions: leaving it")).count();
    assert!(own == 1 && said.len() <= 3, "one line of ours, two of the server's for each executor: {said:#?}");
    run(&mut admin, "ALTER DATABASE shop ALLOW_CONNECTIONS true");
    let mut client = server.connect("shop");
    let next = put(&mut client);
    for id in [id, next] {
        println!("served again after {:?}", wait_for(&mut client, id));
    }
}

/// Limits count sessions of clients: a worker is none.
#[test]
fn connection_limits_of_database_and_role_do_not_stop_workers_nor_does_a_full_server() {
    let server = Server::builder().preload(true).conf("max_connections", 8).conf("pgq.idle_timeout", "1s").start();
    let mut client = shop(&server);
    run(&mut client, "CREATE ROLE app LOGIN CONNECTION LIMIT 0; GRANT INSERT ON ledger TO app");
    run(&mut client, "SELECT pgq.register('apps', 'note', run_as => 'app'); ALTER DATABASE shop CONNECTION LIMIT 0");
    let before = server.log().len();
    let id: i64 = one(&mut client, "SELECT pgq.put('apps')");
    wait_for(&mut client, id);
    let mut crowd = Vec::new();
    while let Ok(one_more) = server.try_connect("postgres", "postgres") {
        crowd.push(one_more);
        assert!(crowd.len() < 20, "max_connections is 8");
    }
    wait_until(START, "all but the scheduler to leave", || {
        count(&mut client, "pg_stat_activity WHERE backend_type = 'pgq executor'") == 0
    });
    let id: i64 = one(&mut client, "SELECT pgq.put('apps')");
    wait_for(&mut client, id);
    assert_eq!(pgq_lines(&server, before), Vec::<String>::new());
}

#[test]
fn other_libraries_are_preloaded_before_and_after() {
    let others = "pg_stat_statements,auto_explain";
    for libraries in [format!("pgq,{others}"), format!("{others},pgq")] {
        let builder = Server::builder().conf("shared_preload_libraries", &libraries);
        let builder =
            builder.conf("auto_explain.log_min_duration", "10s").conf("auto_explain.log_nested_statements", "on");
        let server = builder.conf("pg_stat_statements.track", "all").conf("compute_query_id", "on").start();
        let mut client = shop(&server);
        run(&mut client, "CREATE EXTENSION pg_stat_statements");
        runs(&mut client);
        run(&mut client, "SELECT pgq.bulk_put('quick', args => array_fill('{}'::jsonb, ARRAY[1000]))");
        wait_until(START, "all to run", || count(&mut client, "pgq.job") == 0);
        assert_eq!(count(&mut client, "ledger"), 1001);
        let calls = "pg_stat_statements WHERE query LIKE 'INSERT INTO ledger%'";
        assert_eq!(one::<i64>(&mut client, &format!("SELECT sum(calls)::bigint FROM {calls}")), 1001, "{libraries}");
    }
}

#[test]
fn wrong_values_in_the_configuration_change_nothing_and_right_ones_are_taken() {
    let server = Server::builder().preload(true).start();
    let mut client = shop(&server);
    runs(&mut client);
    let before = server.log().len();
    let configuration = server.data_directory().join("postgresql.conf");
    let whole = std::fs::read_to_string(&configuration).expect("postgresql.conf");
    for wrong in
        ["pgq.max_workers = 1000", "pgq.max_workers = 'many'", "pgq.no_such_setting = 1", "pgq.enabled = perhaps"]
    {
        std::fs::write(&configuration, format!("{whole}\n{wrong}\n")).expect("postgresql.conf");
        run(&mut client, "SELECT pg_reload_conf()");
        runs(&mut client);
    }
    thread::sleep(Duration::from_secs(2));
    let said: Vec<String> = pgq_lines(&server, before).into_iter().filter(|l| !l.contains("] postmaster ")).collect();
    assert_eq!(said, Vec::<String>::new(), "only the postmaster complains");
    std::fs::write(&configuration, whole).expect("postgresql.conf");
    for (wrong, sqlstate) in
        [("pgq.max_workers = 0", "22023"), ("pgq.max_worker = 1", "42602"), ("pgq.backoff = '-1s'", "22023")]
    {
        let error = client.batch_execute(&format!("ALTER SYSTEM SET {wrong}")).expect_err(wrong);
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        assert!(code == sqlstate || code == "42704", "{wrong}: {error:?}");
    }
    server.set("pgq.max_workers", "1");
    run(
        &mut client,
        "CREATE FUNCTION nap() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.3)';
         SELECT pgq.register('nap', 'nap', concurrency => 4);
         SELECT pgq.bulk_put('nap', args => array_fill('{}'::jsonb, ARRAY[4]))",
    );
    let mut most = 0;
    wait_until(START, "the naps to be over", || {
        most = most.max(count(&mut client, "pgq.running"));
        count(&mut client, "pgq.job") == 0
    });
    assert_eq!(most, 1, "one worker, from the reload on");
}

/// Rows move to other files and indexes get other oids, while workers claim all the time.
#[test]
fn tables_that_are_rewritten_reindexed_or_emptied_under_load_lose_no_job() {
    let server = Server::builder().preload(true).conf("allow_in_place_tablespaces", "on").start();
    let mut client = shop(&server);
    run(&mut client, "CREATE TABLESPACE elsewhere LOCATION ''");
    run(&mut client, "CREATE TABLE sent (id bigint)");
    let mut owner = server.connect("shop");
    for sql in [
        "VACUUM FULL pgq.job",
        "CLUSTER pgq.job USING job_pkey",
        "REINDEX TABLE CONCURRENTLY pgq.job",
        "ALTER TABLE pgq.job SET TABLESPACE elsewhere",
        "VACUUM (FREEZE, ANALYZE) pgq.job",
        "REINDEX INDEX CONCURRENTLY pgq.job_ready_idx",
    ] {
        run(&mut client, "INSERT INTO sent SELECT pgq.bulk_put('quick', args => array_fill('{}'::jsonb, ARRAY[3000]))");
        run(
            &mut client,
            "INSERT INTO sent SELECT pgq.put('quick', delay => n * interval '1 ms') FROM generate_series(1, 300) AS n",
        );
        let (_, took) = pgq_tests::timed(|| run(&mut owner, sql));
        wait_until(START, "all to run", || count(&mut client, "pgq.job") == 0);
        println!("{sql}: {took:?}");
    }
    let wrong = count(&mut client, "sent FULL JOIN ledger USING (id) WHERE sent.id IS NULL OR ledger.id IS NULL");
    assert_eq!((wrong, count(&mut client, "ledger")), (0, count(&mut client, "sent")));
    // What its owner throws away is gone, and what comes next runs.
    run(
        &mut client,
        "SELECT pgq.pause('quick'); SELECT pgq.put('quick'); TRUNCATE pgq.job; SELECT pgq.resume('quick')",
    );
    runs(&mut client);
    assert_eq!(count(&mut client, "pgq.job"), 0);
}

/// DROP takes its lock, and waits for it, before it is refused: nobody else may be held up, or ended, for that.
#[test]
fn who_may_not_drop_the_extension_or_the_database_ends_no_job_and_holds_up_none() {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    run(
        &mut client,
        "CREATE ROLE stranger LOGIN;
         CREATE FUNCTION nap(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep(6) $$;
         CREATE FUNCTION quick(args jsonb) RETURNS void LANGUAGE sql AS '';
         SELECT pgq.register('nap', 'nap'), pgq.register('quick', 'quick');
         SELECT pgq.configure('nap', keep_done => '1 day');
         SELECT pgq.put('nap')",
    );
    wait_until(START, "the long job to run", || count(&mut client, "pgq.running") == 1);
    let worker: i32 = one(&mut client, "SELECT pid FROM pgq.running");
    let is_over = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        let intruders = [("shop", "DROP EXTENSION pgq"), ("postgres", "DROP DATABASE shop")].map(|(database, sql)| {
            let mut stranger = server.connect_as(database, "stranger");
            let is_over = &is_over;
            scope.spawn(move || {
                let mut refused = 0;
                let until = Instant::now() + START;
                while !is_over.load(Ordering::Relaxed) && Instant::now() < until {
                    stranger.batch_execute(sql).expect_err("a stranger may not");
                    refused += 1;
                }
                refused
            })
        });
        for _ in 0..20 {
            run(&mut client, "SELECT pgq.put('quick')");
            let quick = "pgq.job WHERE queue = 'quick'";
            wait_until(Duration::from_secs(20), "a quick job to be done", || count(&mut client, quick) == 0);
        }
        wait_until(START, "the long job to be done", || count(&mut client, "pgq.finished_job") == 1);
        is_over.store(true, Ordering::Relaxed);
        intruders.map(|intruder| intruder.join().expect("an intruder"))
    });
    println!("refused {refused:?} times");
    assert!(refused.iter().all(|times| *times > 0));
    assert_eq!(count(&mut client, "pgq.finished_job WHERE outcome = 'done' AND attempt = 1"), 1);
    let same = format!("pgq.workers WHERE pid = {worker}");
    assert_eq!(count(&mut client, &same), 1, "the worker is the one that was there before");
    assert!(!server.log().contains("leaving it"), "{}", server.log_tail());
}
