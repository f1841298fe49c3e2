//! The two runs of W6: a producer of 20 transactions a second with 100 jobs each, the workers, an
//! old snapshot, and a burst at the end of each minute.

use super::options::Sizes;
use super::stage::{now, Stage, DATABASE};
use super::Bench;
use crate::time::Until;
use crate::{one, run as sql};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How many minutes.
const MINUTES: usize = 5;

/// Jobs of one put, of which there are twenty a second.
const BATCH: u64 = 100;
const EVERY: Duration = Duration::from_millis(50);

/// How long a burst may take: a queue that is behind is measured by what it did until then.
const LONGEST: Duration = Duration::from_secs(10);

/// What one minute showed.
#[derive(Debug, Clone)]
pub struct Minute {
    /// Jobs done beside the producer.
    pub done: f64,
    /// In this time.
    pub seconds: f64,
    /// Jobs a second of the burst.
    pub capacity: f64,
}

impl Minute {
    /// Jobs a second beside the producer.
    pub fn processed(&self) -> f64 {
        self.done / self.seconds
    }
}

/// A session with a snapshot that stays.
fn old_snapshot(config: &Config) -> Client {
    let mut client = config.connect(NoTls).expect("a session");
    sql(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
    client
}

/// Puts for so long, twenty times a second; how many jobs.
fn produce(length: Duration, mut put: impl FnMut(u64)) -> u64 {
    let began = Instant::now();
    let mut puts = 0;
    while began.elapsed() < length {
        put(BATCH);
        puts += 1;
        // Against the clock and not one after the other: what took long is caught up.
        thread::sleep((EVERY * puts).saturating_sub(began.elapsed()));
    }
    u64::from(puts) * BATCH
}

/// Of a minute nine tenths are steady; the rest is for the burst.
fn steady(sizes: &Sizes) -> Duration {
    Duration::from_secs(sizes.minute) * 9 / 10
}

fn tell(bench: &Bench, who: &str, index: usize, minute: &Minute) {
    let (processed, capacity) = (minute.processed(), minute.capacity);
    bench.step(&format!("{who}, minute {index} of {MINUTES}: {processed:.0} jobs/s processed, capacity {capacity:.0}"));
}

/// pgq beside the snapshot.
pub fn ours(bench: &mut Bench) -> Vec<Minute> {
    let mut stage = Stage::new(2);
    assert!(stage.register("steady", "of_plpgsql", ", concurrency => 2"), "the handler cannot be registered");
    let _snapshot = old_snapshot(&stage.server.config(DATABASE, "postgres"));
    let (length, burst) = (steady(&bench.sizes), bench.sizes.burst);
    let mut put_in_all = 0;
    let minutes = (1..=MINUTES).map(|index| {
        let began = Instant::now();
        let before = stage.ledger("effect");
        let puts = produce(length, |count| bulk_put(&mut stage, count));
        stage.wait_empty();
        let (done, seconds) = (stage.ledger("effect") - before, began.elapsed().as_secs_f64());
        sql(&mut stage.client, "SELECT pgq.pause('steady')");
        bulk_put(&mut stage, burst);
        let began = now();
        sql(&mut stage.client, "SELECT pgq.resume('steady')");
        stage.wait_empty();
        let capacity = burst as f64 / (stage.last_commit() - began);
        put_in_all += puts + burst;
        assert_eq!(stage.ledger("effect"), put_in_all as f64, "not every job ran exactly once");
        let minute = Minute { done, seconds, capacity };
        tell(bench, "pgq", index, &minute);
        minute
    });
    minutes.collect()
}

fn bulk_put(stage: &mut Stage, count: u64) {
    let (first, last) = stage.numbers(count);
    let put = format!(
        "SELECT count(*) FROM pgq.bulk_put('steady',
             args => ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series({first}, {last}) n))"
    );
    sql(&mut stage.client, &put);
}

/// What the hand-written workers and the one who watches them share.
#[derive(Default)]
struct Shared {
    done: AtomicU64,
    is_closed: AtomicBool,
    is_over: AtomicBool,
}

/// A hand-written worker: claims a hundred, and waits a moment when there were fewer. Beside an old snapshot a claim may
/// walk through dead rows for a quarter of an hour, with a plan made when the table was small: it is cut short.
fn hand_worker(config: &Config, shared: &Shared) {
    let mut client = config.connect(NoTls).expect("a worker");
    sql(&mut client, &format!("SET statement_timeout = '{}s'", 2 * LONGEST.as_secs()));
    let text = include_str!("../../bench/claim_hundred.pgbench").trim().trim_end_matches(';');
    let claim = client.prepare(text).expect("a claim");
    while !shared.is_over.load(Ordering::SeqCst) {
        let is_closed = shared.is_closed.load(Ordering::SeqCst);
        let count = match if is_closed { Ok(0) } else { client.execute(&claim, &[]) } {
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => 0,
            result => result.expect("a claim"),
        };
        shared.done.fetch_add(count, Ordering::SeqCst);
        if count < BATCH {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The hand-written queue beside the snapshot.
pub fn hand(bench: &mut Bench) -> Vec<Minute> {
    let mut stage = Stage::new(1);
    let config = stage.server.config(DATABASE, "postgres");
    let _snapshot = old_snapshot(&config);
    let shared = Shared::default();
    let minutes = thread::scope(|scope| {
        let _until = Until(&shared.is_over);
        for _ in 0..2 {
            scope.spawn(|| hand_worker(&config, &shared));
        }
        (1..=MINUTES).map(|index| hand_minute(bench, &mut stage, &shared, index)).collect::<Vec<Minute>>()
    });
    let done = shared.done.load(Ordering::SeqCst);
    assert_eq!(stage.ledger("hand_effect"), done as f64, "effects of claims that were not counted");
    minutes
}

fn hand_minute(bench: &Bench, stage: &mut Stage, shared: &Shared, index: usize) -> Minute {
    let done = || shared.done.load(Ordering::SeqCst);
    let (began, before) = (Instant::now(), done());
    produce(steady(&bench.sizes), |count| hand_put(stage, count));
    let (of_minute, seconds) = (done() - before, began.elapsed().as_secs_f64());
    shared.is_closed.store(true, Ordering::SeqCst);
    hand_put(stage, bench.sizes.burst);
    let left: i64 = one(&mut stage.client, "SELECT count(*) FROM hand_job");
    let (began, before, wanted) = (Instant::now(), done(), u64::try_from(left).unwrap_or_default());
    shared.is_closed.store(false, Ordering::SeqCst);
    while done() - before < wanted && began.elapsed() < LONGEST {
        thread::sleep(Duration::from_millis(1));
    }
    let capacity = (done() - before) as f64 / began.elapsed().as_secs_f64();
    let minute = Minute { done: of_minute as f64, seconds, capacity };
    tell(bench, "hand n=100", index, &minute);
    minute
}

fn hand_put(stage: &mut Stage, count: u64) {
    let (first, last) = stage.numbers(count);
    let put = format!(
        "INSERT INTO hand_job (args) SELECT jsonb_build_object('n', n) FROM generate_series({first}, {last}) n"
    );
    sql(&mut stage.client, &put);
}
