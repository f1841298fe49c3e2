//! W9: how long stats() takes while 1,000,000 jobs wait.

use super::figures::{median, quantile, Bound};
use super::meter::Sample;
use super::report::Row;
use super::stage::Stage;
use super::Bench;
use crate::run as sql;
use std::time::Instant;

/// How often it is asked.
const CALLS: usize = 30;

/// Measures it.
pub fn run(bench: &mut Bench) {
    let mut stage = Stage::new(2);
    stage.fill("counted", bench.sizes.counted);
    let call = stage.client.prepare("SELECT queue, ready FROM pgq.stats()").expect("stats");
    let mut times = Vec::new();
    for round in 0..=CALLS {
        let began = Instant::now();
        let rows = stage.client.query(&call, &[]).expect("stats");
        let seconds = began.elapsed().as_secs_f64();
        let ready: i64 = rows.iter().map(|row| row.get::<_, i64>("ready")).sum();
        assert_eq!(u64::try_from(ready), Ok(bench.sizes.counted), "stats() counts wrongly");
        // The first one has the session's start in it.
        if round > 0 {
            times.push(seconds * 1e3);
            let sample = Sample { jobs: 1.0, seconds, ..Sample::default() };
            bench.report.samples.push(("W9".into(), "stats()".into(), round, sample));
        }
    }
    sql(&mut stage.client, "SELECT pgq.resume('counted')");
    let mut row = Row::new("W9", "stats(), jobs waiting", "ms");
    row.ours = Some(median(&times));
    bench.report.rows.push(row);
    bench.step(&format!("stats() with {} waiting: {:.3} ms", bench.sizes.counted, median(&times)));
    bench.report.check("W9", "stats(), median, ms", median(&times), Bound::AtMost(5.0));
    bench.report.show("W9", "stats(), slowest, ms", quantile(&times, 1.0));
    bench.report.chart("W9 stats()", "ms", &[("pgq stats()", median(&times))]);
}
