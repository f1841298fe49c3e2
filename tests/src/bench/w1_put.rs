//! W1: single puts, one transaction each, against the bare INSERT into an identical table; and puts
//! to a queue that somebody listens on.

use super::report::{rate, Row};
use super::stage::{Stage, DATABASE};
use super::Bench;
use crate::run as sql;
use crate::time::Until;
use postgres::fallible_iterator::FallibleIterator;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(2);
    sql(&mut stage.client, "SELECT pgq.configure('silent', notify => false), pgq.configure('heard', notify => true)");
    for clients in [1, 8] {
        against_insert(bench, &mut stage, clients);
    }
    listened(bench, &mut stage);
}

fn against_insert(bench: &mut Bench, stage: &mut Stage, clients: u64) {
    let (seconds, rounds, pairs) = (bench.sizes.seconds, bench.sizes.rounds, bench.sizes.pairs);
    let title = format!("put, {clients} client{}", if clients == 1 { "" } else { "s" });
    let mut take = |script: &str| {
        sql(&mut stage.client, "TRUNCATE pgq.job, bare, hand_job");
        stage.sample(script, clients, seconds)
    };
    let scripts = ["put.pgbench", "insert.pgbench"];
    let samples = bench.alternate(&title, pairs, &["pgq", "INSERT"], |arm| take(scripts[arm]));
    let hand = bench.alternate(&title, rounds, &["hand-written"], |_| take("hand_put.pgbench"));
    let (ours, raw) = (&samples[0], &samples[1]);
    let [of_ours, of_raw, of_hand] = [rate(ours), rate(raw), rate(&hand[0])];
    let mut row = Row::new("W1", &title, "jobs/s").of(ours);
    (row.raw, row.one) = (Some(of_raw), Some(of_hand));
    bench.report.rows.push(row);
    bench.report.check_pairs("W1", &format!("{title}, to the bare INSERT"), (ours, raw), 0.95);
    let bars = [("pgq put", of_ours), ("INSERT into an identical table", of_raw), ("hand-written INSERT", of_hand)];
    bench.report.chart(&format!("W1 {title}"), "jobs/s", &bars);
}

/// A put to a queue that an outside worker listens on, to one that sends no NOTIFY.
fn listened(bench: &mut Bench, stage: &mut Stage) {
    let (seconds, pairs) = (bench.sizes.seconds, bench.sizes.pairs);
    let is_over = AtomicBool::new(false);
    let server = stage.server.config(DATABASE, "postgres");
    thread::scope(|scope| {
        let over = &is_over;
        let _until = Until(over);
        scope.spawn(move || listen(&server, over));
        let scripts = ["put_heard.pgbench", "put.pgbench"];
        let samples = bench.alternate("put and LISTEN, 8 clients", pairs, &["pgq heard", "pgq silent"], |arm| {
            sql(&mut stage.client, "TRUNCATE pgq.job");
            stage.sample(scripts[arm], 8, seconds)
        });
        let (heard, silent) = (&samples[0], &samples[1]);
        bench.report.rows.push(Row::new("W1", "put that is listened to, 8 clients", "jobs/s").of(heard));
        bench.report.check_pairs("W1", "put listened to, to a silent one", (heard, silent), 0.95);
        let bars = [("pgq, somebody listens", rate(heard)), ("pgq, silent queue", rate(silent))];
        bench.report.chart("W1 put and LISTEN, 8 clients", "jobs/s", &bars);
    });
}

fn listen(server: &postgres::Config, is_over: &AtomicBool) {
    let mut client = server.connect(postgres::NoTls).expect("a listener");
    sql(&mut client, "LISTEN pgq_heard");
    let mut notifications = client.notifications();
    while !is_over.load(Ordering::SeqCst) {
        let _ = notifications.timeout_iter(Duration::from_millis(100)).next();
    }
}
