//! T09 to T11: jobs that crash the server, that end their worker, and that want too much memory,
//! each among good jobs. The poison is dead after `pgq.max_crashes`; the good ones ran exactly once.

use super::{Part, Run};
use crate::{count, crasher, one, run as execute, wait_until, Ledger, Server};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[
    Part { id: "T09", title: "a handler that segfaults", unit: "poisons", quick: 2, full: 20, run: segfault },
    Part {
        id: "T10",
        title: "handlers that abort, kill or terminate themselves, get a FATAL, or crash at COMMIT",
        unit: "poisons",
        quick: 5,
        full: 100,
        run: others,
    },
    Part { id: "T11", title: "a handler past a memory limit", unit: "poisons", quick: 2, full: 20, run: memory },
];

/// Long: each poison restarts the server three times.
const DRAINED: Duration = Duration::from_secs(240);

/// What a handler does with the word in its args; `late` is done by a deferred trigger at COMMIT.
const HANDLER: &str = "
    CREATE ROLE worker LOGIN;
    CREATE TABLE put (id bigint);
    CREATE TABLE later (id bigint);
    GRANT INSERT ON later TO worker;
    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM crash_segv();
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION at_commit();
    CREATE FUNCTION work(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO ledger VALUES (job.id);
        CASE job.args->>'do'
            WHEN 'segv' THEN PERFORM crash_segv();
            WHEN 'abort' THEN PERFORM crash_abort();
            WHEN 'kill' THEN PERFORM crash_kill();
            WHEN 'fatal' THEN PERFORM crash_fatal();
            WHEN 'terminate' THEN PERFORM pg_terminate_backend(pg_backend_pid());
            WHEN 'late' THEN INSERT INTO later VALUES (job.id);
            WHEN 'memory' THEN PERFORM crash_memory();
            ELSE NULL;
        END CASE;
    END $$;
    SELECT pgq.register('q', 'work', run_as => 'worker', backoff => '10 ms')";

fn segfault(run: &mut Run) {
    poison(run, &["segv"], "crashed the server 3 times");
}

fn others(run: &mut Run) {
    poison(run, &["abort", "late", "kill", "fatal", "terminate"], "3 times");
}

fn memory(run: &mut Run) {
    let (server, mut client) = start(run);
    let ledger = Ledger::create(&mut client, "ledger");
    execute(&mut client, HANDLER);
    while run.goes_on() {
        execute(&mut client, &batch("memory"));
        run.fault("memory");
        run.did(1);
    }
    drain(&server, &mut client);
    let wrong = "pgq.finished_job WHERE crashes > 0 OR failures <> 5 OR error->>'sqlstate' <> '53200'";
    if count(&mut client, wrong) > 0 || server.log().contains("server process") {
        run.differ("too much memory was more than a failure");
    }
    verify(run, &ledger, &mut client);
}

fn start(run: &Run) -> (Server, Client) {
    let settings =
        [("pgq.max_crashes", "3"), ("pgq.backoff", "10ms"), ("shared_buffers", "16MB"), ("max_wal_size", "1GB")];
    let server = settings.iter().fold(run.server(), |server, (name, value)| server.conf(name, value)).start();
    let mut client = server.create_database("shop");
    crasher::create(&mut client);
    (server, client)
}

/// One poison in the middle of 500 good jobs, put and noted by one statement.
fn batch(what: &str) -> String {
    format!(
        "INSERT INTO put SELECT pgq.bulk_put('q', args => array_fill('{{}}'::jsonb, ARRAY[250])
            || jsonb_build_object('do', '{what}') || array_fill('{{}}'::jsonb, ARRAY[250]))"
    )
}

/// Puts poisons of these kinds in turn, each among good jobs, all at once: the server goes down again and again
/// until the last of them is dead.
fn poison(run: &mut Run, kinds: &[&'static str], last_words: &str) {
    let (server, mut client) = start(run);
    let ledger = Ledger::create(&mut client, "ledger");
    execute(&mut client, HANDLER);
    while run.goes_on() {
        // Not more than a few at once, so that a run of many says how far it is.
        let portion = run.left().min(5);
        for _ in 0..portion {
            let turn = usize::try_from(run.done()).unwrap_or(0) % kinds.len();
            put_again(&server, &mut client, &batch(kinds[turn]));
            run.fault(kinds[turn]);
            run.did(1);
        }
        drain(&server, &mut client);
        client = server.connect("shop");
    }
    let dead = count(&mut client, "pgq.finished_job");
    if dead < i64::try_from(run.done()).unwrap_or(0) {
        run.differ(format!("only {dead} are dead"));
    }
    let fits = format!("pgq.dead WHERE message LIKE '%{last_words}' AND error ? 'hint'");
    let (found, crashes): (i64, Option<i32>) =
        (count(&mut client, &fits), one(&mut client, "SELECT max(crashes) FROM pgq.finished_job"));
    if found != dead || crashes != Some(3) {
        run.differ(format!("{found} of {dead} poisons are dead as they should be, with {crashes:?} crashes at most"));
    }
    verify(run, &ledger, &mut client);
}

/// Again with a new session when a crash took this one. A batch that was put although nobody said so is put twice:
/// the table of what was put knows.
fn put_again(server: &Server, client: &mut Client, sql: &str) {
    wait_until(DRAINED, "a put to be accepted", || {
        if client.batch_execute(sql).is_ok() {
            return true;
        }
        if let Ok(new) = server.try_connect("shop", "postgres") {
            *client = new;
        }
        false
    });
}

fn drain(server: &Server, client: &mut Client) {
    wait_until(DRAINED, "every job to be done or dead", || {
        if client.is_closed() {
            match server.try_connect("shop", "postgres") {
                Ok(new) => *client = new,
                Err(_) => return false,
            }
        }
        client.query_one("SELECT count(*) FROM pgq.job", &[]).is_ok_and(|row| row.get::<_, i64>(0) == 0)
    });
}

fn verify(run: &mut Run, ledger: &Ledger, client: &mut Client) {
    let put: Vec<i64> = client.query("SELECT id FROM put", &[]).expect("ids").iter().map(|row| row.get(0)).collect();
    let verdict = ledger.verify(client, &put);
    if !verdict.is_exact() {
        run.differ(verdict);
    }
}
