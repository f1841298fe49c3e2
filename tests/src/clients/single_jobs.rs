//! One job at a time: a worker that is asked to stop, a job that fails, and the recipe's own check.

use super::{Stage, Way, Worker, PATIENCE};
use crate::{count, one, run};
use std::time::Duration;

/// An idle worker has nothing to wait for.
const AT_ONCE: Duration = Duration::from_secs(5);

pub(super) fn sigterm(stage: &mut Stage) {
    for way in [Way::Transaction, Way::Lease] {
        let mut worker = stage.worker(way).start();
        stage.does_a_job();
        let running = stage.put_sleep(1.0);
        stage.until_it_sleeps(way, running);
        worker.ask_to_stop();
        let waiting = stage.put("insert", "{}");
        worker.has_stopped(PATIENCE);
        assert_eq!(stage.effects(running), [1], "{way:?}: of the running job");
        assert_eq!(count(&mut stage.client, &format!("pgq.job WHERE id = {running}")), 0, "{way:?}: not done");
        assert_eq!(stage.effects(waiting), [0; 0], "{way:?}: of a job that waited");
        // Idle, after a job, so that it is known to be up.
        let mut worker = stage.worker(way).start();
        stage.until_gone(waiting);
        worker.stop(AT_ONCE);
    }
}

pub(super) fn failing(stage: &mut Stage) {
    let configure = format!(
        "SELECT pgq.configure('{}', max_attempts => 2, backoff => '1 min', max_backoff => '1 min')",
        stage.queue
    );
    run(&mut stage.client, &configure);
    for way in [Way::Transaction, Way::Lease] {
        let mut worker = stage.worker(way).start();
        let job = stage.put("fail", "{}");
        let failed = format!(
            "SELECT EXISTS (SELECT FROM pgq.job WHERE id = {job} AND state = 'scheduled' AND failures = 1
                               AND execute_at > clock_timestamp() + interval '40 s'
                               AND error->>'message' LIKE '%failed on purpose%')"
        );
        stage.until(PATIENCE, "the first failure to be counted", &failed);
        assert_eq!(stage.effects(job), left(way, 1), "{way:?}: after a failure");
        stage.does_a_job();
        assert!(one::<bool>(&mut stage.client, &format!("SELECT pgq.retry({job})")), "brought back at once");
        let dead = format!(
            "SELECT EXISTS (SELECT FROM pgq.dead WHERE id = {job} AND failures = 2
                               AND message LIKE '%failed on purpose%')"
        );
        stage.until(PATIENCE, "the job to be dead", &dead);
        assert_eq!(stage.effects(job).len(), left(way, 2).len(), "{way:?}: after two failures");
        stage.does_a_job();
        worker.stop(PATIENCE);
    }
}

/// The effects of so many attempts that failed: a lease does not take them back.
fn left(way: Way, attempts: i32) -> Vec<i32> {
    match way {
        Way::Transaction => Vec::new(),
        Way::Lease => (1..=attempts).collect(),
    }
}

pub(super) fn own_check(stage: &mut Stage) {
    let mut check = Worker::program(stage, "check").start();
    let status = check.ended(Duration::from_secs(60));
    assert!(status.success(), "the check's {status}");
}
