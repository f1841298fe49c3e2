//! A standby on the same machine: pgq is there, its tables too, and nothing runs until the promotion; then what is due
//! runs, also what was leased to a worker of the old primary. Preloaded and not.

use pgq_tests::{count, one, run, wait_until, Server, Stop};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

const SHOP: &str = "
    CREATE TABLE ledger (id bigint);
    CREATE FUNCTION note(id bigint, args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO ledger VALUES (id) $$;
    CREATE FUNCTION sleeps(id bigint, args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger VALUES (id);
        PERFORM pg_sleep(3600 * (args->>'hours')::int);
    END $$;
    CREATE PROCEDURE commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        PERFORM pg_sleep(3600 * (args->>'hours')::int);
        INSERT INTO ledger VALUES (id);
    END $$;
    SELECT pgq.register('quick', 'note'), pgq.register('sleeps', 'sleeps'), pgq.register('commits', 'commits');";

#[test]
fn a_standby_runs_nothing_refuses_a_put_as_ever_and_runs_its_jobs_after_promotion() {
    for preload in [true, false] {
        let primary = Server::builder().preload(preload).conf("wal_level", "replica").start();
        let mut client = primary.create_database("shop");
        run(&mut client, SHOP);
        let quick: i64 = one(&mut client, "SELECT pgq.put('quick')");
        wait_until(PATIENCE, "the first job", || count(&mut client, "ledger") == 1);
        let tomorrow: i64 = one(&mut client, "SELECT pgq.put('quick', delay => '1 day')");
        let leased: i64 = one(&mut client, "SELECT pgq.put('commits', '{\"hours\": 1}')");
        wait_until(PATIENCE, "the procedure to hold its lease", || {
            count(&mut client, "pgq.job WHERE state = 'leased'") == 1
        });

        let standby = primary.standby();
        let mut reader = standby.connect("shop");
        wait_until(PATIENCE, "the jobs to arrive", || count(&mut reader, "pgq.job") == 2);
        refuses(&standby, &mut reader, tomorrow);
        let later: i64 = one(&mut client, "SELECT pgq.put('quick', delay => '1 s')");
        let ran_here: i64 = one(&mut client, "SELECT pgq.put('quick')");
        wait_until(PATIENCE, "the primary's job to be seen", || {
            count(&mut reader, &format!("ledger WHERE id = {ran_here}")) == 1
        });
        // Long past the delay that ends on the primary.
        wait_until(PATIENCE, "the delayed one too", || count(&mut reader, &format!("ledger WHERE id = {later}")) == 1);
        assert_eq!(standby.worker_pids(None), Vec::<u32>::new(), "nobody works on a standby");
        assert_eq!(standby.log().matches("pgq:").count(), 0, "and nothing is said");

        let due: i64 = one(&mut client, "SELECT pgq.put('quick', delay => '1 s')");
        wait_until(PATIENCE, "it to arrive", || count(&mut reader, &format!("pgq.job WHERE id = {due}")) == 1);
        primary.stop(Stop::Immediate);
        run(&mut reader, "SELECT pg_promote(true, 60)");
        if !preload {
            thread::sleep(Duration::from_secs(2));
            assert_eq!(standby.worker_pids(None), Vec::<u32>::new(), "not preloaded: it waits for a call");
            assert!(one::<bool>(&mut reader, "SELECT pgq.start()"));
        }
        for id in [quick, later, ran_here, due] {
            let what = format!("ledger WHERE id = {id}");
            let took = wait_until(PATIENCE, "each job to run once", || count(&mut reader, &what) == 1);
            println!("preloaded {preload}: job {id} had run {took:?} after the promotion");
        }
        // The lease named a slot of a server that is gone.
        let running = format!("pgq.running WHERE job = {leased} AND attempt = 2");
        wait_until(PATIENCE, "the procedure to run again", || count(&mut reader, &running) == 1);
        assert_eq!(count(&mut reader, "pgq.doctor() WHERE check_name = 'primary'"), 0);
    }
}

fn refuses(standby: &Server, reader: &mut postgres::Client, waits: i64) {
    for call in [
        "pgq.put('quick')".to_owned(),
        "pgq.put('quick', key => 'k')".to_owned(),
        "pgq.bulk_put('quick', args => '{{}}'::jsonb[])".replace("{{}}", "{\"{}\"}"),
        "pgq.claim('quick')".to_owned(),
        "pgq.claim('quick', lease => '1 s')".to_owned(),
        format!("pgq.cancel({waits})"),
        "pgq.pause('quick')".to_owned(),
    ] {
        let sql = format!("SELECT {call}");
        let error = reader.batch_execute(&sql).expect_err(&sql);
        assert_eq!(error.code().map(|code| code.code()), Some("25006"), "{sql}: {error:?}");
    }
    assert!(!one::<bool>(reader, "SELECT pgq.start()"), "nobody can be started here");
    let why: String = one(reader, &format!("SELECT pgq.waiting({waits})"));
    assert!(why.contains("delayed until") || why.contains("standby"), "{why}");
    assert_eq!(count(reader, "pgq.doctor() WHERE check_name = 'primary' AND NOT ok"), 1);
    assert!(count(reader, "pgq.stats()") > 0);
    let state: String = one(reader, &format!("SELECT state FROM pgq.wait({waits}, '10 ms')"));
    assert_eq!(state, "scheduled");
    assert_eq!(standby.worker_pids(None), Vec::<u32>::new());
}
