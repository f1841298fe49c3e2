//! Databases whose encoding is not UTF-8: what a job carries arrives as it was put, by every way of putting it,
//! and a failure is recorded whatever its message says.

use pgq_tests::{count, one, run, wait_until, Server};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn args_of_a_latin1_database_arrive_as_they_were_put() {
    let server = Server::builder().start();
    let mut admin = server.connect("postgres");
    run(&mut admin, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    let mut client = server.connect("latin");
    run(
        &mut client,
        "CREATE EXTENSION pgq;
         CREATE TABLE seen (name text);
         CREATE FUNCTION note(args jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES (args->>'name') $$;
         CREATE FUNCTION fails(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'pas à %', args; END $$;
         SELECT pgq.register('note', 'note'), pgq.register('fails', 'fails', max_attempts => 1);
         SELECT pgq.put('note', '{\"name\": \"Zoë\"}');
         SELECT pgq.bulk_put('note', args => ARRAY['{\"name\": \"Zoë\"}']::jsonb[]);
         SELECT pgq.bulk_put('note', '[{\"args\": {\"name\": \"Zoë\"}}]');
         SELECT pgq.bulk_put('note', '[{\"args\": {\"name\": \"Zoë\"}, \"key\": \"k\"}]');
         SELECT pgq.put('fails', '\"été\"')",
    );
    wait_until(PATIENCE, "the four names", || count(&mut client, "seen") == 4);
    assert_eq!(count(&mut client, "seen WHERE name = 'Zoë'"), 4);
    wait_until(PATIENCE, "the failing job to be dead", || count(&mut client, "pgq.dead") == 1);
    let message: String = one(&mut client, "SELECT message FROM pgq.dead WHERE args = '\"été\"'");
    assert!(message.starts_with("pas "), "{message}");
}
