//! Many jobs, and a worker that is killed in the middle of one, twice.

use super::{Stage, Way};
use crate::ledger::compare;
use crate::{count, one};
use std::time::{Duration, Instant};

/// A thousand unless `PGQ_CLIENT_JOBS` says otherwise.
fn jobs() -> usize {
    let given = std::env::var("PGQ_CLIENT_JOBS").ok().filter(|given| !given.is_empty());
    given.map_or(1_000, |given| given.parse().expect("PGQ_CLIENT_JOBS is a number"))
}

pub(super) fn killed_twice(stage: &mut Stage) {
    let third = jobs() / 3;
    let mut put = stage.put_many(third);
    let first = stage.put_sleep(1.5);
    put.extend(stage.put_many(third));
    let second = stage.put_sleep(1.5);
    put.extend(stage.put_many(jobs() - 2 * third - 2));
    put.extend([first, second]);
    // Ten times what the slowest client takes for a job.
    let deadline = Duration::from_secs(60) + Duration::from_millis(50) * u32::try_from(jobs()).unwrap_or(u32::MAX);
    let began = Instant::now();
    for sleeping in [first, second] {
        let mut worker = stage.worker(Way::Transaction).start();
        stage.until_it_sleeps_within(deadline, Way::Transaction, sleeping);
        worker.kill_9();
        assert_eq!(stage.effects(sleeping), [0; 0], "of a job that was killed in the middle");
    }
    let mut worker = stage.worker(Way::Transaction).start();
    let left = format!("SELECT NOT EXISTS (SELECT FROM pgq.job WHERE queue = '{}')", stage.queue);
    stage.until(deadline, "the queue to be empty", &left);
    let took = began.elapsed().as_secs_f64();
    worker.stop(super::PATIENCE);
    let done: Vec<i64> = one(&mut stage.client, "SELECT coalesce(array_agg(job), '{}') FROM effect");
    let verdict = compare(&put, &done, &[]);
    println!("{}: {verdict}, in {took:.1} s, killed twice", stage.recipe.name);
    verdict.assert_exact();
    assert_eq!(count(&mut stage.client, "effect WHERE attempt <> 1"), 0, "a kill was counted against a job");
    assert_eq!(count(&mut stage.client, "pgq.finished_job"), 0, "a job is dead");
}
