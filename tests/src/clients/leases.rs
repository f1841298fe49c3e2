//! Claims with a lease: one that is kept by a heartbeat, one whose worker is killed.

use super::{Stage, Way, PATIENCE};
use crate::{one, run};
use std::time::{Duration, Instant};

const LEASE: &str = "2";

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
    let job = stage.put_sleep(5.0);
    stage.until_it_sleeps(Way::Lease, job);
    let first: Instant = Instant::now();
    let ends: String = one(&mut stage.client, &format!("SELECT execute_at::text FROM pgq.job WHERE id = {job}"));
    let later = format!("SELECT EXISTS (SELECT FROM pgq.job WHERE id = {job} AND execute_at > '{ends}')");
    stage.until(Duration::from_secs(2), "the lease to be extended", &later);
    stage.until_gone(job);
    assert!(first.elapsed() > Duration::from_secs(4), "the job was shorter than it was to be");
    assert_eq!(outcome(stage, job), "done by attempt 1");
    assert_eq!(stage.effects(job), [1]);
    worker.stop(PATIENCE);
}

pub(super) fn killed(stage: &mut Stage) {
    keep_done(stage);
    let job = stage.put_sleep(1.0);
    let mut worker = stage.worker(Way::Lease).with("PGQ_LEASE_SECONDS", LEASE).start();
    stage.until_it_sleeps(Way::Lease, job);
    let ends: f64 = one(
        &mut stage.client,
        &format!("SELECT extract(epoch FROM execute_at - clock_timestamp())::float8 FROM pgq.job WHERE id = {job}"),
    );
    worker.kill_9();
    let killed = Instant::now();
    let mut worker = stage.worker(Way::Lease).with("PGQ_LEASE_SECONDS", LEASE).start();
    stage.does_a_job();
    // A worker that takes long to start may do it before the other job.
    let again = format!(
        "SELECT EXISTS (SELECT FROM pgq.job WHERE id = {job} AND attempt = 2 AND failures = 1 AND state = 'leased')
             OR EXISTS (SELECT FROM pgq.finished_job WHERE id = {job} AND attempt = 2 AND failures = 1)"
    );
    stage.until(PATIENCE, "the second attempt", &again);
    let after = killed.elapsed().as_secs_f64();
    assert!(after > ends - 0.5, "claimed again after {after:.1} s, and the lease had {ends:.1} s to go");
    stage.until_gone(job);
    assert_eq!(outcome(stage, job), "done by attempt 2");
    assert_eq!(stage.effects(job), [1, 2], "at least once");
    worker.stop(PATIENCE);
}
