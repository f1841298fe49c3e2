//! What somebody plants on our tables: it is found, all queues stand still, nothing of ours writes and so nothing
//! foreign runs with the rights of the tables' owner; and everything goes on when it is gone.

use std::time::Duration;

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::error::SqlState;
use postgres::Client;

const PATIENCE: Duration = Duration::from_secs(60);

/// (what plants it, words that doctor must show)
const PLANTED: &[(&str, &str)] = &[
    ("CREATE TRIGGER audit BEFORE INSERT ON pgq.job EXECUTE FUNCTION tamper.t()", "trigger audit on pgq.job"),
    ("CREATE RULE quiet AS ON INSERT TO pgq.finished_job DO ALSO NOTHING", "rule quiet on pgq.finished_job"),
    ("CREATE POLICY p ON pgq.handler", "policy p on pgq.handler"),
    ("ALTER TABLE pgq.job ENABLE ROW LEVEL SECURITY", "row level security of pgq.job"),
    ("ALTER TABLE pgq.job FORCE ROW LEVEL SECURITY", "row level security of pgq.job"),
    ("CREATE TABLE tamper.child () INHERITS (pgq.job)", "tamper.child, which inherits from pgq.job"),
    (
        "CREATE TABLE tamper.parent (); ALTER TABLE pgq.queue_setting INHERIT tamper.parent",
        "tamper.parent, from which pgq.queue_setting inherits",
    ),
    (
        "CREATE TABLE tamper.mine (job bigint CONSTRAINT mine_fk REFERENCES pgq.job)",
        "foreign key mine_fk of tamper.mine to pgq.job",
    ),
    (
        "CREATE TABLE tamper.q (q text COLLATE \"C\" PRIMARY KEY);
         ALTER TABLE pgq.job ADD CONSTRAINT job_fk FOREIGN KEY (queue) REFERENCES tamper.q",
        "foreign key job_fk of pgq.job to tamper.q",
    ),
    (
        "ALTER TABLE pgq.job ALTER COLUMN priority SET DEFAULT tamper.f(1)",
        "default of pgq.job.priority, which uses function tamper.f(bigint)",
    ),
    (
        "ALTER TABLE pgq.job ADD COLUMN twice bigint GENERATED ALWAYS AS (tamper.f(id)) STORED",
        "default of pgq.job.twice, which uses function tamper.f(bigint)",
    ),
    (
        "ALTER TABLE pgq.job ADD CONSTRAINT odd CHECK (tamper.f(id) > 0)",
        "constraint odd on pgq.job, which uses function tamper.f(bigint)",
    ),
    (
        "CREATE INDEX by_f ON pgq.job (tamper.f(id))",
        "index by_f on pgq.job, which uses function tamper.f(bigint)",
    ),
    (
        "CREATE INDEX by_p ON pgq.finished_job (id) WHERE tamper.f(id) > 0",
        "index by_p on pgq.finished_job, which uses function tamper.f(bigint)",
    ),
    (
        "CREATE OPERATOR CLASS tamper.ops FOR TYPE bigint USING btree
            AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint8cmp(bigint, bigint);
         CREATE INDEX by_ops ON pgq.job (id tamper.ops)",
        "index by_ops on pgq.job, which uses operator class tamper.ops for access method btree",
    ),
    (
        "CREATE DOMAIN tamper.d AS jsonb CHECK (tamper.f(1) > 0); ALTER TABLE pgq.finished_job ALTER COLUMN result TYPE tamper.d",
        "type tamper.d of pgq.finished_job.result",
    ),
    ("ALTER TABLE pgq.job OWNER TO other", "owner other of pgq.job"),
    ("ALTER TABLE pgq.finished_job SET UNLOGGED", "pgq.finished_job without WAL"),
];

/// Undoes what doctor has no command for.
const UNDO: &str = "ALTER TABLE pgq.finished_job ALTER COLUMN result TYPE jsonb";

const SETUP: &str = "
    CREATE ROLE other;
    CREATE SCHEMA tamper;
    CREATE TABLE tamper.seen (what text);
    CREATE FUNCTION tamper.t() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN INSERT INTO tamper.seen VALUES (current_user || ' ' || TG_OP); RETURN coalesce(NEW, OLD); END $$;
    CREATE FUNCTION tamper.f(n bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN n; END';
    CREATE FUNCTION done() RETURNS void LANGUAGE sql AS '';
    CREATE FUNCTION fails() RETURNS void LANGUAGE sql AS 'SELECT 1 / 0';
    SELECT pgq.register('q', 'done'), pgq.register('bad', 'fails', max_attempts => 1)";

const SAYS: &str = "the tables of pgq were changed from outside: ";

fn start() -> (Server, Client) {
    let server = Server::builder().start();
    let mut client = server.create_database("shop");
    run(&mut client, SETUP);
    (server, client)
}

/// What doctor finds on the tables: (what, fix).
fn found(client: &mut Client) -> Vec<(String, String)> {
    let sql = "SELECT detail, fix FROM pgq.doctor() WHERE check_name = 'tables untouched' AND NOT ok";
    let rows = client.query(sql, &[]).expect("pgq.doctor");
    let what = |detail: String| detail.trim_start_matches("all queues stand still: ").to_owned();
    rows.iter().map(|row| (what(row.get(0)), row.get(1))).collect()
}

fn refused(client: &mut Client, sql: &str) -> String {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{sql}: {error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("pgq.doctor()")), "{sql}: {error:?}");
    error.message().to_owned()
}

/// A job of queue q is done.
fn runs(client: &mut Client) {
    let id: i64 = one(client, "SELECT pgq.put('q')");
    wait_until(PATIENCE, "a job to run", || count(client, &format!("pgq.job WHERE id = {id}")) == 0);
}

#[test]
fn whatever_is_planted_is_found_and_doctors_command_removes_it() {
    let server = Server::builder().conf("pgq.enabled", "off").start();
    let mut client = server.create_database("shop");
    run(&mut client, SETUP);
    assert_eq!(found(&mut client), []);
    for (plant, words) in PLANTED {
        run(&mut client, plant);
        let all = found(&mut client);
        assert!(all.iter().any(|(what, _)| what == words), "{plant}: {all:?}");
        for (_, fix) in &all {
            run(&mut client, if plant.contains("TYPE tamper") { UNDO } else { fix });
        }
        assert_eq!(found(&mut client), [], "{plant}: after {all:?}");
    }
}

#[test]
fn an_index_of_built_in_parts_and_a_plain_check_are_nobodys_business() {
    let (_server, mut client) = start();
    run(
        &mut client,
        "CREATE INDEX plain ON pgq.job (created_at);
         CREATE INDEX by_customer ON pgq.job ((args ->> 'customer')) WHERE state = 'ready';
         CREATE INDEX by_args ON pgq.finished_job USING gin (args jsonb_path_ops);
         ALTER TABLE pgq.job ADD CONSTRAINT small CHECK (priority < 100);
         CREATE STATISTICS few ON queue, state FROM pgq.job;
         CREATE VIEW jobs AS SELECT * FROM pgq.job;
         GRANT SELECT ON pgq.job TO other; CLUSTER pgq.job USING job_pkey",
    );
    run(&mut client, "REINDEX TABLE CONCURRENTLY pgq.job");
    assert_eq!(found(&mut client), []);
    runs(&mut client);
}

#[test]
fn nothing_of_ours_writes_a_table_that_was_changed_and_all_that_reads_goes_on() {
    let (server, mut client) = start();
    run(&mut client, "SELECT pgq.pause()");
    let id: i64 = one(&mut client, "SELECT pgq.put('outside')");
    let mut other = server.connect("shop");
    run(
        &mut client,
        "CREATE TRIGGER counts BEFORE INSERT OR UPDATE OR DELETE ON pgq.job FOR EACH ROW EXECUTE FUNCTION tamper.t()",
    );
    let calls = [
        "pgq.put('outside')".to_owned(),
        "pgq.put('outside', key => 'k', on_conflict => 'replace')".to_owned(),
        "pgq.bulk_put('outside', args => '{1}')".to_owned(),
        "pgq.claim('outside')".to_owned(),
        "pgq.claim('outside', lease => '1 min')".to_owned(),
        format!("pgq.complete({id}, 1)"),
        format!("pgq.fail({id}, 1)"),
        format!("pgq.cancel({id})"),
        "pgq.purge('outside', 'ready')".to_owned(),
    ];
    for session in [&mut client, &mut other] {
        for call in &calls {
            let says = refused(session, &format!("SELECT {call}"));
            assert_eq!(says, format!("{SAYS}trigger counts on pgq.job"), "{call}");
        }
        let waiting: String = one(session, &format!("SELECT pgq.waiting({id})"));
        assert!(waiting.contains("is paused") || waiting.contains("trigger counts"), "{waiting}");
        assert!(one::<String>(session, "SELECT parked FROM pgq.stats('outside')").contains("trigger counts on pgq.job"));
        assert_eq!(one::<String>(session, &format!("SELECT state FROM pgq.wait({id}, '0')")), "ready");
    }
    assert_eq!(count(&mut client, "tamper.seen"), 0, "the trigger never ran");
    let (_, fix) = found(&mut client).remove(0);
    run(&mut client, &fix);
    assert!(one::<bool>(&mut client, "SELECT relhastriggers FROM pg_class WHERE oid = 'pgq.job'::regclass"));
    for session in [&mut client, &mut other] {
        // The flag in pg_class is still set, and means nothing any more.
        run(session, "SELECT pgq.put('outside')");
    }
    run(&mut client, "CREATE TRIGGER counts AFTER INSERT ON pgq.job FOR EACH ROW EXECUTE FUNCTION tamper.t()");
    refused(&mut other, "SELECT pgq.put('outside')");
    assert_eq!(count(&mut client, "tamper.seen"), 0);
}

/// CREATE TRIGGER is not committed when put begins: put waits for its lock, and looks after it got it.
#[test]
fn a_put_that_waited_for_the_trigger_to_be_committed_does_not_run_it() {
    let (server, mut client) = start();
    let mut waiter = server.connect("shop");
    run(&mut waiter, "SELECT pgq.put('outside')");
    let pid: i32 = one(&mut waiter, "SELECT pg_backend_pid()");
    run(&mut client, "BEGIN; CREATE TRIGGER counts BEFORE INSERT ON pgq.job FOR EACH ROW EXECUTE FUNCTION tamper.t()");
    let waiting = std::thread::spawn(move || {
        let says = refused(&mut waiter, "SELECT pgq.put('outside')");
        (waiter, says)
    });
    let mut looker = server.connect("shop");
    let blocked = format!("pg_locks WHERE pid = {pid} AND NOT granted");
    wait_until(PATIENCE, "put to wait for the lock", || count(&mut looker, &blocked) == 1);
    run(&mut client, "COMMIT");
    let (_, says) = waiting.join().expect("the put was refused");
    assert_eq!(says, format!("{SAYS}trigger counts on pgq.job"));
    assert_eq!(count(&mut client, "tamper.seen"), 0);
}

/// One line in the log when the queues stop, one when they go on; no job is touched meanwhile.
#[test]
fn all_queues_stand_still_until_it_is_gone() {
    let (server, mut client) = start();
    runs(&mut client);
    let plants = [
        ("CREATE TRIGGER odd AFTER DELETE ON pgq.job EXECUTE FUNCTION tamper.t()", "DROP TRIGGER odd ON pgq.job"),
        // Found by the catalog only: no flag in pg_class says so.
        ("CREATE INDEX odd ON pgq.job (tamper.f(id))", "DROP INDEX pgq.odd"),
        (
            "CREATE TRIGGER odd AFTER INSERT ON pgq.finished_job EXECUTE FUNCTION tamper.t()",
            "DROP TRIGGER odd ON pgq.finished_job",
        ),
    ];
    for (n, (plant, undo)) in plants.into_iter().enumerate() {
        run(&mut client, "SELECT pgq.pause()");
        let ids: Vec<i64> = (0..20).map(|_| one(&mut client, "SELECT pgq.put('q')")).collect();
        let bad: i64 = one(&mut client, "SELECT pgq.put('bad')");
        run(&mut client, "SELECT pgq.resume(); BEGIN");
        run(&mut client, "LOCK pgq.job IN SHARE ROW EXCLUSIVE MODE");
        let waited = count(&mut client, "pgq.job");
        run(&mut client, plant);
        run(&mut client, "COMMIT");
        let stopped = || server.log().matches("all queues stand still").count();
        wait_until(PATIENCE, "the queues to stand still", || stopped() == n + 1);
        wait_until(PATIENCE, "put to be refused", || client.batch_execute("SELECT pgq.put('q')").is_err());
        assert_eq!(count(&mut client, "pgq.job"), waited, "no job of {ids:?} ran after {plant}");
        let why = "SELECT parked FROM pgq.stats('q')";
        assert!(one::<String>(&mut client, why).starts_with(SAYS));
        run(&mut client, undo);
        wait_until(PATIENCE, "the jobs to run", || count(&mut client, "pgq.job") == 0);
        assert_eq!(count(&mut client, &format!("pgq.finished_job WHERE id = {bad} AND outcome = 'dead'")), 1);
        assert_eq!(stopped(), n + 1, "one line");
        // An executor looks for itself, and may be sooner than the scheduler, which says so.
        let went_on = || server.log().matches("the queues go on").count();
        wait_until(PATIENCE, "the line that says so", || went_on() > n);
        assert_eq!(went_on(), n + 1, "one line");
        assert_eq!(count(&mut client, "tamper.seen"), 0, "{plant}");
    }
    let warnings = server.log().matches("could not go on for a moment").count();
    assert_eq!(warnings, 0, "no executor complains of it");
}
