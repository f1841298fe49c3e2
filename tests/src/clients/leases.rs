//! Claims with a lease: one that is kept by a heartbeat, one whose worker is killed.

use super::{Stage, Way, PATIENCE};
use crate::{one, run};
use std::time::{Duration, Instant, SystemTime};

/// Its third is more than what a busy disk makes a commit wait for.
const LEASE: &str = "6";

/// How a job that is done ended: its state and the attempt that did it.
fn outcome(stage: &mut Stage, job: i64) -> String {
    one(&mut stage.client, &format!("SELECT state || ' by attempt ' || attempt FROM pgq.wait({job})"))
}

fn keep_done(stage: &mut Stage) {
    let configure = format!("SELECT pgq.configure('{}', keep_done => '1 h')", stage.queue);
    run(&mut stage.client, &configure);
}

pub(super) fn heartbeat(stage: &mut Stage) {
    keep_done(stage);
    let mut worker = stage.worker(Way::Lease).with("PGQ_LEASE_SECONDS", LEASE).start();
    let job = stage.put_sleep(9.0);
    stage.until_it_sleeps(Way::Lease, job);
    let first = Instant::now();
    let ends: String = one(&mut stage.client, &format!("SELECT execute_at::text FROM pgq.job WHERE id = {job}"));
    let later = format!("SELECT EXISTS (SELECT FROM pgq.job WHERE id = {job} AND execute_at > '{ends}')");
    stage.until(PATIENCE, "the lease to be extended", &later);
    stage.until_gone(job);
    assert!(first.elapsed() > Duration::from_secs(8), "the job was shorter than it was to be");
    assert_eq!(outcome(stage, job), "done by attempt 1");
    assert_eq!(stage.effects(job), [1]);
    worker.stop(PATIENCE);
}

pub(super) fn killed(stage: &mut Stage) {
    keep_done(stage);
    let job = stage.put_sleep(1.0);
    let mut worker = stage.worker(Way::Lease).with("PGQ_LEASE_SECONDS", LEASE).start();
    stage.until_it_sleeps(Way::Lease, job);
    let ends: SystemTime = one(&mut stage.client, &format!("SELECT execute_at FROM pgq.job WHERE id = {job}"));
    worker.kill_9();
    let mut worker = stage.worker(Way::Lease).start();
    stage.until_gone(job);
    assert_eq!(outcome(stage, job), "done by attempt 2");
    assert_eq!(stage.effects(job), [1, 2], "at least once");
    let again = format!("SELECT at FROM effect WHERE job = {job} AND attempt = 2");
    let again: SystemTime = one(&mut stage.client, &again);
    assert!(again >= ends, "claimed again at {again:?}, before the lease ended at {ends:?}");
    let failures = format!("SELECT failures FROM pgq.finished_job WHERE id = {job}");
    assert_eq!(one::<i32>(&mut stage.client, &failures), 1, "failures counted");
    stage.does_a_job();
    worker.stop(PATIENCE);
}
