//! Flows and follow-up jobs on real servers: their callbacks are put exactly once, whatever is killed meanwhile, and a
//! job that tells an outcome is there if and only if the outcome is.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::error::SqlState;
use postgres::Client;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

const SHOP: &str = "
    CREATE TABLE ran (id bigint);
    CREATE TABLE told (queue text, args jsonb);
    CREATE FUNCTION work(id bigint, args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO ran VALUES (id);
        IF args = '\"die\"' THEN RAISE 'no'; END IF;
        RETURN jsonb_build_object('n', args); END $$;
    CREATE FUNCTION tell(job pgq.job) RETURNS void LANGUAGE sql
        AS $$ INSERT INTO told VALUES ((job).queue, (job).args) $$;
    SELECT pgq.register('work', 'work', max_attempts => 1), pgq.register('finished', 'tell'),
           pgq.register('succeeded', 'tell'), pgq.register('died', 'tell'), pgq.register('ok', 'tell')";

const FLOW: &str = "pgq.flow('f', on_finished => 'finished', on_succeeded => 'succeeded', on_dead => 'died')";

fn shop() -> (Server, Client) {
    let server = Server::builder().preload(true).start();
    let mut client = server.create_database("shop");
    run(&mut client, SHOP);
    (server, client)
}

fn refused(client: &mut Client, sql: &str) -> (SqlState, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    assert!(error.hint().is_some(), "{sql} has no hint: {error:?}");
    (error.code().clone(), error.message().to_owned())
}

/// At one moment: the end of a flow's last job is read when its callback is put.
fn ended(client: &mut Client) {
    let left = "(SELECT id FROM pgq.job UNION ALL SELECT job FROM pgq.ended
                 UNION ALL SELECT id FROM pgq.flow_state WHERE finished_at IS NULL AND done + dead + cancelled > 0) AS l";
    wait_until(PATIENCE, "all to end", || count(client, left) == 0);
}

/// How often a queue was told of a flow, with what.
fn told(client: &mut Client, queue: &str, flow: i64) -> Vec<(i32, i32, i32)> {
    let sql = "SELECT (args ->> 'done')::int, (args ->> 'dead')::int, (args ->> 'cancelled')::int
                 FROM told WHERE queue = $1 AND args ->> 'flow' = $2 AND args ->> 'name' = 'f'";
    let rows = client.query(sql, &[&queue, &flow.to_string()]).expect("told");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[test]
fn a_flow_tells_its_end_and_its_first_death() {
    let (_server, mut client) = shop();
    let flow: i64 = one(&mut client, &format!("SELECT {FLOW}"));
    let put = format!(
        "SELECT pgq.bulk_put('work', args => array_fill('1'::jsonb, '{{50}}'), flow => {flow}, delay => '1 s')"
    );
    run(&mut client, &put);
    let of = format!("pgq.flows WHERE id = {flow}");
    assert_eq!(count(&mut client, &format!("{of} AND total = 50 AND live = 50 AND finished_at IS NULL")), 1);
    ended(&mut client);
    let over = format!("{of} AND total = 50 AND live = 0 AND done = 50 AND finished_at IS NOT NULL AND succeeded");
    assert_eq!(count(&mut client, &over), 1);
    assert_eq!(told(&mut client, "finished", flow), [(50, 0, 0)]);
    assert_eq!(told(&mut client, "succeeded", flow), [(50, 0, 0)]);
    assert!(told(&mut client, "died", flow).is_empty());
    let (code, message) = refused(&mut client, &format!("SELECT pgq.put('work', flow => {flow})"));
    assert_eq!(code, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert_eq!(message, format!("flow {flow} is finished"));
    assert_eq!(refused(&mut client, "SELECT pgq.put('work', flow => 99)").0, SqlState::UNDEFINED_OBJECT);

    // Two die, one follows, one is cancelled, two come after one another; per element of bulk_put.
    let flow: i64 = one(&mut client, &format!("SELECT {FLOW}"));
    run(
        &mut client,
        &format!(
            "SELECT pgq.bulk_put('work', jobs => '[{{\"args\": \"die\"}}, {{\"args\": \"die\"}}, {{\"flow\": {flow}}}]', flow => {flow});
             SELECT pgq.put('work', flow => {flow}, after => array[pgq.put('work', '\"die\"', flow => {flow}, delay => '1 s')]);
             SELECT pgq.cancel(pgq.put('work', flow => {flow}, delay => '1 h'))"
        ),
    );
    ended(&mut client);
    assert_eq!(told(&mut client, "finished", flow), [(1, 3, 2)]);
    assert_eq!(told(&mut client, "died", flow).len(), 1);
    assert!(told(&mut client, "succeeded", flow).is_empty());
    let failed =
        format!("pgq.flows WHERE id = {flow} AND (total, done, dead, cancelled) = (6, 1, 3, 2) AND NOT succeeded");
    assert_eq!(count(&mut client, &failed), 1);
}

#[test]
fn a_producer_keeps_his_flow_open_and_a_dead_job_that_is_brought_back_counts_once() {
    let (server, mut client) = shop();
    let flow: i64 = one(&mut client, &format!("SELECT {FLOW}"));
    let mut other = server.connect("shop");
    // The last job ends while a producer has put one more, and then thinks better of it.
    run(&mut other, &format!("BEGIN; SELECT pgq.put('work', flow => {flow})"));
    run(&mut client, &format!("SELECT pgq.put('work', flow => {flow})"));
    wait_until(PATIENCE, "it to be counted", || count(&mut client, "pgq.flow_state WHERE done = 1") == 1);
    assert_eq!(count(&mut client, "pgq.flow_state WHERE finished_at IS NOT NULL"), 0);
    run(&mut other, "ROLLBACK");
    wait_until(PATIENCE, "the end", || count(&mut client, "pgq.flow_state WHERE finished_at IS NOT NULL") == 1);
    ended(&mut client);
    assert_eq!(told(&mut client, "finished", flow), [(1, 0, 0)]);

    let flow: i64 = one(&mut client, &format!("SELECT {FLOW}"));
    run(&mut client, &format!("SELECT pgq.put('work', delay => '1 h', key => 'holds', flow => {flow})"));
    let dead: i64 = one(&mut client, &format!("SELECT pgq.put('work', '\"die\"', flow => {flow})"));
    wait_until(PATIENCE, "a death", || count(&mut client, "pgq.flows WHERE dead = 1 AND live = 1") == 1);
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.retry({dead})")));
    wait_until(PATIENCE, "another", || {
        count(&mut client, &format!("ran WHERE id = {dead}")) == 0
            && count(&mut client, "pgq.finished_job WHERE outcome = 'dead' AND attempt = 2") == 1
            && count(&mut client, "pgq.ended") == 0
    });
    assert_eq!(count(&mut client, &format!("pgq.flows WHERE id = {flow} AND (dead, total) = (1, 2)")), 1);
    run(&mut client, "SELECT pgq.cancel(id) FROM pgq.job WHERE key = 'holds'");
    ended(&mut client);
    assert_eq!(told(&mut client, "died", flow).len(), 1);
    assert_eq!(told(&mut client, "finished", flow), [(0, 1, 1)]);
}

/// Flows of jobs that succeed, die and follow each other, while processes are killed.
#[test]
fn callbacks_of_flows_are_put_exactly_once_while_processes_are_killed() {
    const FLOWS: i64 = 40;
    let kills: u32 = std::env::var("PGQ_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let (server, mut client) = shop();
    run(&mut client, "SELECT pgq.register('work', 'work', max_attempts => 1, on_done => 'ok', on_dead => 'bad')");
    run(&mut client, "SELECT pgq.register('bad', 'tell')");
    run(&mut client, &format!("CREATE TABLE flow AS SELECT n, {FLOW} AS id FROM generate_series(1, {FLOWS}) AS n"));
    run(
        &mut client,
        &format!(
            "SELECT pgq.put('work', CASE WHEN n % 2 = 0 AND m = 3 THEN '\"die\"' ELSE '1' END::jsonb, flow => id,
                            delay => random() * 1.6 * interval '{kills} s'), m
               FROM flow, generate_series(1, 10) AS m;
             SELECT pgq.put('work', flow => f.id, after => array_agg(j.id)) FROM flow AS f JOIN pgq.job AS j ON j.flow = f.id
              GROUP BY f.id"
        ),
    );
    let mut killed = 0;
    while killed < kills {
        thread::sleep(Duration::from_millis(700));
        let kind = if killed % 2 == 0 { "pgq scheduler" } else { "pgq executor" };
        let found = server.worker_pids_like(kind, Some("shop"));
        if found.first().is_some_and(|pid| server.try_signal(*pid, libc::SIGKILL)) {
            killed += 1;
            wait_until(PATIENCE, "the crash", || client.batch_execute("SELECT 1").is_err());
            wait_until(PATIENCE, "the server to be back", || server.try_connect("shop", "postgres").is_ok());
            client = server.connect("shop");
        } else if count(&mut client, "pgq.flow_state WHERE finished_at IS NULL") == 0 {
            break;
        }
    }
    println!("{killed} kills");
    assert!(killed * 10 >= kills * 8, "{killed} kills only");
    ended(&mut client);
    assert_eq!(count(&mut client, "pgq.dependency"), 0);
    assert_eq!(count(&mut client, "pgq.flow_state WHERE finished_at IS NULL"), 0);
    // Each of the 11 jobs of a flow, but for the one that dies and the one that follows it in every second.
    let outcomes = "(SELECT args ->> 'id' AS id FROM told WHERE queue IN ('ok', 'bad'))";
    assert_eq!(count(&mut client, "told WHERE queue = 'ok'"), FLOWS * 10);
    assert_eq!(count(&mut client, "told WHERE queue = 'bad'"), FLOWS / 2);
    assert_eq!(count(&mut client, &format!("(SELECT DISTINCT id FROM {outcomes} AS o) AS d")), FLOWS * 21 / 2);
    assert_eq!(count(&mut client, &format!("ran WHERE id::text NOT IN {outcomes}")), 0);
    let flows = client.query("SELECT n::bigint, id FROM flow", &[]).expect("the flows");
    for row in &flows {
        let (n, flow): (i64, i64) = (row.get(0), row.get(1));
        let (sums, deaths) = if n % 2 == 0 { ((9, 1, 1), 1) } else { ((11, 0, 0), 0) };
        assert_eq!(told(&mut client, "finished", flow), [sums], "flow {flow}");
        assert_eq!(told(&mut client, "succeeded", flow).len(), 1 - deaths, "flow {flow}");
        assert_eq!(told(&mut client, "died", flow).len(), deaths, "flow {flow}");
    }
}

/// Handlers that fail in company, at their end, and at the commit.
#[test]
fn follow_up_jobs_are_there_if_and_only_if_the_outcome_is() {
    let (_server, mut client) = shop();
    run(
        &mut client,
        "CREATE TABLE once (id bigint, n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO once VALUES (0, 0);
         CREATE FUNCTION fickle(job pgq.job) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO ran VALUES ((job).id);
            IF (job).id % 7 = 0 THEN RAISE 'for good'; END IF;
            IF (job).id % 5 = 0 AND (job).attempt = 1 THEN RAISE 'the first time'; END IF;
            -- Fails at the commit.
            IF (job).id % 40 = 1 AND (job).attempt = 1 THEN INSERT INTO once VALUES ((job).id, 0); END IF;
            RETURN to_jsonb((job).id * 2); END $$;
         SELECT pgq.register('fickle', 'fickle', max_attempts => 2, backoff => '100 ms', on_done => 'ok', on_dead => 'died');
         SELECT pgq.bulk_put('fickle', args => array_fill('{\"a\": 1}'::jsonb, '{500}'), task => NULL)",
    );
    ended(&mut client);
    assert_eq!(count(&mut client, "ran"), 500 - count(&mut client, "pgq.finished_job WHERE outcome = 'dead'"));
    let right = "told WHERE queue = 'ok' AND args ->> 'outcome' = 'done' AND args ->> 'queue' = 'fickle'
        AND args -> 'task' = 'null' AND args -> 'args' = '{\"a\": 1}' AND args -> 'error' = 'null'
        AND (args ->> 'result')::bigint = 2 * (args ->> 'id')::bigint AND (args ->> 'id')::bigint IN (TABLE ran)";
    assert_eq!(count(&mut client, right), count(&mut client, "ran"));
    assert_eq!(count(&mut client, "told WHERE queue = 'ok'"), count(&mut client, "ran"));
    let dead = "told AS t JOIN pgq.finished_job AS f ON f.id = (t.args ->> 'id')::bigint
        WHERE t.queue = 'died' AND f.outcome = 'dead' AND t.args -> 'error' = f.error AND t.args ->> 'attempt' = '2'";
    assert!(count(&mut client, dead) > 60);
    assert_eq!(count(&mut client, dead), count(&mut client, "told WHERE queue = 'died'"));
    assert_eq!(count(&mut client, dead), count(&mut client, "pgq.finished_job"));
    assert_eq!(count(&mut client, "(SELECT args ->> 'id' FROM told GROUP BY 1 HAVING count(*) > 1) AS twice"), 0);
}

#[test]
fn every_kind_of_end_has_its_follow_up_job() {
    let (server, mut client) = shop();
    run(
        &mut client,
        "CREATE FUNCTION all_of_them(jobs pgq.job[]) RETURNS void LANGUAGE sql AS $$ SELECT $$;
         CREATE PROCEDURE proc(args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
         SELECT pgq.register('sets', 'all_of_them', on_done => 'ok'), pgq.register('proc', 'proc', on_done => 'ok'),
                pgq.register('out', 'work', on_done => 'ok', on_dead => 'died', task => 't');
         SELECT pgq.pause('out');
         SELECT pgq.put('sets'), pgq.put('sets'), pgq.put('proc'), pgq.put('out', task => 't'), pgq.put('out', task => 't')",
    );
    wait_until(PATIENCE, "three", || count(&mut client, "told WHERE args ->> 'outcome' = 'done'") == 3);
    run(&mut client, "SELECT pgq.unregister('out', 't'), pgq.resume('out')");
    run(&mut client, "SELECT pgq.register('out', 'work', on_done => 'ok', on_dead => 'died', task => 'other')");
    // Outside, where a handler of the same pair is registered and parked.
    run(&mut client, "SELECT pgq.claim('out', 2, lease => '1 min')");
    run(&mut client, "SELECT pgq.register('out', 'work', on_done => 'ok', on_dead => 'died', task => 't')");
    let ids: Vec<i64> = client
        .query("SELECT id FROM pgq.job WHERE queue = 'out' ORDER BY id", &[])
        .expect("two")
        .iter()
        .map(|row| row.get(0))
        .collect();
    run(&mut client, &format!("BEGIN; SELECT pgq.complete({}, 1); ROLLBACK", ids[0]));
    assert!(one::<bool>(&mut client, &format!("SELECT pgq.complete({}, 1, '\"r\"')", ids[0])));
    run(&mut client, &format!("SELECT pgq.fail({}, 1, 'no', permanent => true)", ids[1]));
    ended(&mut client);
    assert_eq!(count(&mut client, "told WHERE queue = 'ok' AND args ->> 'result' = 'r'"), 1);
    assert_eq!(count(&mut client, "told WHERE queue = 'died' AND args #>> '{error,message}' = 'no'"), 1);
    assert_eq!(count(&mut client, "told"), 5);
    // Whoever lets pgq put a job must be allowed to put it.
    run(
        &mut client,
        "CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app;
         SELECT pgq.grant_usage('app', 'admin', 'mine'), pgq.grant_usage('app', 'produce', 'mine')",
    );
    let mut app = server.connect_as("shop", "app");
    run(&mut app, "CREATE FUNCTION own() RETURNS void LANGUAGE sql AS $$ SELECT $$");
    for sql in [
        "SELECT pgq.register('mine', 'own', on_done => 'ok')",
        "SELECT pgq.register('mine', 'own', on_dead => 'ok')",
        "SELECT pgq.flow(on_finished => 'ok')",
        "SELECT pgq.flow(on_succeeded => 'ok')",
        "SELECT pgq.flow(on_dead => 'ok')",
    ] {
        assert_eq!(refused(&mut app, sql).0, SqlState::INSUFFICIENT_PRIVILEGE, "{sql}");
    }
    let own = "SELECT pgq.register('mine', 'own', on_done => 'mine')";
    assert_eq!(refused(&mut app, own).0, SqlState::INVALID_PARAMETER_VALUE);
    run(&mut app, "SELECT pgq.register('mine', 'own', task => 't', on_done => 'mine'), pgq.flow(on_dead => 'mine')");
    assert_eq!(count(&mut client, "pgq.flows"), 1);
}
