//! W10: jobs of 1,000 groups, of which one in twenty fails on its first attempt, against the same jobs without groups;
//! and the groups again beside 1,000,000 jobs that wait for one job of their own group.

use super::meter::{metered, Sample};
use super::report::{rate, Row};
use super::stage::{now, Stage, DATABASE};
use super::Bench;
use crate::{one, run as sql, wait_until};
use std::time::Duration;

const GROUPS: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);
const ARMS: [&str; 3] = ["without groups", "1,000 groups", "1,000 groups beside a blocked one"];

/// The handler; and in the last database the group that nobody can go on with.
fn prepare(stage: &mut Stage, blocked: u64) {
    sql(
        &mut stage.app,
        "CREATE FUNCTION of_groups(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$ DECLARE n bigint := ((job).args ->> 'n')::bigint; BEGIN
            IF (job).attempt = 1 AND n % 20 = 0 THEN RAISE 'no'; END IF;
            INSERT INTO effect VALUES (n); END $$",
    );
    assert!(stage.register("groups", "of_groups", ", backoff => '10 ms'"), "the handler cannot be registered");
    if blocked > 0 {
        let fill = format!(
            "SELECT pgq.put('groups', group_key => 'blocked', delay => '1 day');
             SELECT count(*) FROM pgq.bulk_put('groups', group_key => 'blocked',
                args => (SELECT array_agg(jsonb_build_object('n', n)) FROM generate_series(1, {blocked}) AS n))"
        );
        sql(&mut stage.client, &fill);
    }
}

/// A drain of jobs with and without groups.
fn drain(stage: &mut Stage, jobs: u64, arm: usize) -> Sample {
    let (first, last) = stage.numbers(jobs);
    let group = if arm == 0 { "NULL".into() } else { format!("'g' || n % {GROUPS}") };
    let fill = format!(
        "TRUNCATE effect; SELECT pgq.pause('groups');
         SELECT count(*) FROM pgq.bulk_put('groups', jobs => (
            SELECT jsonb_agg(jsonb_build_object('group_key', {group}, 'args', jsonb_build_object('n', n)) ORDER BY n)
              FROM generate_series({first}, {last}) AS n))"
    );
    sql(&mut stage.client, &fill);
    sql(&mut stage.client, "VACUUM ANALYZE pgq.job");
    let sample = metered(stage, |stage| {
        let began = now();
        sql(&mut stage.client, "SELECT pgq.resume('groups')");
        wait_until(PATIENCE, "the jobs", || one(&mut stage.client, &format!("SELECT count(*) = {jobs} FROM effect")));
        (jobs as f64, stage.last_commit() - began)
    });
    assert_eq!(stage.ledger("effect"), jobs as f64, "not every job ran exactly once");
    sample
}

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(8);
    let jobs = bench.sizes.jobs.min(300_000);
    prepare(&mut stage, 0);
    stage.enter("blocked");
    prepare(&mut stage, bench.sizes.later);
    for arm in 0..ARMS.len() {
        stage.enter(if arm == 2 { "blocked" } else { DATABASE });
        drain(&mut stage, jobs, arm);
    }
    stage.checkpoint();
    let samples = bench.alternate("drain of groups", bench.sizes.pairs.min(15), &ARMS, |arm| {
        stage.enter(if arm == 2 { "blocked" } else { DATABASE });
        drain(&mut stage, jobs, arm)
    });
    for (arm, of) in ARMS.iter().zip(&samples) {
        bench.report.rows.push(Row::new("W10", &format!("drain, {arm}"), "jobs/s").of(of));
    }
    bench.report.check_pairs("W10", "groups, to none", (&samples[1], &samples[0]), 0.5);
    bench.report.check_pairs("W10", "beside a blocked group, to without", (&samples[2], &samples[1]), 0.95);
    let bars: Vec<_> = ARMS.iter().zip(&samples).map(|(arm, of)| (*arm, rate(of))).collect();
    bench.report.chart("W10 order within groups", "jobs/s", &bars);
}
