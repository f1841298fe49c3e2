//! W4: from the return of a single put's COMMIT to its effect visible in another session, on an idle
//! system, against the hand-written queue with a client that LISTENs. Both are watched in the same
//! way: by a session that asks again and again.

use super::figures::{median, quantile, Bound};
use super::meter::Sample;
use super::report::Row;
use super::stage::{now, Stage, DATABASE};
use super::Bench;
use crate::run as sql;
use crate::time::Until;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Config, NoTls, Statement};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const OBJECTS: &str = "
CREATE TABLE late (n bigint, at timestamptz);
CREATE TABLE hand_late (n bigint, at timestamptz);
ALTER TABLE late OWNER TO app;
CREATE FUNCTION of_late(args jsonb) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO late VALUES ((args->>'n')::bigint, clock_timestamp()); END $$;
ALTER FUNCTION of_late(jsonb) OWNER TO app;
";

const HAND_PUT: &str =
    "WITH put AS (INSERT INTO hand_job (args) VALUES (jsonb_build_object('n', $1::bigint))) SELECT pg_notify('hand', '')";

const HAND_CLAIM: &str = "
WITH claimed AS (DELETE FROM hand_job WHERE id IN (SELECT id FROM hand_job WHERE run_at <= now()
    ORDER BY priority DESC, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING args)
INSERT INTO hand_late SELECT (args->>'n')::bigint, clock_timestamp() FROM claimed";

/// How long an effect may take before the workload fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was timed, in milliseconds.
#[derive(Default)]
struct Times {
    /// To the handler's clock.
    run: Vec<f64>,
    /// To the effect visible.
    visible: Vec<f64>,
}

/// Puts, and watches for the effect.
struct Watch {
    client: Client,
    put: Statement,
    look: Statement,
}

impl Watch {
    fn new(config: &Config, put: &str, table: &str) -> Watch {
        let mut client = config.connect(NoTls).expect("a session");
        let put = client.prepare(put).expect("a put");
        let look = format!("SELECT extract(epoch FROM at)::float8 FROM {table} WHERE n = $1");
        let look = client.prepare(&look).expect("a look");
        Watch { client, put, look }
    }

    fn take(&mut self, n: i64, times: &mut Times) {
        self.client.query(&self.put, &[&n]).expect("a put");
        let (committed, began) = (now(), Instant::now());
        let at: f64 = loop {
            if let Some(row) = self.client.query_opt(&self.look, &[&n]).expect("a look") {
                break row.get(0);
            }
            assert!(began.elapsed() < PATIENCE, "the effect of a put was not seen in {PATIENCE:?}");
        };
        times.visible.push(began.elapsed().as_secs_f64() * 1e3);
        times.run.push((at - committed) * 1e3);
    }
}

/// The hand-written worker: listens, and claims until nothing is there.
fn hand_worker(config: &Config, is_over: &AtomicBool) {
    let mut client = config.connect(NoTls).expect("a worker");
    let claim = client.prepare(HAND_CLAIM).expect("a claim");
    sql(&mut client, "LISTEN hand");
    while !is_over.load(Ordering::SeqCst) {
        let heard = client.notifications().timeout_iter(Duration::from_millis(200)).next();
        if matches!(heard, Ok(Some(_))) {
            while client.execute(&claim, &[]).expect("a claim") > 0 {}
        }
    }
}

/// Single commits of one row, in milliseconds.
fn commits(client: &mut Client, count: u64) -> Vec<f64> {
    let insert = client.prepare("INSERT INTO commit_rate VALUES (1)").expect("an insert");
    let mut time = || {
        let began = Instant::now();
        client.execute(&insert, &[]).expect("an insert");
        began.elapsed().as_secs_f64() * 1e3
    };
    (0..count).map(|_| time()).collect()
}

fn as_sample(times: &[f64]) -> Sample {
    Sample { jobs: times.len() as f64, seconds: times.iter().sum::<f64>() / 1e3, ..Sample::default() }
}

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(2);
    sql(&mut stage.client, OBJECTS);
    assert!(stage.register("late", "of_late", ""), "the handler cannot be registered");
    let config = stage.server.config(DATABASE, "postgres");
    let put = "SELECT pgq.put('late', jsonb_build_object('n', $1::bigint))";
    let mut watches = [Watch::new(&config, put, "late"), Watch::new(&config, HAND_PUT, "hand_late")];
    let (rounds, each) = (bench.sizes.rounds, (bench.sizes.puts / bench.sizes.rounds as u64).max(10));
    let (mut ours, mut hand, mut commit) = (Times::default(), Times::default(), Vec::new());
    let (mut n, mut pause) = (0, bench.rng.fork());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (config, over) = (&config, &is_over);
        let _until = Until(over);
        scope.spawn(move || hand_worker(config, over));
        // The handler is known by then, so that nothing of its first runs is in what is timed.
        (0..60).for_each(|warm| watches.iter_mut().for_each(|watch| watch.take(-1 - warm, &mut Times::default())));
        bench.alternate("pick-up", rounds, &["pgq", "hand LISTEN", "commit"], |arm| {
            if arm == 2 {
                let times = commits(&mut stage.client, each);
                commit.extend(&times);
                return as_sample(&times);
            }
            let times = if arm == 0 { &mut ours } else { &mut hand };
            let before = times.visible.len();
            for _ in 0..each {
                thread::sleep(Duration::from_millis(pause.between(15, 30)));
                n += 1;
                watches[arm].take(n, times);
            }
            as_sample(&times.visible[before..])
        });
    });
    tell(bench, &ours, &hand, &commit);
}

fn tell(bench: &mut Bench, ours: &Times, hand: &Times, commit: &[f64]) {
    let single = median(commit);
    for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let mut row = Row::new("W4", &format!("pick-up to visible, {name}"), "ms");
        row.ours = Some(quantile(&ours.visible, share));
        row.one = Some(quantile(&hand.visible, share));
        row.raw = Some(quantile(commit, share));
        bench.report.rows.push(row);
        let what = format!("commit to handler's clock, {name}, ms");
        bench.report.show("W4", &what, quantile(&ours.run, share));
    }
    let (p50, hand50) = (median(&ours.visible), median(&hand.visible));
    let p99 = quantile(&ours.visible, 0.99);
    let what = format!("p50, ms, to a single commit of {single:.3} + 0.25");
    bench.report.check("W4", &what, p50, Bound::AtMost(single + 0.25));
    bench.report.check("W4", "p50, to hand-written with LISTEN", p50 / hand50, Bound::AtMost(0.5));
    bench.report.check("W4", "p99, ms", p99, Bound::AtMost(5.0));
    let bars = [
        ("pgq p50", p50),
        ("pgq p99", p99),
        ("hand-written LISTEN p50", hand50),
        ("hand-written LISTEN p99", quantile(&hand.visible, 0.99)),
        ("a single commit p50", single),
    ];
    bench.report.chart("W4 from a put's commit to its effect", "ms", &bars);
}
