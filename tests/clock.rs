//! A server whose clock is set. From PostgreSQL 16 on: the postmaster of 15 starts its workers inside a
//! signal handler, where libfaketime lets the right time through.

use pgq_tests::clock::Clock;
use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// An hour ahead and back: nothing twice, and what is not to be caught up is not.
#[test]
fn a_clock_that_is_set_forward_and_back_doubles_nothing_and_makes_no_storm() {
    let clock = Clock::new();
    assert_ne!(std::env::var("PG_MAJOR").as_deref(), Ok("15"), "see above: tests/run --pg 16 clock");
    let server = Server::builder().program(clock.program()).preload(true).start();
    let mut client = server.create_database("shop");
    run(
        &mut client,
        "CREATE TABLE ran (nominal timestamptz, args jsonb);
         CREATE FUNCTION note(job pgq.job) RETURNS void LANGUAGE sql
             AS $$ INSERT INTO ran VALUES ((job).execute_at, (job).args) $$;
         SELECT pgq.register('quick', 'note')",
    );
    run(
        &mut client,
        "SELECT pgq.schedule(c, 'quick', cron => '* * * * * *', args => to_jsonb(c), catchup => c, overlap => 'allow')
           FROM unnest('{none,last,all}'::text[]) AS c",
    );
    let runs = |client: &mut Client, which: &str| count(client, &format!("ran WHERE args = '\"{which}\"'"));
    wait_until(PATIENCE, "some runs", || runs(&mut client, "none") > 1);
    let before = [runs(&mut client, "none"), runs(&mut client, "last")];
    let jumped = Instant::now();
    clock.set(3_600);
    wait_until(PATIENCE, "the hour to be made up", || runs(&mut client, "all") > 3_600);
    thread::sleep(Duration::from_secs(1));
    for (which, before) in ["none", "last"].into_iter().zip(before) {
        let more = runs(&mut client, which) - before;
        // One a second, and one for the hour.
        let most = jumped.elapsed().as_secs() + 2;
        assert!(more >= 1 && more <= i64::try_from(most).expect("seconds"), "{which}: {more} in {most} s");
    }
    clock.set(0);
    // What was under way when it was set.
    wait_until(PATIENCE, "the jobs", || count(&mut client, "pgq.job") == 0);
    thread::sleep(Duration::from_secs(1));
    let at_rest = count(&mut client, "ran");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(count(&mut client, "ran"), at_rest, "before the time of the next run has come again");
    clock.set(3_610);
    wait_until(PATIENCE, "it goes on", || count(&mut client, "ran") > at_rest + 10);
    run(&mut client, "SELECT pgq.pause_schedule(name) FROM pgq.schedules");
    wait_until(PATIENCE, "the rest", || count(&mut client, "pgq.job") == 0);
    assert_eq!(count(&mut client, "(SELECT FROM ran GROUP BY args, nominal HAVING count(*) > 1) AS twice"), 0);
    let gaps = "(SELECT nominal - lag(nominal) OVER (ORDER BY nominal) AS step FROM ran WHERE args = '\"all\"') AS s
        WHERE step <> '1 s'";
    assert_eq!(count(&mut client, gaps), 0);
}

/// Five minutes cannot be waited for.
#[test]
fn a_snapshot_that_is_five_minutes_old_is_told_with_the_command_that_ends_it() {
    let clock = Clock::new();
    let server = Server::builder().program(clock.program()).preload(true).start();
    let mut client = server.create_database("shop");
    let mut old = server.connect("shop");
    run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pgq.job");
    let told = "pgq.doctor() WHERE check_name = 'old snapshots' AND NOT ok";
    clock.set(240);
    assert_eq!(count(&mut client, told), 0);
    clock.set(310);
    let fix: String = one(&mut client, &format!("SELECT fix FROM {told}"));
    run(&mut client, &fix);
    wait_until(PATIENCE, "it to be mended", || count(&mut client, told) == 0);
    assert!(old.batch_execute("SELECT 1").is_err(), "its session has ended");
}
