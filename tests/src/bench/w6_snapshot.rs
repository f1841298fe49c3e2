//! W6: 2,000 jobs a second put and run for five minutes beside an old REPEATABLE READ snapshot, once
//! for pgq and once for the hand-written queue. What the queue could do is seen from a burst at the
//! end of each minute.

use super::figures::Bound;
use super::meter::Sample;
use super::report::Row;
use super::w6_steady::{hand, ours, Minute};
use super::Bench;

/// Measures it.
pub fn run(bench: &mut Bench) {
    let ours = ours(bench);
    let hand = hand(bench);
    for (index, (ours, hand)) in ours.iter().zip(&hand).enumerate() {
        let title = format!("minute {}, capacity", index + 1);
        let mut row = Row::new("W6", &title, "jobs/s");
        (row.ours, row.hundred) = (Some(ours.capacity), Some(hand.capacity));
        bench.report.rows.push(row);
        for (arm, minute) in [("pgq", ours), ("hand n=100", hand)] {
            let burst = Sample { jobs: minute.capacity, seconds: 1.0, ..Sample::default() };
            bench.report.samples.push(("W6".into(), format!("capacity: {arm}"), index + 1, burst));
            let done = Sample { jobs: minute.done, seconds: minute.seconds, ..Sample::default() };
            bench.report.samples.push(("W6".into(), format!("processed: {arm}"), index + 1, done));
        }
    }
    let ends = |minutes: &[Minute], of: fn(&Minute) -> f64| of(&minutes[minutes.len() - 1]) / of(&minutes[0]);
    let report = &mut bench.report;
    report.check("W6", "capacity, fifth minute to first", ends(&ours, |m| m.capacity), Bound::AtLeast(0.9));
    report.check("W6", "processed, fifth minute to first", ends(&ours, Minute::processed), Bound::AtLeast(0.9));
    report.show("W6", "hand n=100, capacity, fifth minute to first", ends(&hand, |m| m.capacity));
    report.show("W6", "hand n=100, processed, fifth minute to first", ends(&hand, Minute::processed));
    let minutes = |who: &str, of: &[Minute]| -> Vec<(String, f64)> {
        of.iter().enumerate().map(|(index, minute)| (format!("{who}, minute {}", index + 1), minute.capacity)).collect()
    };
    let bars: Vec<(String, f64)> =
        minutes("pgq", &ours).into_iter().chain(minutes("hand-written n=100", &hand)).collect();
    let bars: Vec<(&str, f64)> = bars.iter().map(|(label, value)| (label.as_str(), *value)).collect();
    report.chart("W6 capacity beside an old snapshot", "jobs/s", &bars);
}
