//! Who may call what on which queue: grant_usage, its inverse, and what each function does with a caller who has
//! the right, has none, has it elsewhere, had it, or has it by membership.

use pgq_tests::{count, one, run, Server};
use postgres::error::SqlState;
use postgres::{Client, NoTls};

/// What a call does for somebody who has no right to it.
#[derive(Clone, Copy)]
enum Without {
    /// 42501 with the command that gives the right.
    Denied,
    /// This answer: as if the job were not there.
    Answer(&'static str),
    /// 42704: as if the job were not there.
    NoSuchJob,
}
use Without::{Answer, Denied, NoSuchJob};

/// (access, call, what it does without): {q} is the queue; {ready}, {leased}, {dead} are jobs of it.
const CALLS: &[(&str, &str, Without)] = &[
    ("produce", "SELECT pgq.put('{q}') > 0", Denied),
    ("produce", "SELECT count(*) FROM pgq.bulk_put('{q}', args => '{1}')", Denied),
    ("produce", "SELECT count(*) FROM pgq.bulk_put('{q}', jobs => '[{}]')", Denied),
    ("produce", "SELECT state FROM pgq.wait({ready}, '0')", Answer("gone")),
    ("produce", "SELECT state FROM pgq.wait({dead}, '0')", Answer("gone")),
    ("consume", "SELECT state FROM pgq.wait({ready}, '0')", Answer("gone")),
    ("consume", "SELECT count(*) FROM pgq.claim('{q}', lease => '1 min')", Denied),
    ("consume", "SELECT count(*) FROM pgq.claim(queues => '{{q}}')", Denied),
    ("consume", "SELECT pgq.complete({leased}, 1)", Answer("false")),
    ("consume", "SELECT count(*) FROM pgq.bulk_complete('{{leased}}', '{1}')", Answer("0")),
    ("consume", "SELECT pgq.fail({leased}, 1)", Answer("")),
    ("consume", "SELECT pgq.fail({ready}, 1)", Answer("")),
    ("consume", "SELECT pgq.extend({leased}, 1, '1 h') > now()", Answer("")),
    ("consume", "SELECT pgq.release({leased}, 1)", Answer("false")),
    ("monitor", "SELECT queue FROM pgq.stats('{q}')", Denied),
    ("produce", "SELECT queue FROM pgq.stats('{q}')", Denied),
    ("consume", "SELECT queue FROM pgq.stats('{q}')", Denied),
    ("monitor", "SELECT pgq.waiting({ready}) LIKE 'it does not wait%'", Answer("true")),
    ("produce", "SELECT pgq.waiting({ready}) LIKE 'it does not wait%'", Answer("true")),
    ("consume", "SELECT pgq.waiting({dead}) = 'it does not wait: dead'", Answer("false")),
    ("monitor", "SELECT count(*) FROM pgq.queues WHERE queue = '{q}'", Answer("0")),
    ("monitor", "SELECT count(*) FROM pgq.doctor() WHERE detail = 'queue \"{q}\"'", Answer("0")),
    ("admin", "SELECT pgq.register('{q}', 'public.noop', task => 'new', run_as => current_user)", Denied),
    ("admin", "SELECT pgq.unregister('{q}')", Denied),
    ("admin", "SELECT queue FROM pgq.configure('{q}', keep_done => '1 day')", Denied),
    ("admin", "SELECT pgq.pause('{q}')", Denied),
    ("admin", "SELECT pgq.resume('{q}')", Denied),
    ("admin", "SELECT pgq.redrive('{q}')", Denied),
    ("admin", "SELECT pgq.purge('{q}', 'dead')", Denied),
    ("admin", "SELECT pgq.cancel({ready})", Answer("")),
    ("admin", "SELECT pgq.cancel({leased}, true)", Answer("")),
    ("admin", "SELECT pgq.retry({ready})", Answer("false")),
    ("admin", "SELECT pgq.retry({dead})", Answer("false")),
    ("admin", "SELECT pgq.run({ready})", NoSuchJob),
    ("admin", "SELECT count(*) FROM pgq.dead WHERE queue = '{q}'", Answer("0")),
    ("admin", "SELECT pgq.put('{q}') > 0", Denied),
    ("admin", "SELECT count(*) FROM pgq.claim('{q}', lease => '1 min')", Denied),
    ("admin", "SELECT pgq.complete({leased}, 1)", Answer("false")),
    ("admin", "SELECT count(*) FROM pgq.queues WHERE queue = '{q}'", Answer("0")),
];

/// A server whose workers do nothing, so that jobs stay as they are.
fn start() -> (Server, Client) {
    let server = Server::builder().preload(true).conf("pgq.enabled", "off").start();
    let mut client = server.create_database("app");
    run(
        &mut client,
        "CREATE FUNCTION public.noop() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION public.everything(role name) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            EXECUTE format('GRANT USAGE ON SCHEMA pgq TO %1$I;
                GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgq TO %1$I;
                GRANT SELECT ON pgq.queues, pgq.running, pgq.workers, pgq.dead TO %1$I', role); END $$;",
    );
    (server, client)
}

/// Puts a ready, a leased and a dead job into the queue, with a handler that runs as the role, and pauses it where
/// that is looked for.
fn filled(client: &mut Client, queue: &str, role: &str, call: &str) -> String {
    run(
        client,
        &format!("SELECT pgq.purge('{queue}', state) FROM unnest('{{ready,dead,cancelled}}'::text[]) AS state"),
    );
    run(client, &format!("SELECT pgq.cancel(id, true) FROM pgq.job WHERE queue = '{queue}'"));
    run(client, &format!("SELECT pgq.resume('{queue}'), pgq.register('{queue}', 'public.noop', run_as => '{role}')"));
    let mut job = |after: &str| -> i64 {
        let id = one(client, &format!("SELECT pgq.put('{queue}', priority => 5)"));
        if !after.is_empty() {
            run(client, &format!("SELECT pgq.claim('{queue}', lease => '1 h')"));
            run(client, &after.replace("{id}", &i64::to_string(&id)));
        }
        id
    };
    let dead = job("SELECT pgq.fail({id}, 1, permanent => true)");
    let leased = job("SELECT 1");
    let ready = job("");
    if call.contains("resume") || call.contains("doctor") {
        run(client, &format!("SELECT pgq.pause('{queue}')"));
    }
    call.replace("{q}", queue)
        .replace("{ready}", &ready.to_string())
        .replace("{leased}", &leased.to_string())
        .replace("{dead}", &dead.to_string())
}

/// The one value of a call as text, or its error.
fn ask(client: &mut Client, call: &str) -> Result<String, postgres::Error> {
    let rows = client.simple_query(call)?;
    let value = rows.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
        _ => None,
    });
    Ok(match value.unwrap_or_else(|| panic!("no row: {call}")).as_str() {
        "t" => "true".into(),
        "f" => "false".into(),
        other => other.into(),
    })
}

/// The call must go as it does without the right; the HINT, where there is one.
fn refused(client: &mut Client, call: &str, without: Without, when: &str) -> Option<String> {
    let answer = ask(client, call);
    let error = |answer: Result<String, postgres::Error>| match answer {
        Ok(value) => panic!("{when}: not refused, but {value:?}: {call}"),
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{error}")).clone(),
    };
    match without {
        Denied => {
            let error = error(answer);
            assert_eq!(*error.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{when}: {call}: {error:?}");
            Some(error.hint().unwrap_or_default().to_owned())
        }
        NoSuchJob => {
            let error = error(answer);
            assert_eq!(*error.code(), SqlState::UNDEFINED_OBJECT, "{when}: {call}: {error:?}");
            None
        }
        Answer(expected) => {
            let value = answer.unwrap_or_else(|error| panic!("{when}: {call}: {error:?}"));
            assert_eq!(value, expected, "{when}: {call}");
            None
        }
    }
}

/// The call must do what it is for.
fn works(client: &mut Client, call: &str, without: Without, when: &str) {
    let value = ask(client, call).unwrap_or_else(|error| panic!("{when}: {call}: {error:?}"));
    if let Answer(nothing) = without {
        assert_ne!(value, nothing, "{when}: {call}");
    }
}

fn grant(client: &mut Client, what: &str, role: &str, access: &str, queue: &str) -> bool {
    one(client, &format!("SELECT pgq.{what}_usage('{role}', '{access}', {queue})"))
}

#[test]
fn each_function_asks_for_its_right_on_its_queue() {
    let (server, mut client) = start();
    run(&mut client, "CREATE ROLE member LOGIN; CREATE ROLE stranger LOGIN NOINHERIT");
    let mut member = server.connect_as("app", "member");
    let mut stranger = server.connect_as("app", "stranger");
    run(&mut client, "SELECT public.everything('member'), public.everything('stranger')");
    for (n, (access, call, without)) in CALLS.iter().enumerate() {
        let role = format!("role_{n}");
        run(&mut client, &format!("CREATE ROLE {role} LOGIN; GRANT {role} TO member, stranger"));
        let mut own = server.connect_as("app", &role);
        // EXECUTE alone, and the right on another queue.
        run(&mut client, &format!("SELECT public.everything('{role}')"));
        let made = filled(&mut client, "mine", &role, call);
        // doctor and the views' functions want a right on some queue, and then show what is in it.
        if !call.contains("doctor") {
            refused(&mut own, &made, *without, "EXECUTE alone");
        }
        for access in ["produce", "consume", "monitor", "admin"] {
            assert!(grant(&mut client, "grant", &role, access, "'other'"));
        }
        let hint = refused(&mut own, &made, *without, "the right on another queue");
        if let Some(hint) = hint {
            let given = format!("SELECT pgq.grant_usage('{role}', '");
            assert!(hint.contains(&given) && hint.contains("', 'mine');"), "{hint}");
            // The HINT is the command to type.
            run(
                &mut client,
                hint.split_once("SELECT").map(|(_, rest)| format!("SELECT{rest}")).expect("a command").as_str(),
            );
            let made = filled(&mut client, "mine", &role, call);
            works(&mut own, &made, *without, "what the HINT says");
            for access in ["produce", "consume", "monitor", "admin"] {
                grant(&mut client, "revoke", &role, access, "'mine'");
            }
        }
        for queue in ["'mine'", "NULL"] {
            assert!(grant(&mut client, "grant", &role, access, queue));
            assert!(!grant(&mut client, "grant", &role, access, queue), "granted twice");
            let made = filled(&mut client, "mine", &role, call);
            works(&mut own, &made, *without, queue);
            if !call.contains("pgq.run") && !call.contains("register") {
                let made = filled(&mut client, "mine", &role, call);
                works(&mut member, &made, *without, "a member");
            }
            let made = filled(&mut client, "mine", &role, call);
            if !call.contains("doctor") {
                refused(&mut stranger, &made, *without, "a member that does not inherit");
            }
            assert!(grant(&mut client, "revoke", &role, access, queue));
            assert!(!grant(&mut client, "revoke", &role, access, queue), "revoked twice");
            if queue != "NULL" {
                let made = filled(&mut client, "mine", &role, call);
                refused(&mut own, &made, *without, "revoked");
            }
        }
        run(&mut client, &format!("SELECT pgq.unregister('mine'), pgq.unregister('mine', 'new')"));
        drop(own);
        run(&mut client, &format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}

/// Another access to the queue is no secret: then the answer is a refusal and not a lie.
#[test]
fn who_may_see_the_queue_is_told_what_he_lacks() {
    let (server, mut client) = start();
    run(&mut client, "CREATE ROLE guest LOGIN; SELECT public.everything('guest')");
    run(&mut client, "SELECT pgq.grant_usage('guest', 'monitor', 'mine')");
    let mut guest = server.connect_as("app", "guest");
    for call in ["wait({ready}, '0')", "wait({dead}, '0')", "cancel({ready})", "retry({dead})", "run({ready})"] {
        let made = filled(&mut client, "mine", "postgres", &format!("SELECT pgq.{call}"));
        let hint = refused(&mut guest, &made, Denied, "monitor only").expect("a hint");
        assert!(hint.contains("pgq.grant_usage('guest', '"), "{hint}");
    }
}

/// stats, the views and doctor show the queues that the caller has to do with, and no others.
#[test]
fn what_is_shown_is_of_the_callers_queues_only() {
    let (server, mut client) = start();
    run(&mut client, "CREATE ROLE guest LOGIN");
    for queue in ["mine", "other"] {
        filled(&mut client, queue, "postgres", "resume");
    }
    run(&mut client, "SELECT pgq.grant_usage('guest', 'monitor', 'mine'), pgq.grant_usage('guest', 'produce', 'made')");
    let mut guest = server.connect_as("app", "guest");
    for from in ["pgq.stats()", "pgq.queues"] {
        assert_eq!(count(&mut guest, &format!("{from} WHERE queue = 'mine'")), 1, "{from}");
        assert_eq!(count(&mut guest, from), 1, "{from}");
    }
    let paused = "pgq.doctor() WHERE check_name = 'paused queues'";
    assert_eq!(count(&mut guest, paused), 1);
    assert_eq!(count(&mut guest, &format!("{paused} AND detail = 'queue \"mine\"'")), 1);
    run(&mut client, "SELECT pgq.put('made')");
    assert_eq!(count(&mut guest, "pgq.stats()"), 2);
    // A function of the caller's own is not shown a row before the view has chosen it.
    run(
        &mut client,
        "SELECT pgq.grant_usage('guest', 'admin', 'mine');
         CREATE SCHEMA guest AUTHORIZATION guest",
    );
    run(
        &mut guest,
        "CREATE FUNCTION guest.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN
            IF $1 <> 'mine' THEN RAISE 'seen: %', $1; END IF; RETURN true; END $$",
    );
    for view in ["queues", "dead", "running", "workers"] {
        run(&mut guest, &format!("SELECT * FROM pgq.{view} WHERE guest.leak(queue)"));
    }
    assert_eq!(count(&mut guest, "pgq.dead"), 1);
    assert_eq!(count(&mut client, "pgq.dead"), 2);
}

/// A revoke that has committed counts from the next call on, in whatever transaction; a grant too.
#[test]
fn a_committed_change_counts_from_the_next_call_on() {
    let (server, mut client) = start();
    run(&mut client, "CREATE ROLE guest LOGIN; SELECT public.everything('guest')");
    let put = "SELECT pgq.put('mine') > 0";
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        for _ in 0..50 {
            let mut guest = server.connect_as("app", "guest");
            // A savepoint, so that the transaction outlives the refusal.
            run(&mut guest, &format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1; SAVEPOINT s"));
            refused(&mut guest, put, Denied, isolation);
            run(&mut guest, "ROLLBACK TO s");
            grant(&mut client, "grant", "guest", "produce", "'mine'");
            works(&mut guest, put, Denied, isolation);
            works(&mut guest, put, Denied, isolation);
            // EXECUTE stays by the other grant, so that ours is what refuses.
            grant(&mut client, "grant", "guest", "produce", "'other'");
            grant(&mut client, "revoke", "guest", "produce", "'mine'");
            refused(&mut guest, put, Denied, isolation);
            run(&mut guest, "ROLLBACK");
            grant(&mut client, "revoke", "guest", "produce", "'other'");
            run(&mut client, "SELECT public.everything('guest')");
        }
    }
}

/// Memberships, and changes that were rolled back, in the session that made them.
#[test]
fn what_is_remembered_of_rights_is_forgotten_in_time() {
    let (_server, mut client) = start();
    run(
        &mut client,
        "CREATE ROLE guest LOGIN; CREATE ROLE grantee; SELECT pgq.grant_usage('guest', 'produce', 'other')",
    );
    let may = "SELECT pgq.may('produce', 'mine')";
    fn as_guest(client: &mut Client, sql: &str) -> bool {
        run(client, "SET ROLE guest");
        let answer = one(client, sql);
        run(client, "RESET ROLE");
        answer
    }
    assert!(!as_guest(&mut client, may));
    run(&mut client, "BEGIN; SELECT pgq.grant_usage('guest', 'produce', 'mine')");
    assert!(as_guest(&mut client, may));
    run(&mut client, "ROLLBACK");
    assert!(!as_guest(&mut client, may), "a grant that was rolled back");
    run(&mut client, "BEGIN; SAVEPOINT s; SELECT pgq.grant_usage('guest', 'produce', 'mine')");
    assert!(as_guest(&mut client, may));
    run(&mut client, "ROLLBACK TO s");
    assert!(!as_guest(&mut client, may), "a grant whose savepoint was rolled back");
    run(&mut client, "COMMIT; SELECT pgq.grant_usage('grantee', 'produce', 'mine')");
    assert!(!as_guest(&mut client, may));
    run(&mut client, "GRANT grantee TO guest");
    assert!(as_guest(&mut client, may), "a membership");
    run(&mut client, "ALTER ROLE grantee RENAME TO renamed");
    assert!(!as_guest(&mut client, may), "another name");
    run(&mut client, "ALTER ROLE renamed RENAME TO grantee");
    assert!(as_guest(&mut client, may), "its name again");
    run(&mut client, "REVOKE grantee FROM guest");
    assert!(!as_guest(&mut client, may), "no membership any more");
    run(&mut client, "ALTER ROLE guest SUPERUSER");
    assert!(as_guest(&mut client, may), "a superuser");
    run(&mut client, "ALTER ROLE guest NOSUPERUSER");
    assert!(!as_guest(&mut client, may), "no superuser any more");
}

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
    let url = |role: &str| {
        format!(
            "host={} port={} user=postgres dbname=app application_name={role}",
            server.socket_directory().display(),
            server.port()
        )
    };
    run(&mut client, "CREATE ROLE one; CREATE ROLE two");
    let threads: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|role| {
            let url = url(role);
            std::thread::spawn(move || {
                let mut client = Client::connect(&url, NoTls).expect("connected");
                for _ in 0..50 {
                    for what in ["grant", "revoke"] {
                        assert!(grant(&mut client, what, role, "admin", "NULL"));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("each grant went through");
    }
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

/// The role that acts is asked about: the owner of a SECURITY DEFINER function, inside it.
#[test]
fn a_security_definer_function_lends_its_owners_right() {
    let (server, mut client) = start();
    run(
        &mut client,
        "CREATE ROLE owner; CREATE ROLE guest LOGIN;
         SELECT pgq.grant_usage('owner', 'produce', 'mine'), public.everything('guest');
         CREATE FUNCTION public.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS $$ SELECT pgq.put('mine') $$;
         ALTER FUNCTION public.door OWNER TO owner",
    );
    let mut guest = server.connect_as("app", "guest");
    refused(&mut guest, "SELECT pgq.put('mine')", Denied, "itself");
    works(&mut guest, "SELECT public.door() > 0", Denied, "through the door");
}
