//! As whom handlers run, whatever they try; who may run whose handlers; and what a role can do that
//! was granted next to nothing.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::error::SqlState;
use postgres::Client;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// The error of a statement that must fail.
fn refused(client: &mut Client, sql: &str) -> (SqlState, String) {
    match client.batch_execute(sql) {
        Ok(()) => panic!("not refused: {sql}"),
        Err(error) => {
            let error = error.as_db_error().expect("an error of the server");
            (error.code().clone(), error.hint().unwrap_or_default().to_owned())
        }
    }
}

fn denied(client: &mut Client, sql: &str) -> String {
    let (code, hint) = refused(client, sql);
    assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE, "{sql}");
    hint
}

/// A role `app` that owns a schema, a table and handlers, and has no right on anything of pgq's.
const SETUP: &str = "
    CREATE ROLE app LOGIN;
    CREATE SCHEMA app AUTHORIZATION app;
    SET ROLE app;
    CREATE TABLE app.seen (what text, acts name, session name);
    CREATE FUNCTION app.see(what text) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO app.seen VALUES (what, current_user, session_user) $$;
    RESET ROLE;";

fn start() -> (Server, Client) {
    let server = Server::builder().start();
    let mut client = server.create_database("app");
    run(&mut client, SETUP);
    (server, client)
}

/// Creates a handler of the role's and registers it for a queue of its name.
fn handler(client: &mut Client, name: &str, declaration: &str) {
    let sql = format!("SET ROLE app; CREATE {declaration}; RESET ROLE");
    run(client, &sql);
    run(client, &format!("SELECT pgq.register('{name}', 'app.{name}', run_as => 'app', max_attempts => 1)"));
}

/// Puts one job and waits until it is done: (state, message of its error).
fn outcome(client: &mut Client, queue: &str) -> (String, String) {
    run(client, &format!("SELECT pgq.configure('{queue}', keep_done => '1 day')"));
    let id: i64 = one(client, &format!("SELECT pgq.put('{queue}')"));
    let sql = format!("SELECT state, coalesce(error ->> 'message', '') FROM pgq.wait({id}, '60 s')");
    let row = client.query_one(&sql, &[]).expect("pgq.wait");
    (row.get(0), row.get(1))
}

/// Runs the handler of a queue and expects these lines, all by the role.
fn sees(client: &mut Client, queue: &str, lines: &[&str]) {
    run(client, "TRUNCATE app.seen");
    let (state, message) = outcome(client, queue);
    assert_eq!(state, "done", "{queue}: {message}");
    let rows = client.query("SELECT what, acts::text, session::text FROM app.seen", &[]).expect("what the handler saw");
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(found, lines, "{queue}");
    for row in rows {
        let who: (String, String) = (row.get(1), row.get(2));
        assert_eq!(who, ("app".into(), "app".into()), "{queue}: {}", found[0]);
    }
}

#[test]
fn a_function_runs_as_its_role_whatever_it_resets() {
    let (_server, mut client) = start();
    handler(
        &mut client,
        "resets",
        "FUNCTION app.resets() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            PERFORM app.see('at first');
            RESET ROLE; PERFORM app.see('RESET ROLE');
            RESET SESSION AUTHORIZATION; PERFORM app.see('RESET SESSION AUTHORIZATION');
            SET SESSION AUTHORIZATION DEFAULT; PERFORM app.see('DEFAULT');
            RESET ALL; PERFORM app.see('RESET ALL');
            BEGIN RESET ROLE; RAISE 'x'; EXCEPTION WHEN OTHERS THEN PERFORM app.see('EXCEPTION'); END;
        END $$",
    );
    let lines = ["at first", "RESET ROLE", "RESET SESSION AUTHORIZATION", "DEFAULT", "RESET ALL", "EXCEPTION"];
    // Twice: what the first left behind must not lift the second.
    sees(&mut client, "resets", &lines);
    sees(&mut client, "resets", &lines);
}

#[test]
fn a_procedure_stays_its_role_after_rollback_and_commit() {
    let (_server, mut client) = start();
    handler(
        &mut client,
        "ends",
        "PROCEDURE app.ends() LANGUAGE plpgsql AS $$ BEGIN
            PERFORM app.see('at first'); COMMIT;
            PERFORM app.see('never'); ROLLBACK;
            PERFORM app.see('ROLLBACK'); COMMIT;
            RESET ROLE; ROLLBACK; RESET ROLE;
            PERFORM app.see('RESET ROLE'); COMMIT;
            RESET SESSION AUTHORIZATION; ROLLBACK; RESET SESSION AUTHORIZATION;
            PERFORM app.see('RESET SESSION AUTHORIZATION');
        END $$",
    );
    let lines = ["at first", "ROLLBACK", "RESET ROLE", "RESET SESSION AUTHORIZATION"];
    sees(&mut client, "ends", &lines);
    sees(&mut client, "ends", &lines);
}

/// SET ROLE lasts for a session, and a procedure's COMMITs keep it: not for the next job.
#[test]
fn a_role_that_a_procedure_sets_ends_with_it() {
    // One executor, so that the second job surely follows the first in its session.
    let server = Server::builder().conf("pgq.max_workers", 1).start();
    let mut client = server.create_database("app");
    run(&mut client, SETUP);
    run(&mut client, "CREATE ROLE other; GRANT other TO app");
    handler(&mut client, "sets", "PROCEDURE app.sets() LANGUAGE plpgsql AS 'BEGIN SET ROLE other; COMMIT; END'");
    handler(&mut client, "looks", "FUNCTION app.looks() RETURNS void LANGUAGE sql AS $$ SELECT app.see('after') $$");
    for _ in 0..3 {
        run(&mut client, "SELECT pgq.put('sets')");
        wait_until(PATIENCE, "the procedure", || count(&mut client, "pgq.job") == 0);
        run(&mut client, "SELECT pgq.put('looks')");
        wait_until(PATIENCE, "the look", || count(&mut client, "pgq.job") == 0);
    }
    assert_eq!(count(&mut client, "app.seen WHERE acts = 'app' AND session = 'app'"), 3);
}

#[test]
fn deferred_triggers_and_cursors_run_as_the_role_too() {
    let (_server, mut client) = start();
    run(
        &mut client,
        "SET ROLE app;
         CREATE TABLE app.later (n int);
         CREATE FUNCTION app.at_commit() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM app.see('at commit'); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER later AFTER INSERT ON app.later DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION app.at_commit();
         CREATE FUNCTION app.who() RETURNS text LANGUAGE sql AS $$ SELECT current_user::text $$;
         RESET ROLE",
    );
    handler(
        &mut client,
        "defers",
        "FUNCTION app.defers() RETURNS void LANGUAGE plpgsql AS $$ DECLARE
            held refcursor; who text;
        BEGIN
            INSERT INTO app.later VALUES (1);
            EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT app.see(''cursor'')';
        END $$",
    );
    sees(&mut client, "defers", &["at commit", "cursor"]);
}

#[test]
fn a_handler_cannot_climb_higher_than_its_role() {
    let (_server, mut client) = start();
    let attempts = [
        ("to_superuser", "SET SESSION AUTHORIZATION postgres"),
        ("to_role", "SET ROLE postgres"),
        ("to_table", "DELETE FROM pgq.job"),
        ("to_handlers", "UPDATE pgq.handler SET run_as = 'postgres'"),
        ("to_boss", "CREATE ROLE boss SUPERUSER"),
        ("to_function", "SELECT pgq.pause(NULL)"),
    ];
    for (name, statement) in attempts {
        let quoted = statement.replace('\'', "''");
        handler(
            &mut client,
            name,
            &format!(
                "FUNCTION app.{name}() RETURNS void LANGUAGE plpgsql
                    AS $$ BEGIN EXECUTE '{quoted}'; END $$"
            ),
        );
        let (state, message) = outcome(&mut client, name);
        assert_eq!(state, "dead", "{statement}");
        assert!(
            message.contains("permission denied") || message.contains("must be superuser"),
            "{statement}: {message}"
        );
    }
}

#[test]
fn pg_stat_activity_shows_the_role_and_the_job() {
    let (_server, mut client) = start();
    for (queue, kind) in [("f", "FUNCTION"), ("p", "PROCEDURE")] {
        let returns = if queue == "f" { "RETURNS void" } else { "" };
        let body = "AS $$ BEGIN PERFORM pg_sleep(30); END $$";
        handler(&mut client, queue, &format!("{kind} app.{queue}() {returns} LANGUAGE plpgsql {body}"));
        let id: i64 = one(&mut client, &format!("SELECT pgq.put('{queue}')"));
        let shown = format!(
            "pg_stat_activity WHERE usename = 'app' AND datname = 'app' AND state = 'active'
               AND backend_type = 'pgq executor' AND query LIKE '%{queue}#{id} app.{queue}()%'"
        );
        let what = "the worker's role and job in pg_stat_activity";
        wait_until(PATIENCE, what, || count(&mut client, &shown) == 1);
        let running = format!(
            "pgq.running AS r JOIN pg_stat_activity AS a ON a.pid = r.pid
               WHERE r.job = {id} AND r.queue = '{queue}' AND r.attempt = 1 AND a.usename = 'app'"
        );
        assert_eq!(count(&mut client, &running), 1, "pgq.running");
        let role = "pgq.workers WHERE role = 'app' AND state = 'busy'";
        assert!(count(&mut client, role) >= 1, "pgq.workers");
        let others = "pg_stat_activity WHERE backend_type = 'pgq executor' AND usename <> 'app'";
        assert_eq!(count(&mut client, others), 0, "an executor of another role");
    }
}

/// A superuser's session would lend the handler's code all its rights.
#[test]
fn a_superuser_cannot_run_a_low_roles_handler_in_its_own_session() {
    let (server, mut client) = start();
    handler(&mut client, "low", "FUNCTION app.low() RETURNS void LANGUAGE sql AS $$ SELECT app.see('low') $$");
    run(&mut client, "SELECT pgq.pause('low')");
    let id: i64 = one(&mut client, "SELECT pgq.put('low')");
    let hint = denied(&mut client, &format!("SELECT pgq.run({id})"));
    assert!(hint.contains("app"), "the hint names the role: {hint}");
    run(&mut client, "SET ROLE app");
    assert_ne!(refused(&mut client, &format!("SELECT pgq.run({id})")).0, SqlState::SUCCESSFUL_COMPLETION);
    run(&mut client, "RESET ROLE; SET SESSION AUTHORIZATION app");
    denied(&mut client, &format!("SELECT pgq.run({id})"));
    run(&mut client, "RESET SESSION AUTHORIZATION");
    // The role has been switched to with the right to call it: still the superuser's session.
    run(&mut client, "SELECT pgq.grant_usage('app', 'admin', 'low')");
    run(&mut client, "SET ROLE app");
    denied(&mut client, &format!("SELECT pgq.run({id})"));
    run(&mut client, "RESET ROLE");
    assert_eq!(count(&mut client, "app.seen"), 0);
    let mut own = server.connect_as("app", "app");
    run(&mut own, &format!("SELECT pgq.run({id})"));
    assert_eq!(count(&mut client, "app.seen WHERE acts = 'app'"), 1);
    assert_eq!(count(&mut client, "pgq.job"), 0);
}

#[test]
fn a_refused_eager_put_is_an_ordinary_put_with_a_notice() {
    let (server, mut client) = start();
    handler(&mut client, "low", "FUNCTION app.low() RETURNS void LANGUAGE sql AS $$ SELECT app.see('low') $$");
    let mut psql = server.session("app", "postgres");
    let reply = psql.execute("SET pgq.eager = on;\nBEGIN;\nSELECT pgq.put('low');\nTABLE app.seen;").expect("psql");
    assert_eq!(reply.sqlstate, "00000", "{}", reply.stderr);
    assert!(reply.stderr.contains("NOTICE"), "{}", reply.stderr);
    assert!(reply.stdout.contains("(0 rows)"), "{}", reply.stdout);
    assert_eq!(count(&mut client, "app.seen"), 0);
    psql.execute("COMMIT;").expect("psql");
    let ran = "app.seen WHERE acts = 'app' AND session = 'app'";
    wait_until(PATIENCE, "a worker to run it", || count(&mut client, ran) == 1);
    // The role itself may: the effect is there before the COMMIT.
    run(&mut client, "SELECT pgq.grant_usage('app', 'produce', 'low')");
    let mut own = server.connect_as("app", "app");
    run(&mut own, "SET pgq.eager = on; BEGIN; SELECT pgq.put('low')");
    assert_eq!(count(&mut own, "app.seen"), 2);
    run(&mut own, "ROLLBACK");
    assert_eq!(count(&mut own, "app.seen"), 1);
}

const GRANTED: [&str; 20] = [
    "put",
    "bulk_put",
    "flow",
    "wait",
    "claim",
    "complete",
    "bulk_complete",
    "fail",
    "extend",
    "release",
    "waiting",
    "stats",
    "current_job",
    "may",
    "start",
    "version",
    "next_runs",
    "on_change",
    "off_change",
    "change_trigger",
];

/// The functions of two accesses, no right on any table.
#[test]
fn a_role_can_use_what_it_was_granted_and_nothing_else() {
    let (server, mut client) = start();
    run(
        &mut client,
        "CREATE ROLE guest LOGIN;
         SELECT pgq.grant_usage('guest', 'produce', 'q'), pgq.grant_usage('guest', 'consume', 'q')",
    );
    let mut guest = server.connect_as("app", "guest");
    let id: i64 = one(&mut guest, "SELECT pgq.put('q', '{\"n\": 1}', key => 'k')");
    assert_eq!(one::<i64>(&mut guest, "SELECT pgq.put('q', key => 'k')"), id);
    let claimed: i64 = one(&mut guest, "SELECT id FROM pgq.claim('q', lease => '1 min')");
    assert_eq!(claimed, id);
    let done = format!("SELECT pgq.complete({id}, 1, '\"yes\"')");
    assert!(one::<bool>(&mut guest, &done));
    run(&mut guest, "SELECT pgq.put('q', delay => '1 h')");
    run(&mut guest, "SELECT pgq.put('q')");
    run(&mut guest, "BEGIN; SELECT * FROM pgq.claim('q'); COMMIT");
    let functions = client
        .query(
            "SELECT p.oid::regprocedure::text, p.proname::text,
                    (SELECT coalesce(string_agg('NULL', ', '), '')
                       FROM generate_series(1, p.pronargs))
               FROM pg_proc AS p WHERE p.pronamespace = 'pgq'::regnamespace",
            &[],
        )
        .expect("the functions of pgq");
    assert!(functions.len() >= 25, "{} functions", functions.len());
    for row in &functions {
        let (signature, name, nulls): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let granted = GRANTED.contains(&name.as_str());
        let may: bool = one(&mut guest, &format!("SELECT has_function_privilege('{signature}', 'EXECUTE')"));
        assert_eq!(may, granted, "{signature}");
        if !granted {
            denied(&mut guest, &format!("SELECT pgq.{name}({nulls})"));
        }
    }
    let relations = client
        .query(
            "SELECT oid::regclass::text FROM pg_class
              WHERE relnamespace = 'pgq'::regnamespace AND relkind IN ('r', 'v', 'm', 'p')",
            &[],
        )
        .expect("the relations of pgq");
    assert!(relations.len() >= 8, "{} relations", relations.len());
    for row in &relations {
        let name: String = row.get(0);
        for statement in ["TABLE", "DELETE FROM"] {
            let (code, _) = refused(&mut guest, &format!("{statement} {name}"));
            let fits = code == SqlState::INSUFFICIENT_PRIVILEGE || code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
            assert!(fits, "{statement} {name}: {code:?}");
        }
    }
    denied(&mut guest, "SELECT nextval('pgq.job_id_seq')");
    denied(&mut guest, "CREATE TABLE pgq.mine ()");
}

/// Without a grant not even that; the registration asks who may act as whom.
#[test]
fn registering_asks_for_the_rights_of_caller_role_and_owner() {
    let (server, mut client) = start();
    run(
        &mut client,
        "CREATE ROLE guest LOGIN; CREATE ROLE silent NOLOGIN;
         CREATE FUNCTION public.mine() RETURNS void LANGUAGE sql AS '';
         CREATE FUNCTION public.guests() RETURNS void LANGUAGE sql AS '';
         ALTER FUNCTION public.guests OWNER TO guest;
         REVOKE ALL ON FUNCTION public.mine FROM PUBLIC",
    );
    let mut guest = server.connect_as("app", "guest");
    denied(&mut guest, "SELECT pgq.put('q')");
    run(&mut client, "SELECT pgq.grant_usage('guest', 'admin', 'q')");
    denied(&mut guest, "SELECT pgq.register('q', 'guests', run_as => 'postgres')");
    denied(&mut guest, "SELECT pgq.register('q', 'guests', run_as => 'app')");
    denied(&mut guest, "SELECT pgq.register('q', 'public.mine()')");
    run(&mut guest, "SELECT pgq.register('q', 'public.guests')");
    // Whoever owns the function could rewrite it and so act as the role.
    denied(&mut client, "SELECT pgq.register('q', 'public.guests')");
    denied(&mut client, "SELECT pgq.register('q', 'public.guests', run_as => 'app')");
    let (code, _) = refused(&mut client, "SELECT pgq.register('q', 'public.mine', run_as => 'nobody')");
    assert_eq!(code, SqlState::UNDEFINED_OBJECT);
    run(&mut client, "GRANT EXECUTE ON FUNCTION public.mine TO silent");
    let (code, _) = refused(&mut client, "SELECT pgq.register('q', 'public.mine', run_as => 'silent')");
    assert_eq!(code, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
}
