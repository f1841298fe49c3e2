//! Who is started and woken for the jobs that are there: as many executors as can work, at once.

use pgq_tests::{one, run, wait_until, Server};
use postgres::Client;
use std::time::Duration;

/// Ten times the second that starting an executor may take.
const STARTED: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
    CREATE PROCEDURE hour() LANGUAGE sql AS 'SELECT pg_sleep(3600)';
    CREATE FUNCTION hour_as_function() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(3600)';
    SELECT pgq.register('procedure', 'hour', concurrency => 3);
    SELECT pgq.register('function', 'hour_as_function', concurrency => 3);";

fn running(client: &mut Client, queue: &str) -> i64 {
    one(client, &format!("SELECT count(*) FROM pgq.running WHERE queue = '{queue}'"))
}

/// A running procedure's job is leased and no longer ready, a running function's still looks ready: both are to be
/// left out of what waits, and once only.
#[test]
fn a_job_put_while_another_runs_starts_at_once_on_another_executor() {
    let server = Server::builder().preload(true).conf("pgq.allow_superuser_handlers", "on").start();
    let mut client = server.create_database("app");
    run(&mut client, SCHEMA);
    for queue in ["function", "procedure"] {
        for jobs in 1..=2 {
            run(&mut client, &format!("SELECT pgq.put('{queue}')"));
            wait_until(STARTED, &format!("{jobs} jobs of {queue} to run"), || running(&mut client, queue) == jobs);
        }
    }
}
