//! Who may call what on which queue: grant_usage, its inverse, and what each function does with a caller who has
//! the right, has none, has it elsewhere, had it, or has it by membership.

use pgq_tests::calls::Without::{self, Answer, Denied, NoSuchJob};
use pgq_tests::calls::{grant, refused, start, works};
use pgq_tests::{count, one, run};
use postgres::Client;

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
        run(&mut client, "SELECT pgq.unregister('mine'), pgq.unregister('mine', 'new')");
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
