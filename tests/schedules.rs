//! Schedules on real servers: each run exactly once whatever ends the scheduler, the policies for what overlaps and what
//! was missed, rights, copies; and next_runs against an independent implementation.

use pgq_tests::dump::{dump, restore, Format};
use pgq_tests::{count, one, run, wait_until, Server, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// The handler notes its job with the nominal time.
const SHOP: &str = "
    CREATE TABLE ran (id bigint, nominal timestamptz, at timestamptz DEFAULT clock_timestamp(), args jsonb);
    CREATE FUNCTION note(job pgq.job) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ran VALUES ((job).id, (job).execute_at, DEFAULT, (job).args) $$;
    CREATE FUNCTION slow(job pgq.job) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ran VALUES ((job).id, (job).execute_at, DEFAULT, (job).args); SELECT pg_sleep(2.5) $$;
    SELECT pgq.register('quick', 'note'), pgq.register('slow', 'slow', batch => 1)";

fn shop() -> (Server, Client) {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    run(&mut client, SHOP);
    (server, client)
}

fn refused(client: &mut Client, sql: &str) -> (SqlState, String, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    let detail = error.detail().unwrap_or_default().to_owned();
    assert!(error.hint().is_some(), "{sql} has no hint: {error:?}");
    (error.code().clone(), error.message().to_owned(), detail)
}

#[test]
fn a_schedule_puts_its_jobs_at_its_times() {
    let (_server, mut client) = shop();
    let next: bool = one(
        &mut client,
        "SELECT pgq.schedule('tick', 'quick', cron => '* * * * * *', args => '{\"n\": 1}', priority => 3)
            BETWEEN now() AND now() + '1.1 s'",
    );
    assert!(next);
    wait_until(PATIENCE, "three runs", || count(&mut client, "ran") >= 3);
    assert_eq!(count(&mut client, "ran WHERE nominal <> date_trunc('second', nominal) OR args <> '{\"n\": 1}'"), 0);
    assert_eq!(count(&mut client, "ran WHERE at < nominal OR at > nominal + '10 s'"), 0);
    println!("late: {}", one::<String>(&mut client, "SELECT max(at - nominal)::text FROM ran"));
    // The same name replaces; every counts from the nominal time.
    run(&mut client, "SELECT pgq.schedule('tick', 'quick', every => '1500 ms'); TRUNCATE ran");
    wait_until(PATIENCE, "three more", || count(&mut client, "ran") >= 3);
    let steps = "(SELECT nominal - lag(nominal) OVER (ORDER BY nominal) AS step FROM ran WHERE args = '{}') AS s
        WHERE step <> '1500 ms'";
    assert_eq!(count(&mut client, steps), 0);
    let shown = "pgq.schedules WHERE name = 'tick' AND queue = 'quick' AND cron IS NULL AND active AND NOT held
        AND next_run > now() - interval '2 s' AND last_run < next_run AND last_job IS NOT NULL AND skipped IS NULL";
    assert_eq!(count(&mut client, shown), 1);
    assert!(one::<bool>(&mut client, "SELECT pgq.pause_schedule('tick')"));
    assert!(!one::<bool>(&mut client, "SELECT pgq.pause_schedule('tick')"));
    wait_until(PATIENCE, "the last one", || count(&mut client, "pgq.job") == 0);
    let before = count(&mut client, "ran");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(count(&mut client, "ran"), before);
    let by_hand: i64 = one(&mut client, "SELECT pgq.run_schedule('tick')");
    wait_until(PATIENCE, "the run by hand", || count(&mut client, &format!("ran WHERE id = {by_hand}")) == 1);
    assert!(one::<bool>(&mut client, "SELECT pgq.resume_schedule('tick') > clock_timestamp()"));
    wait_until(PATIENCE, "it goes on", || count(&mut client, "ran") > before + 1);
    assert!(one::<bool>(&mut client, "SELECT pgq.unschedule('tick')"));
    assert!(!one::<bool>(&mut client, "SELECT pgq.unschedule('tick')"));
    let gone = "SELECT pgq.run_schedule('tick') IS NULL AND pgq.resume_schedule('tick') IS NULL";
    assert!(one::<bool>(&mut client, gone));
    assert_eq!(count(&mut client, "pgq.armed_schedule"), 0);
}

#[test]
fn a_start_and_an_end_bound_it() {
    let (_server, mut client) = shop();
    run(
        &mut client,
        "SELECT pgq.schedule('bounded', 'quick', every => '1 s', starts_at => date_trunc('second', now()) + '2 s',
                             ends_at => date_trunc('second', now()) + '4 s')",
    );
    wait_until(PATIENCE, "its end", || count(&mut client, "pgq.schedules WHERE next_run IS NULL AND active") == 1);
    wait_until(PATIENCE, "its jobs", || count(&mut client, "pgq.job") == 0);
    assert_eq!(count(&mut client, "ran"), 3);
    let none = "SELECT pgq.schedule('over', 'quick', every => '1 s', ends_at => now() - interval '1 day') IS NULL";
    assert!(one::<bool>(&mut client, none));
}

#[test]
fn runs_that_overlap_are_skipped_or_wait_or_are_put() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.schedule('s', 'slow', cron => '* * * * * *', args => '\"skip\"')");
    let skipped = "pgq.schedules WHERE name = 's' AND skipped LIKE '%not finished' AND skipped_at < next_run";
    wait_until(PATIENCE, "one to be skipped", || count(&mut client, skipped) == 1);
    assert!(count(&mut client, "pgq.job") <= 1);
    run(&mut client, "SELECT pgq.unschedule('s')");
    wait_until(PATIENCE, "the rest", || count(&mut client, "pgq.job") == 0);
    run(
        &mut client,
        "SELECT pgq.schedule('q', 'slow', cron => '* * * * * *', args => '\"queue\"', overlap => 'queue')",
    );
    wait_until(PATIENCE, "two in a row", || count(&mut client, "ran WHERE args = '\"queue\"'") >= 2);
    assert!(count(&mut client, "pgq.job WHERE args = '\"queue\"'") <= 1, "one after the other");
    run(&mut client, "SELECT pgq.unschedule('q')");
    run(
        &mut client,
        "SELECT pgq.schedule('a', 'slow', cron => '* * * * * *', args => '\"allow\"', overlap => 'allow')",
    );
    wait_until(PATIENCE, "two at once", || count(&mut client, "pgq.job WHERE args = '\"allow\"'") >= 2);
}

/// Each second is put exactly once, whatever ends the scheduler; a server that was down is caught up.
#[test]
fn each_run_is_put_exactly_once_while_the_scheduler_is_killed() {
    let (server, mut client) = shop();
    const SCHEDULES: i64 = 20;
    run(
        &mut client,
        &format!(
            "SELECT pgq.schedule('s' || n, 'quick', cron => '* * * * * *', args => to_jsonb(n), catchup => 'all',
                                 overlap => CASE n % 2 WHEN 0 THEN 'skip' ELSE 'allow' END)
               FROM generate_series(1, {SCHEDULES}) AS n"
        ),
    );
    let began = Instant::now();
    let mut kills = 0;
    while began.elapsed() < Duration::from_secs(12) {
        thread::sleep(Duration::from_millis(1_700));
        let found = server.worker_pids_like("pgq scheduler", Some("shop"));
        if found.into_iter().any(|pid| server.try_signal(pid, libc::SIGKILL)) {
            kills += 1;
            wait_until(PATIENCE, "the crash", || client.batch_execute("SELECT 1").is_err());
            wait_until(PATIENCE, "the server to be back", || server.try_connect("shop", "postgres").is_ok());
            client = server.connect("shop");
        }
    }
    server.stop(Stop::Immediate);
    thread::sleep(Duration::from_secs(2));
    server.start();
    let mut client = server.connect("shop");
    thread::sleep(Duration::from_secs(2));
    run(&mut client, "SELECT pgq.pause_schedule(name) FROM pgq.schedules");
    wait_until(PATIENCE, "the jobs", || count(&mut client, "pgq.job") == 0);
    assert!(kills >= 3, "{kills}");
    let wrong: i64 = one(
        &mut client,
        "SELECT count(*) FROM (
            SELECT s.name FROM pgq.schedule AS s
              LEFT JOIN ran AS r ON r.args = s.args
             GROUP BY s.name, s.last_run, s.scheduled_at
            HAVING count(*) <> count(DISTINCT r.nominal)
                OR count(*) <> extract(epoch FROM s.last_run - date_trunc('second', s.scheduled_at))) AS x",
    );
    assert_eq!(wrong, 0, "a run is missing or doubled");
    println!("{} runs of {SCHEDULES} schedules, {kills} kills", count(&mut client, "ran"));
}

#[test]
fn what_was_missed_is_caught_up_as_the_policy_says() {
    let (server, mut client) = shop();
    run(
        &mut client,
        "SELECT pgq.schedule(c, 'quick', cron => '* * * * *', args => to_jsonb(c), catchup => c)
           FROM unnest('{none,last,all}'::text[]) AS c",
    );
    // As after a downtime of ten minutes and a half.
    server.set("pgq.enabled", "off");
    wait_until(PATIENCE, "the workers to leave", || server.worker_pids_like("pgq scheduler", Some("shop")).is_empty());
    wait_until(Duration::from_secs(70), "a moment that is not just at a minute", || {
        one::<bool>(&mut client, "SELECT extract(second FROM now()) BETWEEN 3 AND 50")
    });
    run(&mut client, "UPDATE pgq.schedule SET next_run = date_trunc('minute', now()) - interval '10 min'");
    server.set("pgq.enabled", "on");
    let runs = |client: &mut Client, which: &str| count(client, &format!("ran WHERE args = '\"{which}\"'"));
    wait_until(PATIENCE, "all to be made up", || runs(&mut client, "all") == 11);
    wait_until(PATIENCE, "the others' jobs", || count(&mut client, "pgq.job") == 0);
    assert_eq!(runs(&mut client, "last"), 1);
    // Less than a minute late: the last of them is not missed.
    assert_eq!(runs(&mut client, "none"), 1);
    assert_eq!(count(&mut client, "pgq.schedules WHERE skipped LIKE 'nobody was there%'"), 2);
}

#[test]
fn bad_input_is_told_with_the_field() {
    let (_server, mut client) = shop();
    let bad = |client: &mut Client, sql: &str| {
        let (state, message, detail) = refused(client, sql);
        assert_eq!(state, SqlState::INVALID_PARAMETER_VALUE, "{sql}");
        format!("{message}: {detail}")
    };
    let said = bad(&mut client, "SELECT pgq.schedule('s', 'q', cron => '0 25 * * *')");
    assert_eq!(said, "invalid cron pattern \"0 25 * * *\": Field 2 (\"25\") is no hour.");
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q')").starts_with("exactly one of"));
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q', '@daily', '1 s')").starts_with("exactly one of"));
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q', every => '0.5 s')").contains("at least a second"));
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q', every => '-1 day 1 month')").contains("at least a second"));
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q', '@daily', timezone => 'Mars')").contains("\"Mars\""));
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q', '@daily', overlap => 'both')").contains("overlap"));
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q', '@daily', catchup => 'some')").contains("catchup"));
    assert!(bad(&mut client, "SELECT pgq.schedule('s p', 'q', '@daily')").contains("schedule name"));
    assert!(bad(&mut client, "SELECT pgq.schedule('s', 'q', '@daily', ends_at => 'infinity')").contains("ends_at"));
    assert!(bad(&mut client, "SELECT pgq.next_runs('* * * * *', 0)").contains("\"n\""));
    assert!(bad(&mut client, "SELECT pgq.next_runs('0 0 30 2 *')").contains("no such day"));
    assert_eq!(count(&mut client, "pgq.schedule"), 0);
}

#[test]
fn only_who_administers_the_queue_schedules_for_it() {
    let (server, mut client) = shop();
    run(
        &mut client,
        "CREATE ROLE boss LOGIN; CREATE ROLE app LOGIN; CREATE ROLE clerk LOGIN;
         SELECT pgq.grant_usage('boss', 'admin', 'quick'), pgq.grant_usage('app', 'produce', 'quick'),
                pgq.grant_usage('clerk', 'monitor', 'quick');
         SELECT pgq.schedule('secret', 'slow', '@daily', args => '{\"key\": 42}')",
    );
    let mut boss = server.connect_as("shop", "boss");
    run(&mut boss, "SELECT pgq.schedule('mine', 'quick', '@daily'), pgq.next_runs('@daily')");
    for other in ["SELECT pgq.schedule('x', 'slow', '@daily')", "SELECT pgq.schedule('secret', 'quick', '@daily')"] {
        assert_eq!(refused(&mut boss, other).0, SqlState::INSUFFICIENT_PRIVILEGE, "{other}");
    }
    let hidden = "SELECT NOT pgq.unschedule('secret') AND NOT pgq.pause_schedule('secret')
        AND pgq.run_schedule('secret') IS NULL AND pgq.resume_schedule('secret') IS NULL";
    assert!(one::<bool>(&mut boss, hidden));
    assert_eq!(count(&mut boss, "pgq.schedules"), 1);
    assert_eq!(count(&mut server.connect_as("shop", "clerk"), "pgq.schedules WHERE name = 'mine'"), 1);
    let mut app = server.connect_as("shop", "app");
    run(&mut app, "SELECT pgq.next_runs('@hourly')");
    for call in ["schedule('x', 'quick', '@daily')", "unschedule('mine')", "run_schedule('mine')"] {
        let error = app.batch_execute(&format!("SELECT pgq.{call}")).expect_err(call);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{call}");
    }
}

/// Between a look and the change somebody else may have made it his.
#[test]
fn nobody_takes_over_or_holds_up_a_schedule_of_another_queue() {
    let (server, mut client) = shop();
    run(
        &mut client,
        "CREATE ROLE boss LOGIN; SELECT pgq.grant_usage('boss', 'admin', 'mine');
         SELECT pgq.schedule('tick', 'quick', cron => '* * * * * *', catchup => 'all')",
    );
    let mut boss = server.connect_as("shop", "boss");
    run(&mut boss, "BEGIN; SELECT pgq.pause_schedule('tick'), pgq.unschedule('tick')");
    let before = count(&mut client, "ran");
    wait_until(PATIENCE, "it to run on", || count(&mut client, "ran") > before + 1);
    run(&mut boss, "COMMIT");
    run(&mut client, "BEGIN; SELECT pgq.schedule('new', 'quick', '@daily')");
    let second = thread::spawn(move || boss.batch_execute("SELECT pgq.schedule('new', 'mine', '@hourly')"));
    let mut watch = server.connect("shop");
    wait_until(PATIENCE, "the second to wait", || count(&mut watch, "pg_locks WHERE NOT granted") > 0);
    run(&mut client, "COMMIT");
    let refused = second.join().expect("it ends").expect_err("another's");
    assert_eq!(refused.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{refused:?}");
    assert_eq!(count(&mut client, "pgq.schedule WHERE name = 'new' AND queue = 'quick' AND cron = '@daily'"), 1);
}

/// A deployment types it again each time.
#[test]
fn typed_again_unchanged_it_goes_on_with_what_is_due() {
    let (server, mut client) = shop();
    server.set("pgq.enabled", "off");
    wait_until(PATIENCE, "the workers to leave", || server.worker_pids(Some("shop")).is_empty());
    let make = "SELECT pgq.schedule('daily', 'quick', every => '1 day', args => '{\"a\": 1}', catchup => 'all')";
    run(&mut client, make);
    run(&mut client, "UPDATE pgq.schedule SET next_run = next_run - interval '3 days', scheduled_at = scheduled_at - interval '3 days'");
    let state = "SELECT concat_ws(' ', scheduled_at, next_run) FROM pgq.schedule";
    run(&mut client, "UPDATE pgq.armed_schedule SET scheduled_at = (SELECT scheduled_at FROM pgq.schedule)");
    let before: String = one(&mut client, state);
    run(&mut client, make);
    assert_eq!(one::<String>(&mut client, state), before);
    server.set("pgq.enabled", "on");
    run(&mut client, "SELECT pgq.start()");
    wait_until(PATIENCE, "the three", || count(&mut client, "ran") == 3);
    run(&mut client, &make.replace("\"a\": 1", "\"a\": 2"));
    assert_eq!(count(&mut client, "pgq.schedule WHERE next_run > now() + interval '23 h'"), 1);
}

/// What the scheduler is just putting is not put once more.
#[test]
fn typed_again_while_a_run_is_put_it_keeps_the_run_after_it() {
    let (server, mut client) = shop();
    server.set("pgq.enabled", "off");
    let make = "SELECT pgq.schedule('daily', 'quick', every => '1 day')";
    run(&mut client, make);
    // As the scheduler does.
    run(&mut client, "BEGIN; UPDATE pgq.schedule SET next_run = next_run + interval '1 day'");
    let mut other = server.connect("shop");
    let second = thread::spawn(move || other.batch_execute(make));
    let mut watch = server.connect("shop");
    wait_until(PATIENCE, "the second to wait", || count(&mut watch, "pg_locks WHERE NOT granted") > 0);
    run(&mut client, "COMMIT");
    second.join().expect("it ends").expect("it is his");
    assert_eq!(count(&mut client, "pgq.schedule WHERE next_run > scheduled_at + interval '47 h'"), 1);
}

#[test]
fn workers_outside_hear_of_scheduled_jobs() {
    let (_server, mut client) = shop();
    run(&mut client, "LISTEN pgq_push; SELECT pgq.schedule('push', 'push', cron => '* * * * * *')");
    let mut heard = client.notifications();
    let mut iterator = heard.timeout_iter(PATIENCE);
    let first =
        postgres::fallible_iterator::FallibleIterator::next(&mut iterator).expect("connected").expect("in time");
    assert_eq!(first.channel(), "pgq_push");
}

/// A schedule that came with a copy puts nothing before arm().
#[test]
fn schedules_of_a_copy_are_held() {
    let (server, mut client) = shop();
    run(&mut client, "SELECT pgq.schedule('tick', 'quick', cron => '* * * * * *')");
    wait_until(PATIENCE, "a run", || count(&mut client, "ran") > 0);
    let file = dump(&server, "shop", Format::Custom);
    run(&mut client, "CREATE DATABASE restored");
    restore(&server, "restored", Format::Custom, &file);
    let mut copy = server.connect("restored");
    let runs = count(&mut copy, "ran");
    run(&mut copy, "SELECT pgq.start()");
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!(count(&mut copy, "ran"), runs);
    assert_eq!(count(&mut copy, "pgq.schedules WHERE held AND active"), 1);
    let told = "pgq.doctor() WHERE check_name = 'schedules' AND NOT ok AND fix = 'SELECT pgq.arm();'";
    assert_eq!(count(&mut copy, told), 1);
    assert!(one::<bool>(&mut copy, "SELECT pgq.arm()"));
    wait_until(PATIENCE, "it runs", || count(&mut copy, "ran") > runs + 1);
    assert_eq!(count(&mut copy, "pgq.doctor() WHERE check_name = 'schedules' AND ok"), 1);
}

/// It says so, and disturbs no other.
#[test]
fn one_that_cannot_go_on_stops_alone() {
    let (_server, mut client) = shop();
    run(
        &mut client,
        "SELECT pgq.schedule(name, 'quick', cron => '* * * * * *') FROM unnest('{lost,broken,tick}'::text[]) AS name;
         UPDATE pgq.schedule SET timezone = 'Atlantis/Center' WHERE name = 'lost';
         UPDATE pgq.schedule SET cron = '61 * * * *' WHERE name = 'broken'",
    );
    wait_until(PATIENCE, "both to stop", || {
        count(&mut client, "pgq.schedules WHERE name <> 'tick' AND NOT active") == 2
    });
    let before = count(&mut client, "ran");
    wait_until(PATIENCE, "the other to run", || count(&mut client, "ran") > before + 1);
    for why in ["Atlantis/Center", "\"broken\" has stopped: Field 1"] {
        let told = format!("pgq.doctor() WHERE check_name = 'schedules' AND NOT ok AND detail LIKE '%{why}%'");
        assert_eq!(count(&mut client, &told), 1, "{why}");
    }
}
