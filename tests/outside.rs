//! Workers outside the database: what a claim takes and gives back, who may finish what, and how a
//! listening client hears of work.

use pgq_tests::{count, median, one, run, timed, wait_until, Server};
use postgres::fallible_iterator::FallibleIterator;
use postgres::Client;
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ten times the 50 ms from the commit of a put to the notification.
const HEARD: Duration = Duration::from_millis(500);

/// (id, attempt) of what a claim of queue `q` returned.
fn claim(client: &mut Client, arguments: &str) -> Vec<(i64, i32)> {
    let sql = format!("SELECT id, attempt FROM pgq.claim('q', {arguments})");
    let rows = client.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn complete(client: &mut Client, id: i64, attempt: i32) -> bool {
    one(client, &format!("SELECT pgq.complete({id}, {attempt})"))
}

/// One live job as text, all columns, to see that nothing changed it.
fn picture(client: &mut Client, id: i64) -> String {
    one(client, &format!("SELECT (SELECT j::text || j.xmin FROM pgq.job AS j WHERE id = {id})"))
}

#[test]
fn a_claim_that_rolls_back_gives_its_jobs_back_and_one_that_commits_removes_them() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    run(&mut client, "SELECT pgq.put('q') FROM generate_series(1, 15)");
    run(&mut client, "BEGIN");
    let first = claim(&mut client, "10");
    assert_eq!(first.len(), 10);
    assert!(first.iter().all(|(_, attempt)| *attempt == 1), "{first:?}");
    let mut other = server.connect("app");
    assert_eq!(claim(&mut other, "10").len(), 5, "the other five, at once");
    run(&mut client, "ROLLBACK");
    run(&mut client, "BEGIN");
    assert_eq!(claim(&mut client, "10"), first, "the same, as the same attempt");
    run(&mut client, "COMMIT");
    assert_eq!(count(&mut client, "pgq.job"), 0);
    assert_eq!(count(&mut client, "pgq.finished_job"), 0);
    // A client that dies in between gives them back at once.
    run(&mut client, "SELECT pgq.put('q')");
    run(&mut other, "BEGIN");
    let pid: i32 = one(&mut other, "SELECT pg_backend_pid()");
    assert_eq!(claim(&mut other, "10").len(), 1);
    assert_eq!(claim(&mut client, "10").len(), 0);
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    wait_until(PATIENCE, "the job of a client that died", || claim(&mut client, "10").len() == 1);
}

/// Eight sessions, with and without a lease, some of them roll back.
#[test]
fn two_sessions_never_get_the_same_job() {
    const JOBS: i64 = 5_000;
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    run(&mut client, &format!("SELECT count(pgq.put('q')) FROM generate_series(1, {JOBS})"));
    let taken: Vec<i64> = thread::scope(|scope| {
        let sessions: Vec<_> = (0..8)
            .map(|n| {
                let server = &server;
                scope.spawn(move || drain(server, n))
            })
            .collect();
        let results = sessions.into_iter().map(|s| s.join().expect("a session"));
        results.flatten().collect()
    });
    let distinct: BTreeSet<i64> = taken.iter().copied().collect();
    assert_eq!(distinct.len(), taken.len(), "a job was given to two sessions");
    assert_eq!(i64::try_from(taken.len()).ok(), Some(JOBS), "a job was lost");
    assert_eq!(count(&mut client, "pgq.job"), 0);
}

/// Claims until nothing is left; the ids that this session finished.
fn drain(server: &Server, session: usize) -> Vec<i64> {
    let mut client = server.connect("app");
    let mut mine = Vec::new();
    for round in 0.. {
        let with_lease = session.is_multiple_of(2);
        run(&mut client, "BEGIN");
        let got = claim(&mut client, if with_lease { "7, '5 min'" } else { "7" });
        if round % 5 == 3 {
            run(&mut client, "ROLLBACK");
            continue;
        }
        run(&mut client, "COMMIT");
        if got.is_empty() && count(&mut client, "pgq.job WHERE state = 'ready'") == 0 {
            return mine;
        }
        for (id, attempt) in got {
            if with_lease {
                assert!(complete(&mut client, id, attempt), "job {id}");
            }
            mine.push(id);
        }
    }
    unreachable!("the loop has no end")
}

#[test]
fn a_leased_job_is_invisible_until_its_lease_ends() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    // Before the claim: the lease begins during it.
    let leased = Instant::now();
    assert_eq!(claim(&mut client, "lease => '2 s'"), [(id, 1)]);
    assert_eq!(claim(&mut client, "10"), []);
    wait_until(PATIENCE, "the lease to end", || {
        let got = claim(&mut client, "lease => '1 min'");
        assert!(got.is_empty() || got == [(id, 2)], "{got:?}");
        !got.is_empty()
    });
    let took = leased.elapsed();
    println!("a lease of 2 s ended after {:.3} s", took.as_secs_f64());
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    // It counted as a failure of the first attempt, which has no say any more.
    let failures = format!("SELECT failures FROM pgq.job WHERE id = {id}");
    assert_eq!(one::<i32>(&mut client, &failures), 1);
    assert!(!complete(&mut client, id, 1));
    // extend moves the end; a lease that was extended does not end at its first end.
    let end =
        format!("SELECT pgq.extend({id}, 2, '1 h') BETWEEN now() + interval '59 min' AND now() + interval '61 min'");
    assert!(one::<bool>(&mut client, &end));
    let gone = format!("SELECT pgq.extend({id}, 1, '1 h') IS NULL");
    assert!(one::<bool>(&mut client, &gone));
    assert!(complete(&mut client, id, 2));
    assert_eq!(count(&mut client, "pgq.job"), 0);
}

#[test]
fn only_the_attempt_that_holds_the_lease_can_finish_the_job() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    let mut other = server.connect("app");
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    assert_eq!(claim(&mut client, "lease => '1 h'"), [(id, 1)]);
    let before = picture(&mut client, id);
    for attempt in [0, 2, 7, -1] {
        assert!(!complete(&mut client, id, attempt), "attempt {attempt}");
        let released = format!("SELECT pgq.release({id}, {attempt})");
        assert!(!one::<bool>(&mut client, &released));
        for call in [format!("pgq.fail({id}, {attempt})"), format!("pgq.extend({id}, {attempt}, '1 min')")] {
            assert!(one::<bool>(&mut client, &format!("SELECT {call} IS NULL")));
        }
    }
    assert_eq!(picture(&mut client, id), before, "it was changed");
    // A releases, B leases: A's attempt is over.
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.release({id}, 1)")));
    assert!(!complete(&mut client, id, 1), "released");
    assert_eq!(claim(&mut other, "lease => '1 h'"), [(id, 2)]);
    let before = picture(&mut client, id);
    assert!(!complete(&mut client, id, 1));
    let all = format!("SELECT array_agg(i) IS NULL FROM pgq.bulk_complete('{{{id}}}', '{{1}}') AS i");
    assert!(one::<bool>(&mut client, &all));
    assert_eq!(picture(&mut client, id), before, "it was changed");
    let failures = format!("SELECT failures FROM pgq.job WHERE id = {id}");
    assert_eq!(one::<i32>(&mut client, &failures), 0, "a release counts nothing");
    assert!(complete(&mut other, id, 2));
    assert!(!complete(&mut other, id, 2), "a second time");
}

/// A claim that looked before a lease was committed, and came to its row after it. The advisory lock makes
/// that moment last: the claim that pgq runs has the same form, without a way to stop in the middle.
#[test]
fn a_claim_with_an_older_view_leaves_a_leased_job_to_its_holder() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    let mut holder = server.connect("app");
    run(&mut holder, "BEGIN; SELECT pg_advisory_lock(1)");
    let mut other = thread::scope(|scope| {
        let older = scope.spawn(|| {
            let mut older = server.connect("app");
            let look = "BEGIN; SELECT FROM pgq.job WHERE queue = 'q' AND state = 'ready'
                AND pg_advisory_lock(1)::text IS NOT NULL FOR UPDATE SKIP LOCKED";
            run(&mut older, look);
            older
        });
        let waits = "pg_locks WHERE locktype = 'advisory' AND NOT granted";
        wait_until(PATIENCE, "the older view", || count(&mut client, waits) == 1);
        assert_eq!(claim(&mut holder, "lease => '1 h'"), [(id, 1)]);
        run(&mut holder, "COMMIT; SELECT pg_advisory_unlock(1)");
        older.join().expect("the older session")
    });
    let extend = format!("SELECT pgq.extend({id}, 1, '1 h') IS NOT NULL");
    assert!(one::<bool>(&mut holder, &extend), "extend");
    assert!(complete(&mut holder, id, 1), "the holder's complete was refused");
    run(&mut other, "ROLLBACK");
}

#[test]
fn outside_failures_back_off_and_end_among_the_dead() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    run(&mut client, "SELECT pgq.configure('q', max_attempts => 3, backoff => '1 h', keep_done => '1 day')");
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    claim(&mut client, "lease => '1 h'");
    let fail = format!("SELECT pgq.fail({id}, 1, 'no route', retry_in => '0')");
    assert_eq!(one::<String>(&mut client, &fail), "ready");
    // After a claim without a lease that rolled back, so that it does not come back at once for ever.
    run(&mut client, "BEGIN");
    assert_eq!(claim(&mut client, "1"), [(id, 2)]);
    run(&mut client, "ROLLBACK");
    let fail = format!("SELECT pgq.fail({id}, 2, 'again')");
    assert_eq!(one::<String>(&mut client, &fail), "scheduled");
    assert_eq!(claim(&mut client, "1"), []);
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.retry({id})")));
    assert_eq!(claim(&mut client, "lease => '1 h'"), [(id, 3)]);
    let fail = format!("SELECT pgq.fail({id}, 3, 'for good')");
    assert_eq!(one::<String>(&mut client, &fail), "dead");
    let dead = format!("pgq.dead WHERE id = {id} AND message = 'for good' AND failures = 3");
    assert_eq!(count(&mut client, &dead), 1);
    assert_eq!(one::<i64>(&mut client, "SELECT pgq.redrive('q')"), 1);
    assert_eq!(claim(&mut client, "lease => '1 h'"), [(id, 4)]);
    let done = format!("SELECT pgq.complete({id}, 4, '{{\"sent\": true}}')");
    assert!(one::<bool>(&mut client, &done));
    let result = format!("SELECT state || (result ->> 'sent') || attempt FROM pgq.wait({id})");
    assert_eq!(one::<String>(&mut client, &result), "donetrue4");
    let id: i64 = one(&mut client, "SELECT pgq.put('q')");
    claim(&mut client, "lease => '1 h'");
    let fail = format!("SELECT pgq.fail({id}, 1, 'hopeless', permanent => true)");
    assert_eq!(one::<String>(&mut client, &fail), "dead");
}

#[test]
fn with_pgq_disabled_a_claim_finds_what_is_due_itself() {
    for preload in [false, true] {
        let server = Server::builder().preload(preload).conf("pgq.enabled", "off").start();
        let mut client = server.create_database("app");
        let began = Instant::now();
        let delayed: i64 = one(&mut client, "SELECT pgq.put('q', delay => '1 s')");
        let leased: i64 = one(&mut client, "SELECT pgq.put('q')");
        assert_eq!(claim(&mut client, "10, lease => '1 s'"), [(leased, 1)]);
        let mut got = Vec::new();
        wait_until(Duration::from_secs(10), "both to be due", || {
            got.extend(claim(&mut client, "10, lease => '1 h'"));
            got.len() == 2
        });
        let took = began.elapsed();
        println!("delay and lease of 1 s, disabled: {:.3} s", took.as_secs_f64());
        assert!(took >= Duration::from_secs(1), "{took:?}");
        got.sort_unstable();
        assert_eq!(got, [(delayed, 1), (leased, 2)]);
        assert!(complete(&mut client, delayed, 1));
        assert!(complete(&mut client, leased, 2));
        assert!(server.worker_pids(Some("app")).is_empty(), "a worker runs");
        // A claim without a lease promotes as well, and a producer tells who listens by itself.
        run(&mut client, "LISTEN pgq_q; SELECT pgq.put('q')");
        assert_eq!(heard(&mut client, HEARD), 1);
    }
}

#[test]
fn a_claim_without_lease_in_autocommit_warns_once() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    run(&mut client, "SELECT pgq.put('q') FROM generate_series(1, 5)");
    let mut psql = server.session("app", "postgres");
    let mut claim = |sql: &str| psql.execute(sql).expect("psql").stderr;
    let leased = claim("SELECT id FROM pgq.claim('q', lease => '1 min');");
    assert!(!leased.contains("WARNING"), "{leased}");
    let block = claim("BEGIN;\nSELECT id FROM pgq.claim('q');\nCOMMIT;");
    assert!(!block.contains("WARNING"), "{block}");
    let lone = claim("\\set VERBOSITY verbose\nSELECT id FROM pgq.claim('q');");
    assert!(lone.contains("25P01") && lone.contains("HINT"), "{lone}");
    let again = claim("SELECT id FROM pgq.claim('q');");
    assert!(!again.contains("WARNING"), "{again}");
    assert_eq!(count(&mut client, "pgq.job WHERE state = 'ready'"), 1);
}

/// Waits at most so long for a first notification, and counts those that came with it.
fn heard(client: &mut Client, deadline: Duration) -> usize {
    let mut notifications = client.notifications();
    let first = notifications.timeout_iter(deadline).next().expect("a session");
    let Some(first) = first else { return 0 };
    assert_eq!(first.payload(), "");
    1 + notifications.iter().count().expect("a session")
}

/// The channels of all notifications up to the first of this one.
fn heard_until(listener: &mut Client, channel: &str) -> Vec<String> {
    let mut channels = Vec::new();
    while channels.last().is_none_or(|last| last != channel) {
        let mut notifications = listener.notifications();
        let next = notifications.timeout_iter(Duration::from_secs(10)).next();
        let next = next.expect("a session").expect("a notification in time");
        channels.push(next.channel().to_owned());
    }
    channels
}

/// How long the listener waits for what `sql` in another session leads to. Before, another queue shows
/// that nothing is still to be told of what came earlier.
fn hears(listener: &mut Client, client: &mut Client, what: &str, sql: &str) -> (Duration, Duration) {
    run(listener, "LISTEN pgq_last");
    run(client, "SELECT pgq.put('last')");
    heard_until(listener, "pgq_last");
    run(client, "SELECT count(*) FROM pgq.claim('last', 10)");
    run(listener, "UNLISTEN pgq_last");
    assert_eq!(heard(listener, Duration::ZERO), 0, "before: {what}");
    let before = Instant::now();
    run(client, sql);
    let after = Instant::now();
    assert!(heard(listener, Duration::from_secs(10)) > 0, "not heard: {what}");
    (before.elapsed(), after.elapsed())
}

#[test]
fn a_listening_client_is_notified_of_a_put() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    let mut listener = server.connect("app");
    run(&mut listener, "LISTEN pgq_q");
    run(&mut client, "SELECT pgq.put('q')");
    let (first, took) = timed(|| heard(&mut listener, PATIENCE));
    assert!(first > 0, "the first put was not told");
    println!("the first notification of all: {:.1} ms", took.as_secs_f64() * 1e3);
    let times: Vec<Duration> =
        (0..20).map(|_| hears(&mut listener, &mut client, "a put", "SELECT pgq.put('q')").1).collect();
    let (middle, most) = (median(&times), times.iter().max().copied().unwrap_or_default());
    println!(
        "commit to notification: median {:.1} ms, longest {:.1} ms",
        middle.as_secs_f64() * 1e3,
        most.as_secs_f64() * 1e3
    );
    assert!(most < HEARD, "{most:?}");
}

/// The last is told of another queue: whatever was to be told of the first came before.
#[test]
fn ten_thousand_puts_in_one_transaction_notify_once() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    let mut listener = server.connect("app");
    run(&mut listener, "LISTEN pgq_q; LISTEN pgq_last");
    for _ in 0..3 {
        run(&mut client, "SELECT count(pgq.put('q')) FROM generate_series(1, 10000)");
        let mut channels = heard_until(&mut listener, "pgq_q");
        run(&mut client, "SELECT pgq.put('last')");
        channels.extend(heard_until(&mut listener, "pgq_last"));
        assert_eq!(channels, ["pgq_q", "pgq_last"]);
        run(&mut client, "SELECT count(*) FROM pgq.claim('last', 10)");
    }
}

#[test]
fn whatever_makes_a_job_ready_is_told() {
    let server = Server::builder().conf("max_prepared_transactions", 2).start();
    let mut client = server.create_database("app");
    let mut listener = server.connect("app");
    run(&mut listener, "LISTEN pgq_q");
    let mut told = |client: &mut Client, what: &str, sql: &str| {
        // From the statement's beginning, when its delay or lease begins too.
        let (took, _) = hears(&mut listener, client, what, sql);
        println!("{what}: {:.0} ms", took.as_secs_f64() * 1e3);
        took
    };
    let took = told(&mut client, "a delay of 500 ms", "SELECT pgq.put('q', delay => '500 ms')");
    assert!(took > Duration::from_millis(490), "{took:?}");
    assert!(took < Duration::from_millis(500) + HEARD, "{took:?}");
    let took = told(&mut client, "a lease of 500 ms", "SELECT * FROM pgq.claim('q', lease => '500 ms')");
    assert!(took > Duration::from_millis(490), "{took:?}");
    let (id, attempt) = claim(&mut client, "lease => '1 h'")[0];
    let release = format!("SELECT pgq.release({id}, {attempt})");
    told(&mut client, "a release", &release);
    let (id, attempt) = claim(&mut client, "lease => '1 h'")[0];
    let fail = format!("SELECT pgq.fail({id}, {attempt}, retry_in => '300 ms')");
    told(&mut client, "a retry in 300 ms", &fail);
    let (id, attempt) = claim(&mut client, "lease => '1 h'")[0];
    run(&mut client, &format!("SELECT pgq.fail({id}, {attempt}, permanent => true)"));
    told(&mut client, "a redrive", "SELECT pgq.redrive('q')");
    run(&mut client, "SELECT pgq.pause('q'); SELECT pgq.put('q')");
    told(&mut client, "a resume", "SELECT pgq.resume('q')");
    run(&mut client, "BEGIN; SELECT pgq.put('q'); PREPARE TRANSACTION 'a'");
    told(&mut client, "COMMIT PREPARED", "COMMIT PREPARED 'a'");
}

/// A NOTIFY of put's own would make PREPARE TRANSACTION fail.
#[test]
fn a_producer_can_prepare_its_transaction() {
    let server = Server::builder().conf("max_prepared_transactions", 2).start();
    let mut client = server.create_database("app");
    run(&mut client, "SELECT pgq.configure('q', notify => true)");
    for sql in ["pgq.put('q')", "pgq.put('q', key => 'k')", "pgq.bulk_put('q', args => '{1,2}')"] {
        run(&mut client, &format!("BEGIN; SELECT {sql}; PREPARE TRANSACTION 'a'"));
        run(&mut client, "COMMIT PREPARED 'a'");
    }
    assert_eq!(count(&mut client, "pgq.job"), 4);
}

/// Workers outside are told by default only where nobody inside does the work.
#[test]
fn a_queue_with_a_handler_tells_nobody_unless_configured() {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    run(
        &mut client,
        "CREATE FUNCTION slow() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.2)';
         SELECT pgq.register('inside', 'slow')",
    );
    let mut listener = server.connect("app");
    run(&mut listener, "LISTEN pgq_inside; LISTEN pgq_q");
    for notify in [false, true] {
        let configure = format!("SELECT pgq.configure('inside', notify => {notify})");
        run(&mut client, &configure);
        // Both in one transaction, so that one look of the scheduler tells of both.
        run(&mut client, "SELECT pgq.put('inside'), pgq.put('q')");
        let mut channels = BTreeSet::new();
        while !channels.contains("pgq_q") || (notify && !channels.contains("pgq_inside")) {
            let mut notifications = listener.notifications();
            let next = notifications.timeout_iter(Duration::from_secs(10)).next();
            let next = next.expect("a session").expect("a notification in time");
            channels.insert(next.channel().to_owned());
        }
        assert_eq!(channels.contains("pgq_inside"), notify, "{channels:?}");
        wait_until(PATIENCE, "the job inside", || count(&mut client, "pgq.job WHERE queue = 'inside'") == 0);
        run(&mut client, "SELECT count(*) FROM pgq.claim('q', 10)");
    }
}
