//! T24: a crowd that pauses, resumes, cancels, retries, redrives and purges whatever it finds, and
//! completes what is not its own, while jobs run. Nothing is left in a state that has no way out.

use super::stage::{Stage, Watch, DATABASE};
use super::{Part, Rng, Run};
use crate::ledger::producers::Mix;
use crate::ledger::verdict::Rules;
use postgres::{Client, Error};
use std::thread;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T24",
    title: "random cancel, retry, redrive, purge, pause and resume under load",
    unit: "operations",
    quick: 3_000,
    full: 50_000,
    run: change,
}];

/// What a purge threw away is written down with it, as a number: nobody is told the ids. Other queues
/// have rows too, so that who pauses all and who resumes all lock many, in one order if all is well.
const SCHEMA: &str = "
    SELECT pgq.configure(name, max_attempts => 3)
      FROM (SELECT 'queue' || n AS name FROM generate_series(1, 30) AS n ORDER BY md5(n::text)) AS names;
    CREATE FUNCTION led_purge(state text) RETURNS bigint LANGUAGE sql AS $$
        INSERT INTO led_purged SELECT pgq.purge('work', state) RETURNING n
    $$;";

fn change(run: &mut Run) {
    let rules = Rules { uncounted: true, ..Rules::default() };
    let mut stage = Stage::open(run.server(), rules);
    stage.watch.ask(|client| client.batch_execute(SCHEMA));
    stage.begin(run, &Mix { sleep_ms: 5, hopeless: 5, ..Mix::default() });
    const CROWD: u64 = 3;
    while run.goes_on() {
        let each = run.left().clamp(CROWD, 600) / CROWD;
        let begin = |_| {
            let (watch, rng) = (Watch::new(&stage.server, DATABASE), run.rng.fork());
            thread::spawn(move || interfere(watch, rng, each))
        };
        // All of them begin before the first is waited for.
        let crowd: Vec<_> = (0..CROWD).map(begin).collect();
        for one in crowd {
            match one.join().expect("one of the crowd ends by itself") {
                Ok(kinds) => kinds.into_iter().for_each(|kind| {
                    run.fault(kind);
                    run.did(1);
                }),
                Err(error) => run.differ(format!("an operation got {error:?}")),
            }
        }
    }
    stage.end_load(run);
    stage.watch.ask(|client| client.batch_execute("SELECT pgq.resume()"));
    stage.close(run);
}

fn interfere(mut watch: Watch, mut rng: Rng, times: u64) -> Result<Vec<&'static str>, Error> {
    let client = watch.client();
    let mut kinds = Vec::new();
    let mut ids: Vec<i64> = Vec::new();
    for n in 0..times {
        if n % 20 == 0 || ids.is_empty() {
            let some = "SELECT id FROM (SELECT id FROM pgq.job UNION ALL SELECT id FROM pgq.finished_job
                         WHERE outcome <> 'done') AS j ORDER BY random() LIMIT 50";
            ids = client.query(some, &[])?.iter().map(|row| row.get(0)).collect();
        }
        let id = if ids.is_empty() { 0 } else { *rng.pick(&ids) };
        kinds.push(one_change(client, &mut rng, id)?);
    }
    Ok(kinds)
}

fn one_change(client: &mut Client, rng: &mut Rng, id: i64) -> Result<&'static str, Error> {
    let (kind, sql) = match rng.below(100) {
        0..=29 => ("cancel", format!("SELECT pgq.cancel({id})")),
        30..=44 => ("forced cancel", format!("SELECT pgq.cancel({id}, true)")),
        45..=64 => ("retry", format!("SELECT pgq.retry({id})")),
        65..=69 => ("later", format!("SELECT pgq.retry({id}, now() + '100 ms')")),
        70..=74 => ("redrive", format!("SELECT pgq.redrive('work', {})", rng.between(1, 5))),
        75..=77 => ("purge", format!("SELECT led_purge('{}')", rng.pick(&["ready", "scheduled", "dead", "cancelled"]))),
        78..=81 => ("pause", "SELECT pgq.pause('work')".to_owned()),
        82..=87 => ("resume", "SELECT pgq.resume()".to_owned()),
        88..=90 => ("pause all", "SELECT pgq.pause()".to_owned()),
        // None of these is the holder of anything.
        91..=93 => ("complete", format!("SELECT 1 / (NOT pgq.complete({id}, {}))::int", rng.between(1, 3))),
        94..=95 => ("release", format!("SELECT 1 / (NOT pgq.release({id}, {}))::int", rng.between(1, 3))),
        96..=97 => ("extend", format!("SELECT 1 / (pgq.extend({id}, {}, '1 s') IS NULL)::int", rng.between(1, 3))),
        _ => ("undone cancel", format!("BEGIN; SELECT pgq.cancel({id}, true); ROLLBACK")),
    };
    client.batch_execute(&sql)?;
    Ok(kind)
}
