//! T14d: the server crashes between a commit of a worker that everybody sees and the disk. What was
//! seen is undone and done again, once; what `pgq.wait` has said is true for ever.

use super::{Part, Run};
use crate::{hooked, one, run as execute, wait_for, wait_until};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T14d",
    title: "a crash between an effect that is seen and the disk",
    unit: "crashes",
    quick: 4,
    full: 100,
    run: crashes,
}];

const PATIENCE: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
    CREATE ROLE worker LOGIN;
    CREATE TABLE effect (job bigint NOT NULL, at timestamptz NOT NULL);
    GRANT INSERT ON effect TO worker;
    CREATE FUNCTION work(id bigint, args jsonb) RETURNS void LANGUAGE sql AS
        'INSERT INTO effect VALUES (id, clock_timestamp())';
    SELECT pgq.register('q', 'work', run_as => 'worker');
    SELECT pgq.configure('q', keep_done => '1 day');";

fn crashes(run: &mut Run) {
    // Nobody else may flush meanwhile.
    let quiet = run.server().conf("wal_writer_delay", "10s").conf("autovacuum", "off").conf("pgq.backoff", "10ms");
    let server = quiet.hooked().start();
    let mut client = server.create_database("shop");
    execute(&mut client, SCHEMA);
    let mut undone = 0;
    while run.goes_on() {
        let hits = hooked::hits(&server);
        hooked::hold(&server, "transaction ended");
        let id: i64 = one(&mut client, "SELECT pgq.put('q')");
        wait_until(PATIENCE, "the executor to be held", || hooked::hits(&server) > hits);
        let seen = effects(&mut client, id);
        if seen.len() != 1 {
            run.differ(format!("job {id}: {} effects are seen after its commit", seen.len()));
        }
        let asked = run.done().is_multiple_of(2);
        if asked {
            let state: String = one(&mut client, &format!("SELECT state FROM pgq.wait({id})"));
            if state != "done" {
                run.differ(format!("job {id}: wait said {state}"));
            }
        }
        server.worker_pids_like("pgq executor", Some("shop")).into_iter().for_each(|pid| server.kill_9(pid));
        wait_until(PATIENCE, "the session to end", || client.is_closed() || client.execute("SELECT", &[]).is_err());
        client = wait_for(PATIENCE, "the server to be back", || server.try_connect("shop", "postgres").ok());
        wait_until(PATIENCE, "the job to be done", || {
            one::<bool>(&mut client, &format!("SELECT EXISTS (SELECT FROM pgq.finished_job WHERE id = {id})"))
        });
        let now = effects(&mut client, id);
        if now.len() != 1 || (asked && now != seen) {
            run.differ(format!("job {id}, reported: {asked}, effects before the crash {seen:?}, after it {now:?}"));
        }
        if now != seen {
            undone += 1;
            run.fault("crash that undid what was seen");
        } else {
            run.fault("crash after it was on disk");
        }
        run.did(1);
    }
    if run.done() > 1 && undone == 0 {
        run.differ("nothing that was seen was ever undone: the commits wait for the disk, or the crash came late");
    }
}

/// When a job's effects were made.
fn effects(client: &mut Client, id: i64) -> Vec<String> {
    let rows = client.query("SELECT at::text FROM effect WHERE job = $1", &[&id]).expect("an answer");
    rows.iter().map(|row| row.get(0)).collect()
}
