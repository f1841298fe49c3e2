//! Jobs that come after others, on real servers: each runs once, and not before all that it comes after have ended,
//! whoever has these while it is put; what becomes of it when one of them does not succeed; and who may say so.

use pgq_tests::{count, one, run, wait_until, Ledger, Server};
use postgres::error::SqlState;
use postgres::Client;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The handlers note their jobs, with the time at which they ran.
const SHOP: &str = "
    CREATE TABLE ran (id bigint, at timestamptz);
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ran VALUES (id, clock_timestamp()) $$;
    CREATE FUNCTION slow(id bigint, args jsonb) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ran VALUES (id, clock_timestamp()); SELECT pg_sleep((args ->> 's')::float8) $$;
    CREATE FUNCTION fails() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql
        AS $$ BEGIN INSERT INTO ran VALUES (id, clock_timestamp()); COMMIT; END $$;
    CREATE FUNCTION note_all(jobs pgq.job[]) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ran SELECT id, clock_timestamp() FROM unnest(jobs) $$;
    SELECT pgq.register('quick', 'note'), pgq.register('slow', 'slow'), pgq.register('fails', 'fails', max_attempts => 1),
           pgq.register('commits', 'commits'), pgq.register('sets', 'note_all')";

fn shop() -> (Server, Client) {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    run(&mut client, SHOP);
    (server, client)
}

fn put(client: &mut Client, arguments: &str) -> i64 {
    one(client, &format!("SELECT pgq.put({arguments})"))
}

fn refused(client: &mut Client, sql: &str) -> (SqlState, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    assert!(error.hint().is_some(), "{sql} has no hint: {error:?}");
    (error.code().clone(), error.message().to_owned())
}

fn ended(client: &mut Client) {
    let left =
        "(SELECT id FROM pgq.job UNION ALL SELECT job FROM pgq.ended UNION ALL SELECT child FROM pgq.dependency) AS l";
    wait_until(PATIENCE, "all to end", || count(client, left) == 0);
}

/// Each of these ran once, in this order.
fn ran_in_order(client: &mut Client, ids: &[i64]) {
    let rows = client.query("SELECT id FROM ran ORDER BY at", &[]).expect("ran");
    let ran: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(ran, ids);
}

#[test]
fn a_chain_runs_in_its_order_whatever_kind_of_handler_runs_it() {
    let (_server, mut client) = shop();
    let first = put(&mut client, "'slow', '{\"s\": 1}'");
    let mut ids = vec![first];
    for queue in ["quick", "commits", "sets", "quick", "sets", "commits", "slow"] {
        let last = ids[ids.len() - 1];
        ids.push(put(&mut client, &format!("'{queue}', '{{\"s\": 0}}', after => array[{last}]")));
    }
    let why: String = one(&mut client, &format!("SELECT pgq.waiting({})", ids[1]));
    assert_eq!(why, format!("it comes after job {first}, which has not ended"));
    assert!(count(&mut client, "pgq.job WHERE state = 'waiting' AND parents = 1") >= 6);
    ended(&mut client);
    ran_in_order(&mut client, &ids);
    // Ended and not kept, long ago: nothing to wait for.
    let late = put(&mut client, &format!("'quick', after => array[{first}, {first}]"));
    ended(&mut client);
    ids.push(late);
    ran_in_order(&mut client, &ids);
    // A long chain: each link is one look of the scheduler.
    let began = Instant::now();
    let mut last = put(&mut client, "'quick', delay => '1 s'");
    for _ in 0..100 {
        ids.push(last);
        last = put(&mut client, &format!("'quick', after => array[{last}]"));
    }
    ids.push(last);
    ended(&mut client);
    println!("a chain of 100, begun after a second, ended after {:?}", began.elapsed());
    ran_in_order(&mut client, &ids);
    // In one transaction, and not due yet.
    let mut transaction = client.transaction().expect("a transaction");
    let parent: i64 = transaction.query_one("SELECT pgq.put('quick')", &[]).expect("a parent").get(0);
    let sql = "SELECT pgq.put('quick', after => array[$1::bigint], delay => '1.5 s')";
    let child: i64 = transaction.query_one(sql, &[&parent]).expect("a child").get(0);
    transaction.commit().expect("a commit");
    wait_until(PATIENCE, "it to be scheduled", || {
        count(&mut client, &format!("pgq.job WHERE id = {child} AND state = 'scheduled' AND parents = 0")) == 1
    });
    ended(&mut client);
    ids.extend([parent, child]);
    ran_in_order(&mut client, &ids);
}

/// Ends that are committed at the same moment, by different executors.
#[test]
fn parents_that_end_at_the_same_time_set_their_child_going_once() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.register('slow', 'slow', concurrency => 4, batch => 1)");
    const ROUNDS: i64 = 100;
    let ledger = Ledger::create(&mut client, "children");
    run(
        &mut client,
        "CREATE FUNCTION child(id bigint, args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO children VALUES (id) $$;
         SELECT pgq.register('child', 'child')",
    );
    let sql = format!(
        "SELECT pgq.put('child', after => ARRAY(SELECT pgq.bulk_put('slow', args =>
                            array_fill(jsonb_build_object('s', 0, 'n', n), '{{4}}'))))
           FROM generate_series(1, {ROUNDS}) AS n"
    );
    let rows = client.query(&sql, &[]).expect("the jobs");
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    ended(&mut client);
    ledger.verify(&mut client, &ids).assert_exact();
    assert_eq!(count(&mut client, "ran"), 4 * ROUNDS);
}

#[test]
fn a_diamond_of_ten_thousand_jobs_runs_each_once_and_the_last_one_last() {
    let (_server, mut client) = shop();
    let ledger = Ledger::create(&mut client, "ledger");
    run(
        &mut client,
        "CREATE TABLE last (id bigint, seen bigint);
         CREATE FUNCTION enter(id bigint, args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO ledger VALUES (id) $$;
         CREATE FUNCTION leave(id bigint, args jsonb) RETURNS void LANGUAGE sql
            AS $$ INSERT INTO last SELECT $1, count(*) FROM ledger; INSERT INTO ledger VALUES ($1) $$;
         SELECT pgq.register('work', 'enter'), pgq.register('last', 'leave')",
    );
    let began = Instant::now();
    let first = put(&mut client, "'work', delay => '2 s'");
    let sql =
        format!("SELECT pgq.bulk_put('work', args => array_fill('{{}}'::jsonb, '{{9998}}'), after => array[{first}])");
    let rows = client.query(&sql, &[]).expect("the middle");
    let mut ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let (middle, took) = (ids.clone(), Instant::now());
    let last: i64 = client.query_one("SELECT pgq.put('last', after => $1)", &[&middle]).expect("the last one").get(0);
    println!("10,000 put in {:?}, the last one in {:?}", began.elapsed(), took.elapsed());
    assert!(took.elapsed() < Duration::from_secs(2));
    let why: String = one(&mut client, &format!("SELECT pgq.waiting({last})"));
    let (a, b, c) = (ids[0], ids[1], ids[2]);
    assert_eq!(why, format!("it comes after 9998 jobs that have not ended: {a}, {b}, {c}, …"));
    ended(&mut client);
    println!("all ended after {:?}", began.elapsed());
    ids.extend([first, last]);
    ledger.verify(&mut client, &ids).assert_exact();
    assert_eq!(count(&mut client, "last WHERE seen = 9999"), 1);
    assert_eq!(one::<i64>(&mut client, "SELECT sum(waiting)::bigint FROM pgq.stats()"), 0);
}

#[test]
fn what_follows_a_dead_or_cancelled_job_is_cancelled_or_runs() {
    let (_server, mut client) = shop();
    let dead = put(&mut client, "'fails', delay => '1 s'");
    let cancelled = put(&mut client, "'quick', delay => '1 hour'");
    let follows = |client: &mut Client, id: i64, failure: &str| {
        put(client, &format!("'quick', after => array[{id}], after_failure => '{failure}'"))
    };
    let falls = follows(&mut client, dead, "cancel");
    let falls_too = follows(&mut client, falls, "cancel");
    let runs = follows(&mut client, falls_too, "run");
    let runs_too = follows(&mut client, dead, "run");
    let taken = follows(&mut client, cancelled, "cancel");
    let either = put(&mut client, &format!("'quick', after => array[{dead}, {cancelled}], after_failure => 'run'"));
    assert_eq!(one::<String>(&mut client, &format!("SELECT pgq.cancel({cancelled})")), "cancelled");
    ended(&mut client);
    let of = |client: &mut Client, id: i64| -> (String, Option<String>) {
        let row = client.query_one("SELECT outcome, error ->> 'message' FROM pgq.finished_job WHERE id = $1", &[&id]);
        let row = row.expect("a finished job");
        (row.get(0), row.get(1))
    };
    let because = |id: i64, outcome: &str| {
        ("cancelled".to_owned(), Some(format!("job {id}, which it comes after, is {outcome}")))
    };
    assert_eq!(of(&mut client, falls), because(dead, "dead"));
    assert_eq!(of(&mut client, falls_too), because(falls, "cancelled"));
    assert_eq!(of(&mut client, taken), because(cancelled, "cancelled"));
    let ran = format!("ran WHERE id IN ({runs}, {runs_too}, {either})");
    assert_eq!((count(&mut client, &ran), count(&mut client, "ran")), (3, 3));
    // What is among the finished ones when the child is put counts the same.
    let late = follows(&mut client, dead, "cancel");
    let late_too = follows(&mut client, dead, "run");
    ended(&mut client);
    assert_eq!(of(&mut client, late), because(dead, "dead"));
    assert_eq!(count(&mut client, &format!("ran WHERE id = {late_too}")), 1);
    // One that is brought back does not wait again.
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.retry({falls})")));
    ended(&mut client);
    assert_eq!(count(&mut client, &format!("ran WHERE id = {falls}")), 1);
    // A purge is a cancel.
    let parent = put(&mut client, "'quick', delay => '1 hour'");
    let child = follows(&mut client, parent, "cancel");
    run(&mut client, "SELECT pgq.purge('quick', 'scheduled')");
    ended(&mut client);
    assert_eq!(of(&mut client, child), because(parent, "cancelled"));
}

#[test]
fn what_never_was_is_an_error_and_so_is_what_the_caller_may_not_see() {
    let (server, mut client) = shop();
    let id = put(&mut client, "'quick', delay => '1 hour'");
    let next = id + 1;
    for wrong in [next, id + 1_000_000, 0, -7] {
        let (code, message) = refused(&mut client, &format!("SELECT pgq.put('quick', after => array[{id}, {wrong}])"));
        assert_eq!((code, message), (SqlState::INVALID_PARAMETER_VALUE, format!("unknown job {wrong} in \"after\"")));
    }
    for wrong in [
        "SELECT pgq.put('quick', after => '{NULL}')",
        "SELECT pgq.put('quick', after => array_fill(1::bigint, '{100001}'))",
        "SELECT pgq.put('quick', after => '{1}', after_failure => 'whatever')",
        "SELECT pgq.bulk_put('quick', '[{\"after\": [null]}]')",
        "SELECT pgq.bulk_put('quick', '[{\"after\": 1}]')",
    ] {
        assert_eq!(refused(&mut client, wrong).0, SqlState::INVALID_PARAMETER_VALUE, "{wrong}");
    }
    run(
        &mut client,
        "CREATE ROLE app LOGIN; SELECT pgq.grant_usage('app', 'produce', 'other'), pgq.grant_usage('app', 'produce', 'seen')",
    );
    let seen = put(&mut client, "'seen', delay => '1 hour'");
    let mut app = server.connect_as("shop", "app");
    let (code, message) = refused(&mut app, &format!("SELECT pgq.put('other', after => array[{id}])"));
    assert_eq!((code, message), (SqlState::INVALID_PARAMETER_VALUE, format!("unknown job {id} in \"after\"")));
    let child = put(&mut app, &format!("'other', after => array[{seen}]"));
    assert_eq!(count(&mut client, &format!("pgq.dependency WHERE child = {child} AND parent = {seen}")), 1);
}

#[test]
fn a_parent_that_somebody_has_is_waited_for() {
    let (server, mut client) = shop();
    run(&mut client, "SELECT pgq.configure('kept', keep_done => '1 day')");
    // It runs while the child is put; it is leased, and completed or failed; it is claimed without a lease.
    let running = put(&mut client, "'slow', '{\"s\": 2}'");
    wait_until(PATIENCE, "it to run", || count(&mut client, "pgq.running") == 1);
    let leased: Vec<i64> = (0..2).map(|_| put(&mut client, "'kept'")).collect();
    run(&mut client, "SELECT pgq.claim('kept', 2, lease => '1 hour')");
    let taken = put(&mut client, "'taken'");
    let mut other = server.connect("shop");
    run(&mut other, "BEGIN; SELECT pgq.claim('taken')");
    let children: Vec<i64> = [running, leased[0], leased[1], taken]
        .iter()
        .map(|id| put(&mut client, &format!("'quick', after => array[{id}]")))
        .collect();
    assert_eq!(count(&mut client, "pgq.dependency WHERE unsure"), 4);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(count(&mut client, "pgq.job WHERE state = 'waiting' AND parents = 1"), 4);
    let ran = |client: &mut Client, n: usize| count(client, &format!("ran WHERE id = {}", children[n])) == 1;
    wait_until(PATIENCE, "the one after the running one", || ran(&mut client, 0));
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.complete({}, 1)", leased[0])));
    wait_until(PATIENCE, "the one after the completed one", || ran(&mut client, 1));
    // Given back, it is marked, and taken again.
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.release({}, 1)", leased[1])));
    wait_until(PATIENCE, "the mark", || count(&mut client, "pgq.job WHERE queue = 'kept' AND has_children") == 1);
    run(&mut client, "SELECT pgq.claim('kept', lease => '1 hour')");
    assert!(!ran(&mut client, 2) && !ran(&mut client, 3));
    let word: String = one(&mut client, &format!("SELECT pgq.fail({}, 2, 'no', permanent => true)", leased[1]));
    assert_eq!(word, "dead");
    run(&mut other, "ROLLBACK");
    wait_until(PATIENCE, "the mark", || count(&mut client, "pgq.job WHERE queue = 'taken' AND has_children") == 1);
    run(&mut client, "SELECT pgq.claim('taken')");
    wait_until(PATIENCE, "the one after the claimed one", || ran(&mut client, 3));
    ended(&mut client);
    let gone = format!("pgq.finished_job WHERE id = {} AND outcome = 'cancelled'", children[2]);
    assert_eq!(count(&mut client, &gone), 1);
}

#[test]
fn what_is_rolled_back_leaves_nothing_behind() {
    let (server, mut client) = shop();
    let parent = put(&mut client, "'quick', delay => '2 s'");
    let mut other = server.connect("shop");
    run(&mut other, &format!("BEGIN; SELECT pgq.put('quick', after => array[{parent}])"));
    // Two producers at one parent: neither waits for the other.
    let child = put(&mut client, &format!("'quick', after => array[{parent}]"));
    run(&mut other, "ROLLBACK");
    // A parent that is rolled back never was: its number is one that ended.
    let lost: i64 = one(&mut other, "SELECT last_value FROM pgq.job_id_seq");
    run(&mut other, "BEGIN; SELECT pgq.put('quick', after => '{1}')");
    run(&mut other, "ROLLBACK");
    let last = put(&mut client, &format!("'quick', after => array[{child}, {}]", lost + 1));
    ended(&mut client);
    ran_in_order(&mut client, &[parent, child, last]);
    // A savepoint takes its own back.
    let third = put(&mut client, "'quick', delay => '1 s'");
    run(
        &mut client,
        &format!("BEGIN; SAVEPOINT s; SELECT pgq.put('quick', after => array[{third}]); ROLLBACK TO s; COMMIT"),
    );
    ended(&mut client);
    ran_in_order(&mut client, &[parent, child, last, third]);
}

/// Producers and handlers that see one moment only.
#[test]
fn it_holds_at_every_isolation_level() {
    let (server, mut client) = shop();
    let mut ids = Vec::new();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let parent = put(&mut client, "'quick', delay => '1 s'");
        let mut other = server.connect("shop");
        run(&mut other, &format!("BEGIN ISOLATION LEVEL {level}"));
        let middle = put(&mut other, &format!("'quick', after => array[{parent}]"));
        let last = put(&mut other, &format!("'quick', after => array[{parent}, {middle}]"));
        run(&mut other, "COMMIT");
        ended(&mut client);
        ids.extend([parent, middle, last]);
        ran_in_order(&mut client, &ids);
        run(
            &mut client,
            &format!("ALTER DATABASE shop SET default_transaction_isolation = '{}'", level.to_lowercase()),
        );
        client = server.connect("shop");
    }
    // One that comes after the job that puts it, and is put by it: there if and only if that has succeeded.
    run(
        &mut client,
        "CREATE FUNCTION again(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pgq.put('quick', to_jsonb((job).attempt), after => array[(job).id]);
            IF (job).attempt = 1 THEN RAISE 'the first time'; END IF;
         END $$;
         SELECT pgq.register('again', 'again', backoff => '100 ms'); TRUNCATE ran; SELECT pgq.put('again')",
    );
    ended(&mut client);
    assert_eq!(count(&mut client, "ran"), 1);
}

#[test]
fn a_job_that_fails_among_others_tells_only_its_last_end() {
    let (_server, mut client) = shop();
    run(
        &mut client,
        "CREATE FUNCTION second(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO ran VALUES ((job).id, clock_timestamp());
            IF (job).id % 3 = 0 AND (job).attempt = 1 THEN RAISE 'the first time'; END IF;
         END $$;
         SELECT pgq.register('second', 'second', backoff => '300 ms');
         SELECT pgq.put('quick', after => array[id]) FROM pgq.bulk_put('second', args => array_fill('{}'::jsonb, '{300}')) AS id",
    );
    ended(&mut client);
    assert_eq!(count(&mut client, "ran"), 600);
    assert_eq!(count(&mut client, "(SELECT id FROM ran GROUP BY id HAVING count(*) > 1) AS twice"), 0);
    assert_eq!(count(&mut client, "pgq.finished_job"), 0);
}

#[test]
fn bulk_put_takes_it_for_each_job() {
    let (_server, mut client) = shop();
    let dead = put(&mut client, "'fails', delay => '1 s'");
    let first = put(&mut client, "'quick', delay => '1 s'");
    let rows = client
        .query(
            &format!(
                "SELECT pgq.bulk_put('quick', '[{{}}, {{\"after\": [{dead}]}}, {{\"after_failure\": \"run\", \"after\": [{dead}]}},
                    {{\"after\": []}}, {{\"key\": \"k\"}}]', after => array[{first}])"
            ),
            &[],
        )
        .expect("the jobs");
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'quick' AND parents = 1 AND state = 'waiting'"), 4);
    // The key's job waits already, for what it waits.
    assert_eq!(put(&mut client, &format!("'quick', key => 'k', after => array[{dead}]")), ids[4]);
    ended(&mut client);
    let outcome = format!("pgq.finished_job WHERE id = {} AND outcome = 'cancelled'", ids[1]);
    assert_eq!(count(&mut client, &outcome), 1);
    assert_eq!(count(&mut client, "ran"), 5);
}

#[test]
fn one_of_a_group_keeps_its_place_while_it_waits_for_another() {
    let (_server, mut client) = shop();
    let parent = put(&mut client, "'quick', delay => '1 s'");
    let ids: Vec<i64> = (0..4)
        .map(|n| {
            let after = if n == 1 { format!(", after => array[{parent}]") } else { String::new() };
            put(&mut client, &format!("'quick', group_key => 'g'{after}"))
        })
        .collect();
    ended(&mut client);
    ran_in_order(&mut client, &[ids[0], parent, ids[1], ids[2], ids[3]]);
}

/// Nobody is to do that. But nothing waits for ever.
#[test]
fn what_comes_after_a_job_that_was_removed_by_hand_runs() {
    let (_server, mut client) = shop();
    let parent = put(&mut client, "'quick', delay => '1 h'");
    let child = put(&mut client, &format!("'quick', after => array[{parent}]"));
    run(&mut client, &format!("DELETE FROM pgq.job WHERE id = {parent}"));
    ended(&mut client);
    ran_in_order(&mut client, &[child]);
}

/// Without any worker of ours: whoever claims does what the scheduler would.
#[test]
fn it_works_for_outside_workers_alone() {
    let server = Server::builder().preload(true).conf("pgq.enabled", "off").start();
    let mut client = server.create_database("shop");
    let parent = put(&mut client, "'push'");
    let child = put(&mut client, &format!("'push', after => array[{parent}]"));
    let claim = |client: &mut Client| -> Vec<i64> {
        let rows = client.query("SELECT id FROM pgq.claim('push', 10, lease => '1 min')", &[]).expect("a claim");
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(claim(&mut client), [parent]);
    assert_eq!(claim(&mut client), [0; 0]);
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.complete({parent}, 1)")));
    assert_eq!(claim(&mut client), [child]);
}
