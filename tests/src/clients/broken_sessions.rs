//! A worker whose sessions end, and whose server goes away and comes back.

use super::{Stage, Way, Worker, PATIENCE};
use crate::ledger::compare;
use crate::{count, one, Stop};
use std::thread;
use std::time::Duration;

/// What happens to the worker's sessions.
type Break = fn(&mut Stage);

fn terminate(stage: &mut Stage) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'worker'";
    assert!(one::<i64>(&mut stage.client, sql) > 0, "the worker has no session");
}

fn restart(stage: &mut Stage) {
    stage.server.restart(Stop::Fast);
    stage.reconnect();
}

fn crash(stage: &mut Stage) {
    stage.server.restart(Stop::Immediate);
    stage.reconnect();
}

pub(super) fn reconnect(stage: &mut Stage) {
    let mut worker = stage.worker(Way::Transaction).start();
    stage.does_a_job();
    for (what, broken) in [("terminated", terminate as Break), ("restarted", restart)] {
        broken(stage);
        stage.does_a_job();
        // Again while idle: found by its notification, and not by the look after the connect.
        stage.does_a_job();
        assert!(worker.is_alive(), "idle, {what}: the worker ended");
    }
    for (what, broken) in [("terminated", terminate as Break), ("crashed", crash)] {
        while_it_works(stage, &mut worker, what, broken);
    }
    worker.stop(PATIENCE);
}

fn while_it_works(stage: &mut Stage, worker: &mut Worker, what: &str, broken: Break) {
    let job = stage.put_sleep(1.0);
    stage.until_it_sleeps(Way::Transaction, job);
    broken(stage);
    stage.until_gone(job);
    assert_eq!(stage.effects(job), [1], "{what} in the middle of a job");
    assert_eq!(count(&mut stage.client, &format!("pgq.finished_job WHERE id = {job}")), 0, "{what}: it is dead");
    stage.does_a_job();
    assert!(worker.is_alive(), "in the middle of a job, {what}: the worker ended");
}

/// Sessions end at any moment of a claim, a job and a COMMIT.
pub(super) fn terminated(stage: &mut Stage) {
    const TIMES: u64 = 50;
    let put = stage.put_many(500);
    let mut worker = stage.worker(Way::Transaction).start();
    stage.until_gone(put[0]);
    for time in 0..TIMES {
        // The load: a worker that connects again after 100 ms does some jobs in between, or none.
        thread::sleep(Duration::from_millis(time * 37 % 200));
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'worker'";
        one::<i64>(&mut stage.client, sql);
        assert!(worker.is_alive(), "the worker ended when its sessions were terminated, time {time}");
    }
    let left = format!("SELECT NOT EXISTS (SELECT FROM pgq.job WHERE queue = '{}')", stage.queue);
    stage.until(PATIENCE, "the queue to be empty", &left);
    worker.stop(PATIENCE);
    let sql =
        format!("SELECT coalesce(array_agg(job), '{{}}') FROM effect WHERE job BETWEEN {} AND {}", put[0], put[499]);
    let done: Vec<i64> = one(&mut stage.client, &sql);
    let verdict = compare(&put, &done, &[]);
    println!("{}: {verdict}, terminated {TIMES} times", stage.recipe.name);
    verdict.assert_exact();
    let counted = format!("effect WHERE job BETWEEN {} AND {} AND attempt <> 1", put[0], put[499]);
    assert_eq!(count(&mut stage.client, &counted), 0, "a lost session was counted against a job");
}
