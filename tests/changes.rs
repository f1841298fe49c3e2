//! on_change on real tables: which jobs a statement puts, and who may have it put.

use pgq_tests::{count, one, run, Server};
use postgres::error::SqlState;
use postgres::Client;

fn shop() -> (Server, Client) {
    let server = Server::builder().conf("pgq.enabled", "off").start();
    let mut client = server.create_database("shop");
    run(
        &mut client,
        "CREATE TABLE orders (id int, customer text, total numeric, note json);
         CREATE TABLE \"odd.name\" (\"a\"\"b\" int);",
    );
    (server, client)
}

/// What the queue got since the last time: event and key of each job, in order.
fn put(client: &mut Client) -> Vec<String> {
    let sql = "WITH gone AS (DELETE FROM pgq.job RETURNING queue, args)
        SELECT concat_ws(' ', queue, args ->> 'relation', args ->> 'event', args ->> 'key') FROM gone ORDER BY 1";
    client.query(sql, &[]).expect("the jobs").iter().map(|row| row.get(0)).collect()
}

fn refused(client: &mut Client, sql: &str) -> SqlState {
    let error = client.batch_execute(sql).expect_err(sql);
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone()
}

#[test]
fn one_job_a_statement_that_changed_something() {
    let (_server, mut client) = shop();
    assert_eq!(one::<i32>(&mut client, "SELECT pgq.on_change('orders', 'index')"), 3);
    run(&mut client, "INSERT INTO orders SELECT n, 'ada' FROM generate_series(1, 100) AS n");
    assert_eq!(put(&mut client), ["index public.orders insert"]);
    run(&mut client, "UPDATE orders SET total = 1; DELETE FROM orders WHERE id > 90");
    assert_eq!(put(&mut client), ["index public.orders delete", "index public.orders update"]);
    run(&mut client, "UPDATE orders SET total = 1 WHERE false; DELETE FROM orders WHERE id > 90");
    run(&mut client, "BEGIN; DELETE FROM orders WHERE id = 1; ROLLBACK");
    run(
        &mut client,
        "INSERT INTO orders SELECT 1, 'x' WHERE false; BEGIN; SAVEPOINT s; DELETE FROM orders WHERE id = 1;
        ROLLBACK TO s; COMMIT",
    );
    assert_eq!(put(&mut client), [""; 0]);
    // COPY and ON CONFLICT are statements too.
    run(
        &mut client,
        "ALTER TABLE orders ADD PRIMARY KEY (id);
        INSERT INTO orders VALUES (1, 'x'), (1000, 'y') ON CONFLICT (id) DO UPDATE SET customer = 'z'",
    );
    assert_eq!(put(&mut client), ["index public.orders insert", "index public.orders update"]);
    assert_eq!(one::<i32>(&mut client, "SELECT pgq.off_change('orders')"), 3);
    run(&mut client, "DELETE FROM orders");
    assert_eq!(put(&mut client), [""; 0]);
}

#[test]
fn one_job_for_each_value_of_the_key() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.on_change('orders', 'customers', key => '{customer}')");
    run(&mut client, "INSERT INTO orders SELECT n, 'c' || n % 1000, 5 FROM generate_series(1, 100000) AS n");
    let jobs = put(&mut client);
    assert_eq!(jobs.len(), 1_000);
    assert_eq!(jobs[0], "customers public.orders insert {\"customer\": \"c0\"}");
    run(&mut client, "UPDATE orders SET total = 7 WHERE customer IN ('c1', 'c2')");
    assert_eq!(put(&mut client).len(), 2);
    // A row that goes over to another value counts for both; NULL is a value.
    run(&mut client, "UPDATE orders SET customer = NULL WHERE customer = 'c1'");
    assert_eq!(
        put(&mut client),
        [
            "customers public.orders update {\"customer\": \"c1\"}",
            "customers public.orders update {\"customer\": null}"
        ]
    );
    run(&mut client, "BEGIN; DELETE FROM orders; ROLLBACK");
    assert_eq!(put(&mut client), [""; 0]);
    run(&mut client, "SELECT pgq.on_change('orders', 'customers', '{delete}', key => '{customer,id}')");
    run(&mut client, "UPDATE orders SET total = 8; DELETE FROM orders WHERE id IN (2, 3)");
    assert_eq!(
        put(&mut client),
        [
            "customers public.orders delete {\"id\": 2, \"customer\": \"c2\"}",
            "customers public.orders delete {\"id\": 3, \"customer\": \"c3\"}"
        ]
    );
}

#[test]
fn an_update_counts_where_it_changes_a_column() {
    let (_server, mut client) = shop();
    run(&mut client, "INSERT INTO orders SELECT n, 'c' || n % 3, 5, '{}' FROM generate_series(1, 9) AS n");
    run(
        &mut client,
        "SELECT pgq.on_change('orders', 'totals', '{update}', '{total,note}', '{customer}'),
                pgq.on_change('orders', 'all', '{update}', columns => '{total,note}')",
    );
    run(&mut client, "UPDATE orders SET total = 5, id = id + 1");
    assert_eq!(put(&mut client), [""; 0]);
    run(&mut client, "UPDATE orders SET total = CASE WHEN customer = 'c1' THEN 6 ELSE total END");
    assert_eq!(put(&mut client), ["all public.orders update", "totals public.orders update {\"customer\": \"c1\"}"]);
    // A column of the key may be watched too.
    run(&mut client, "SELECT pgq.on_change('orders', 'both', '{update}', '{customer,total}', '{customer}')");
    run(&mut client, "UPDATE orders SET customer = 'c7' WHERE customer = 'c2' AND id IN (SELECT max(id) FROM orders WHERE customer = 'c2')");
    assert_eq!(
        put(&mut client),
        [
            "both public.orders update {\"customer\": \"c2\"}",
            "both public.orders update {\"customer\": \"c7\"}",
            "totals public.orders update {\"customer\": \"c2\"}",
            "totals public.orders update {\"customer\": \"c7\"}"
        ]
    );
    run(&mut client, "SELECT pgq.off_change('orders', 'both')");
    run(&mut client, "UPDATE orders SET note = '{\"a\": 1}' WHERE customer = 'c2'");
    assert_eq!(put(&mut client).len(), 2);
    // Two rows of one customer that exchange what is watched: nothing is different for that customer.
    run(&mut client, "UPDATE orders SET total = id WHERE customer = 'c0'; DELETE FROM pgq.job");
    run(
        &mut client,
        "UPDATE orders AS o SET total = (SELECT sum(id) - o.total FROM orders WHERE customer = 'c0' AND id IN (4, 7))
        WHERE customer = 'c0' AND id IN (4, 7)",
    );
    assert_eq!(put(&mut client), [""; 0]);
}

/// What a session remembers of a trigger is forgotten when the table, or the trigger, becomes another.
#[test]
fn a_table_that_is_changed_meanwhile_is_read_as_it_is() {
    let (_server, mut client) = shop();
    run(&mut client, "SELECT pgq.on_change('orders', 'q', key => '{id}')");
    for n in 1..=3 {
        run(&mut client, &format!("INSERT INTO orders VALUES ({n}, 'a', 1)"));
    }
    assert_eq!(put(&mut client).len(), 3);
    run(
        &mut client,
        "ALTER TABLE orders ALTER id TYPE text USING 'n' || id, DROP COLUMN note; INSERT INTO orders VALUES ('x')",
    );
    assert_eq!(put(&mut client), ["q public.orders insert {\"id\": \"x\"}"]);
    run(&mut client, "SELECT pgq.on_change('orders', 'q', key => '{customer}'); INSERT INTO orders VALUES ('y', 'b')");
    assert_eq!(put(&mut client), ["q public.orders insert {\"customer\": \"b\"}"]);
    run(&mut client, "ALTER TABLE orders RENAME TO bills; INSERT INTO bills VALUES ('z', 'c')");
    assert_eq!(put(&mut client), ["q public.bills insert {\"customer\": \"c\"}"]);
    // Within a call of its own: a trigger of ours fires inside of another statement's function.
    run(
        &mut client,
        "CREATE FUNCTION more() RETURNS void LANGUAGE sql AS $$ INSERT INTO bills VALUES ('v', 'd') $$;
         INSERT INTO bills SELECT 'w', 'e' FROM more()",
    );
    assert_eq!(put(&mut client).len(), 2);
}

#[test]
fn names_of_every_kind_work_and_what_is_not_there_is_told() {
    let (_server, mut client) = shop();
    let long = "q".repeat(59);
    run(&mut client, &format!("SELECT pgq.on_change('\"odd.name\"', '{long}', key => ARRAY['a\"b'])"));
    run(&mut client, "INSERT INTO \"odd.name\" VALUES (7)");
    assert_eq!(put(&mut client), [format!("{long} public.odd.name insert {{\"a\\\"b\": 7}}")]);
    assert_eq!(one::<i32>(&mut client, &format!("SELECT pgq.off_change('\"odd.name\"', '{long}')")), 3);
    for (call, state) in [
        ("on_change('orders', 'q', key => '{nothing}')", SqlState::UNDEFINED_COLUMN),
        ("on_change('orders', 'q', columns => '{nothing}')", SqlState::UNDEFINED_COLUMN),
        ("on_change('orders', 'q', key => '{note}')", SqlState::UNDEFINED_FUNCTION),
        ("on_change('orders', 'q', '{truncate}')", SqlState::INVALID_PARAMETER_VALUE),
        ("on_change('orders', 'q', key => '{id,total,id}')", SqlState::INVALID_PARAMETER_VALUE),
        ("on_change('orders', 'q', '{}')", SqlState::INVALID_PARAMETER_VALUE),
        ("on_change('orders', 'q', '{insert}', '{total}')", SqlState::INVALID_PARAMETER_VALUE),
        ("on_change('orders', 'no queue')", SqlState::INVALID_PARAMETER_VALUE),
        ("on_change('nothing', 'q')", SqlState::UNDEFINED_TABLE),
        ("on_change(NULL, 'q')", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("on_change('pg_stat_activity', 'q')", SqlState::WRONG_OBJECT_TYPE),
    ] {
        assert_eq!(refused(&mut client, &format!("SELECT pgq.{call}")), state, "{call}");
    }
    assert_eq!(count(&mut client, "pg_trigger WHERE NOT tgisinternal"), 0);
    run(
        &mut client,
        "CREATE TRIGGER wrong BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION pgq.change_trigger('q', '0')",
    );
    assert_eq!(refused(&mut client, "INSERT INTO orders VALUES (1)"), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
}

#[test]
fn the_tables_owner_must_have_the_right_to_put() {
    let (server, mut client) = shop();
    run(
        &mut client,
        "CREATE ROLE app LOGIN; CREATE ROLE guest LOGIN; CREATE SCHEMA app AUTHORIZATION app;
         SELECT pgq.grant_usage('app', 'produce', 'index')",
    );
    let mut app = server.connect_as("shop", "app");
    run(&mut app, "CREATE TABLE app.t (id int); GRANT USAGE ON SCHEMA app TO guest; GRANT INSERT ON app.t TO guest");
    assert_eq!(one::<i32>(&mut app, "SELECT pgq.on_change('app.t', 'index', key => '{id}')"), 3);
    for call in ["on_change('app.t', 'other')", "on_change('orders', 'index')"] {
        assert_eq!(refused(&mut app, &format!("SELECT pgq.{call}")), SqlState::INSUFFICIENT_PRIVILEGE, "{call}");
    }
    // By hand, into a queue that is not his.
    run(
        &mut app,
        "CREATE TABLE app.u (id int);
         CREATE TRIGGER mine AFTER INSERT ON app.u REFERENCING NEW TABLE AS n FOR EACH STATEMENT
         EXECUTE FUNCTION pgq.change_trigger('other', '0')",
    );
    assert_eq!(refused(&mut app, "INSERT INTO app.u VALUES (1)"), SqlState::INSUFFICIENT_PRIVILEGE);
    // Who changes the table needs nothing of pgq.
    run(&mut server.connect_as("shop", "guest"), "INSERT INTO app.t VALUES (1)");
    assert_eq!(put(&mut client), ["index app.t insert {\"id\": 1}"]);
    run(&mut client, "SELECT pgq.revoke_usage('app', 'produce', 'index')");
    assert_eq!(refused(&mut app, "INSERT INTO app.t VALUES (2)"), SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(put(&mut client), [""; 0]);
}
