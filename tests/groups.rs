//! Order within groups on real servers: one at a time, in the order of the ids, retries included; by workers and by
//! clients, while they fail, are killed, and while others put.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A handler notes the job with its group, its number in it, the last number of which it sees the effect, and when it
/// began and ended. It fails where args say so: on the first attempt, or always.
const SHOP: &str = "
    CREATE TABLE ran (id bigint, grp text, n int, seen int, began timestamptz, ended timestamptz);
    CREATE FUNCTION note(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        began timestamptz := clock_timestamp();
        seen int := (SELECT max(r.n) FROM ran AS r WHERE r.grp = (job).group_key);
    BEGIN
        PERFORM pg_sleep(((job).args ->> 'sleep')::float8);
        IF (job).args ->> 'fails' = 'always' OR ((job).args ->> 'fails' = 'once' AND (job).attempt = 1) THEN
            RAISE 'no';
        END IF;
        INSERT INTO ran VALUES ((job).id, (job).group_key, ((job).args ->> 'n')::int, seen, began, clock_timestamp());
    END $$;
    CREATE PROCEDURE note_in_steps(job pgq.job) LANGUAGE plpgsql AS $$ BEGIN
        COMMIT; PERFORM note(job); COMMIT; END $$;
    CREATE FUNCTION note_all(jobs pgq.job[]) RETURNS void LANGUAGE plpgsql AS $$ DECLARE job pgq.job; BEGIN
        FOREACH job IN ARRAY jobs LOOP PERFORM note(job); END LOOP; END $$;
    SELECT pgq.register('q', 'note'), pgq.register('p', 'note_in_steps'), pgq.register('s', 'note_all'),
           pgq.configure('q', backoff => '20 ms'), pgq.configure('p', backoff => '20 ms'),
           pgq.configure('s', backoff => '20 ms')";

fn shop() -> (Server, Client) {
    let server = Server::builder().preload(true).conf("pgq.max_workers", 8).conf("max_worker_processes", 16).start();
    let mut client = server.create_database("shop");
    run(&mut client, SHOP);
    (server, client)
}

fn ids(client: &mut Client, sql: &str) -> Vec<i64> {
    let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Puts `each` jobs for each of `groups` groups in the order of their numbers, all in one statement; of some the first
/// attempt fails.
fn put_many(client: &mut Client, queue: &str, groups: usize, each: usize, failing: bool) {
    let fails = if failing { "CASE WHEN (n * 7 + g) % 20 = 0 THEN 'once' END" } else { "NULL" };
    let sql = format!(
        "SELECT count(*) FROM pgq.bulk_put('{queue}', jobs => (
            SELECT jsonb_agg(jsonb_build_object('group_key', 'g' || g,
                                                'args', jsonb_strip_nulls(jsonb_build_object('n', n, 'fails', {fails}))) ORDER BY n, g)
              FROM generate_series(1, {groups}) AS g, generate_series(1, {each}) AS n))"
    );
    run(client, &sql);
}

/// All have run once, each after the one before it in its group had committed, and no two of a group at a time.
fn assert_in_order(client: &mut Client, jobs: usize) {
    assert_eq!(count(client, "ran"), i64::try_from(jobs).expect("few"));
    assert_eq!(count(client, "(SELECT DISTINCT id FROM ran) AS r"), i64::try_from(jobs).expect("few"));
    assert_eq!(count(client, "ran WHERE seen IS DISTINCT FROM nullif(n - 1, 0)"), 0, "the one before was not done");
    let order = "(SELECT id, lag(id) OVER g AS before, began, lag(ended) OVER g AS free FROM ran
        WINDOW g AS (PARTITION BY grp ORDER BY n)) AS r WHERE before > id OR free > began";
    assert_eq!(count(client, order), 0, "out of order, or two at a time");
}

#[test]
fn jobs_of_a_group_run_in_order_while_they_fail_and_workers_are_killed() {
    let (server, mut client) = shop();
    for (queue, groups, each) in [("q", 100, 30), ("p", 10, 10), ("s", 20, 10)] {
        run(&mut client, "TRUNCATE ran");
        put_many(&mut client, queue, groups, each, true);
        let mut kills = 0;
        wait_until(PATIENCE, "all jobs", || {
            // A set without its worker is in quarantine and takes its time.
            if kills < 5 {
                thread::sleep(Duration::from_millis(30));
                if let Some(pid) = server.worker_pids_like("executor", None).into_iter().nth(kills % 3) {
                    kills += usize::from(server.try_signal(pid, libc_sigterm()));
                }
            }
            count(&mut client, "pgq.job") == 0
        });
        assert_in_order(&mut client, groups * each);
    }
    assert_eq!(count(&mut client, "pgq.dead"), 0);
}

/// An administrator's: SIGKILL would restart the server, which T65 does.
const fn libc_sigterm() -> i32 {
    15
}

/// Many producers, each of which holds some of its transactions open for a while, and rolls some back.
#[test]
fn nothing_is_stranded_while_producers_and_workers_meet() {
    let (server, mut client) = shop();
    let put = thread::scope(|scope| {
        let producers: Vec<_> = (0..4)
            .map(|producer| {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.connect("shop");
                    let mut put: Vec<i64> = Vec::new();
                    for n in 0..400 {
                        let group = (n * 7 + producer) % 3;
                        run(&mut client, "BEGIN");
                        let id = one(&mut client, &format!("SELECT pgq.put('q', group_key => 'g{group}')"));
                        if n % 50 == 0 {
                            thread::sleep(Duration::from_millis(20));
                        }
                        if n % 7 == 0 {
                            run(&mut client, "ROLLBACK");
                        } else {
                            run(&mut client, "COMMIT");
                            put.push(id);
                        }
                    }
                    put
                })
            })
            .collect();
        producers.into_iter().flat_map(|p| p.join().expect("a producer")).collect::<Vec<i64>>()
    });
    let began = std::time::Instant::now();
    wait_until(PATIENCE, "all jobs", || count(&mut client, "pgq.job") == 0);
    println!("the rest took {:?}", began.elapsed());
    let mut ran = ids(&mut client, "SELECT id FROM ran");
    let mut put = put;
    ran.sort_unstable();
    put.sort_unstable();
    assert_eq!(ran, put);
    let together =
        "ran AS a JOIN ran AS b ON a.grp = b.grp AND a.id <> b.id AND a.began < b.ended AND b.began < a.ended";
    assert_eq!(count(&mut client, together), 0);
}

#[test]
fn a_failing_job_holds_its_group_until_it_is_dead_or_lets_it_pass() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.configure('q', max_attempts => 3, backoff => '300 ms', max_backoff => '300 ms')");
    let bad: i64 = one(&mut client, r#"SELECT pgq.put('q', '{"n": 1, "fails": "always"}', group_key => 'a')"#);
    let good: i64 = one(&mut client, r#"SELECT pgq.put('q', '{"n": 2}', group_key => 'a')"#);
    run(&mut client, r#"SELECT pgq.put('q', '{"n": 1}', group_key => 'b')"#);
    wait_until(PATIENCE, "the other group", || count(&mut client, "ran WHERE grp = 'b'") == 1);
    wait_until(PATIENCE, "its next try", || {
        count(&mut client, &format!("pgq.job WHERE id = {bad} AND attempt = 1")) == 1
    });
    let why: String = one(&mut client, &format!("SELECT pgq.waiting({good})"));
    assert!(why.starts_with(&format!("group \"a\" is held by job {bad}, attempt 2, next try at")), "{why}");
    assert_eq!(count(&mut client, "ran WHERE grp = 'a'"), 0);
    wait_until(PATIENCE, "the good one", || count(&mut client, "ran WHERE grp = 'a'") == 1);
    assert_eq!(count(&mut client, &format!("pgq.dead WHERE id = {bad}")), 1);
    run(&mut client, "SELECT pgq.configure('q', group_holds => false, backoff => '1 day', max_backoff => '1 day')");
    let bad: i64 = one(&mut client, r#"SELECT pgq.put('q', '{"n": 1, "fails": "always"}', group_key => 'c')"#);
    let good: i64 = one(&mut client, r#"SELECT pgq.put('q', '{"n": 2}', group_key => 'c')"#);
    wait_until(PATIENCE, "the good one to pass", || count(&mut client, &format!("ran WHERE id = {good}")) == 1);
    assert_eq!(count(&mut client, &format!("pgq.job WHERE id = {bad} AND state = 'scheduled'")), 1);
}

#[test]
fn clients_claim_one_of_a_group_at_a_time_with_and_without_leases() {
    let (server, mut client) = shop();
    let put =
        ids(&mut client, "SELECT pgq.bulk_put('out', args => array_fill('{}'::jsonb, ARRAY[3]), group_key => 'a')");
    let free: i64 = one(&mut client, "SELECT pgq.put('out', priority => -1)");
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'out' AND state = 'waiting'"), 2);
    assert_eq!(one::<i64>(&mut client, "SELECT waiting FROM pgq.stats('out')"), 2);
    let claim = "SELECT id FROM pgq.claim('out', 10, lease => '1 min')";
    assert_eq!(ids(&mut client, claim), [put[0], free]);
    assert_eq!(ids(&mut client, claim), [] as [i64; 0]);
    assert_eq!(one::<i64>(&mut client, &format!("SELECT pgq.put('out', group_key => 'a') - {free}")), 1, "the next id");
    assert_eq!(ids(&mut client, claim), [] as [i64; 0]);
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.complete({}, 1)", put[0])));
    assert_eq!(ids(&mut client, claim), [put[1]]);
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.release({}, 1)", put[1])));
    // Without a lease, in a transaction that is still open.
    run(&mut client, "BEGIN");
    assert_eq!(ids(&mut client, "SELECT id FROM pgq.claim('out', 10)"), [put[1]]);
    let mut other = server.connect("shop");
    assert_eq!(ids(&mut other, "SELECT id FROM pgq.claim('out', 10)"), [] as [i64; 0]);
    run(&mut client, "ROLLBACK");
    assert_eq!(ids(&mut other, "SELECT id FROM pgq.claim('out', 10)"), [put[1]]);
    // In a transaction that sees one moment only, too.
    run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pgq.job");
    assert_eq!(ids(&mut client, claim), [put[2]]);
    assert_eq!(ids(&mut other, claim), [] as [i64; 0]);
    run(&mut client, "COMMIT");
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.complete({}, 1)", put[2])));
    assert_eq!(ids(&mut other, claim).len(), 1);
}

/// Its id was given before, but it was committed after another of its group had begun.
#[test]
fn a_late_one_waits_for_the_one_that_runs() {
    let (server, mut client) = shop();
    let mut late = server.connect("shop");
    run(&mut late, "BEGIN");
    let first: i64 = one(&mut late, r#"SELECT pgq.put('q', '{"n": 1}', group_key => 'a')"#);
    let second: i64 = one(&mut client, r#"SELECT pgq.put('q', '{"n": 2, "sleep": 1.5}', group_key => 'a')"#);
    assert!(first < second);
    wait_until(PATIENCE, "the second to run", || count(&mut client, &format!("pgq.running WHERE job = {second}")) == 1);
    run(&mut late, "COMMIT");
    wait_until(PATIENCE, "both", || count(&mut client, "ran") == 2);
    assert_eq!(ids(&mut client, "SELECT id FROM ran ORDER BY began"), [second, first]);
    assert_eq!(count(&mut client, "ran AS a JOIN ran AS b ON a.n = 1 AND b.n = 2 AND a.began < b.ended"), 0);
}

#[test]
fn a_group_goes_on_when_its_first_is_taken_away_and_holds_while_it_is_not_due() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.pause('q')");
    let put = ids(
        &mut client,
        "SELECT pgq.put('q', jsonb_build_object('n', n), group_key => 'a',
        delay => CASE WHEN n = 1 THEN interval '1 hour' END) FROM generate_series(1, 4) AS n",
    );
    run(&mut client, "SELECT pgq.resume('q')");
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(count(&mut client, "ran"), 0, "the first holds its group");
    assert_eq!(one::<String>(&mut client, &format!("SELECT pgq.cancel({})", put[2])), "cancelled");
    assert!(!one::<bool>(&mut client, &format!("SELECT pgq.retry({})", put[3])), "it keeps its place");
    assert_eq!(one::<String>(&mut client, &format!("SELECT pgq.cancel({})", put[0])), "cancelled");
    wait_until(PATIENCE, "the rest", || count(&mut client, "ran") == 2);
    assert_eq!(ids(&mut client, "SELECT id FROM ran ORDER BY began"), [put[1], put[3]]);
    run(&mut client, "SELECT pgq.pause('q')");
    run(&mut client, "SELECT pgq.bulk_put('q', args => array_fill('{\"n\": 1}'::jsonb, ARRAY[3]), group_key => 'b')");
    assert_eq!(one::<i64>(&mut client, "SELECT pgq.purge('q', 'ready')"), 1);
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'q' AND state = 'ready'"), 1);
    assert_eq!(one::<i64>(&mut client, "SELECT pgq.purge('q', 'waiting')"), 1);
}

#[test]
fn as_many_of_a_group_run_at_a_time_as_the_queue_says() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.configure('q', group_running => 2)");
    run(&mut client, "SELECT pgq.put('q', jsonb_build_object('n', n, 'sleep', 0.15), group_key => 'a') FROM generate_series(1, 12) AS n");
    wait_until(PATIENCE, "all", || count(&mut client, "ran") == 12);
    let at_once = "(SELECT (SELECT count(*) FROM ran AS b WHERE b.began <= a.began AND b.ended > a.began) AS n FROM ran AS a) AS r";
    assert_eq!(one::<i64>(&mut client, &format!("SELECT max(n) FROM {at_once}")), 2);
}

/// A row by hand that no job of its group comes before, as after a transaction that saw one moment only.
#[test]
fn a_group_that_nobody_sets_going_is_found() {
    let (_server, mut client) = shop();
    run(
        &mut client,
        r#"INSERT INTO pgq.job (queue, args, execute_at, state, group_key)
           SELECT 'q', jsonb_build_object('n', n), now(), 'waiting', 'a' FROM generate_series(1, 5) AS n"#,
    );
    wait_until(PATIENCE, "all", || count(&mut client, "ran") == 5);
    assert_in_order(&mut client, 5);
}

#[test]
fn a_key_and_a_group_go_together() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.pause('q')");
    let put: Vec<i64> = ids(
        &mut client,
        "SELECT pgq.put('q', '{\"n\": 1}', group_key => 'a', key => 'k' || n) FROM generate_series(1, 2) AS n",
    );
    let again = "SELECT pgq.put('q', '{\"n\": 2}', group_key => 'a', key => 'k2', on_conflict => 'replace')";
    assert_eq!(one::<i64>(&mut client, again), put[1]);
    assert_eq!(one::<String>(&mut client, &format!("SELECT state FROM pgq.job WHERE id = {}", put[1])), "waiting");
    run(&mut client, "SELECT pgq.resume('q')");
    wait_until(PATIENCE, "both", || count(&mut client, "ran") == 2);
    assert_in_order(&mut client, 2);
}
