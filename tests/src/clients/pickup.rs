//! From the commit of a single put to the worker's effect.

use super::link::{SlowLink, DELAY};
use super::{Stage, Way};
use crate::median;
use std::thread;
use std::time::{Duration, SystemTime};

const PUTS: u64 = 20;
/// Ten times the 50 ms.
const DEADLINE: Duration = Duration::from_millis(500);

pub(super) fn single_jobs(stage: &mut Stage) {
    let mut worker = stage.worker(Way::Transaction).start();
    stage.does_a_job();
    let mut times = Vec::new();
    for put in 0..PUTS {
        // The load: idle for a moment, each time a little longer, the first so short that the worker
        // may be in its last look at the empty queue.
        thread::sleep(Duration::from_millis(4 * put));
        let job = stage.put("insert", "{}");
        let committed = SystemTime::now();
        stage.until_gone(job);
        let sql = format!("SELECT at FROM effect WHERE job = {job}");
        let at: SystemTime = crate::one(&mut stage.client, &sql);
        // Before the commit was answered: nothing to measure.
        times.push(at.duration_since(committed).unwrap_or_default());
    }
    worker.stop(super::PATIENCE);
    let in_ms = |time: Duration| time.as_secs_f64() * 1e3;
    let longest = times.iter().max().copied().unwrap_or_default();
    let name = &stage.recipe.name;
    println!("{name}: commit to effect, median {:.1} ms, longest {:.1} ms", in_ms(median(&times)), in_ms(longest));
    assert!(longest < DEADLINE, "{times:?}");
}

/// A claim that finds nothing took its snapshot before the put; the notification comes with the answer to
/// its COMMIT, and not when the worker waits for it. On a slow link this takes up to three answers.
pub(super) fn during_a_claim(stage: &mut Stage) {
    let link = SlowLink::open(stage.server.port());
    let dsn = format!("postgresql://worker@127.0.0.1:{}/app", link.port());
    let mut worker = stage.worker(Way::Transaction).with("PGQ_DSN", &dsn).start();
    stage.does_a_job();
    // From the commit of the last job on, in steps of a third of an answer: some puts meet it.
    for step in 0..13 {
        thread::sleep(DELAY / 3 * step);
        stage.does_a_job();
    }
    worker.stop(super::PATIENCE);
}
