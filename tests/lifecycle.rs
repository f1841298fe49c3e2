//! Databases and extensions that go while workers are busy there, servers that stop and start, and
//! servers that have no room for workers: the queue makes way, comes back by itself, and loses
//! nothing. What times a promise here prints what it measured.

use pgq_tests::{timed, wait_until, Server, Stop, Until};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Twice what is promised for DROP and for the fast shutdown: 5 s.
const WAY_MADE: Duration = Duration::from_secs(10);
/// Twice what is promised for the return after a DROP that failed: 15 s.
const RETURN: Duration = Duration::from_secs(30);
/// Starting a worker takes milliseconds; a busy machine takes longer.
const START: Duration = Duration::from_secs(20);
/// Ten times the promised 100 ms between the COMMIT of a put and its effect.
const EFFECT: Duration = Duration::from_secs(1);

/// Handlers that do not depend on the extension, so that DROP EXTENSION needs no CASCADE.
const HANDLERS: &str = "
    CREATE TABLE ledger (id bigint);
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger VALUES (id);
    END $$;
    CREATE FUNCTION sleep_long(args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(3600);
    END $$;
    CREATE PROCEDURE commit_and_sleep(args jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        PERFORM pg_sleep(3600);
    END $$;";

const REGISTER: &str = "
    SELECT pgq.register('quick', 'note', concurrency => 4);
    SELECT pgq.register('sleep', 'sleep_long');
    SELECT pgq.register('procedure', 'commit_and_sleep');";

/// With room for everything that two databases put: who gets which worker is looked at elsewhere.
fn server(preload: bool) -> Server {
    Server::builder().preload(preload).conf("pgq.max_workers", 16).start()
}

fn shop(server: &Server, database: &str) -> Client {
    let mut client = server.create_database(database);
    execute(&mut client, HANDLERS);
    execute(&mut client, REGISTER);
    client
}

fn execute(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn count(client: &mut Client, sql: &str) -> i64 {
    let row = client.query_one(sql, &[]);
    row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// Puts a job and says how long its effect took.
fn run_one(client: &mut Client, deadline: Duration) -> Duration {
    let id = count(client, "SELECT pgq.put('quick')");
    wait_for_note(client, id, deadline)
}

fn wait_for_note(client: &mut Client, id: i64, deadline: Duration) -> Duration {
    let sql = format!("SELECT count(*) FROM ledger WHERE id = {id}");
    wait_until(deadline, "the job to run", || count(client, &sql) == 1)
}

/// A function and a procedure that sleep, once it has committed, for an hour.
fn put_sleepers(client: &mut Client) {
    execute(client, "SELECT pgq.put('sleep'); SELECT pgq.put('procedure');");
    wait_for_sleepers(client, START);
}

fn wait_for_sleepers(client: &mut Client, deadline: Duration) -> Duration {
    let sql = "SELECT count(*) FROM pgq.running WHERE queue IN ('sleep', 'procedure')";
    wait_until(deadline, "both to sleep", || count(client, sql) == 2)
}

/// Sleepers, and a crowd of short jobs that come and go all the time.
fn keep_busy(client: &mut Client) {
    put_sleepers(client);
    execute(client, "SELECT count(*) FROM pgq.bulk_put('quick', args => array_fill('{}'::jsonb, ARRAY[50000]))");
}

/// Runs `work` while jobs are put into another database: its sleepers must still be the same runs,
/// and each new job there must start in time.
fn undisturbed<T>(server: &Server, neighbour: &str, work: impl FnOnce() -> T) -> T {
    let mut client = server.connect(neighbour);
    let runs = "SELECT string_agg(format('%s/%s/%s', pid, job, since), ' ' ORDER BY job) FROM pgq.running
                 WHERE queue IN ('sleep', 'procedure')";
    let before: String = client.query_one(runs, &[]).expect("sleepers").get(0);
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let prober = scope.spawn(|| {
            let mut client = server.connect(neighbour);
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                slowest = slowest.max(run_one(&mut client, EFFECT));
            }
            slowest
        });
        let until = Until(&over);
        let result = work();
        drop(until);
        let slowest = prober.join().expect("no job next door was late");
        println!("  next door meanwhile: the slowest put took {slowest:?} to its effect");
        result
    });
    let after: String = client.query_one(runs, &[]).expect("sleepers").get(0);
    assert_eq!(before, after, "the runs next door went on");
    result
}

/// Each statement that needs the database, or the extension, for itself.
#[test]
fn drops_succeed_while_workers_are_busy_without_preloading() {
    drop_everything(false);
}

#[test]
fn drops_succeed_while_workers_are_busy_preloaded() {
    drop_everything(true);
}

fn drop_everything(preload: bool) {
    let server = server(preload);
    put_sleepers(&mut shop(&server, "neighbour"));
    drop_extension_and_come_back(&server, preload);
    for sql in ["ALTER DATABASE shop RENAME TO shop2", "CREATE DATABASE copy TEMPLATE shop2", "DROP DATABASE shop2"] {
        let database = if sql.starts_with("ALTER") { "shop" } else { "shop2" };
        {
            let mut client = server.connect(database);
            if sql.starts_with("CREATE") {
                // A copy that runs by itself is not what is looked at here.
                execute(&mut client, "DELETE FROM pgq.job WHERE queue = 'quick'");
            }
            let back = wait_for_sleepers(&mut client, RETURN);
            println!("preloaded {preload}: workers were back after {back:?}");
        }
        let took = undisturbed(&server, "neighbour", || timed(|| execute(&mut server.connect("postgres"), sql)).1);
        println!("preloaded {preload}, {sql}: {took:?}");
        assert!(took < WAY_MADE, "{sql} took {took:?}");
    }
    run_one(&mut server.connect("neighbour"), EFFECT);
}

/// DROP EXTENSION, CREATE EXTENSION again, in the same session; then both in one transaction.
fn drop_extension_and_come_back(server: &Server, preload: bool) {
    let mut client = shop(server, "shop");
    keep_busy(&mut client);
    let took = undisturbed(server, "neighbour", || timed(|| execute(&mut client, "DROP EXTENSION pgq")).1);
    println!("preloaded {preload}, DROP EXTENSION: {took:?}");
    assert!(took < WAY_MADE, "DROP EXTENSION took {took:?}");
    wait_until(START, "the workers to leave", || server.worker_pids(Some("shop")).is_empty());
    for again in ["CREATE EXTENSION pgq", "BEGIN; DROP EXTENSION pgq; CREATE EXTENSION pgq; COMMIT"] {
        let (_, took) = timed(|| execute(&mut client, again));
        assert!(took < WAY_MADE, "{again} took {took:?}");
        execute(&mut client, "TRUNCATE ledger");
        execute(&mut client, REGISTER);
        let effect = run_one(&mut client, START);
        println!("preloaded {preload}, {again}: {took:?}, and {effect:?} from the first put to its effect");
        keep_busy(&mut client);
    }
}

/// The launcher looks into the database before the extension can be seen there, and finds nothing.
#[test]
fn a_put_in_the_transaction_that_creates_the_extension_runs_after_it() {
    for preload in [false, true] {
        let server = server(preload);
        let mut client = server.connect("postgres");
        execute(&mut client, "CREATE DATABASE shop");
        let mut client = server.connect("shop");
        execute(&mut client, HANDLERS);
        execute(&mut client, "BEGIN; CREATE EXTENSION pgq");
        execute(&mut client, REGISTER);
        let id = count(&mut client, "SELECT pgq.put('quick')");
        // Long enough for a launcher to be started by this and to look.
        execute(&mut client, "SELECT pg_sleep(2); COMMIT");
        let took = wait_for_note(&mut client, id, START);
        println!("preloaded {preload}: ran {took:?} after the COMMIT");
    }
}

#[test]
fn a_drop_that_fails_leaves_the_queue_running_without_preloading() {
    fail_drops(false);
}

#[test]
fn a_drop_that_fails_leaves_the_queue_running_preloaded() {
    fail_drops(true);
}

fn fail_drops(preload: bool) {
    let server = server(preload);
    let mut client = shop(&server, "shop");
    keep_busy(&mut client);

    execute(&mut client, "CREATE VIEW mine AS SELECT id FROM pgq.job");
    fails(&mut server.connect("shop"), "DROP EXTENSION pgq", "2BP01");
    assert_back(&mut client, "DROP EXTENSION with a view on it", preload);

    // The session that holds the lock sits there until the workers have seen it.
    let mut dropper = server.connect("shop");
    execute(&mut dropper, "BEGIN; DROP EXTENSION pgq CASCADE");
    wait_until(WAY_MADE, "the executors to leave", || server.worker_pids_like("pgq executor", Some("shop")).is_empty());
    execute(&mut dropper, "ROLLBACK");
    drop(dropper);
    assert_back(&mut client, "DROP EXTENSION rolled back", preload);

    // `client` is in the way itself.
    fails(&mut server.connect("postgres"), "DROP DATABASE shop", "55006");
    assert_back(&mut client, "DROP DATABASE", preload);
}

fn fails(client: &mut Client, sql: &str, sqlstate: &str) {
    let error = client.batch_execute(sql).expect_err("it fails");
    assert_eq!(error.code().map(|code| code.code()), Some(sqlstate), "{sql}: {error:?}");
}

/// The jobs that ran before run again, and a new one runs.
fn assert_back(client: &mut Client, after: &str, preload: bool) {
    let began = Instant::now();
    let effect = run_one(client, RETURN);
    wait_for_sleepers(client, RETURN);
    println!(
        "preloaded {preload}, {after} failed: a put had its effect after {effect:?}, all ran again after {:?}",
        began.elapsed()
    );
}

#[test]
fn a_fast_shutdown_does_not_wait_for_a_sleeping_job() {
    for preload in [false, true] {
        let server = server(preload);
        let mut client = shop(&server, "shop");
        put_sleepers(&mut client);
        let took = server.stop(Stop::Fast);
        println!("preloaded {preload}, fast shutdown: {took:?}");
        assert!(took < WAY_MADE, "took {took:?}");
        server.start();
        let mut client = server.connect("shop");
        if !preload {
            execute(&mut client, "SELECT pgq.start()");
        }
        wait_for_sleepers(&mut client, START);
        let charged = "SELECT count(*) FROM pgq.job WHERE failures <> 0";
        assert_eq!(count(&mut client, charged), 0, "a shutdown is nobody's failure");
    }
}

#[test]
fn jobs_put_before_a_restart_run_after_it_without_anybody_connecting_when_preloaded() {
    let server = server(true);
    let mut client = server.create_database("shop");
    execute(
        &mut client,
        "CREATE FUNCTION say(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             RAISE LOG 'job % ran', id;
         END $$;
         SELECT pgq.register('say', 'say')",
    );
    for stop in [Stop::Fast, Stop::Immediate] {
        // Due only when the server has stopped.
        let id = count(&mut client, "SELECT pgq.put('say', delay => '2 s')");
        drop(client);
        server.stop(stop);
        let said = format!("job {id} ran");
        assert!(!server.log().contains(&said), "it was not due before");
        thread::sleep(Duration::from_secs(2));
        server.start();
        let took = wait_until(START, "the job to say that it ran", || server.log().contains(&said));
        println!("after a stop {stop:?}: the job ran {took:?} after the start");
        client = server.connect("shop");
        wait_until(START, "its row to go", || count(&mut client, "SELECT count(*) FROM pgq.job") == 0);
    }
}

#[test]
fn without_preloading_jobs_put_before_a_restart_run_after_the_first_call() {
    let server = server(false);
    let mut client = shop(&server, "shop");
    let id = count(&mut client, "SELECT pgq.put('quick', delay => '2 s')");
    drop(client);
    server.restart(Stop::Fast);
    let mut client = server.connect("shop");
    execute(&mut client, "SELECT pgq.start()");
    let took = wait_for_note(&mut client, id, START);
    println!("without preloading: {took:?} after the first call");
}

/// Room for the logical replication launcher, then for our launcher, then for a scheduler too; but
/// never for an executor.
#[test]
fn jobs_wait_while_there_is_no_worker_slot_and_nothing_crashes() {
    for preload in [false, true] {
        let server = Server::builder().preload(preload).conf("max_worker_processes", 1).start();
        let mut client = shop(&server, "shop");
        let mut put = vec![count(&mut client, "SELECT pgq.put('quick')")];
        for slots in ["1", "2", "3"] {
            execute(&mut client, &format!("ALTER SYSTEM SET max_worker_processes = {slots}"));
            drop(client);
            let before = server.log().len();
            server.restart(Stop::Fast);
            client = server.connect("shop");
            put.push(count(&mut client, "SELECT pgq.put('quick')"));
            // As long as it takes a scheduler to be tried and to try several times itself.
            thread::sleep(Duration::from_secs(4));
            put.push(count(&mut client, "SELECT pgq.put('quick')"));
            let log = server.log()[before..].to_owned();
            let complaints = log.matches("no free worker slot").count();
            println!("preloaded {preload}, {slots} slots: {complaints} complaints in 4 s");
            assert!(complaints <= 2, "a storm in the log:\n{log}");
            assert_eq!(count(&mut client, "SELECT count(*) FROM ledger"), 0, "there is nobody to run jobs");
        }
        execute(&mut client, "ALTER SYSTEM SET max_worker_processes = 8");
        drop(client);
        server.restart(Stop::Fast);
        client = server.connect("shop");
        if !preload {
            execute(&mut client, "SELECT pgq.start()");
        }
        for id in &put {
            wait_for_note(&mut client, *id, START);
        }
        let log = server.log();
        assert!(!log.contains("was terminated by signal") && !log.contains("PANIC"), "{log}");
    }
}

#[test]
fn a_role_that_may_no_longer_log_in_parks_its_handlers_and_nobody_elses() {
    let server = server(true);
    let mut client = shop(&server, "shop");
    execute(
        &mut client,
        "CREATE ROLE app LOGIN; GRANT INSERT ON ledger TO app;
         SELECT pgq.register('apps', 'note', run_as => 'app');
         ALTER ROLE app NOLOGIN;",
    );
    let id = count(&mut client, "SELECT pgq.put('apps')");
    let parked = "SELECT count(*) FROM pgq.stats('apps') WHERE parked IS NOT NULL";
    let took = wait_until(START, "the handler to be parked", || count(&mut client, parked) == 1);
    let why: String = client.query_one("SELECT parked FROM pgq.stats('apps')", &[]).expect("a row").get(0);
    println!("parked after {took:?}: {why}");
    run_one(&mut client, START);
    let row = client.query_one("SELECT attempt, failures, state FROM pgq.job WHERE id = $1", &[&id]);
    let row = row.expect("the job waits");
    let job: (i32, i32, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(job, (0, 0, "ready".to_owned()), "nothing is counted against the job");
    let refused = server.log().matches("is not permitted to log in").count();
    println!("refused connections: {refused}");
    assert!(refused <= 10, "a parked role is not tried again and again");
    // Registering again takes the handler back into service at once.
    execute(&mut client, "ALTER ROLE app LOGIN; SELECT pgq.register('apps', 'note', run_as => 'app');");
    wait_for_note(&mut client, id, START);
}

#[test]
fn switched_off_everybody_leaves_and_switched_on_everybody_comes_back() {
    for preload in [false, true] {
        let server = server(preload);
        let mut client = shop(&server, "shop");
        run_one(&mut client, START);
        // In this session: one that has not loaded pgq does not know the setting.
        execute(&mut client, "ALTER SYSTEM SET pgq.enabled = off");
        execute(&mut client, "SELECT pg_reload_conf()");
        let left =
            wait_until(START, "executors and scheduler to leave", || server.worker_pids(Some("shop")).is_empty());
        let id = count(&mut client, "SELECT pgq.put('quick')");
        execute(&mut client, "ALTER SYSTEM SET pgq.enabled = on");
        execute(&mut client, "SELECT pg_reload_conf()");
        let took = wait_for_note(&mut client, id, START);
        println!("preloaded {preload}: off, left after {left:?}; on, the waiting job ran after {took:?}");
    }
}
