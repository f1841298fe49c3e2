//! T01, T02, T03, T07, T15: processes of ours are killed, terminated and cancelled under load.

use super::faults::{self, Fault};
use super::stage::Stage;
use super::{Part, Run};
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use crate::wait_for;
use std::thread;
use std::time::{Duration, Instant};

/// The parts of this file.
pub const PARTS: &[Part] = &[
    Part {
        id: "T01",
        title: "kill -9 of a random executor in the middle of a job",
        unit: "kills",
        quick: 30,
        full: 1_000,
        run: kill,
    },
    Part {
        id: "T02",
        title: "pg_terminate_backend on a random executor in the middle of a job",
        unit: "terminations",
        quick: 100,
        full: 10_000,
        run: terminate,
    },
    Part {
        id: "T03",
        title: "pg_cancel_backend on a random executor in the middle of a job",
        unit: "cancels",
        quick: 300,
        full: 10_000,
        run: cancel,
    },
    Part {
        id: "T07",
        title: "kill -9 of the launcher and of the scheduler",
        unit: "kills",
        quick: 10,
        full: 600,
        run: kill_the_others,
    },
    Part {
        id: "T15",
        title: "two crashes in a row, the second while the server is coming back",
        unit: "double crashes",
        quick: 10,
        full: 50,
        run: crash_twice,
    },
];

/// What a server's log says of a SIGKILL that was sent on purpose.
const KILLED: &str = "was terminated by signal 9";

/// The promise: a killed launcher or scheduler is replaced after so long.
const REPLACED: Duration = Duration::from_secs(5);

fn kill(run: &mut Run) {
    let mut stage = Stage::open(run.server(), Rules::default());
    stage.expected.push(KILLED);
    stage.begin(run, &Mix::default());
    while run.goes_on() {
        thread::sleep(Duration::from_millis(run.rng.below(100)));
        if Fault::Kill.strike(&mut stage, &mut run.rng) {
            run.fault("kill -9");
            run.did(1);
        }
    }
    stage.close(run);
}

/// An executor that has been there for a while. One that dies before its first job is done counts
/// towards holding its role back, for up to a minute; so only some of the victims are new.
const SETTLED: &str = "SELECT r.pid FROM pgq.running AS r JOIN pgq.workers AS w USING (pid)
    WHERE w.started_at < clock_timestamp() - interval '100 ms' ORDER BY random() LIMIT 1";

fn terminate(run: &mut Run) {
    let mut stage = Stage::open(run.server(), Rules::default());
    stage.begin(run, &Mix { sleep_ms: 5, ..Mix::default() });
    while run.goes_on() {
        let victim = if run.rng.chance(10) { faults::RUNNING } else { SETTLED };
        // What pg_terminate_backend sends.
        if faults::signal(&mut stage, victim, libc::SIGTERM) {
            run.fault("terminate");
            run.did(1);
        }
    }
    stage.close(run);
}

/// A cancelled job has failed with 57014, one attempt more. A cancel that finds an executor between
/// two jobs, or in a transaction of several, hits nobody; how many hit is what the verdict counts.
fn cancel(run: &mut Run) {
    let rules = Rules { max_attempts: 30, intruder: Some("57014"), ..Rules::default() };
    let mut stage = Stage::open(run.server(), rules);
    stage.begin(run, &Mix { sleep_ms: 5, ..Mix::default() });
    let mut sent = 0;
    while run.goes_on() {
        if Fault::Cancel.strike(&mut stage, &mut run.rng) {
            run.fault("cancel");
            run.did(1);
            sent += 1;
        }
    }
    // A cancel ends a job, never a process: not even one that comes between two jobs, or while it connects.
    let ended = stage.server.log().matches("exited with exit code").count();
    if ended > 0 {
        run.differ(format!("{ended} processes ended by a cancel"));
    }
    let charged = stage.close(run).intrusions;
    eprintln!("{}: {charged} of {sent} cancels failed a job", run.part.id);
    if charged > sent || charged < sent / 10 {
        run.differ(format!("{charged} jobs were charged for {sent} cancels"));
    }
}

fn kill_the_others(run: &mut Run) {
    let mut stage = Stage::open(run.server(), Rules::default());
    stage.expected.push(KILLED);
    stage.begin(run, &Mix::default());
    while run.goes_on() {
        let (fault, victim) = match run.done() % 2 {
            0 => (Fault::KillLauncher, faults::LAUNCHER),
            _ => (Fault::KillScheduler, faults::SCHEDULER),
        };
        if fault.strike(&mut stage, &mut run.rng) {
            let began = Instant::now();
            wait_for(Duration::from_secs(60), "its successor", || stage.watch.pid(victim));
            wait_for(Duration::from_secs(60), "a job to run again", || stage.watch.pid(faults::RUNNING));
            run.took_at_most("back", began.elapsed(), REPLACED);
            run.fault(fault.name());
            run.did(1);
        }
    }
    stage.close(run);
}

/// Any process: the second crash hits shared memory that has just been set up again, or recovery.
fn crash_twice(run: &mut Run) {
    const ANYBODY: &str = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()
        AND backend_type <> 'client backend' ORDER BY random() LIMIT 1";
    // Half of them without preloading, where shared memory comes and goes with the first call.
    let count = run.count;
    for (preload, until) in [(true, count.div_ceil(2)), (false, count)] {
        let builder = run.server().preload(preload);
        let mut stage = Stage::open(builder, Rules::default());
        stage.expected.push(KILLED);
        stage.begin(run, &Mix::default());
        while run.done() < until && run.goes_on() {
            wait_for(Duration::from_secs(60), "a job to run", || stage.watch.pid(faults::RUNNING));
            let first = wait_for(Duration::from_secs(60), "a process", || stage.watch.pid(ANYBODY));
            let second = [ANYBODY, faults::RUNNING, faults::SCHEDULER, faults::LAUNCHER][run.rng.below(4) as usize];
            if !stage.server.try_signal(first, libc::SIGKILL) {
                continue;
            }
            // The first session that gets in after the crash, or the one that still is before it.
            let hit = wait_for(Duration::from_secs(60), "a second victim", || {
                stage.watch.pid(second).filter(|pid| *pid != first && stage.server.try_signal(*pid, libc::SIGKILL))
            });
            run.fault("kill -9 twice");
            run.did(u64::from(hit > 0));
        }
        stage.close(run);
    }
}
