//! T25: the hunt for lost wake-ups. One job at a time is put into an idle queue, and the time from
//! just before its put to the first line of its handler is measured.

use super::{Part, Run};
use crate::{one, run as execute};
use std::thread;
use std::time::{Duration, Instant};

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T25",
    title: "jobs put one at a time on an idle queue",
    unit: "jobs",
    quick: 1_000,
    full: 100_000,
    run: hunt,
}];

/// The promise for each: pgq.poll_interval and a second.
const LONGEST: Duration = Duration::from_millis(2_000);
/// The promise for 99 in 100.
const MOST: Duration = Duration::from_millis(20);
/// A job that has not begun by then is lost.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks whether it is done.
const GLANCE: Duration = Duration::from_micros(500);
/// The times of so many jobs are looked at together.
const BATCH: u64 = 5_000;

const SCHEMA: &str = "
    CREATE ROLE worker LOGIN;
    CREATE TABLE delay (job bigint NOT NULL, took interval NOT NULL);
    GRANT INSERT ON delay TO worker;
    CREATE FUNCTION arrive(id bigint, args jsonb) RETURNS void LANGUAGE sql AS
        'INSERT INTO delay SELECT id, clock_timestamp() - (args->>0)::timestamptz';
    SELECT pgq.register('q', 'arrive', run_as => 'worker');";

fn hunt(run: &mut Run) {
    let server = run.server().start();
    let mut client = server.create_database("shop");
    execute(&mut client, SCHEMA);
    let put = client.prepare("SELECT pgq.put('q', jsonb_build_array(clock_timestamp()))").expect("put");
    let done = client.prepare("SELECT NOT EXISTS (SELECT FROM pgq.job)").expect("a look");
    // The first one starts the processes.
    client.query_one(&put, &[]).expect("a put");
    let mut times: Vec<f64> = Vec::new();
    while run.goes_on() {
        for _ in 0..run.left().min(BATCH) {
            let began = Instant::now();
            while !client.query_one(&done, &[]).expect("a look").get::<_, bool>(0) {
                if began.elapsed() > PATIENCE {
                    let why: String = one(&mut client, "SELECT pgq.waiting(id) FROM pgq.job LIMIT 1");
                    return run.differ(format!("a job was not run within {PATIENCE:?}: {why}"));
                }
                thread::sleep(GLANCE);
            }
            client.query_one(&put, &[]).expect("a put");
            run.did(1);
        }
        // Without the very first: it waited for processes to start.
        let sql = "DELETE FROM delay RETURNING extract(epoch FROM took)::float8, job";
        let rows = client.query(sql, &[]).expect("the delays");
        times.extend(rows.iter().filter(|row| row.get::<_, i64>(1) > 1).map(|row| row.get::<_, f64>(0)));
    }
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 1_000).copied().map(Duration::from_secs_f64);
    let (Some(middle), Some(most), Some(longest)) = (at(500), at(990), times.last().copied()) else {
        return run.differ("no delay was noted");
    };
    run.took("middle", middle);
    run.took("999 in 1,000", at(999).unwrap_or(most));
    run.took_at_most("99 in 100", most, MOST);
    run.took_at_most("longest", Duration::from_secs_f64(longest), LONGEST);
}
