//! The ways in which a queue inside PostgreSQL goes wrong, each tried on ours: what a claim looked at changes before
//! it is taken, jobs of one transaction disturb each other, vacuum does not come, an index is replaced, a disk is
//! full. `src/workers/README.md` has the whole list, and the tests in other files that belong to it. The comment of
//! each test names a change of one line with which it fails.

use pgq_tests::disk::SmallDisk;
use pgq_tests::{count, crasher, one, repository, run, wait_for, wait_until, Ledger, Server, Stop, Until};
use postgres::Client;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What follows a crash takes longer: the server starts over several times.
const AFTER_CRASHES: Duration = Duration::from_secs(150);
/// Ten times the poll interval of a second.
const POLLED: Duration = Duration::from_secs(10);

fn start(workers: usize) -> (Server, Client) {
    let server = Server::builder().conf("pgq.max_workers", workers).start();
    let client = server.create_database("app");
    (server, client)
}

fn ids(client: &mut Client, sql: &str) -> Vec<i64> {
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

fn put(client: &mut Client, queue: &str, jobs: usize) -> Vec<i64> {
    ids(client, &format!("SELECT pgq.bulk_put('{queue}', args => array_fill('{{}}'::jsonb, ARRAY[{jobs}]))"))
}

fn lines(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

/// The text of a statement of store/claim.rs that returns a job, up to what it returns.
fn statement(name: &str) -> String {
    let source = fs::read_to_string(repository().join("src/store/claim.rs")).expect("it is there");
    let text = source.split(&format!("static {name}: Statement")).nth(1).and_then(|rest| rest.split('"').nth(1));
    let text = text.unwrap_or_else(|| panic!("there is no {name}"));
    // Of a statement that is sent as text nobody says what its parameters are.
    text.replace("$2 IS NULL", "$2::text[] IS NULL") + " j.id"
}

/// A claim is held between its look and its first removal, by a trigger that waits: with that pgq itself would refuse
/// to work, so its statement is run as it is written. Meanwhile the second row that it
/// looked at cannot be taken by anybody, so its place in the table cannot become another job's, whatever vacuum does.
///
/// Fails without FOR UPDATE SKIP LOCKED in `CLAIM` (store/claim.rs): somebody else takes the second job under it.
#[test]
fn nobody_takes_what_a_claim_has_looked_at() {
    let (server, mut client) = start(2);
    let looked_at = put(&mut client, "q", 2);
    run(
        &mut client,
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('application_name') = 'held' THEN PERFORM pg_advisory_xact_lock(7); END IF;
            RETURN OLD; END $$;
         CREATE TRIGGER hold BEFORE DELETE ON pgq.job FOR EACH ROW EXECUTE FUNCTION hold();
         SELECT pg_advisory_lock(7)",
    );
    let mut other = server.connect("app");
    let claim = thread::spawn(move || {
        run(&mut other, "SET application_name = 'held'");
        let rows = other
            .query(&statement("CLAIM"), &[&"q", &None::<Vec<String>>, &2_i64, &Vec::<i64>::new()])
            .unwrap_or_else(|error| panic!("{error:?}"));
        rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>()
    });
    let held = "pg_stat_activity WHERE application_name = 'held' AND wait_event = 'advisory'";
    wait_until(PATIENCE, "the claim to be held", || count(&mut client, held) == 1);
    let taken = client.query(&statement("TAKE_ONE"), &[&looked_at[1]]).expect("it skips what is locked").len();
    run(&mut client, "VACUUM pgq.job");
    let insert = "INSERT INTO pgq.job (queue, args, priority, execute_at, state)
                  SELECT 'q', '{}', 0, now(), 'ready' FROM generate_series(1, 10) RETURNING id";
    let later = ids(&mut client, insert);
    run(&mut client, "SELECT pg_advisory_unlock(7)");
    let mut claimed = claim.join().expect("the claim ends");
    claimed.sort_unstable();
    assert_eq!((claimed, taken), (looked_at, 0));
    assert_eq!(ids(&mut client, "SELECT id FROM pgq.job ORDER BY id"), later);
}

/// Jobs are put and run while `disturb` is done again and again; each runs exactly once.
fn under_load(server: &Server, client: &mut Client, disturb: &[&str]) {
    let ledger = Ledger::create(client, "ledger");
    run(
        client,
        "CREATE FUNCTION enter(id bigint, args jsonb) RETURNS void LANGUAGE sql
            AS $$ INSERT INTO ledger VALUES (id) $$;
         SELECT pgq.register('q', 'enter', concurrency => 4)",
    );
    let (over, mut other) = (AtomicBool::new(false), server.connect("app"));
    let (mut ids, mut rounds) = (Vec::new(), 0);
    thread::scope(|scope| {
        let disturbing = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(SeqCst) || rounds == 0 {
                disturb.iter().for_each(|sql| run(&mut other, sql));
                rounds += 1;
            }
            rounds
        });
        let until = Until(&over);
        for _ in 0..60 {
            ids.extend(put(client, "q", 250));
        }
        wait_until(PATIENCE, "all jobs to be done", || count(client, "pgq.job") == 0);
        drop(until);
        rounds = disturbing.join().expect("nothing fails");
    });
    println!("{rounds} rounds of {disturb:?}");
    ledger.verify(client, &ids).assert_exact();
}

/// Places of removed jobs are used again at once, under four executors.
///
/// A claim looks and removes in one statement, so no change of one line parts the two; this is the proof by use.
#[test]
fn vacuum_in_a_loop_mixes_up_no_jobs() {
    let (server, mut client) = start(4);
    under_load(&server, &mut client, &["VACUUM pgq.job"]);
}

/// Plans follow a new index at once and use no invalid one.
///
/// Fails where the claim names an index by an oid that it looked up once.
#[test]
fn indexes_that_are_rebuilt_under_load_or_left_invalid_disturb_no_job() {
    let (server, mut client) = start(4);
    let mut other = server.connect("app");
    run(&mut other, "BEGIN; SELECT FROM pgq.job");
    run(&mut client, "SET lock_timeout = '100ms'");
    let failed = client.batch_execute("REINDEX INDEX CONCURRENTLY pgq.job_ready_idx");
    assert_eq!(failed.expect_err("it waits for the reader").code().map(|code| code.code()), Some("55P03"));
    run(&mut other, "ROLLBACK");
    let invalid = "pg_index WHERE indrelid = 'pgq.job'::regclass AND NOT indisvalid";
    assert_eq!(count(&mut client, invalid), 1);
    let indexes: Vec<String> = client
        .query(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'pgq.job'::regclass AND indisvalid",
            &[],
        )
        .expect("the indexes")
        .iter()
        .map(|row| format!("REINDEX INDEX CONCURRENTLY {}", row.get::<_, String>(0)))
        .collect();
    assert!(indexes.len() >= 5, "{indexes:?}");
    let disturb: Vec<&str> = indexes.iter().map(String::as_str).collect();
    under_load(&server, &mut client, &disturb);
    assert_eq!(count(&mut client, invalid), 1, "it is still there, and was not used");
}

/// Each handler cancels the next job, which its own transaction has removed already, or another executor has, or
/// nobody: then it is cancelled. Nothing fails, and each job ends exactly once.
///
/// The jobs of a transaction are removed before the first of them runs, so there is no candidate that a handler could
/// take away. Fails when `run_some` (workers/batch.rs) gives back `jobs[n - 1..]`, what has begun.
#[test]
fn a_handler_may_cancel_the_next_jobs_of_its_own_transaction() {
    let (_server, mut client) = start(4);
    let ledger = Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "ALTER TABLE ledger ADD answer text, ADD began xid8 DEFAULT pg_current_xact_id();
         CREATE FUNCTION f(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO ledger VALUES (f.id, pgq.cancel(f.id + 1)); END $$;
         SELECT pgq.register('q', 'f', concurrency => 2, max_attempts => 1)",
    );
    let put = put(&mut client, "q", 6_000);
    wait_until(PATIENCE, "all jobs to end", || count(&mut client, "pgq.job") == 0);
    let cancelled = "SELECT id FROM pgq.finished_job WHERE outcome = 'cancelled'";
    ledger.verify_with(&mut client, &put, cancelled).assert_exact();
    let own = "(SELECT began FROM ledger WHERE answer IS NULL GROUP BY began HAVING count(*) > 1) AS shared";
    assert!(count(&mut client, own) > 0, "no jobs shared a transaction");
    assert_eq!(one::<i64>(&mut client, "SELECT failed_total FROM pgq.stats('q')"), 0);
}

/// What a job leaves in its transaction disturbs the next one. Nobody is charged, and the handler's jobs then run one
/// per transaction.
///
/// Fails when the job that fails in company is charged, or without `disturbed` (workers/batch.rs).
#[test]
fn jobs_that_disturb_each_other_are_not_charged_and_run_apart() {
    let (server, mut client) = start(2);
    run(
        &mut client,
        "CREATE TABLE done (queue text);
         CREATE FUNCTION temps() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            CREATE TEMP TABLE scratch (n int) ON COMMIT DROP; INSERT INTO done VALUES ('temps'); END $$;
         CREATE FUNCTION cursors() RETURNS void LANGUAGE plpgsql AS $$ DECLARE c refcursor := 'left_open'; BEGIN
            OPEN c FOR SELECT 1; INSERT INTO done VALUES ('cursors'); END $$",
    );
    for queue in ["temps", "cursors"] {
        run(&mut client, &format!("SELECT pgq.register('{queue}', '{queue}', max_attempts => 1)"));
        put(&mut client, queue, 300);
        wait_until(PATIENCE, "all jobs to end", || count(&mut client, "pgq.job") == 0);
        assert_eq!(count(&mut client, &format!("done WHERE queue = '{queue}'")), 300);
        let said = format!("jobs of queue \"{queue}\" now run one per transaction");
        assert_eq!(lines(&server, &said), 1, "{queue}");
    }
    assert_eq!(count(&mut client, "pgq.finished_job"), 0);
    assert_eq!(one::<i64>(&mut client, "SELECT sum(failed_total)::bigint FROM pgq.stats()"), 0);
}

/// Of a constraint that fails at the commit nothing says whose row it was: the jobs of the transaction run alone, and
/// the guilty one is charged there.
///
/// Fails without `apart`, and when the last job to run is blamed (`progress.current`, workers/batch.rs).
#[test]
fn a_constraint_that_fails_at_commit_is_charged_to_the_guilty_one_only() {
    let (server, mut client) = start(2);
    let ledger = Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "CREATE TABLE strict (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO strict VALUES (0);
         CREATE FUNCTION f(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO ledger VALUES (f.id);
            IF args = '0' THEN INSERT INTO strict VALUES (0); END IF; END $$;
         SELECT pgq.register('q', 'f', max_attempts => 2, backoff => '10 ms')",
    );
    let mut all = put(&mut client, "q", 1_000);
    wait_until(PATIENCE, "the handler to be trusted", || count(&mut client, "pgq.job") == 0);
    let among = "SELECT pgq.bulk_put('q', args => array_fill('{}'::jsonb, ARRAY[20]) || '0'::jsonb
                    || array_fill('{}'::jsonb, ARRAY[20]))";
    all.extend(ids(&mut client, among));
    wait_until(PATIENCE, "all jobs to end", || count(&mut client, "pgq.job") == 0);
    ledger.verify(&mut client, &all).assert_exact();
    let guilty = "pgq.dead WHERE args = '0' AND sqlstate = '23505' AND failures = 2";
    assert_eq!((count(&mut client, guilty), count(&mut client, "pgq.dead")), (1, 1));
    assert_eq!(one::<i64>(&mut client, "SELECT failed_total FROM pgq.stats('q')"), 2);
    assert_eq!(lines(&server, "now run one per transaction"), 0, "they do not disturb each other");
}

/// One worker runs jobs for as long as it lives, and each is told the time of its own transaction and statement.
///
/// Fails without `SetCurrentStatementStartTimestamp` (pg/xact.rs): the time is when the worker connected.
#[test]
fn the_time_of_a_job_is_that_of_its_transaction() {
    let (_server, mut client) = start(2);
    run(
        &mut client,
        "CREATE TABLE told (of_transaction timestamptz, of_statement timestamptz, put timestamptz, pid int);
         CREATE FUNCTION f(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO told VALUES (now(), statement_timestamp(), job.created_at, pg_backend_pid()); END $$;
         CREATE PROCEDURE p(job pgq.job) LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO told VALUES (now(), statement_timestamp(), job.created_at, pg_backend_pid()); END $$;
         SELECT pgq.register('f', 'f', batch => 1), pgq.register('p', 'p')",
    );
    for n in 1..=10 {
        let queue = ["f", "p"][n % 2];
        run(&mut client, &format!("SELECT pgq.put('{queue}')"));
        let expected = i64::try_from(n).expect("few");
        wait_until(PATIENCE, "the job", || count(&mut client, "told") == expected);
    }
    assert_eq!(count(&mut client, "(SELECT DISTINCT pid FROM told) AS p"), 1);
    let wrong = "told WHERE of_transaction < put OR of_statement < of_transaction
        OR of_statement > put + interval '20 s'";
    assert_eq!(count(&mut client, wrong), 0);
}

/// A STABLE function sees the world under the snapshot that is active when it is called.
///
/// Fails when `command` (pg/xact.rs) pushes a snapshot only where none is active and does not pop it.
#[test]
fn a_stable_handler_sees_what_the_job_before_it_did() {
    let (_server, mut client) = start(2);
    run(
        &mut client,
        "CREATE TABLE t (n int);
         CREATE FUNCTION add() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (1); END $$;
         CREATE FUNCTION f() RETURNS bigint STABLE LANGUAGE plpgsql AS $$ DECLARE seen bigint; BEGIN
            SELECT count(*) INTO seen FROM t; PERFORM add(); RETURN seen; END $$;
         SELECT pgq.configure('q', keep_done => '1 day'), pgq.register('q', 'f')",
    );
    put(&mut client, "q", 500);
    wait_until(PATIENCE, "all jobs", || count(&mut client, "pgq.finished_job WHERE outcome = 'done'") == 500);
    assert_eq!(count(&mut client, "(SELECT DISTINCT result FROM pgq.finished_job) AS r"), 500);
}

/// A crash at COMMIT, in a deferred trigger, after every handler has returned; and a FATAL, which ends the worker
/// only. The one job is found and buried, and none of its company is charged.
///
/// Fails when `journal_clear` is called before the commit, or when a process that ended by itself is not ENDED
/// (`note_death`, workers/executor.rs): then the job runs again and again.
#[test]
fn a_crash_at_commit_and_a_fatal_are_laid_at_the_one_jobs_door() {
    let server = Server::builder().preload(true).conf("pgq.backoff", "10ms").start();
    let mut client = server.create_database("app");
    crasher::create(&mut client);
    run(
        &mut client,
        "CREATE TABLE later (id bigint);
         CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM crash_segv(); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION at_commit();
         CREATE FUNCTION f(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            IF job.args = '\"late\"' THEN INSERT INTO later VALUES (job.id); END IF;
            IF job.args = '\"fatal\"' THEN PERFORM crash_fatal(); END IF; END $$;
         SELECT pgq.register('q', 'f'), pgq.configure('q', keep_done => '1 day')",
    );
    put(&mut client, "q", 2_000);
    wait_until(PATIENCE, "the handler to be trusted", || count(&mut client, "pgq.finished_job") == 2_000);
    for (n, (what, words)) in [("late", "crashed the server 3 times"), ("fatal", "3 times")].into_iter().enumerate() {
        let among = format!(
            "SELECT pgq.bulk_put('q', args => array_fill('{{}}'::jsonb, ARRAY[100]) || '\"{what}\"'::jsonb
                || array_fill('{{}}'::jsonb, ARRAY[100]))"
        );
        run(&mut client, &among);
        let ended = "SELECT (SELECT count(*) FROM pgq.dead), (SELECT count(*) FROM pgq.job)";
        let dead_by_now = i64::try_from(n).expect("few") + 1;
        wait_until(AFTER_CRASHES, what, || {
            if client.is_closed() {
                client = wait_for(PATIENCE, "the server to be back", || server.try_connect("app", "postgres").ok());
            }
            client.query_one(ended, &[]).is_ok_and(|row| (row.get(0), row.get(1)) == (dead_by_now, 0_i64))
        });
        let dead = format!("pgq.dead WHERE args = '\"{what}\"' AND message LIKE '%{words}'");
        assert_eq!(count(&mut client, &dead), 1, "{what}");
    }
    let good = "pgq.finished_job WHERE outcome = 'done' AND (attempt, crashes, failures) = (1, 0, 0)";
    assert_eq!(count(&mut client, good), 2_400);
}

/// One job runs for long and another looks ready, because somebody has claimed it and not committed: executors look
/// at both again and again.
///
/// Fails with a `GetCurrentTransactionId()` in `run` (pg/xact.rs).
#[test]
fn polling_beside_a_long_job_costs_no_transaction_ids() {
    let server = Server::builder().conf("autovacuum", "off").conf("pgq.poll_interval", "100ms").start();
    let mut client = server.create_database("app");
    let mut holder = server.connect("app");
    let held: i64 = one(&mut client, "SELECT pgq.put('held')");
    run(&mut holder, "BEGIN");
    assert_eq!(ids(&mut holder, "SELECT id FROM pgq.claim('held')"), [held]);
    run(
        &mut client,
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(3600)';
         CREATE FUNCTION g() RETURNS void LANGUAGE sql AS '';
         SELECT pgq.register('long', 'f'), pgq.register('held', 'g'), pgq.put('long')",
    );
    wait_until(PATIENCE, "the long job to run", || count(&mut client, "pgq.running") == 1);
    // So that an executor is there, and idle.
    let other: i64 = one(&mut client, "SELECT pgq.put('held')");
    let there = format!("pgq.job WHERE id = {other}");
    wait_until(PATIENCE, "another job beside it", || count(&mut client, &there) == 0);
    const NEXT: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    const COMMITS: &str = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'app'";
    let (before, commits): (i64, i64) = (one(&mut client, NEXT), one(&mut client, COMMITS));
    let began = Instant::now();
    // The least that shows that they looked; counts arrive once a second.
    wait_until(PATIENCE, "five seconds and a hundred looks", || {
        began.elapsed() > Duration::from_secs(5) && one::<i64>(&mut server.connect("postgres"), COMMITS) > commits + 100
    });
    assert_eq!(one::<i64>(&mut client, NEXT) - before, 0);
    run(&mut holder, "ROLLBACK");
    wait_until(POLLED, "the job that was given back", || count(&mut client, "pgq.job WHERE queue = 'held'") == 0);
}

/// DROP EXTENSION takes the extension before any table, and so do workers: it waits for them in one place.
///
/// Fails when `lock` (pg/extension.rs) takes no lock.
#[test]
fn a_worker_holds_the_extension_while_it_uses_its_tables() {
    let (server, mut client) = start(2);
    run(
        &mut client,
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(3600)';
         SELECT pgq.register('q', 'f'), pgq.put('q')",
    );
    wait_until(PATIENCE, "the job to run", || count(&mut client, "pgq.running") == 1);
    let held = "pg_locks AS l JOIN pgq.running AS r USING (pid) JOIN pg_extension AS e ON e.oid = l.objid
        WHERE l.classid = 'pg_extension'::regclass AND e.extname = 'pgq' AND l.mode = 'AccessShareLock' AND l.granted";
    assert_eq!(count(&mut client, held), 1);
    // It waits for the worker, which leaves: then nothing is in the way.
    run(&mut client, "SET deadlock_timeout = '100ms'; DROP EXTENSION pgq");
    assert_eq!(lines(&server, "deadlock detected"), 0);
}

/// All removals are our executors', which live on.
///
/// Fails without `pgstat_report_stat` (pg/xact.rs): they tell nobody what they removed.
#[test]
fn autovacuum_comes_to_a_queue_that_only_executors_empty() {
    let server = Server::builder().conf("autovacuum_naptime", "1s").conf("pgq.idle_timeout", "10min").start();
    let mut client = server.create_database("app");
    run(
        &mut client,
        "ALTER TABLE pgq.job SET (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_insert_threshold = -1);
         CREATE FUNCTION f() RETURNS void LANGUAGE sql AS '';
         SELECT pgq.register('q', 'f')",
    );
    put(&mut client, "q", 2_000);
    wait_until(PATIENCE, "all jobs", || count(&mut client, "pgq.job") == 0);
    let came = "pg_stat_user_tables WHERE relid = 'pgq.job'::regclass AND autovacuum_count > 0 AND n_tup_del >= 2000";
    wait_until(PATIENCE, "autovacuum", || count(&mut client, came) == 1);
}

/// Ids are given before they are committed: a lower one may become visible after a higher one has run.
///
/// Fails with any lower bound on `c.id` in `TAKE` (store/claim.rs): that is what a remembered position would be.
#[test]
fn a_lower_id_that_is_committed_late_runs() {
    let (server, mut client) = start(2);
    run(
        &mut client,
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS '';
         SELECT pgq.register('q', 'f')",
    );
    let mut late = server.connect("app");
    for _ in 0..3 {
        run(&mut late, "BEGIN");
        let lower: i64 = one(&mut late, "SELECT pgq.put('q')");
        let higher: i64 = one(&mut client, "SELECT pgq.put('q')");
        assert!(lower < higher);
        let there = format!("pgq.job WHERE id = {higher}");
        wait_until(PATIENCE, "the higher id to run", || count(&mut client, &there) == 0);
        run(&mut late, "COMMIT");
        let there = format!("pgq.job WHERE id = {lower}");
        wait_until(POLLED, "the lower id to run", || count(&mut client, &there) == 0);
    }
}

/// A store into a hole of a file on a full disk would be a SIGBUS, that is a crash of the server.
///
/// Fails when `allocate` (pg/mapped.rs) answers an error with a file of holes (`set_len`).
#[test]
fn on_a_full_disk_there_is_no_journal_and_no_crash_and_jobs_run() {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("app");
    run(
        &mut client,
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS '';
         SELECT pgq.register('q', 'f')",
    );
    server.stop(Stop::Fast);
    // Declared after the server, so that it is gone before the server's directory is removed.
    let disk = SmallDisk::mount(&server.data_directory().join("pgq"), 2).expect("a small disk");
    disk.fill(512 * 1024).expect("it can be filled");
    server.start();
    let mut client = server.connect("app");
    put(&mut client, "q", 100);
    wait_until(PATIENCE, "all jobs", || count(&mut client, "pgq.job") == 0);
    assert_eq!(count(&mut client, "pgq.doctor() WHERE check_name = 'crash journal' AND NOT ok AND fix <> ''"), 1);
    assert_eq!(lines(&server, "crashes cannot be laid at a job's door"), 1);
    assert_eq!(lines(&server, "was terminated by signal"), 0);
    disk.free().expect("room again");
    server.restart(Stop::Fast);
    let mut client = server.connect("app");
    let there = "pgq.doctor() WHERE check_name = 'crash journal' AND ok";
    wait_until(PATIENCE, "a journal", || count(&mut client, there) == 1);
}

/// The rows of the list in `src/workers/README.md`: (what goes wrong, what tells, how to break it).
fn items(readme: &str) -> Vec<Vec<String>> {
    let section = readme.split("\n## ").find(|s| s.starts_with("How a queue inside PostgreSQL goes wrong"));
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| "));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What a cell names as `file::function`, the file below tests/ or src/.
fn named(cell: &str) -> Vec<(String, String)> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter_map(|name| name.split_once("::")).map(|(f, t)| (f.to_owned(), t.to_owned())).collect()
}

#[test]
fn every_test_that_the_list_of_the_workers_names_is_there() {
    let root = repository();
    let readme = fs::read_to_string(root.join("src/workers/README.md")).expect("it is there");
    let items = items(&readme);
    assert!(items.len() >= 25, "the list has lost rows, or is not read: {items:#?}");
    for row in &items {
        assert_eq!(row.len(), 3, "{row:?}");
        assert!(
            !named(&row[1]).is_empty() || row[2].starts_with("Cannot happen"),
            "neither a test nor a reason: {row:?}"
        );
        for (file, function) in named(&row[1]) {
            let text = ["tests", "src"].iter().find_map(|at| fs::read_to_string(root.join(at).join(&file)).ok());
            let text = text.unwrap_or_else(|| panic!("there is no {file}"));
            assert!(text.contains(&format!("fn {function}(")), "{file} has no {function}");
        }
    }
    assert_eq!(named("`a.rs::b`, and `c`"), [("a.rs".to_owned(), "b".to_owned())]);
}
