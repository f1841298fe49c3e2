//! The rules of parking, each by a change of the catalog that breaks it; and the record. What is planted on our
//! tables would lock other tests out: tests/tamper.rs.

#![allow(clippy::expect_used)]

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::engine::time::{Micros, Span};
    use crate::pg::clock;
    use crate::pg::session_tests::{holds, role, rows, run, text};
    use crate::store::parking::{self, Change};
    use crate::store::registry;
    use crate::store::row::Handler;

    /// A role with its own schema and function, registered for a queue of its name.
    fn registered(name: &str) -> Handler {
        role(name, &[]);
        run(&format!(
            "CREATE SCHEMA {name} AUTHORIZATION {name};
             CREATE FUNCTION {name}.f(args jsonb) RETURNS void LANGUAGE sql AS '';
             ALTER FUNCTION {name}.f OWNER TO {name};
             SELECT pgq.register('{name}', '{name}.f', run_as => '{name}')"
        ));
        registry::find(name, None).expect("readable").expect("a handler")
    }

    fn why(handler: &Handler) -> String {
        parking::forbids(handler, true).map_or_else(String::new, |reason| reason.to_string())
    }

    /// What doctor would type is what mends it.
    fn fix(handler: &Handler) -> String {
        text(&format!("SELECT fix FROM pgq.doctor() WHERE detail LIKE 'queue \"{}\"%'", handler.queue))
    }

    #[pg_test]
    fn each_rule_that_a_change_breaks_is_named_and_its_fix_mends_it() {
        let h = registered("pk_rule");
        assert_eq!(why(&h), "");
        let database = text("SELECT current_database()");
        run("DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$");
        assert_eq!(why(&h), format!("role \"pk_rule\" may not connect to database \"{database}\""));
        run(&fix(&h));
        assert_eq!(why(&h), "");
        let cases = [
            ("ALTER ROLE pk_rule NOLOGIN", "role \"pk_rule\" may not log in"),
            (
                "ALTER SCHEMA pk_rule OWNER TO CURRENT_USER; REVOKE ALL ON SCHEMA pk_rule FROM pk_rule",
                "role \"pk_rule\" may not use schema \"pk_rule\"",
            ),
            (
                "REVOKE ALL ON FUNCTION pk_rule.f FROM PUBLIC, pk_rule",
                "role \"pk_rule\" may not execute pk_rule.f(jsonb)",
            ),
        ];
        for (change, reason) in cases {
            run(change);
            assert_eq!(why(&h), reason);
            assert!(holds(&format!("SELECT parked = '{reason}' FROM pgq.stats('pk_rule')")));
            run(&fix(&h));
            assert_eq!(why(&h), "", "after the fix of: {change}");
        }
    }

    #[pg_test]
    fn whoever_owns_the_function_must_hold_the_roles_rights() {
        let h = registered("pk_owner");
        role("pk_eve", &[]);
        run("ALTER FUNCTION pk_owner.f OWNER TO pk_eve");
        let reason = "pk_owner.f(jsonb) belongs to \"pk_eve\", who could act as \"pk_owner\"";
        assert_eq!(why(&h), reason);
        run("GRANT pk_owner TO pk_eve");
        assert_eq!(why(&h), "", "she may act as the role anyway");
        // From 16 on a grant keeps what the member was when it was made (user.c).
        run("REVOKE pk_owner FROM pk_eve; ALTER ROLE pk_eve NOINHERIT; GRANT pk_owner TO pk_eve");
        assert_eq!(why(&h), reason, "a right that she has to SET ROLE for is none that she holds");
        run("ALTER FUNCTION pk_owner.f OWNER TO pk_owner");
        assert_eq!(why(&h), "");
        run("DROP FUNCTION pk_owner.f");
        assert_eq!(why(&h), "function pk_owner.f(jsonb) does not exist");
    }

    #[pg_test]
    fn a_role_is_the_one_that_was_registered_by_oid_and_name() {
        let h = registered("pk_role");
        run("ALTER ROLE pk_role RENAME TO pk_renamed");
        assert_eq!(why(&h), "role \"pk_role\" has been renamed to \"pk_renamed\": register again");
        assert!(fix(&h).contains("run_as => 'pk_renamed'"), "{}", fix(&h));
        role("pk_role", &[]);
        assert_eq!(why(&h), "role \"pk_role\" has been renamed to \"pk_renamed\": register again");
        run(&fix(&h));
        let h = registry::find("pk_role", None).expect("readable").expect("a handler");
        assert_eq!(why(&h), "");
        run("DROP OWNED BY pk_renamed; DROP ROLE pk_renamed");
        assert_eq!(why(&h), "role \"pk_renamed\" is gone");
        role("pk_renamed", &[]);
        assert_eq!(why(&h), "role \"pk_renamed\" was re-created: register again");
    }

    #[pg_test]
    fn a_superuser_is_refused_where_the_setting_says_so() {
        let h = registered("pk_super");
        run("ALTER ROLE pk_super SUPERUSER");
        assert!(parking::forbids(&h, true).is_none());
        let reason = parking::forbids(&h, false).expect("a reason").to_string();
        assert_eq!(reason, "role \"pk_super\" is a superuser, and handlers may not run as one");
    }

    #[pg_test]
    fn what_has_the_signature_must_still_be_fit() {
        let h = registered("pk_fit");
        for (change, reason) in [
            ("CREATE FUNCTION pk_fit.f(jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1'", "it returns a set"),
            (
                "CREATE FUNCTION pk_fit.f(jsonb, OUT a int, OUT b int) LANGUAGE sql AS 'SELECT 1, 2'",
                "it has OUT, INOUT or VARIADIC arguments",
            ),
            ("CREATE PROCEDURE pk_fit.f(jsonb) LANGUAGE sql AS ''", "it is a procedure now"),
            (
                "CREATE AGGREGATE pk_fit.f(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb)",
                "it is an aggregate or a window function",
            ),
        ] {
            run(&format!("DROP ROUTINE pk_fit.f(jsonb); {change}"));
            assert_eq!(why(&h), format!("pk_fit.f(jsonb) cannot be the handler: {reason}"));
        }
    }

    #[pg_test]
    fn a_change_is_recorded_once_and_only_of_the_same_registration() {
        let h = registered("pk_record");
        let until = Some(Micros(clock::now()).after(Span::from_millis(60_000)));
        let change = |parked: Option<&str>, until| Change {
            handler: h.id,
            registered_at: h.registered_at,
            queue: h.queue.clone(),
            parked: parked.map(Into::into),
            until,
        };
        let record = |c: &Change| parking::record(c).expect("written");
        assert!(record(&change(Some("why"), until)));
        assert!(!record(&change(Some("why"), until)), "no news");
        assert!(!record(&change(Some("why"), None)), "the words are the same");
        assert_eq!(rows("SELECT parked, parked_until FROM pgq.handler WHERE queue = 'pk_record'"), ["(why,)"]);
        assert!(record(&change(Some("other"), until)));
        assert!(record(&change(None, None)));
        assert_eq!(rows("SELECT parked, parked_at, parked_until FROM pgq.handler WHERE queue = 'pk_record'"), ["(,,)"]);
        run("SELECT pgq.register('pk_record', 'pk_record.f', run_as => 'pk_record')");
        assert!(!record(&change(Some("why"), None)), "of an earlier registration");
        assert!(holds("SELECT parked IS NULL FROM pgq.handler WHERE queue = 'pk_record'"));
    }

    #[pg_test]
    fn a_reason_that_can_only_be_tried_is_shown_until_then() {
        let h = registered("pk_blind");
        run("UPDATE pgq.handler SET parked = 'stale', parked_at = now() WHERE queue = 'pk_blind'");
        assert!(holds("SELECT parked IS NULL FROM pgq.stats('pk_blind')"), "the catalog says that it is mended");
        run("UPDATE pgq.handler SET parked_until = 'infinity' WHERE queue = 'pk_blind'");
        assert!(holds("SELECT parked = 'stale' FROM pgq.stats('pk_blind')"));
        let h = registry::find(&h.queue, None).expect("readable").expect("a handler");
        assert!(parking::rests(&h, Micros(clock::now())));
    }
}
