//! What put and bulk_put store without a statement: the same rows, in all the indexes that there are, under the same
//! rules as an INSERT.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use pgq_tests::{count, one, run, Server};
use postgres::Client;

/// A server on which nobody works, so that what is put stays.
fn start() -> (Server, Client) {
    let server = Server::builder().conf("pgq.enabled", "off").start();
    let mut client = server.create_database("shop");
    run(&mut client, "CREATE EXTENSION amcheck");
    (server, client)
}

/// Every row of the table is in every B-tree of it.
fn check_indexes(client: &mut Client) {
    let checked: i64 = one(
        client,
        "SELECT count(bt_index_check(i.indexrelid, true)::text)
           FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
          WHERE i.indrelid = 'pgq.job'::regclass AND a.amname = 'btree' AND i.indisvalid",
    );
    assert!(checked >= 5, "{checked} indexes");
}

fn code(client: &mut Client, sql: &str) -> String {
    let error = client.batch_execute(sql).expect_err(sql);
    error.code().expect("an error of the server").code().to_owned()
}

#[test]
fn large_args_arrive_unchanged_by_every_way() {
    let (_server, mut client) = start();
    // Compressible and not, below and above the limit of a tuple, and a row of each size in one batch.
    run(
        &mut client,
        "CREATE TABLE big AS
         SELECT n, jsonb_build_object('a', repeat('x', n), 'b',
                (SELECT string_agg(md5(i::text || n::text), '') FROM generate_series(1, n / 32) AS i)) AS args
           FROM unnest(ARRAY[1, 500, 1900, 2100, 9000, 70000, 300000]) AS n;
         SELECT pgq.put('put', args) FROM big ORDER BY n;
         SELECT pgq.bulk_put('args', args => (SELECT array_agg(args ORDER BY n) FROM big));
         SELECT pgq.bulk_put('jobs', (SELECT jsonb_agg(jsonb_build_object('args', args) ORDER BY n) FROM big))",
    );
    for queue in ["put", "args", "jobs"] {
        let equal = format!(
            "(SELECT args, row_number() OVER (ORDER BY id) FROM pgq.job WHERE queue = '{queue}') AS j (args, place)
             JOIN (SELECT args, row_number() OVER (ORDER BY n) FROM big) AS b (args, place) USING (place)
            WHERE j.args::text = b.args::text"
        );
        assert_eq!(count(&mut client, &equal), 7, "{queue}");
    }
    check_indexes(&mut client);
}

#[test]
fn hundred_thousand_have_their_ids_in_the_order_of_the_array() {
    let (_server, mut client) = start();
    run(
        &mut client,
        "CREATE TABLE got AS SELECT id, place FROM ROWS FROM (pgq.bulk_put('q',
             args => (SELECT array_agg(to_jsonb(n) ORDER BY n) FROM generate_series(1, 100000) AS n)))
             WITH ORDINALITY AS g (id, place)",
    );
    let right = "got JOIN pgq.job AS j USING (id) WHERE j.args::integer = got.place";
    assert_eq!(count(&mut client, right), 100_000);
    let increasing: bool = one(
        &mut client,
        "SELECT bool_and(id > before) FROM (SELECT id, lag(id, 1, 0) OVER (ORDER BY place) FROM got) AS g (id, before)",
    );
    assert!(increasing);
    check_indexes(&mut client);
}

#[test]
fn an_array_is_read_whatever_its_shape() {
    let (_server, mut client) = start();
    for (array, wanted) in [
        ("'{}'", "{}"),
        ("'[5:6]={1,\"{}\"}'", "{1,\"{}\"}"),
        ("'{{1,2},{3,4}}'", "{1,2,3,4}"),
        ("'{1,22222,\"\\\"text\\\"\"}'::jsonb[] || array_fill('2'::jsonb, '{2}')", "{1,22222,\"\\\"text\\\"\",2,2}"),
    ] {
        run(&mut client, "TRUNCATE pgq.job");
        run(&mut client, &format!("SELECT pgq.bulk_put('q', args => {array})"));
        let got: String = one(&mut client, "SELECT coalesce(array_agg(args ORDER BY id), '{}')::text FROM pgq.job");
        assert_eq!(got, wanted, "{array}");
    }
    assert_eq!(code(&mut client, "SELECT pgq.bulk_put('q', args => '{1,2,NULL,3,4,5,6,7,8,9}')"), "22023");
    assert_eq!(code(&mut client, "SELECT pgq.bulk_put('q', args => '{{1,2},{3,NULL}}')"), "22023");
    // A variable of PL/pgSQL holds its array in another form.
    run(
        &mut client,
        "TRUNCATE pgq.job;
         DO $$ DECLARE a jsonb[] := '{}'; BEGIN
             FOR n IN 1..100 LOOP a[n] := to_jsonb(n); END LOOP;
             PERFORM pgq.bulk_put('q', args => a);
         END $$",
    );
    assert_eq!(one::<i64>(&mut client, "SELECT sum(args::integer) FROM pgq.job"), 5_050);
}

#[test]
fn what_somebody_added_to_the_table_is_kept_right() {
    let (_server, mut client) = start();
    run(
        &mut client,
        "SELECT pgq.put('q', '{\"customer\": \"first\"}');
         CREATE INDEX by_customer ON pgq.job ((args ->> 'customer')) WHERE state = 'ready';
         CREATE INDEX by_args ON pgq.job USING gin (args jsonb_path_ops);
         CREATE INDEX by_time ON pgq.job USING brin (created_at);
         ALTER TABLE pgq.job ADD CONSTRAINT small CHECK (priority < 100);
         ALTER TABLE pgq.job ADD COLUMN note text DEFAULT 'n', ADD COLUMN gone integer,
             ADD COLUMN twice integer GENERATED ALWAYS AS (priority * 2) STORED;
         ALTER TABLE pgq.job DROP COLUMN gone;
         SELECT pgq.put('q', '{\"customer\": \"second\"}', 7);
         SELECT pgq.bulk_put('q', args => ARRAY['{\"customer\": \"third\"}', '{\"customer\": \"third\"}']::jsonb[])",
    );
    assert_eq!(count(&mut client, "pgq.job WHERE note = 'n' AND twice = priority * 2"), 4);
    assert_eq!(code(&mut client, "SELECT pgq.put('q', priority => 100)"), "23514");
    assert_eq!(code(&mut client, "SELECT pgq.bulk_put('q', args => '{1,2}', priority => 100)"), "23514");
    run(&mut client, "SELECT pgq.put('q', '{\"customer\": \"third\"}'); SET enable_seqscan = off");
    assert_eq!(count(&mut client, "pgq.job WHERE args ->> 'customer' = 'third' AND state = 'ready'"), 3);
    assert_eq!(count(&mut client, "pgq.job WHERE args @> '{\"customer\": \"third\"}'"), 3);
    assert_eq!(count(&mut client, "pgq.job WHERE created_at > now() - interval '1 hour'"), 5);
    check_indexes(&mut client);
}

#[test]
fn a_unique_constraint_is_looked_at_when_it_says() {
    let (_server, mut client) = start();
    run(&mut client, "ALTER TABLE pgq.job ADD CONSTRAINT one_key UNIQUE (queue, task) DEFERRABLE");
    run(&mut client, "SELECT pgq.put('q', task => 't')");
    assert_eq!(code(&mut client, "SELECT pgq.put('q', task => 't')"), "23505");
    assert_eq!(code(&mut client, "SELECT pgq.bulk_put('q', args => '{1,2}', task => 'u')"), "23505");
    run(&mut client, "BEGIN; SET CONSTRAINTS ALL DEFERRED; SELECT pgq.put('q', task => 't')");
    assert_eq!(code(&mut client, "COMMIT"), "23505");
    run(
        &mut client,
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; SELECT pgq.put('q', task => 't');
         DELETE FROM pgq.job WHERE id = (SELECT min(id) FROM pgq.job WHERE task = 't'); COMMIT",
    );
    assert_eq!(count(&mut client, "pgq.job"), 1);
}

#[test]
fn indexes_that_are_rebuilt_meanwhile_miss_nothing() {
    let (server, mut client) = start();
    let over = AtomicBool::new(false);
    let put = thread::scope(|scope| {
        let putters: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut session = server.connect("shop");
                    let mut put = 0_i64;
                    while !over.load(SeqCst) {
                        run(&mut session, "SELECT pgq.put('q', key => 'k' || random())");
                        run(&mut session, "SELECT pgq.bulk_put('q', args => array_fill('1'::jsonb, '{20}'))");
                        put += 21;
                    }
                    put
                })
            })
            .collect();
        for n in 0..8 {
            run(&mut client, "REINDEX TABLE CONCURRENTLY pgq.job");
            run(&mut client, &format!("CREATE INDEX CONCURRENTLY extra_{n} ON pgq.job (queue, id)"));
            if n > 0 {
                run(&mut client, &format!("DROP INDEX CONCURRENTLY pgq.extra_{}", n - 1));
            }
        }
        over.store(true, SeqCst);
        putters.into_iter().map(|putter| putter.join().expect("a putter")).sum::<i64>()
    });
    assert_eq!(count(&mut client, "pgq.job"), put);
    check_indexes(&mut client);
}

#[test]
fn a_put_keeps_the_rules_of_its_transaction() {
    let (_server, mut client) = start();
    for call in ["pgq.put('q')", "pgq.put('q', key => 'k')", "pgq.bulk_put('q', args => '{1}')"] {
        assert_eq!(code(&mut client, &format!("BEGIN READ ONLY; SELECT {call}")), "25006", "{call}");
        run(&mut client, "ROLLBACK");
    }
    run(
        &mut client,
        "BEGIN; SAVEPOINT s; SELECT pgq.put('rolled'); SELECT pgq.bulk_put('rolled', args => '{1,2}');
         ROLLBACK TO s; SELECT pgq.put('kept'); COMMIT",
    );
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'rolled'"), 0);
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'kept'"), 1);
    // What an error left behind is no obstacle, caught or not, and the same command sees what was put.
    run(
        &mut client,
        "DO $$ DECLARE id bigint; BEGIN
             FOR n IN 1..3 LOOP
                 BEGIN
                     PERFORM pgq.put('caught', priority => n);
                     PERFORM pgq.bulk_put('caught', args => ARRAY['1', NULL]::jsonb[]);
                 EXCEPTION WHEN invalid_parameter_value THEN NULL; END;
                 id := pgq.put('seen');
                 ASSERT EXISTS (SELECT FROM pgq.job AS j WHERE j.id = id);
             END LOOP;
         END $$"
            .replace("id bigint", "put bigint")
            .replace("id := pgq", "put := pgq")
            .replace("j.id = id", "j.id = put")
            .as_str(),
    );
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'caught'"), 0);
    assert_eq!(count(&mut client, "pgq.job WHERE queue = 'seen'"), 3);
}

/// Two transactions that count the jobs and put one as if they were alone: one of them must fail.
#[test]
fn serializable_transactions_that_put_by_what_they_read_conflict() {
    let (server, mut client) = start();
    let mut other = server.connect("shop");
    for put in ["pgq.put('q')", "pgq.bulk_put('q', args => '{1,2}')"] {
        run(&mut client, "TRUNCATE pgq.job");
        for session in [&mut client, &mut other] {
            run(session, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM pgq.job");
        }
        run(&mut client, &format!("SELECT {put}; COMMIT"));
        let second = other.batch_execute(&format!("SELECT {put}; COMMIT")).expect_err(put);
        assert_eq!(second.code().map(|c| c.code()), Some("40001"), "{put}");
        run(&mut other, "ROLLBACK");
    }
}

#[test]
fn the_extension_may_go_and_come_back_in_the_same_session() {
    let (server, mut client) = start();
    let mut other = server.connect("shop");
    for _ in 0..3 {
        run(&mut client, "SELECT pgq.put('q'), pgq.bulk_put('q', args => '{1,2}')");
        run(&mut other, "SELECT pgq.put('q')");
        run(&mut client, "DROP EXTENSION pgq");
        assert!(other.batch_execute("SELECT pgq.put('q')").is_err());
        run(&mut client, "CREATE EXTENSION pgq");
    }
    run(&mut client, "BEGIN; DROP EXTENSION pgq; CREATE EXTENSION pgq; SELECT pgq.put('q'); ROLLBACK");
    run(&mut client, "SELECT pgq.put('q')");
    check_indexes(&mut client);
}

/// Bytes that the session's contexts hold.
const HELD: &str = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts";

#[test]
fn a_session_that_puts_for_ever_does_not_grow() {
    let (_server, mut client) = start();
    let many = "DO $$ BEGIN FOR n IN 1..3000 LOOP
                    PERFORM pgq.put('q', '{\"a\": [1, 2, 3]}');
                    IF n % 100 = 0 THEN
                        PERFORM pgq.bulk_put('q', args => array_fill('{\"a\": 1}'::jsonb, '{2500}'));
                        BEGIN
                            PERFORM pgq.put('q', priority => 100);
                            RAISE 'not refused';
                        EXCEPTION WHEN check_violation THEN NULL; END;
                    END IF;
                END LOOP; END $$";
    run(&mut client, "ALTER TABLE pgq.job ADD CONSTRAINT small CHECK (priority < 100)");
    run(&mut client, many);
    let before: i64 = one(&mut client, HELD);
    for _ in 0..3 {
        run(&mut client, "TRUNCATE pgq.job");
        run(&mut client, many);
    }
    let after: i64 = one(&mut client, HELD);
    assert!(after < before + 200_000, "{before} bytes grew to {after}");
}
