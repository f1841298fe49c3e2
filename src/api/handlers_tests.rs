//! register, unregister, configure: what is found, what is stored, what is refused.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{
        acting_as, function, holds, logged_in_as, number, refused, role, rows, run, text, value,
    };

    #[pg_test]
    fn register_finds_a_bare_name_in_the_search_path() {
        function("reg_bare(args jsonb)", "void", "");
        assert_eq!(text("SELECT pgq.register('reg_bare', 'reg_bare')"), "public.reg_bare(jsonb)");
        run("SET LOCAL search_path = pg_catalog");
        let error = refused("SELECT pgq.register('reg_bare', 'reg_bare')", "42883");
        assert_eq!(error.message, "function \"reg_bare\" does not exist");
        assert_eq!(text("SELECT pgq.register('reg_bare', 'public.reg_bare')"), "public.reg_bare(jsonb)");
    }

    #[pg_test]
    fn register_takes_each_of_the_four_shapes() {
        for (arguments, signature, shape) in [
            ("", "", "nothing"),
            ("args jsonb", "jsonb", "args"),
            ("id bigint, args jsonb", "bigint, jsonb", "id_args"),
            ("job pgq.job", "pgq.job", "job"),
        ] {
            function(&format!("reg_{shape}({arguments})"), "text", "RETURN 'x';");
            let found = text(&format!("SELECT pgq.register('reg_shapes', 'public.reg_{shape}', task => '{shape}')"));
            assert_eq!(found, format!("public.reg_{shape}({signature})"));
            let stored =
                "SELECT concat_ws(' ', shape, is_procedure, function) FROM pgq.handler WHERE queue = 'reg_shapes'";
            assert_eq!(text(&format!("{stored} AND task = '{shape}'")), format!("{shape} f {found}"));
        }
    }

    #[pg_test]
    fn register_takes_procedures() {
        run("CREATE PROCEDURE public.reg_procedure(args jsonb) LANGUAGE plpgsql AS $$ BEGIN END $$");
        assert_eq!(text("SELECT pgq.register('reg_procedure', 'reg_procedure')"), "public.reg_procedure(jsonb)");
        assert!(holds("SELECT is_procedure FROM pgq.handler WHERE queue = 'reg_procedure'"));
    }

    #[pg_test]
    fn register_takes_a_whole_signature_and_quoted_names() {
        function("reg_both(args jsonb)", "void", "");
        function("reg_both()", "void", "");
        assert_eq!(text("SELECT pgq.register('reg_both', 'public.reg_both(jsonb)')"), "public.reg_both(jsonb)");
        assert_eq!(text("SELECT pgq.register('reg_both', 'reg_both()')"), "public.reg_both()");
        run("CREATE SCHEMA \"Reg Ä\"; CREATE FUNCTION \"Reg Ä\".\"do.it\"(jsonb) RETURNS void LANGUAGE sql AS ''");
        assert_eq!(text("SELECT pgq.register('reg_both', '\"Reg Ä\".\"do.it\"')"), "\"Reg Ä\".\"do.it\"(jsonb)");
        assert_eq!(text("SELECT pgq.register('reg_both', '\"Reg Ä\".\"do.it\"(jsonb)')"), "\"Reg Ä\".\"do.it\"(jsonb)");
    }

    #[pg_test]
    fn register_lists_what_a_bare_name_could_mean() {
        function("reg_many(args jsonb)", "void", "");
        function("reg_many()", "void", "");
        let error = refused("SELECT pgq.register('reg_many', 'reg_many')", "42725");
        assert!(
            error.detail.contains("public.reg_many(jsonb)") && error.detail.contains("public.reg_many()"),
            "{error:?}"
        );
        assert!(error.hint.contains("pgq.register('queue', 'public.reg_many("), "{error:?}");
    }

    #[pg_test]
    fn register_refuses_functions_that_do_not_exist() {
        for name in ["reg_none", "public.reg_none", "reg_none(jsonb)", "no_schema.reg_none", "\"reg none\""] {
            let error = refused(&format!("SELECT pgq.register('reg_none', '{name}')"), "42883");
            assert!(error.message.contains("does not exist"), "{error:?}");
        }
    }

    #[pg_test]
    fn register_does_not_cut_a_name_of_three_parts() {
        function("reg_parts()", "void", "");
        refused("SELECT pgq.register('reg_parts', 'public.reg_parts.more')", "42883");
    }

    #[pg_test]
    fn register_shows_functions_that_do_not_fit() {
        function("reg_text(x text)", "void", "");
        function("reg_default(args jsonb, n int DEFAULT 1)", "void", "");
        for name in ["reg_text", "public.reg_text(text)", "reg_default"] {
            let error = refused(&format!("SELECT pgq.register('reg_unfit', '{name}')"), "42883");
            assert!(error.message.contains("can be a handler"), "{error:?}");
            assert!(error.detail.contains("(args jsonb), (job pgq.job), (id bigint, args jsonb)"), "{error:?}");
        }
    }

    #[pg_test]
    fn register_refuses_what_cannot_be_called_for_a_job() {
        function("reg_set(args jsonb)", "SETOF int", "");
        function("reg_trigger()", "trigger", "");
        run("CREATE FUNCTION public.reg_out(args jsonb, OUT x int) LANGUAGE sql AS 'SELECT 1'");
        run("CREATE FUNCTION public.reg_table(args jsonb) RETURNS TABLE (x int) LANGUAGE sql AS 'SELECT 1'");
        run("CREATE PROCEDURE public.reg_inout(INOUT args jsonb) LANGUAGE plpgsql AS $$ BEGIN END $$");
        run("CREATE FUNCTION public.reg_step(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'");
        run("CREATE AGGREGATE public.reg_sum(jsonb) (SFUNC = public.reg_step, STYPE = jsonb)");
        for name in ["reg_set", "reg_trigger", "reg_out", "reg_table", "reg_inout", "reg_sum", "pg_catalog.row_number"]
        {
            let error = refused(&format!("SELECT pgq.register('reg_unfit', '{name}')"), "42P13");
            assert!(error.detail.starts_with("It"), "{error:?}");
        }
        assert_eq!(number("SELECT count(*) FROM pgq.handler WHERE queue = 'reg_unfit'"), 0);
    }

    #[pg_test]
    fn register_refuses_nulls_and_wrong_values() {
        function("reg_values()", "void", "");
        refused("SELECT pgq.register(NULL, 'reg_values')", "22004");
        refused("SELECT pgq.register('reg_values', NULL)", "22004");
        for wrong in [
            "task => 'a b'",
            "timeout => '0'",
            "timeout => '-1 s'",
            "concurrency => 0",
            "batch => 0",
            "max_attempts => 0",
            "backoff => '-1 s'",
            "max_backoff => '-1 s'",
        ] {
            refused(&format!("SELECT pgq.register('reg_values', 'reg_values', {wrong})"), "22023");
        }
        refused("SELECT pgq.register('a b', 'reg_values')", "22023");
        assert_eq!(number("SELECT count(*) FROM pgq.handler WHERE queue = 'reg_values'"), 0);
    }

    #[pg_test]
    fn register_replaces_all_of_the_same_pair() {
        function("reg_old()", "void", "");
        function("reg_new(args jsonb)", "void", "");
        run("SELECT pgq.register('reg_replace', 'reg_old', timeout => '1 s', concurrency => 2, batch => 3, max_attempts => 4, backoff => '5 s', max_backoff => '6 s')");
        run("SELECT pgq.register('reg_replace', 'reg_old', task => 't')");
        let columns = "timeout, concurrency, batch, max_attempts, backoff, max_backoff, parked";
        let of = |columns: &str| {
            rows(&format!("SELECT {columns} FROM pgq.handler WHERE queue = 'reg_replace' AND task IS NULL"))
        };
        assert_eq!(of(columns), ["(00:00:01,2,3,4,00:00:05,00:00:06,)"]);
        run("UPDATE pgq.handler SET parked = 'x', parked_at = now() WHERE queue = 'reg_replace'");
        let id = of("id");
        run("SELECT pgq.register('reg_replace', 'reg_new')");
        assert_eq!(of(columns), ["(,,,,,,)"]);
        assert_eq!(of("function"), ["(\"public.reg_new(jsonb)\")"]);
        assert_eq!(of("id"), id);
        assert_eq!(
            text("SELECT function FROM pgq.handler WHERE queue = 'reg_replace' AND task = 't'"),
            "public.reg_old()"
        );
    }

    #[pg_test]
    fn register_runs_as_the_caller_unless_told_otherwise() {
        function("reg_role()", "void", "");
        role("reg_role", &["admin"]);
        run("ALTER FUNCTION public.reg_role() OWNER TO reg_role");
        logged_in_as("reg_role", || run("SELECT pgq.register('reg_role', 'public.reg_role')"));
        assert!(holds(
            "SELECT run_as = 'reg_role' AND run_as_oid = 'reg_role'::regrole FROM pgq.handler WHERE queue = 'reg_role'"
        ));
        function("reg_mine()", "void", "");
        run("SELECT pgq.register('reg_role', 'public.reg_mine', run_as => NULL)");
        assert!(holds("SELECT run_as = current_user FROM pgq.handler WHERE queue = 'reg_role'"));
        run("SELECT pgq.register('reg_role', 'public.reg_role', run_as => 'reg_role')");
        assert!(holds("SELECT run_as = 'reg_role' FROM pgq.handler WHERE queue = 'reg_role'"));
    }

    #[pg_test]
    fn register_refuses_a_role_that_does_not_exist() {
        function("reg_norole()", "void", "");
        let error = refused("SELECT pgq.register('reg_norole', 'reg_norole', run_as => 'nobody here')", "42704");
        assert_eq!(error.message, "role \"nobody here\" does not exist");
    }

    #[pg_test]
    fn register_refuses_a_role_that_the_caller_may_not_act_as() {
        function("reg_other()", "void", "");
        role("reg_caller", &["admin"]);
        role("reg_target", &[]);
        run("ALTER FUNCTION public.reg_other() OWNER TO reg_target");
        let call = "SELECT pgq.register('reg_other', 'public.reg_other', run_as => 'reg_target')";
        acting_as("reg_caller", || {
            refused(call, "42501");
            refused("SELECT pgq.register('reg_other', 'public.reg_other', run_as => 'postgres')", "42501");
        });
        run("GRANT reg_target TO reg_caller");
        acting_as("reg_caller", || run(call));
    }

    #[pg_test]
    fn register_refuses_a_role_that_may_not_execute_the_function() {
        function("reg_noexec()", "void", "");
        role("reg_noexec", &[]);
        run("REVOKE EXECUTE ON FUNCTION public.reg_noexec() FROM PUBLIC");
        let call = "SELECT pgq.register('reg_noexec', 'public.reg_noexec', run_as => 'reg_noexec')";
        let error = refused(call, "42501");
        assert!(error.hint.starts_with("GRANT EXECUTE ON ROUTINE public.reg_noexec() TO \"reg_noexec\""), "{error:?}");
        run("GRANT EXECUTE ON ROUTINE public.reg_noexec() TO reg_noexec");
        run(call);
    }

    #[pg_test]
    fn register_refuses_a_function_in_a_schema_out_of_reach() {
        role("reg_noschema", &[]);
        run("CREATE SCHEMA reg_closed; CREATE FUNCTION reg_closed.f() RETURNS void LANGUAGE sql AS ''");
        refused("SELECT pgq.register('reg_noschema', 'reg_closed.f', run_as => 'reg_noschema')", "42501");
    }

    #[pg_test]
    fn register_refuses_a_function_whose_owner_would_gain_rights() {
        function("reg_owner()", "void", "");
        role("reg_owner", &[]);
        role("reg_victim", &[]);
        run("ALTER FUNCTION public.reg_owner() OWNER TO reg_owner");
        let call = |who: &str| format!("SELECT pgq.register('reg_owner', 'public.reg_owner', run_as => '{who}')");
        let error = refused(&call("reg_victim"), "42501");
        assert!(error.hint.contains("OWNER TO \"reg_victim\""), "{error:?}");
        refused(&call("postgres"), "42501");
        run("GRANT reg_victim TO reg_owner");
        run(&call("reg_victim"));
    }

    #[pg_test]
    fn register_refuses_a_role_that_cannot_connect() {
        function("reg_nologin()", "void", "");
        role("reg_nologin", &[]);
        run("ALTER ROLE reg_nologin NOLOGIN");
        let error =
            refused("SELECT pgq.register('reg_nologin', 'public.reg_nologin', run_as => 'reg_nologin')", "55000");
        assert!(error.hint.starts_with("ALTER ROLE \"reg_nologin\" LOGIN"), "{error:?}");
    }

    #[pg_test]
    fn unregister_removes_one_pair() {
        function("unreg()", "void", "");
        run("SELECT pgq.register('unreg', 'unreg'), pgq.register('unreg', 'unreg', task => 't')");
        assert!(holds("SELECT pgq.unregister('unreg')"));
        assert!(!holds("SELECT pgq.unregister('unreg')"));
        assert_eq!(rows("SELECT task FROM pgq.handler WHERE queue = 'unreg'"), ["(t)"]);
        assert!(!holds("SELECT pgq.unregister('unreg', 'other')"));
        assert!(holds("SELECT pgq.unregister('unreg', 't')"));
        refused("SELECT pgq.unregister(NULL)", "22004");
        refused("SELECT pgq.unregister('a b')", "22023");
        refused("SELECT pgq.unregister('a', 'b c')", "22023");
    }

    #[pg_test]
    fn configure_leaves_what_is_null_and_returns_the_row() {
        assert_eq!(rows("SELECT * FROM pgq.configure('conf_null')"), ["(conf_null,,,,,,,f,,)"]);
        assert_eq!(
            rows("SELECT * FROM pgq.configure('conf_null', 7, '2 s', '1 min', '1 h', '2 h', true)"),
            ["(conf_null,7,00:00:02,00:01:00,01:00:00,02:00:00,t,f,,)"]
        );
        assert_eq!(
            rows("SELECT * FROM pgq.configure('conf_null', backoff => '3 s', notify => false)"),
            ["(conf_null,7,00:00:03,00:01:00,01:00:00,02:00:00,f,f,,)"]
        );
        assert_eq!(number("SELECT count(*) FROM pgq.queue_setting WHERE queue = 'conf_null'"), 1);
    }

    #[pg_test]
    fn configure_with_reset_forgets_what_is_not_given_but_the_pause() {
        run("SELECT pgq.configure('conf_reset', 7, '2 s', '1 min', '1 h', '2 h', true), pgq.pause('conf_reset')");
        assert_eq!(
            rows("SELECT * FROM pgq.configure('conf_reset', keep_done => '1 s', reset => true)"),
            ["(conf_reset,,,,00:00:01,,,t,,)"]
        );
    }

    #[pg_test]
    fn configure_refuses_wrong_values() {
        refused("SELECT pgq.configure(NULL)", "22004");
        refused("SELECT pgq.configure('a b')", "22023");
        refused("SELECT pgq.configure('conf_wrong', max_attempts => 0)", "22023");
        refused("SELECT pgq.configure('conf_wrong', group_running => 0)", "22023");
        for span in ["backoff", "max_backoff", "keep_done", "keep_dead"] {
            refused(&format!("SELECT pgq.configure('conf_wrong', {span} => '-1 s')"), "22023");
        }
        assert_eq!(value("SELECT queue FROM pgq.queue_setting WHERE queue = 'conf_wrong'"), None);
    }
}
