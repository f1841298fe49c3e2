//! W8: pgbench's default load alone and beside 1,000 jobs a second: put in twenty transactions of
//! fifty, which is judged; and put one by one, which shows what a thousand commits a second cost.

use super::figures::median;
use super::meter::Sample;
use super::report::{rate, ratios, Row};
use super::stage::{now, Amount, Stage, DATABASE};
use super::Bench;
use crate::run as sql;
use crate::server::binary;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// pgbench's clients.
const CLIENTS: u64 = 8;

/// The jobs have begun by then.
const LEAD: Duration = Duration::from_millis(500);

const ARMS: [&str; 3] = ["alone", "beside 20 × 50 jobs/s", "beside 1,000 × 1 job/s"];

/// A pgbench that puts jobs at a rate until it is dropped.
struct Producer(Child);

impl Producer {
    fn start(stage: &Stage, script: &str, clients: u64, rate: u64) -> Producer {
        let mut command = stage.pgbench_command(DATABASE, Some(script), clients);
        command.args(["-T", "3600", "-R", &rate.to_string()]);
        Producer(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench is installed"))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn initialise(stage: &Stage, scale: u64) {
    let mut command = Command::new(binary("pgbench"));
    command.args(["-i", "-q", "-s", &scale.to_string(), "-U", "postgres", "-p", &stage.server.port().to_string()]);
    command.arg("-h").arg(stage.server.socket_directory()).arg(DATABASE).stdin(Stdio::null());
    let output = command.output().expect("pgbench is installed");
    assert!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
}

/// The bystander's transactions, and how many jobs a second ran beside them.
fn take(stage: &mut Stage, arm: usize, seconds: u64) -> (Sample, f64) {
    sql(&mut stage.client, "TRUNCATE beside");
    let producer = match arm {
        0 => None,
        1 => Some(Producer::start(stage, "put_fifty.pgbench", 1, 20)),
        _ => Some(Producer::start(stage, "put_beside.pgbench", 4, 1_000)),
    };
    thread::sleep(LEAD);
    let began = now();
    let sample = super::meter::metered(stage, |stage| stage.pgbench(None, CLIENTS, Amount::Seconds(seconds)));
    let ended = now();
    drop(producer);
    stage.wait_empty();
    let inside = format!("SELECT count(*) FROM beside WHERE extract(epoch FROM at) BETWEEN {began} AND {ended}");
    let jobs: i64 = crate::one(&mut stage.client, &inside);
    (sample, jobs as f64 / (ended - began))
}

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(2);
    initialise(&stage, bench.sizes.scale);
    let handler = "CREATE TABLE beside (at timestamptz);
         CREATE FUNCTION of_beside(args jsonb) RETURNS void LANGUAGE plpgsql
         AS $$ BEGIN INSERT INTO beside VALUES (clock_timestamp()); END $$";
    sql(&mut stage.app, handler);
    assert!(stage.register("beside", "of_beside", ""), "the handler cannot be registered");
    let (seconds, pairs, rounds) = (bench.sizes.seconds, bench.sizes.pairs, bench.sizes.rounds);
    // Once each: the start of the workers, and caches that fill.
    take(&mut stage, 2, 1);
    stage.checkpoint();
    let mut beside = Vec::new();
    let samples = bench.alternate("bystander", pairs, &ARMS[..2], |arm| {
        let (sample, rate) = take(&mut stage, arm, seconds);
        if arm > 0 {
            beside.push(rate);
        }
        sample
    });
    let singly = bench
        .alternate("bystander of single puts", rounds, &[ARMS[0], ARMS[2]], |arm| take(&mut stage, arm * 2, seconds).0);
    for (title, of) in [(ARMS[0], &samples[0]), (ARMS[1], &samples[1]), (ARMS[2], &singly[1])] {
        let mut row = Row::new("W8", &format!("pgbench's own load, {title}"), "tps");
        row.ours = Some(rate(of));
        bench.report.rows.push(row);
    }
    let report = &mut bench.report;
    report.show("W8", "jobs that ran beside it, per second", median(&beside));
    let of_pairs = ratios(&samples[1], &samples[0], Sample::rate);
    report.check_ratios("W8", "bystander beside 20 × 50 jobs/s, to alone", &of_pairs, 0.9);
    let of_singles = median(&ratios(&singly[1], &singly[0], Sample::rate));
    report.show("W8", "bystander beside 1,000 × 1 job/s, to alone", of_singles);
    let bars = [
        ("alone", rate(&samples[0])),
        ("pgq beside it, 20 × 50", rate(&samples[1])),
        ("pgq beside it, 1,000 × 1", rate(&singly[1])),
    ];
    report.chart("W8 bystander", "tps", &bars);
}
