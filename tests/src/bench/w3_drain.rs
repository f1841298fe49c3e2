//! W3: a backlog of trivial jobs, one INSERT each, drained by two executors; the ledger must be even.

use super::figures::Bound;
use super::gauge::{drain_hundred, drain_one, one_each};
use super::meter::{metered, Sample};
use super::report::{rate, Row};
use super::stage::Stage;
use super::Bench;
use crate::run as sql;
use std::time::Instant;

const HUNDRED: usize = 1;
const ARMS: [&str; 7] =
    ["hand n=1", "hand n=100", "statement", "pgq PL/pgSQL", "pgq SQL", "pgq 10 % fail", "pgq set-based"];

/// The queues of the arms from the fourth on, with their handlers.
const QUEUES: [[&str; 3]; 4] = [
    ["plpgsql", "of_plpgsql", ", concurrency => 2"],
    ["sql", "of_sql", ", concurrency => 2"],
    ["tenth", "of_tenth", ", concurrency => 2, max_attempts => 1"],
    ["set", "of_set(pgq.job[])", ", concurrency => 2"],
];

/// One statement that removes all jobs and writes all effects: what plain SQL can do at best.
fn statement(stage: &mut Stage, jobs: u64) -> Sample {
    stage.hand_fill(jobs);
    let sample = metered(stage, |stage| {
        let began = Instant::now();
        let all = "WITH claimed AS (DELETE FROM hand_job RETURNING args)
                   INSERT INTO hand_effect SELECT (args->>'n')::bigint FROM claimed";
        sql(&mut stage.client, all);
        (jobs as f64, began.elapsed().as_secs_f64())
    });
    assert_eq!(stage.ledger("hand_effect"), jobs as f64);
    sample
}

/// A drain of one of our queues.
fn ours(stage: &mut Stage, queue: &str, jobs: u64) -> Sample {
    stage.fill(queue, jobs);
    // Numbers follow each other, so that of ten one is a multiple of ten.
    let last = stage.numbers(0).1;
    let failing = if queue == "tenth" { last / 10 - (last - jobs) / 10 } else { 0 };
    let sample = stage.drain(Some(queue), jobs, jobs - failing);
    let dead: i64 = crate::one(&mut stage.client, "SELECT count(*) FROM pgq.dead");
    assert_eq!(u64::try_from(dead), Ok(failing), "jobs that fail end as dead, and no others");
    sample
}

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(2);
    let (jobs, rounds, clients) = (bench.sizes.jobs, bench.sizes.rounds, bench.gauge.clients.max(2));
    let count = QUEUES.iter().filter(|[queue, handler, options]| stage.register(queue, handler, options)).count();
    // The executors' first drain has their start in it.
    for [queue, ..] in &QUEUES[..count] {
        ours(&mut stage, queue, jobs.min(20_000));
    }
    let amount = one_each(bench);
    let samples = bench.alternate("drain", rounds, &ARMS[..3 + count], |arm| {
        stage.checkpoint();
        match arm {
            0 => drain_one(&mut stage, jobs, amount),
            HUNDRED => drain_hundred(&mut stage, jobs, clients),
            2 => statement(&mut stage, jobs),
            _ => ours(&mut stage, QUEUES[arm - 3][0], jobs),
        }
    });
    tell(bench, &samples);
}

fn tell(bench: &mut Bench, samples: &[Vec<Sample>]) {
    let rates: Vec<f64> = samples.iter().map(|of| rate(of)).collect();
    let (one, hundred, statement, plpgsql) = (rates[0], rates[HUNDRED], rates[2], rates[3]);
    for (arm, name) in ARMS.iter().enumerate().skip(3) {
        let title = format!("drain, {}", name.trim_start_matches("pgq "));
        let of = samples.get(arm).map_or(&[][..], Vec::as_slice);
        let mut row = Row::new("W3", &title, "jobs/s").of(of);
        (row.one, row.hundred, row.raw) = (Some(one), Some(hundred), Some(statement));
        bench.report.rows.push(row);
    }
    let report = &mut bench.report;
    report.check("W3", "PL/pgSQL, to hand-written n=100", plpgsql / hundred, Bound::AtLeast(2.5));
    report.check("W3", "PL/pgSQL, to hand-written n=1", plpgsql / one, Bound::AtLeast(40.0));
    report.show("W3", "SQL, to hand-written n=100", rates[4] / hundred);
    report.show("W3", "SQL, to hand-written n=1", rates[4] / one);
    report.check("W3", "10 % fail, to none", rates[5] / plpgsql, Bound::AtLeast(0.5));
    let what = "set-based, to hand-written n=100";
    match rates.get(6) {
        Some(set) => report.check("W3", what, set / hundred, Bound::AtLeast(3.5)),
        None => report.not_available("W3", what, Bound::AtLeast(3.5)),
    }
    let bars: Vec<(&str, f64)> =
        ARMS.iter().enumerate().map(|(arm, name)| (*name, rates.get(arm).copied().unwrap_or(f64::NAN))).collect();
    report.chart("W3 drain", "jobs/s", &bars);
}
