//! T64: the scheduler is killed while schedules are due each second: with catchup 'all', each nominal time has been run
//! exactly once.

use super::{Part, Run};
use crate::sql::{count, one, run as execute};
use crate::wait_until;
use std::thread;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T64",
    title: "kill -9 of the scheduler while schedules are due",
    unit: "kills",
    quick: 2,
    full: 30,
    run: kill,
}];

const PATIENCE: Duration = Duration::from_secs(60);
const SCHEDULES: i64 = 200;

const SHOP: &str = "
    CREATE TABLE ran (schedule integer, nominal timestamptz);
    CREATE FUNCTION note(job pgq.job) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO ran VALUES (((job).args)::integer, (job).execute_at) $$;
    SELECT pgq.register('tick', 'note');";

/// Schedules of which the runs are not each second from the first to the last, once.
const WRONG: &str = "(SELECT s.name FROM pgq.schedule AS s LEFT JOIN ran AS r ON r.schedule = s.args::integer
    GROUP BY s.name, s.last_run, s.scheduled_at
    HAVING count(r.nominal) <> count(DISTINCT r.nominal) OR min(r.nominal) <= s.scheduled_at
        OR max(r.nominal) <> s.last_run
        OR count(r.nominal) <> extract(epoch FROM s.last_run - date_trunc('second', s.scheduled_at))) AS wrong";

fn kill(run: &mut Run) {
    // The figure of the full number; a few kills need not take minutes.
    let between = Duration::from_secs(if run.left() < 15 { 4 } else { 20 });
    let server = run.server().start();
    let mut client = server.create_database("shop");
    execute(&mut client, SHOP);
    execute(
        &mut client,
        &format!(
            "SELECT pgq.schedule('s' || n, 'tick', cron => '* * * * * *', args => to_jsonb(n), catchup => 'all',
                overlap => (ARRAY['allow', 'skip'])[1 + n % 2]) FROM generate_series(1, {SCHEDULES}) AS n"
        ),
    );
    while run.goes_on() {
        thread::sleep(between);
        let found = server.worker_pids_like("pgq scheduler", Some("shop"));
        if !found.into_iter().any(|pid| server.try_signal(pid, libc::SIGKILL)) {
            continue;
        }
        run.fault("kill");
        run.did(1);
        wait_until(PATIENCE, "the crash", || client.batch_execute("SELECT 1").is_err());
        wait_until(PATIENCE, "the server to be back", || server.try_connect("shop", "postgres").is_ok());
        client = server.connect("shop");
    }
    let now: String = one(&mut client, "SELECT clock_timestamp()::text");
    wait_until(PATIENCE, "all to be caught up", || {
        count(&mut client, &format!("pgq.schedule WHERE last_run IS NULL OR last_run < '{now}'")) == 0
    });
    execute(&mut client, "SELECT pgq.pause_schedule(name) FROM pgq.schedules");
    wait_until(PATIENCE, "the jobs", || count(&mut client, "pgq.job") == 0);
    let wrong = count(&mut client, WRONG);
    if wrong > 0 {
        run.differ(format!("{wrong} schedules with a run that is missing or doubled"));
    }
    println!("{} runs of {SCHEDULES} schedules", count(&mut client, "ran"));
}
