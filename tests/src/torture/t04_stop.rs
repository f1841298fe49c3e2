//! T04, T05, T06: the whole server is stopped, killed and started again.

use super::faults::{self, Fault};
use super::stage::Stage;
use super::{Part, Run};
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use crate::{wait_for, wait_until, Stop};
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[
    Part {
        id: "T04",
        title: "an immediate stop under load, and a start",
        unit: "stops",
        quick: 10,
        full: 100,
        run: stop_immediately,
    },
    Part {
        id: "T05",
        title: "kill -9 of the postmaster under load: no orphan, and a start",
        unit: "kills",
        quick: 5,
        full: 50,
        run: kill_the_postmaster,
    },
    Part {
        id: "T06",
        title: "a fast stop, idle and with sleeping jobs on every worker",
        unit: "stops",
        quick: 8,
        full: 200,
        run: stop_fast,
    },
];

const PATIENCE: Duration = Duration::from_secs(60);

fn stop_immediately(run: &mut Run) {
    let mut stage = Stage::open(run.server(), Rules::default());
    stage.begin(run, &Mix::default());
    while run.goes_on() {
        wait_for(PATIENCE, "a job to run", || stage.watch.pid(faults::RUNNING));
        if Fault::ImmediateStop.strike(&mut stage, &mut run.rng) {
            run.fault("immediate stop");
            run.did(1);
        }
    }
    stage.close(run);
}

/// The promise: so long after the postmaster's death nobody of its children is left.
const NO_ORPHAN: Duration = Duration::from_secs(5);

fn kill_the_postmaster(run: &mut Run) {
    let mut stage = Stage::open(run.server(), Rules::default());
    stage.begin(run, &Mix::default());
    while run.goes_on() {
        wait_for(PATIENCE, "a job to run", || stage.watch.pid(faults::RUNNING));
        stage.server.kill_postmaster_only();
        let gone = faults::wait_for_orphans(&stage);
        run.took_at_most("orphans gone", gone, NO_ORPHAN);
        run.fault("kill -9 postmaster");
        stage.server.start();
        run.did(1);
    }
    stage.close(run);
}

/// The promises: a fast stop takes so long when nobody works, and when everybody sleeps in a job.
const IDLE: Duration = Duration::from_secs(3);
const BUSY: Duration = Duration::from_secs(5);

fn stop_fast(run: &mut Run) {
    let mut stage = Stage::open(run.server(), Rules::default());
    stage.watch.ask(|client| client.batch_execute(SLEEPERS));
    while run.goes_on() {
        let is_busy = run.done() % 2 == 1;
        let sleepers = if is_busy { 4 } else { 0 };
        stage.watch.ask(|client| client.batch_execute(&format!("UPDATE pillow SET seconds = {sleepers} * 900")));
        let put = "INSERT INTO led_put SELECT pgq.put('sleep', '{\"qty\": 1, \"fails\": 0}'), 1, 0";
        for _ in 0..4 {
            stage.watch.ask(|client| client.batch_execute(put));
        }
        if is_busy {
            let running = "SELECT count(*) FROM pgq.running WHERE queue = 'sleep'";
            wait_until(PATIENCE, "the jobs to sleep", || stage.watch.number(running) >= 3);
            // They have read it; when they run again, as soon as the server is back, they shall not sleep.
            stage.watch.ask(|client| client.batch_execute("UPDATE pillow SET seconds = 0"));
        } else {
            let left = "SELECT count(*) FROM pgq.job";
            wait_until(PATIENCE, "the workers to be idle", || stage.watch.number(left) == 0);
        }
        let took = stage.server.stop(Stop::Fast);
        let (what, promise) = if is_busy { ("busy stop", BUSY) } else { ("idle stop", IDLE) };
        run.took_at_most(what, took, promise);
        if !faults::is_deserted(&stage) {
            run.differ("a process was left after a fast stop");
        }
        run.fault(what);
        stage.server.start();
        run.did(1);
    }
    stage.close(run);
}

/// Function handlers that sleep as long as the pillow says.
const SLEEPERS: &str = "
    CREATE TABLE pillow (seconds float8);
    INSERT INTO pillow VALUES (0);
    GRANT SELECT ON pillow TO worker;
    CREATE FUNCTION sleep(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM led_note(job, 1);
        PERFORM pg_sleep(seconds) FROM pillow;
        PERFORM led_note(job, 2);
    END $$;
    SELECT pgq.register('sleep', 'sleep', run_as => 'worker', concurrency => 4)";
