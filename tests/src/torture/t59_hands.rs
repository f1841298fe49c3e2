//! T59: what a handler leaves in its session is not there for the next one in the same process. Functions and
//! procedures, before functions and procedures; and what is not there for the same handler's next job either.

use super::leftovers::{Kind, KINDS, NEEDED};
use super::{Part, Run};
use crate::{count, run as execute, wait_until};
use postgres::Client;
use std::time::Duration;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T59",
    title: "session state left behind, of over 30 kinds",
    unit: "rounds of all kinds",
    quick: 5,
    full: 1_000,
    run: leave,
}];

/// A job that leaves a state puts, first of all, the one that looks for it: so it runs after it, in the same process,
/// because there is only one executor. That one puts the next that leaves it, as often as `args.left` says.
const RELAY: &str = "
    CREATE ROLE app LOGIN;
    SELECT pgq.grant_usage('app', 'produce');
    CREATE SCHEMA app AUTHORIZATION app;
    CREATE TABLE app.kind (name text, clean text);
    CREATE TABLE app.seen (kind text, form text, same_process boolean, clean boolean);
    CREATE FUNCTION app.passes(args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pgq.put(args->>'to', args || jsonb_build_object('step', 'look', 'pid', pg_backend_pid()));
    END $$;
    CREATE FUNCTION app.sees(args jsonb) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE is_clean boolean;
    BEGIN
        EXECUTE 'SELECT ' || (SELECT clean FROM app.kind WHERE name = args->>'kind') INTO is_clean;
        INSERT INTO app.seen
        VALUES (args->>'kind', args->>'form', (args->>'pid')::int = pg_backend_pid(), is_clean);
        IF (args->>'left')::int > 1 THEN
            PERFORM pgq.put(args->>'from', args || jsonb_build_object('step', 'leave', 'left', (args->>'left')::int - 1));
        END IF;
    END $$;
    CREATE PROCEDURE app.sees_in_procedure(args jsonb) LANGUAGE plpgsql AS $$
    BEGIN PERFORM app.sees(args); COMMIT; END $$;
    GRANT ALL ON app.kind, app.seen TO app";

/// Whose handlers leave it, whose look: prefixes of queues.
const FORMS: [(&str, &str, &str); 4] = [
    ("function, then function", "f", "look"),
    ("function, then procedure", "f", "look_p"),
    ("procedure, then function", "p", "look"),
    ("function, then the same function", "f", "f"),
];

/// All kinds in one form, as often as are put at a time, have to come within this.
const PATIENCE: Duration = Duration::from_secs(100);
/// So many rounds are put at a time: the jobs of one kind pass on to each other, those of all kinds in turn.
const AT_A_TIME: u64 = 25;

fn leave(run: &mut Run) {
    let server = run.server().conf("pgq.max_workers", 1).start();
    let mut client = server.create_database("shop");
    execute(&mut client, RELAY);
    execute(&mut client, NEEDED);
    for kind in KINDS {
        create(&mut client, kind);
    }
    while run.goes_on() {
        let rounds = run.left().min(AT_A_TIME);
        for form in FORMS {
            // One role after the other: the only executor would leave for the other role's.
            for is_super in [false, true] {
                for what in differences(&mut client, form, is_super, rounds) {
                    run.differ(what);
                }
            }
        }
        run.did(rounds);
    }
}

fn create(client: &mut Client, kind: &Kind) {
    let Kind { name, leave, clean, .. } = kind;
    let role = if kind.is_super { "postgres" } else { "app" };
    execute(
        client,
        &format!(
            "INSERT INTO app.kind VALUES ('{name}', $clean${clean}$clean$);
             SET ROLE {role};
             CREATE FUNCTION app.f_{name}(args jsonb) RETURNS void LANGUAGE plpgsql AS $body$
             BEGIN
                 IF args->>'step' = 'look' THEN
                     PERFORM app.sees(args);
                     RETURN;
                 END IF;
                 PERFORM app.passes(args);
                 {leave}
             END $body$;
             CREATE PROCEDURE app.p_{name}(args jsonb) LANGUAGE plpgsql AS $body$
             BEGIN
                 PERFORM app.passes(args);
                 COMMIT;
                 {leave}
                 COMMIT;
             END $body$;
             RESET ROLE;
             SELECT pgq.register(queue || '_{name}', 'app.' || handler, run_as => '{role}', batch => 1, max_attempts => 1)
               FROM (VALUES ('f', 'f_{name}'), ('p', 'p_{name}'), ('look', 'sees'), ('look_p', 'sees_in_procedure'))
                    AS v (queue, handler)"
        ),
    );
}

/// Lets all kinds be left and looked for, and tells what was found.
fn differences(client: &mut Client, form: (&str, &str, &str), is_super: bool, rounds: u64) -> Vec<String> {
    let (form, from, to) = form;
    let chosen = KINDS.iter().filter(|kind| kind.is_super == is_super && !(kind.is_kept && from == to));
    let kinds: Vec<&str> = chosen.map(|kind| kind.name).collect();
    execute(client, "TRUNCATE app.seen, app.late");
    for name in &kinds {
        execute(
            client,
            &format!(
                "SELECT pgq.put('{from}_{name}', jsonb_build_object('kind', '{name}', 'form', '{form}', 'step', 'leave',
                                'from', '{from}_{name}', 'to', '{to}_{name}', 'left', {rounds}))"
            ),
        );
    }
    let expected = i64::try_from(rounds).expect("few") * i64::try_from(kinds.len()).expect("few");
    wait_until(PATIENCE, "all kinds to be looked for", || {
        count(client, "pgq.job") == 0 && (count(client, "app.seen") == expected || count(client, "pgq.dead") > 0)
    });
    let wrong = "SELECT format('%s, %s: %s of %s times still there, %s times in another process', kind, form,
                       count(*) FILTER (WHERE clean IS NOT TRUE), count(*), count(*) FILTER (WHERE NOT same_process))
           FROM app.seen
          GROUP BY kind, form HAVING NOT bool_and(coalesce(clean, false) AND same_process)
         UNION ALL
         SELECT format('%s failed: %s %s', queue, sqlstate, message) FROM pgq.dead";
    let rows = client.query(wrong, &[]).expect("what was seen");
    rows.iter().map(|row| row.get(0)).collect()
}
