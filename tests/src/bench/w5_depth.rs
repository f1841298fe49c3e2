//! W5: some thousand jobs drained while 10,000, 1,000,000 or 5,000,000 of ten priorities wait, and
//! while 1,000,000 are scheduled for later. Each backlog has a database of its own and is filled up
//! again after each sample. The rate is taken between commits of effects, from the first on: the
//! start of a drain weighs the same at every depth, and is not in it.

use super::gauge::{hundred_each, HUNDRED, ONE};
use super::meter::{metered, Sample};
use super::report::{rate, Row};
use super::stage::{Amount, Stage, DATABASE};
use super::Bench;
use crate::{one, run as sql, wait_until};
use std::time::Duration;

/// Drains of one sample.
const BURSTS: u64 = 3;

/// How long one may take before the workload fails.
const PATIENCE: Duration = Duration::from_secs(120);

const ARMS: [&str; 4] = ["10,000", "1,000,000", "5,000,000", "10,000 + 1,000,000 later"];

/// A backlog.
struct Backlog {
    database: &'static str,
    depth: u64,
    later: u64,
    /// Missing to its depth, in pgq's queue.
    missing: u64,
}

impl Backlog {
    fn of(bench: &Bench) -> Vec<Backlog> {
        let [small, middle, large] = bench.sizes.depths;
        let backlog = |database, depth, later| Backlog { database, depth, later, missing: depth };
        vec![
            backlog(DATABASE, small, 0),
            backlog("middle", middle, 0),
            backlog("large", large, 0),
            backlog("later", small, bench.sizes.later),
        ]
    }
}

/// Adds ready jobs of mixed priorities in the quickest way: as the owner of the table.
fn add(stage: &mut Stage, count: u64) {
    let (first, last) = stage.numbers(count);
    let insert = format!(
        "INSERT INTO pgq.job (queue, args, priority, execute_at, state)
         SELECT 'deep', jsonb_build_object('n', n), n % 10, now(), 'ready' FROM generate_series({first}, {last}) n"
    );
    sql(&mut stage.client, &insert);
}

fn hand_add(stage: &mut Stage, count: u64) {
    let (first, last) = stage.numbers(count);
    let insert = format!(
        "INSERT INTO hand_job (priority, args)
         SELECT n % 10, jsonb_build_object('n', n) FROM generate_series({first}, {last}) n"
    );
    sql(&mut stage.client, &insert);
}

fn fill(stage: &mut Stage, backlog: &mut Backlog) {
    stage.enter(backlog.database);
    assert!(stage.register("deep", "of_plpgsql", ", concurrency => 2"), "the handler cannot be registered");
    sql(&mut stage.client, "SELECT pgq.pause('deep')");
    let later = backlog.later;
    let insert = format!(
        "INSERT INTO pgq.job (queue, args, priority, execute_at, state)
         SELECT 'deep', '{{}}', n % 10, now() + interval '1 day' + n * interval '1 s', 'scheduled'
         FROM generate_series(1, {later}) n;
         INSERT INTO hand_job (priority, args, run_at)
         SELECT n % 10, '{{}}', now() + interval '1 day' + n * interval '1 s' FROM generate_series(1, {later}) n"
    );
    sql(&mut stage.client, &insert);
    add(stage, backlog.missing);
    hand_add(stage, backlog.depth);
    backlog.missing = 0;
    // A real put of each priority: what pgq knows of a queue, it knows from puts.
    for priority in 0..10 {
        let (n, _) = stage.numbers(1);
        let put = format!("SELECT pgq.put('deep', jsonb_build_object('n', {n}::bigint), priority => {priority})");
        sql(&mut stage.client, &put);
    }
    sql(&mut stage.client, "VACUUM ANALYZE pgq.job");
    sql(&mut stage.client, "VACUUM ANALYZE hand_job");
    // The executors' first drain has their start in it.
    for _ in 0..2 {
        burst(stage, backlog, backlog.depth.min(2_000));
    }
}

/// Drains at least `window` jobs and stops: what was done in the seconds after the first commit, and
/// what such a part of the drain cost.
fn burst(stage: &mut Stage, backlog: &mut Backlog, window: u64) -> Sample {
    if backlog.missing > 0 {
        add(stage, backlog.missing);
        backlog.missing = 0;
    }
    sql(&mut stage.client, "TRUNCATE effect");
    let began = super::stage::now();
    let reached = format!("SELECT count(*) >= {window} FROM effect");
    let cost = metered(stage, |stage| {
        sql(&mut stage.client, "SELECT pgq.resume('deep')");
        wait_until(PATIENCE, "the window to be drained", || one(&mut stage.client, &reached));
        sql(&mut stage.client, "SELECT pgq.pause('deep')");
        stage.wait_idle();
        (0.0, 0.0)
    });
    let drained = stage.ledger("effect");
    backlog.missing = drained as u64;
    let commits = "SELECT extract(epoch FROM at)::float8, count(*) FROM
                   (SELECT pg_xact_commit_timestamp(xmin) AS at FROM effect) done GROUP BY at ORDER BY at";
    let rows = stage.client.query(commits, &[]).expect("the commits of effects");
    let commits: Vec<(f64, f64)> = rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as f64)).collect();
    let (jobs, seconds) = between(&commits, window as f64, began);
    let part = jobs / drained;
    Sample { jobs, seconds, cpu: cost.cpu * part, wal: cost.wal * part, commits: cost.commits * part }
}

/// One sample: some drains.
fn take(stage: &mut Stage, backlog: &mut Backlog, window: u64) -> Sample {
    stage.enter(backlog.database);
    let bursts = (0..BURSTS).map(|_| burst(stage, backlog, window));
    bursts.fold(Sample::default(), |sum, burst| Sample {
        jobs: sum.jobs + burst.jobs,
        seconds: sum.seconds + burst.seconds,
        cpu: sum.cpu + burst.cpu,
        wal: sum.wal + burst.wal,
        commits: sum.commits + burst.commits,
    })
}

/// Jobs and seconds from the first commit to the one with which the window is full; from the
/// beginning where there is one commit only.
fn between(commits: &[(f64, f64)], window: f64, began: f64) -> (f64, f64) {
    let Some(((first, of_first), rest)) = commits.split_first() else { return (0.0, 0.0) };
    let (mut jobs, mut last) = (0.0, *first);
    for (at, count) in rest {
        if of_first + jobs >= window {
            break;
        }
        (jobs, last) = (jobs + count, *at);
    }
    if jobs > 0.0 {
        (jobs, last - first)
    } else {
        (*of_first, first - began)
    }
}

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(8);
    let mut backlogs = Backlog::of(bench);
    for (arm, backlog) in backlogs.iter_mut().enumerate() {
        bench.step(&format!("filling: {} waiting", ARMS[arm]));
        fill(&mut stage, backlog);
    }
    stage.checkpoint();
    let window = bench.sizes.window;
    let samples =
        bench.alternate("drain at depth", bench.sizes.pairs, &ARMS, |arm| take(&mut stage, &mut backlogs[arm], window));
    for backlog in &backlogs {
        stage.enter(backlog.database);
        let left: i64 = one(&mut stage.client, "SELECT count(*) FROM pgq.job WHERE state = 'ready'");
        let wanted = backlog.depth + 10 - backlog.missing;
        assert_eq!(u64::try_from(left), Ok(wanted), "jobs that are neither done nor waiting in {}", backlog.database);
    }
    let hand = by_hand(bench, &mut stage, &backlogs);
    tell(bench, &samples, &hand);
}

/// The same for the hand-written queue, one and a hundred at a time: arms by backlog.
fn by_hand(bench: &mut Bench, stage: &mut Stage, backlogs: &[Backlog]) -> [Vec<Vec<Sample>>; 2] {
    let (window, rounds, clients) = (bench.sizes.window, bench.sizes.rounds, bench.gauge.clients.max(2));
    let ways = [(ONE, 8, Amount::Each((window / 16).max(1))), (HUNDRED, clients, hundred_each(window, clients))];
    ways.map(|(script, clients, amount)| {
        let name = if script == ONE { "hand n=1" } else { "hand n=100" };
        bench.alternate(&format!("{name} at depth"), rounds, &ARMS, |arm| {
            stage.enter(backlogs[arm].database);
            sql(&mut stage.client, "TRUNCATE hand_effect");
            let sample = stage.hand_drain(script, clients, amount);
            hand_add(stage, sample.jobs as u64);
            sample
        })
    })
}

fn tell(bench: &mut Bench, samples: &[Vec<Sample>], [ones, hundreds]: &[Vec<Vec<Sample>>; 2]) {
    for (arm, name) in ARMS.iter().enumerate() {
        let mut row = Row::new("W5", &format!("drain, waiting {name}"), "jobs/s").of(&samples[arm]);
        (row.one, row.hundred) = (Some(rate(&ones[arm])), Some(rate(&hundreds[arm])));
        bench.report.rows.push(row);
        let bars = [("pgq", &samples[arm]), ("hand-written n=1", &ones[arm]), ("hand-written n=100", &hundreds[arm])];
        let bars = bars.map(|(name, of)| (name, rate(of)));
        bench.report.chart(&format!("W5 drain, waiting {name}"), "jobs/s", &bars);
    }
    for (arm, least) in [(1, None), (2, Some(0.9)), (3, Some(0.95))] {
        let what = format!("waiting {}, to {}", ARMS[arm], ARMS[0]);
        match least {
            Some(least) => bench.report.check_pairs("W5", &what, (&samples[arm], &samples[0]), least),
            None => bench.report.show("W5", &what, rate(&samples[arm]) / rate(&samples[0])),
        }
        bench.report.show("W5", &format!("hand n=1, {what}"), rate(&ones[arm]) / rate(&ones[0]));
        bench.report.show("W5", &format!("hand n=100, {what}"), rate(&hundreds[arm]) / rate(&hundreds[0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_timed_from_the_first_commit_to_the_one_that_fills_it() {
        let commits = [(10.0, 3_000.0), (10.01, 3_000.0), (10.02, 3_000.0), (10.03, 3_000.0), (11.0, 9.0)];
        let (jobs, seconds) = between(&commits, 10_000.0, 9.9);
        assert_eq!(jobs, 9_000.0);
        assert!((seconds - 0.03).abs() < 1e-9, "{seconds}");
        assert_eq!(between(&commits[..1], 3_000.0, 9.5), (3_000.0, 0.5));
        assert_eq!(between(&[], 1.0, 0.0), (0.0, 0.0));
    }
}
