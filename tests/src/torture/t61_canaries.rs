//! T61: what is in args, in results and in the errors of handlers is seen by who may see it, and nowhere else: not
//! by a monitor, not in `pg_stat_activity`, not in the server's log. Canaries are put wherever data can be, and looked
//! for wherever it could come out; and they are found where they must be, and in the log when it is told to have them.

use super::{Part, Run};
use crate::sql::{count, one, run as execute};
use crate::{wait_for, wait_until, Server};
use postgres::{Client, SimpleQueryMessage};
use std::time::Duration;

/// The part.
pub const PARTS: &[Part] = &[Part {
    id: "T61",
    title: "canaries in args, results and errors are seen by nobody who may not",
    unit: "rounds",
    quick: 2,
    full: 100,
    run: canaries,
}];

const PATIENCE: Duration = Duration::from_secs(100);

/// Each way in which a handler's data gets into an error, or into something that PostgreSQL itself would write.
const HANDLERS: &str = r#"
    CREATE ROLE app LOGIN;
    CREATE ROLE watcher LOGIN;
    CREATE SCHEMA app AUTHORIZATION app;
    SELECT pgq.grant_usage('watcher', 'monitor');
    SET ROLE app;
    CREATE TABLE app.plain (word text CHECK (word !~ 'canary'));
    CREATE FUNCTION app.returns(args jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT args $$;
    CREATE FUNCTION app.raises(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'message %', args->>'c' USING DETAIL = 'detail ' || (args->>'c'), HINT = 'hint ' || (args->>'c'); END $$;
    CREATE FUNCTION app.casts(args jsonb) RETURNS int LANGUAGE sql AS $$ SELECT (args->>'c')::int $$;
    CREATE FUNCTION app.checks(args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO app.plain VALUES (args->>'c') $$;
    CREATE FUNCTION app.says_statement(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('SELECT 1/0 AS %I', args->>'c'); END $$;
    CREATE FUNCTION app.parks(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION '%', args USING ERRCODE = 'PGQPK'; END $$;
    CREATE FUNCTION app.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'at commit: %', NEW.word; END $$;
    CREATE TABLE app.late (word text);
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.late DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION app.at_commit();
    CREATE FUNCTION app.defers(args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO app.late VALUES (args->>'c') $$;
    CREATE PROCEDURE app.proc(args jsonb) LANGUAGE plpgsql AS $$ BEGIN
        COMMIT; RAISE EXCEPTION 'procedure %', args; END $$;
    CREATE FUNCTION app.sleeps(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('SELECT pg_sleep(60) AS %I', args->>'c'); END $$;
    RESET ROLE;
    SELECT pgq.register(name, 'app.' || name, run_as => 'app', max_attempts => 1), pgq.configure(name, keep_done => '1 day')
      FROM unnest('{returns,raises,casts,checks,says_statement,parks,defers,proc,sleeps}'::text[]) AS name;
"#;

/// Queues whose jobs die of an error that has the canary in it.
const DYING: [&str; 7] = ["raises", "casts", "checks", "says_statement", "parks", "defers", "proc"];

/// What a monitor can read, in full.
const SHOWN: [&str; 7] = [
    "SELECT * FROM pgq.stats()",
    "SELECT * FROM pgq.queues",
    "SELECT * FROM pgq.running",
    "SELECT * FROM pgq.workers",
    "SELECT * FROM pgq.executors()",
    "SELECT * FROM pgq.doctor()",
    "SELECT pgq.waiting(id) FROM generate_series(1, 2000) AS id",
];

fn canaries(run: &mut Run) {
    // Everything that PostgreSQL logs by default, and what pgq does.
    let server = run.server().conf("pgq.log_jobs", "failed").start();
    let mut admin = server.create_database("shop");
    execute(&mut admin, HANDLERS);
    let mut watcher = server.connect_as("shop", "watcher");
    while run.goes_on() {
        let canary = format!("canary{}", run.rng.next_u64());
        one_round(run, &server, &mut admin, &mut watcher, &canary);
        run.did(1);
    }
}

fn one_round(run: &mut Run, server: &Server, admin: &mut Client, watcher: &mut Client, canary: &str) {
    let sleeper = put(admin, "sleeps", canary);
    let running = format!("pgq.running WHERE job = {sleeper}");
    wait_until(PATIENCE, "the handler that sleeps", || count(admin, &running) == 1);
    look(run, server, watcher, canary, "while it runs");
    let statements = "SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE backend_type LIKE 'pgq%'";
    let shown: String = one(admin, statements);
    if shown.contains(canary) || !shown.contains("sleeps") {
        run.differ(format!("pg_stat_activity of the workers: {shown}"));
    }
    // FATAL in the midst of a handler: PostgreSQL logs it by itself.
    let fatal = |server: &Server| server.log().matches("terminating background worker \"pgq executor\"").count();
    let before = fatal(server);
    execute(admin, &format!("SELECT pg_terminate_backend(pid) FROM {running}"));
    wait_until(PATIENCE, "its end in the log", || fatal(server) > before);
    execute(admin, &format!("SELECT pgq.cancel({sleeper}, true)"));
    wait_until(PATIENCE, "the end of its job", || count(admin, &format!("pgq.job WHERE id = {sleeper}")) == 0);

    let mut dead = Vec::new();
    for queue in DYING {
        dead.push(put(admin, queue, canary));
    }
    let done = put(admin, "returns", canary);
    let refused = "SELECT pgq.put('raises', jsonb_build_object('c', repeat($1, 100000)))";
    if admin.execute(refused, &[&canary]).is_ok() {
        run.differ("args that are too large were taken");
    }
    let left = format!("pgq.finished_job WHERE id >= {}", dead[0]);
    let all = i64::try_from(dead.len() + 1).unwrap_or(0);
    wait_until(PATIENCE, "all to end", || count(admin, &left) == all);
    look(run, server, watcher, canary, "afterwards");

    shown_where_it_must_be(run, admin, canary, done, &dead);
    found_in_the_log_when_told(run, server, admin, canary);
}

fn shown_where_it_must_be(run: &mut Run, admin: &mut Client, canary: &str, done: i64, dead: &[i64]) {
    // It is there, for who may see it.
    for (queue, id) in DYING.iter().zip(dead) {
        let shown = format!(
            "pgq.dead AS d WHERE d.id = {id} AND d.args::text LIKE '%{canary}%' AND d.error::text LIKE '%{canary}%'"
        );
        if count(admin, &shown) != 1 {
            let error: String = one(admin, &format!("SELECT error::text FROM pgq.dead WHERE id = {id}"));
            run.differ(format!("pgq.dead does not show the canary of {queue}: {error}"));
        }
    }
    let waited = format!("pgq.wait({done}) AS w WHERE w.result::text LIKE '%{canary}%'");
    if count(admin, &waited) != 1 {
        run.differ("pgq.wait does not show the result");
    }
}

/// The look finds it in the log as soon as the log is told to have it.
fn found_in_the_log_when_told(run: &mut Run, server: &Server, admin: &mut Client, canary: &str) {
    server.set("pgq.log_jobs", "all");
    wait_for(PATIENCE, "the message in the log", || {
        let id = put(admin, "raises", canary);
        wait_until(PATIENCE, "the job to end", || count(admin, &format!("pgq.finished_job WHERE id = {id}")) == 1);
        server.log().contains(canary).then_some(())
    });
    server.set("pgq.log_jobs", "failed");
    run.fault("canary found in the log when it was to be");
    // The settings reach the workers before the next round.
    wait_for(PATIENCE, "the log without messages", || {
        let quiet = format!("quiet{}", run.rng.next_u64());
        let id = put(admin, "raises", &quiet);
        wait_until(PATIENCE, "the job to end", || count(admin, &format!("pgq.finished_job WHERE id = {id}")) == 1);
        (!server.log().contains(&quiet)).then_some(())
    });
}

/// Puts by a parameter, as a client should: a statement that fails is logged with its text.
fn put(admin: &mut Client, queue: &str, canary: &str) -> i64 {
    let sql = format!("SELECT pgq.put('{queue}', jsonb_build_object('c', $1::text))");
    admin.query_one(&sql, &[&canary]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The canary must be nowhere that a monitor can look, and not in the log.
fn look(run: &mut Run, server: &Server, watcher: &mut Client, canary: &str, when: &str) {
    let activity = "SELECT * FROM pg_stat_activity";
    for query in SHOWN.iter().chain([&activity]) {
        let rows = watcher.simple_query(query).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        let mut seen = 0;
        for row in &rows {
            let SimpleQueryMessage::Row(row) = row else { continue };
            seen += 1;
            for column in 0..row.len() {
                if row.get(column).is_some_and(|value| value.contains(canary)) {
                    run.differ(format!("{when}: {query} shows it: {}", row.get(column).unwrap_or_default()));
                }
            }
        }
        let may_be_empty = query.contains("running") || query.contains("workers") || query.contains("executors");
        if seen == 0 && !may_be_empty {
            run.differ(format!("{when}: {query} shows nothing at all"));
        }
    }
    if watcher.simple_query("SELECT * FROM pgq.dead").is_ok() {
        run.differ("a monitor reads pgq.dead");
    }
    if let Some(line) = server.log().lines().find(|line| line.contains(canary)) {
        run.differ(format!("{when}: the log has it: {line}"));
    }
}
