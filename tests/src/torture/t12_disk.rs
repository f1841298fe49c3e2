//! T12: the disk is full, while jobs are put and run; then there is room again.

use super::stage::Stage;
use super::{Part, Run};
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use std::thread;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T12",
    title: "a full disk under puts and handlers, then room again",
    unit: "full disks",
    quick: 5,
    full: 20,
    run: fill,
}];

/// A data directory after initdb is 40 MB, and the log is kept below 48.
const MEGABYTES: u32 = 160;

/// A handler that cannot write has failed like any other, with 53100. Where the log itself cannot be
/// written PostgreSQL crashes, and may not be able to recover before there is room.
fn fill(run: &mut Run) {
    let builder = run.server().small_disk(MEGABYTES).conf("min_wal_size", "32MB").conf("max_wal_size", "48MB");
    let rules = Rules { max_attempts: 10_000, intruder: Some("53100"), ..Rules::default() };
    let mut stage = Stage::open(builder, rules);
    stage.expected.extend(["No space left on device", "was terminated by signal 6"]);
    stage.begin(run, &Mix { tolerated: &["53100"], hopeless: 0, backlog: 300, ..Mix::default() });
    while run.goes_on() {
        thread::sleep(Duration::from_millis(run.rng.between(100, 500)));
        let before = stage.server.log().len();
        let disk = stage.server.disk().expect("it has one");
        // Without any room, or with as little as a page or two of a table.
        let spare = *run.rng.pick(&[0, 0, 8_192, 100_000]);
        disk.fill(spare).expect("the disk can be filled");
        crate::wait_until(Duration::from_secs(60), "somebody to notice", || {
            let log = stage.server.log();
            // An executor says it by its SQLSTATE; and where none goes on, nobody puts.
            ["No space left on device", "53100"].iter().any(|words| log[before..].contains(words))
        });
        thread::sleep(Duration::from_millis(run.rng.between(0, 1_000)));
        disk.free().expect("the disk can be emptied");
        if stage.server.log()[before..].contains("PANIC:") {
            run.fault("PANIC of PostgreSQL on a full disk");
        }
        crate::wait_until(Duration::from_secs(60), "the server to be there", || {
            if stage.server.start_if_ended() {
                run.fault("start after the server gave up");
            }
            stage.watch.try_ask(|client| client.batch_execute("SELECT")).is_some()
        });
        run.fault("disk full");
        run.did(1);
    }
    let verdict = stage.close(run);
    eprintln!("{}: {} failures of handlers for want of room", run.part.id, verdict.intrusions);
}
