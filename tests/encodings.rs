//! Databases whose encoding is not UTF-8: what a job carries arrives as it was put, by every way of putting it; keys,
//! names of functions and roles, results and errors may have any letter the database has; and in SQL_ASCII, any byte.

use pgq_tests::{count, one, run, wait_until, Server};
use postgres::Client;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn open(server: &Server, encoding: &str) -> Client {
    let name = format!("in_{}", encoding.to_lowercase());
    let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
    run(&mut server.connect("postgres"), &sql);
    let mut client = server.connect(&name);
    run(&mut client, "CREATE EXTENSION pgq; CREATE TABLE seen (name text)");
    client
}

/// WORD stands for letters beyond ASCII, ENC for the encoding.
const HANDLERS: &str = "
    CREATE ROLE \"r_WORD_ENC\" LOGIN; GRANT INSERT ON seen TO \"r_WORD_ENC\";
    CREATE FUNCTION \"note WORD\"(args jsonb) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO seen VALUES (args->>'name');
        RETURN 'result WORD';
    END $$;
    CREATE FUNCTION fails(args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        RAISE 'no WORD %', args USING DETAIL = 'detail WORD', HINT = 'hint WORD';
    END $$;
    CREATE PROCEDURE \"commits WORD\"(args jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        COMMIT;
        INSERT INTO seen VALUES (args->>'name');
    END $$;";

/// Letters beyond ASCII in everything that a user names or writes.
#[test]
fn letters_beyond_ascii_come_through_in_every_encoding() {
    let server = Server::builder().start();
    for encoding in ["UTF8", "LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252"] {
        let mut client = open(&server, encoding);
        // What both Western and Japanese sets have.
        let word = if encoding == "EUC_JP" { "猫の§" } else { "Zoë§" };
        let quoted = |sql: &str| sql.replace("WORD", word);
        run(&mut client, &quoted(HANDLERS.replace("_ENC", &format!("_{encoding}")).as_str()));
        let role = quoted(&format!("r_WORD_{encoding}"));
        let registered: String =
            one(&mut client, &quoted(&format!("SELECT pgq.register('note', '\"note WORD\"', run_as => '{role}')")));
        assert_eq!(registered, quoted("public.\"note WORD\"(jsonb)"), "{encoding}");
        run(
            &mut client,
            &quoted(&format!(
                "SELECT pgq.configure('note', keep_done => '1 day');
                 SELECT pgq.register('fails', 'fails', max_attempts => 1);
                 SELECT pgq.register('commits', '\"commits WORD\"', run_as => '{role}');
                 SELECT pgq.put('note', '{{\"name\": \"WORD\"}}', key => 'key WORD');
                 SELECT pgq.bulk_put('note', args => ARRAY['{{\"name\": \"WORD\"}}']::jsonb[]);
                 SELECT pgq.bulk_put('note', '[{{\"args\": {{\"name\": \"WORD\"}}}}]');
                 SELECT pgq.bulk_put('note', '[{{\"args\": {{\"name\": \"WORD\"}}, \"key\": \"other WORD\"}}]');
                 SELECT pgq.put('commits', '{{\"name\": \"WORD\"}}'), pgq.put('fails', '\"WORD\"')"
            )),
        );
        let names = quoted("seen WHERE name = 'WORD'");
        wait_until(PATIENCE, "the names", || count(&mut client, &names) == 5);
        wait_until(PATIENCE, "the failing job to be dead", || count(&mut client, "pgq.dead") == 1);
        let dead = quoted(
            "pgq.dead WHERE args = '\"WORD\"' AND message = 'no WORD \"WORD\"' AND error->>'detail' = 'detail WORD'
             AND error->>'hint' = 'hint WORD' AND error->>'context' LIKE '%fails%'",
        );
        let kept: String = one(&mut client, "SELECT error::text FROM pgq.dead");
        assert_eq!(count(&mut client, &dead), 1, "{encoding}: {kept}");
        assert_eq!(count(&mut client, &quoted("pgq.finished_job WHERE result = '\"result WORD\"'")), 4, "{encoding}");
        outside(&mut client, encoding, &quoted);
        refused(&mut client, encoding, &quoted);
    }
}

/// Keys, claims and failures of workers outside.
fn outside(client: &mut Client, encoding: &str, quoted: &dyn Fn(&str) -> String) {
    let put = quoted("SELECT pgq.put('out', '\"WORD\"', key => 'key WORD')");
    let (first, second): (i64, i64) = (one(client, &put), one(client, &put));
    assert_eq!(first, second, "{encoding}: one key, one job");
    let key: String = one(client, "SELECT key FROM pgq.claim('out', lease => '1 min')");
    assert_eq!(key, quoted("key WORD"), "{encoding}");
    let state: String = one(client, &quoted(&format!("SELECT pgq.fail({first}, 1, 'why WORD', permanent => true)")));
    assert_eq!(state, "dead");
    let why = quoted(&format!("pgq.dead WHERE id = {first} AND message = 'why WORD'"));
    assert_eq!(count(client, &why), 1, "{encoding}");
    assert_eq!(count(client, &format!("pgq.wait({first}) WHERE error IS NOT NULL")), 1);
}

/// What is refused is refused as in UTF-8: with its SQLSTATE, and no internal error.
fn refused(client: &mut Client, encoding: &str, quoted: &dyn Fn(&str) -> String) {
    run(client, &quoted("SELECT pgq.put('out', key => 'again WORD')"));
    for (call, code) in [
        ("pgq.put('WORD')", "22023"),
        ("pgq.put('out', task => 'WORD')", "22023"),
        ("pgq.put('out', on_conflict => 'WORD', key => 'x')", "22023"),
        ("pgq.put('out', key => 'again WORD', on_conflict => 'error')", "23505"),
        ("pgq.put('out', key => repeat('WORD', 300))", "22023"),
        ("pgq.bulk_put('out', '[{\"WORD\": 1}]')", "22023"),
        ("pgq.bulk_put('out', '[{\"task\": \"WORD\"}]')", "22023"),
        ("pgq.bulk_put('out', '[{\"delay\": \"WORD\"}]')", "22007"),
        ("pgq.claim(queues => ARRAY['WORD'])", "22023"),
        ("pgq.claim('out', tasks => ARRAY['WORD'])", "22023"),
        ("pgq.register('out', '\"WORD\"')", "42883"),
        ("pgq.register('out', 'fails', run_as => 'WORD')", "42704"),
        ("pgq.unregister('WORD')", "22023"),
        ("pgq.purge('out', 'WORD')", "22023"),
        ("pgq.pause('WORD')", "22023"),
        ("pgq.stats('WORD')", "22023"),
        ("pgq.grant_usage('WORD', 'produce')", "42704"),
    ] {
        let error = client.batch_execute(&quoted(&format!("SELECT {call}"))).expect_err(call);
        assert_eq!(error.code().map(|code| code.code()), Some(code), "{encoding}, {call}: {error:?}");
    }
}

/// Bytes that are no text in any encoding: SQL_ASCII takes them, and so does a key.
#[test]
fn any_byte_is_a_key_in_a_sql_ascii_database() {
    let server = Server::builder().start();
    let mut client = open(&server, "SQL_ASCII");
    run(
        &mut client,
        "CREATE FUNCTION note(job pgq.job) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES (job.key) $$",
    );
    run(&mut client, "SELECT pgq.register('note', 'note'), pgq.put('note', key => E'k\\xff\\x80\\xe9')");
    wait_until(PATIENCE, "the key", || count(&mut client, "seen WHERE name = E'k\\xff\\x80\\xe9'") == 1);
    run(&mut client, "SELECT pgq.put('out', key => E'\\xe9')");
    let error =
        client.batch_execute("SELECT pgq.put('out', key => E'\\xe9', on_conflict => 'error')").expect_err("a key");
    assert_eq!(error.code().map(|code| code.code()), Some("23505"), "{error:?}");
}
