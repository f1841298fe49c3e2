//! W7: the drain of W3 spread over 100 queues with 20 handlers each, against one queue with one.

use super::meter::Sample;
use super::report::{rate, Row};
use super::stage::Stage;
use super::Bench;
use crate::{run as sql, timed};
use std::time::Duration;

const QUEUES: u64 = 100;
const TASKS: u64 = 20;

/// How long all pairs may take, so that the whole run stays under 45 minutes, and how few are enough.
const MOST: Duration = Duration::from_secs(300);
const FEWEST: usize = 3;

/// Twenty functions, each the handler of one task in every queue.
fn register(stage: &mut Stage) {
    let functions: String = (0..TASKS)
        .map(|task| {
            format!(
                "CREATE FUNCTION of_task_{task}(args jsonb) RETURNS void LANGUAGE plpgsql
                 AS $$ BEGIN INSERT INTO effect VALUES ((args->>'n')::bigint); END $$;"
            )
        })
        .collect();
    sql(&mut stage.app, &functions);
    let all = format!(
        "SELECT count(pgq.register('q' || queue, 'of_task_' || task, task => 't' || task, concurrency => 2))
         FROM generate_series(0, {QUEUES} - 1) queue, generate_series(0, {TASKS} - 1) task"
    );
    sql(&mut stage.app, &all);
    assert!(stage.register("plpgsql", "of_plpgsql", ", concurrency => 2"), "the handler cannot be registered");
}

/// A drain of many queues, filled evenly.
fn many(stage: &mut Stage, jobs: u64) -> Sample {
    let (first, last) = stage.numbers(jobs);
    let fill = format!(
        "TRUNCATE pgq.job, pgq.finished_job, effect;
         SELECT pgq.pause();
         INSERT INTO pgq.job (queue, task, args, execute_at, state)
         SELECT 'q' || n % {QUEUES}, 't' || n / {QUEUES} % {TASKS}, jsonb_build_object('n', n), now(), 'ready'
         FROM generate_series({first}, {last}) n"
    );
    sql(&mut stage.client, &fill);
    sql(&mut stage.client, "VACUUM ANALYZE pgq.job");
    stage.drain(None, jobs, jobs)
}

fn single(stage: &mut Stage, jobs: u64) -> Sample {
    stage.fill("plpgsql", jobs);
    stage.drain(Some("plpgsql"), jobs, jobs)
}

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(2);
    register(&mut stage);
    let (jobs, mut pairs) = (bench.sizes.jobs, bench.sizes.pairs);
    // Every handler is known by then: what they run alone at first is not in what is measured.
    many(&mut stage, jobs);
    single(&mut stage, jobs.min(20_000));
    let (_, took) = timed(|| (many(&mut stage, jobs), single(&mut stage, jobs)));
    let affordable = (MOST.as_secs_f64() / took.as_secs_f64()) as usize;
    if affordable < pairs {
        // So slow that the bound is missed whatever the interval: no need of all of them.
        pairs = affordable.clamp(FEWEST.min(pairs), pairs);
        bench.step(&format!("a pair takes {:.0} s: {pairs} pairs", took.as_secs_f64()));
    }
    stage.checkpoint();
    let samples = bench.alternate("drain of queues", pairs, &["pgq 2,000 handlers", "pgq one"], |arm| match arm {
        0 => many(&mut stage, jobs),
        _ => single(&mut stage, jobs),
    });
    let (of_many, of_one) = (&samples[0], &samples[1]);
    bench.report.rows.push(Row::new("W7", "drain, 100 queues, 20 handlers each", "jobs/s").of(of_many));
    bench.report.rows.push(Row::new("W7", "drain, one queue, one handler", "jobs/s").of(of_one));
    bench.report.check_pairs("W7", "100 queues, to one", (of_many, of_one), 0.8);
    let bars = [("pgq, 100 queues, 20 handlers each", rate(of_many)), ("pgq, one queue, one handler", rate(of_one))];
    bench.report.chart("W7 drain of many queues", "jobs/s", &bars);
}
