//! grant_usage and revoke_usage themselves: who may, to whom, what they give and take back, and what becomes of a
//! grant when its role is dropped or the database is dumped.

use pgq_tests::calls::Without::Denied;
use pgq_tests::calls::{ask, grant, refused, start, works};
use pgq_tests::server::binary;
use pgq_tests::{count, one, run};
use postgres::error::SqlState;
use std::process::Command;

/// A grant is bound to the role and not to its name; DROP ROLE is refused while it has one.
#[test]
fn a_role_that_is_re_created_inherits_nothing() {
    let (server, mut client) = start();
    run(&mut client, "CREATE ROLE guest LOGIN; SELECT pgq.grant_usage('guest', 'admin'), pgq.grant_usage('guest', 'produce', 'mine')");
    let error = client.batch_execute("DROP ROLE guest").expect_err("it has privileges");
    assert_eq!(error.code(), Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST));
    run(
        &mut client,
        "DROP OWNED BY guest; DROP ROLE guest; CREATE ROLE guest LOGIN; SELECT public.everything('guest')",
    );
    assert_eq!(count(&mut client, "pgq.queue_grant"), 2, "what is left of the old role");
    let mut guest = server.connect_as("app", "guest");
    refused(&mut guest, "SELECT pgq.put('mine') > 0", Denied, "re-created");
    refused(&mut guest, "SELECT pgq.pause()", Denied, "re-created");
    assert!(grant(&mut client, "grant", "guest", "produce", "'mine'"));
    assert_eq!(count(&mut client, "pgq.queue_grant"), 1, "rows of the old role are removed by the next grant");
    works(&mut guest, "SELECT pgq.put('mine') > 0", Denied, "granted again");
}

#[test]
fn granting_is_for_owners_and_admins_of_all() {
    let (server, mut client) = start();
    run(
        &mut client,
        "CREATE ROLE chief LOGIN; CREATE ROLE deputy LOGIN; CREATE ROLE head LOGIN; CREATE ROLE guest LOGIN;
         GRANT postgres TO deputy;
         SELECT pgq.grant_usage('chief', 'admin'), pgq.grant_usage('head', 'admin', 'mine');
         SELECT public.everything('guest')",
    );
    let mut chief = server.connect_as("app", "chief");
    let mut deputy = server.connect_as("app", "deputy");
    let mut head = server.connect_as("app", "head");
    let mut guest = server.connect_as("app", "guest");
    for what in ["grant", "revoke"] {
        for access in ["produce", "consume", "monitor"] {
            for queue in ["'mine'", "NULL"] {
                let call = format!("SELECT pgq.{what}_usage('guest', '{access}', {queue})");
                works(&mut chief, &call, Denied, "admin of all");
                works(&mut deputy, &call, Denied, "holds the owner's rights");
                refused(&mut head, &call, Denied, "admin of one queue");
                refused(&mut guest, &call, Denied, "EXECUTE only");
            }
        }
        let admin = format!("SELECT pgq.{what}_usage('guest', 'admin', 'mine')");
        refused(&mut chief, &admin, Denied, "only an owner gives admin");
        works(&mut deputy, &admin, Denied, "holds the owner's rights");
    }
    for (call, code) in [
        ("SELECT pgq.grant_usage('nobody', 'produce')", SqlState::UNDEFINED_OBJECT),
        ("SELECT pgq.grant_usage('public', 'produce')", SqlState::UNDEFINED_OBJECT),
        ("SELECT pgq.grant_usage('guest', 'read')", SqlState::INVALID_PARAMETER_VALUE),
        ("SELECT pgq.grant_usage('guest', 'produce', 'a b')", SqlState::INVALID_PARAMETER_VALUE),
        ("SELECT pgq.grant_usage('guest', NULL)", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("SELECT pgq.revoke_usage(NULL, 'produce')", SqlState::NULL_VALUE_NOT_ALLOWED),
        ("SELECT pgq.may('read')", SqlState::INVALID_PARAMETER_VALUE),
    ] {
        let error = ask(&mut client, call).expect_err(call);
        let error = error.as_db_error().expect("of the server");
        assert_eq!(*error.code(), code, "{call}: {error:?}");
        assert!(error.hint().is_some(), "{call}: {error:?}");
    }
}

/// A name is a name: whatever is in it reaches no statement.
#[test]
fn a_role_may_have_any_name() {
    let (server, mut client) = start();
    for name in ["a\"b", "a'b", "Über", "x; DROP ROLE postgres; --", "select", "a\\b"] {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let literal = name.replace('\'', "''");
        run(&mut client, &format!("CREATE ROLE {quoted} LOGIN"));
        assert!(grant(&mut client, "grant", &literal, "produce", "'mine'"), "{name}");
        let mut own = server.connect_as("app", name);
        works(&mut own, "SELECT pgq.put('mine') > 0", Denied, name);
        let hint = refused(&mut own, "SELECT pgq.put('other') > 0", Denied, name).expect("a hint");
        assert!(hint.contains(&format!("grant_usage('{literal}', 'produce', 'other')")), "{hint}");
        assert!(grant(&mut client, "revoke", &literal, "produce", "'mine'"), "{name}");
        drop(own);
        run(&mut client, &format!("DROP ROLE {quoted}"));
    }
}

const ACLS: &str = "
    SELECT string_agg(what || coalesce(acl::text, ' default'), E'\\n' ORDER BY what) FROM (
        SELECT 'function ' || oid::regprocedure, proacl FROM pg_proc WHERE pronamespace = 'pgq'::regnamespace
        UNION ALL SELECT 'relation ' || oid::regclass, relacl FROM pg_class WHERE relnamespace = 'pgq'::regnamespace
        UNION ALL SELECT 'type ' || oid::regtype, typacl FROM pg_type WHERE typnamespace = 'pgq'::regnamespace
        UNION ALL SELECT 'schema', nspacl FROM pg_namespace WHERE nspname = 'pgq') AS object (what, acl)";

#[test]
fn a_revoke_takes_back_all_that_the_grant_gave() {
    let (_server, mut client) = start();
    run(&mut client, "CREATE ROLE guest LOGIN");
    let before: String = one(&mut client, ACLS);
    let accesses = ["produce", "consume", "monitor", "admin"];
    for first in accesses {
        assert!(grant(&mut client, "grant", "guest", first, "'mine'"));
        let alone: String = one(&mut client, ACLS);
        assert_ne!(alone, before);
        for second in accesses {
            for queue in ["'other'", "NULL"] {
                assert!(grant(&mut client, "grant", "guest", second, queue));
                assert!(grant(&mut client, "revoke", "guest", second, queue));
                // Without a queue the grants on single queues went too.
                if first == second && queue == "NULL" {
                    assert!(grant(&mut client, "grant", "guest", first, "'mine'"));
                }
                assert_eq!(one::<String>(&mut client, ACLS), alone, "{second} on {queue} after {first}");
            }
        }
        assert!(grant(&mut client, "revoke", "guest", first, "'mine'"));
        assert_eq!(one::<String>(&mut client, ACLS), before, "{first}");
    }
    run(&mut client, "DROP ROLE guest");
}

/// Two that change one ACL at a time would fail with "tuple concurrently updated".
#[test]
fn concurrent_grants_take_turns() {
    let (server, mut client) = start();
    run(&mut client, "CREATE ROLE one; CREATE ROLE two");
    std::thread::scope(|scope| {
        for role in ["one", "two"] {
            let mut client = server.connect("app");
            scope.spawn(move || {
                for _ in 0..50 {
                    for what in ["grant", "revoke"] {
                        assert!(grant(&mut client, what, role, "admin", "NULL"));
                    }
                }
            });
        }
    });
    assert_eq!(count(&mut client, "pgq.queue_grant"), 0);
}

/// GRANT by statement would run event triggers with the owner's rights.
#[test]
fn no_event_trigger_runs_under_the_raised_role() {
    let (server, mut client) = start();
    run(
        &mut client,
        "CREATE ROLE chief LOGIN; CREATE ROLE guest;
         SELECT pgq.grant_usage('chief', 'admin');
         CREATE TABLE public.seen (who name);
         GRANT ALL ON public.seen TO PUBLIC;
         CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql
            AS $$ BEGIN INSERT INTO public.seen VALUES (current_user); END $$;
         CREATE EVENT TRIGGER note_start ON ddl_command_start EXECUTE FUNCTION public.note();
         CREATE EVENT TRIGGER note_end ON ddl_command_end EXECUTE FUNCTION public.note();
         GRANT USAGE ON SCHEMA public TO guest",
    );
    assert_eq!(count(&mut client, "public.seen"), 2, "the triggers see a GRANT");
    let mut chief = server.connect_as("app", "chief");
    assert!(grant(&mut chief, "grant", "guest", "produce", "NULL"));
    assert!(grant(&mut chief, "revoke", "guest", "produce", "NULL"));
    assert_eq!(count(&mut client, "public.seen"), 2);
}

/// Grants are data of the database: a dump has them, and what PostgreSQL itself asks for.
#[test]
fn a_dump_carries_the_grants() {
    let (server, mut client) = start();
    run(&mut client, "CREATE DATABASE restored");
    run(&mut client, "CREATE ROLE guest LOGIN");
    run(&mut client, "SELECT pgq.grant_usage('guest', 'produce', 'mine'), pgq.grant_usage('guest', 'monitor')");
    let mut dump = Command::new(binary("pg_dump"));
    dump.arg("-h").arg(server.socket_directory()).args(["-p", &server.port().to_string(), "-U", "postgres", "app"]);
    let dumped = dump.output().expect("pg_dump");
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    server.psql("restored", &String::from_utf8_lossy(&dumped.stdout));
    let mut guest = server.connect_as("restored", "guest");
    works(&mut guest, "SELECT pgq.put('mine') > 0", Denied, "restored");
    works(&mut guest, "SELECT count(*) FROM pgq.queues", Denied, "restored");
    refused(&mut guest, "SELECT pgq.put('other') > 0", Denied, "restored");
    // On another server the number may be another role's, and the name a role of another number.
    let mut client = server.connect("restored");
    run(&mut client, "CREATE ROLE other LOGIN; SELECT public.everything('other')");
    run(&mut client, "UPDATE pgq.queue_grant SET role_oid = 'other'::regrole");
    for role in ["guest", "other"] {
        let mut own = server.connect_as("restored", role);
        refused(&mut own, "SELECT pgq.put('mine') > 0", Denied, role);
    }
    assert!(grant(&mut client, "grant", "guest", "produce", "'mine'"));
    works(&mut server.connect_as("restored", "guest"), "SELECT pgq.put('mine') > 0", Denied, "granted again");
    assert_eq!(count(&mut client, "pgq.queue_grant"), 1, "rows of nobody are removed");
}
