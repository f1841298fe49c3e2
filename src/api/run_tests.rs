//! run, eager puts, current_job: handlers in this session, and who may not run them here.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{
        acting_as, error_of, function, holds, logged_in_as, number, refused, role, rows, run, text, value,
    };

    #[pg_test]
    fn run_returns_the_result_and_removes_the_job() {
        function("run_plain(args jsonb)", "jsonb", "RETURN args || '{\"b\": 0.10}';");
        run("SELECT pgq.register('run_plain', 'run_plain')");
        let id = number("SELECT pgq.put('run_plain', '{\"a\": 1}')");
        assert_eq!(text(&format!("SELECT pgq.run({id})")), "{\"a\": 1, \"b\": 0.10}");
        assert_eq!(rows(&format!("SELECT * FROM pgq.wait({id})")), ["(gone,,,)"]);
        refused(&format!("SELECT pgq.run({id})"), "42704");
    }

    #[pg_test]
    fn run_gives_each_shape_its_arguments() {
        function("run_nothing()", "text", "RETURN 'called';");
        function("run_args(args jsonb)", "jsonb", "RETURN args;");
        function("run_id_args(id bigint, args jsonb)", "text", "RETURN id || ' ' || args;");
        function(
            "run_job(job pgq.job)",
            "text",
            "RETURN concat_ws(' ', job.id, job.queue, job.task, job.args, job.attempt);",
        );
        for shape in ["nothing", "args", "id_args", "job"] {
            run(&format!("SELECT pgq.register('run_shapes', 'public.run_{shape}', task => '{shape}')"));
        }
        let result = |shape: &str| {
            let id = number(&format!("SELECT pgq.put('run_shapes', '1e400', task => '{shape}')"));
            (id, text(&format!("SELECT pgq.run({id}) #>> '{{}}'")))
        };
        let big = text("SELECT '1e400'::jsonb");
        assert_eq!(result("nothing").1, "called");
        assert_eq!(result("args").1, big);
        let (id, got) = result("id_args");
        assert_eq!(got, format!("{id} {big}"));
        let (id, got) = result("job");
        assert_eq!(got, format!("{id} run_shapes job {big} 1"));
    }

    #[pg_test]
    fn run_turns_any_result_into_json() {
        for (kind, value, json) in [
            ("integer", "7", Some("7")),
            ("numeric", "0.10", Some("0.10")),
            ("date", "'2001-02-03'", Some("\"2001-02-03\"")),
            ("int[]", "'{1,2}'", Some("[1, 2]")),
            ("text", "NULL", None),
            ("void", "", None),
        ] {
            function("run_kinds()", kind, &format!("RETURN {value};"));
            run("SELECT pgq.register('run_kinds', 'run_kinds')");
            let id = number("SELECT pgq.put('run_kinds')");
            assert_eq!(self::value(&format!("SELECT pgq.run({id})")).as_deref(), json, "{kind}");
            run("DROP FUNCTION public.run_kinds()");
        }
    }

    #[pg_test]
    fn run_keeps_the_result_where_the_queue_keeps_done_jobs() {
        function("run_keep()", "integer", "RETURN 7;");
        run("SELECT pgq.register('run_keep', 'run_keep'), pgq.configure('run_keep', keep_done => '1 day')");
        let id = number("SELECT pgq.put('run_keep')");
        run(&format!("SELECT pgq.run({id})"));
        assert_eq!(rows(&format!("SELECT * FROM pgq.wait({id})")), ["(done,7,,1)"]);
    }

    #[pg_test]
    fn run_takes_a_procedure_too() {
        run("CREATE TABLE pg_temp.run_procedure (args jsonb)");
        run("CREATE PROCEDURE public.run_procedure(args jsonb) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO pg_temp.run_procedure VALUES (args); END $$");
        run("SELECT pgq.register('run_procedure', 'run_procedure')");
        let id = number("SELECT pgq.put('run_procedure', '7')");
        assert_eq!(value(&format!("SELECT pgq.run({id})")), None);
        assert_eq!(rows("SELECT args FROM pg_temp.run_procedure"), ["(7)"]);
    }

    #[pg_test]
    fn run_raises_the_handlers_error_and_leaves_the_job() {
        function("run_fails()", "void", "RAISE 'broken' USING ERRCODE = 'check_violation', DETAIL = 'd', HINT = 'h';");
        run("SELECT pgq.register('run_fails', 'run_fails')");
        let id = number("SELECT pgq.put('run_fails')");
        let error = refused(&format!("SELECT pgq.run({id})"), "23514");
        assert_eq!((error.message.as_str(), error.hint.as_str()), ("broken", "h"));
        // A debug build with RUST_BACKTRACE says more.
        assert!(error.detail.starts_with('d'), "{error:?}");
        assert_eq!(rows(&format!("SELECT state, attempt, failures FROM pgq.job WHERE id = {id}")), ["(ready,0,0)"]);
    }

    #[pg_test]
    fn run_and_eager_puts_keep_a_sqlstate_that_is_in_no_list() {
        function("run_own_state()", "void", "RAISE 'broken' USING ERRCODE = 'AB123', HINT = 'h';");
        function(
            "run_nested(args jsonb)",
            "void",
            "BEGIN PERFORM pgq.run(args::bigint); EXCEPTION WHEN SQLSTATE 'AB123' THEN END; PERFORM pgq.run(args::bigint);",
        );
        run("SELECT pgq.register('run_own_state', 'run_own_state'), pgq.register('run_nested', 'run_nested')");
        let id = number("SELECT pgq.put('run_own_state')");
        let nested = number(&format!("SELECT pgq.put('run_nested', '{id}')"));
        for _ in 0..2 {
            refused(&format!("SELECT pgq.run({id})"), "AB123");
            refused(&format!("SELECT pgq.run({nested})"), "AB123");
            assert_eq!(error_of("SELECT 1 / 0").map(|e| e.sqlstate).as_deref(), Some("22012"));
        }
        run("SET LOCAL pgq.eager = on");
        refused("SELECT pgq.put('run_own_state')", "AB123");
    }

    #[pg_test]
    fn run_takes_back_the_settings_of_the_handler() {
        function("run_settings()", "text", "PERFORM set_config('work_mem', '123kB', false); SET search_path = pg_temp; RETURN current_setting('work_mem');");
        run("SELECT pgq.register('run_settings', 'run_settings')");
        let before = rows("SELECT current_setting('work_mem'), current_setting('search_path')");
        let id = number("SELECT pgq.put('run_settings')");
        assert_eq!(text(&format!("SELECT pgq.run({id})")), "\"123kB\"");
        assert_eq!(rows("SELECT current_setting('work_mem'), current_setting('search_path')"), before);
    }

    #[pg_test]
    fn run_refuses_what_is_not_there() {
        refused("SELECT pgq.run(NULL)", "22004");
        refused("SELECT pgq.run(-1)", "42704");
        let id = number("SELECT pgq.put('run_no_handler')");
        let error = refused(&format!("SELECT pgq.run({id})"), "55000");
        assert!(error.hint.contains("pgq.register('run_no_handler'"), "{error:?}");
    }

    #[pg_test]
    fn run_refuses_a_leased_job_and_leaves_it() {
        function("run_leased()", "void", "");
        run("SELECT pgq.register('run_leased', 'run_leased'), pgq.put('run_leased')");
        let id = number("SELECT id FROM pgq.claim('run_leased', lease => '1 min')");
        refused(&format!("SELECT pgq.run({id})"), "55000");
        assert!(holds(&format!("SELECT pgq.complete({id}, 1)")));
    }

    #[pg_test]
    fn run_refuses_a_handler_whose_function_is_gone() {
        function("run_dropped()", "void", "");
        run("SELECT pgq.register('run_dropped', 'run_dropped'); DROP FUNCTION public.run_dropped()");
        let id = number("SELECT pgq.put('run_dropped')");
        let error = refused(&format!("SELECT pgq.run({id})"), "55000");
        assert_eq!(error.message, "function public.run_dropped() does not exist");
    }

    /// A queue with a handler of this role's, and a job in it.
    fn of_role(name: &str) -> i64 {
        function(&format!("{name}()"), "text", "RETURN session_user || ' ' || current_user;");
        run(&format!("ALTER FUNCTION public.{name}() OWNER TO {name}; SELECT pgq.register('{name}', 'public.{name}', run_as => '{name}')"));
        number(&format!("SELECT pgq.put('{name}')"))
    }

    #[pg_test]
    fn run_is_refused_after_set_session_authorization_which_any_code_takes_back() {
        role("run_own", &["admin"]);
        let id = of_role("run_own");
        logged_in_as("run_own", || refused(&format!("SELECT pgq.run({id})"), "42501"));
    }

    #[pg_test]
    fn run_is_refused_to_superusers_and_after_set_role() {
        role("run_super", &["admin"]);
        let id = of_role("run_super");
        let error = refused(&format!("SELECT pgq.run({id})"), "42501");
        assert!(error.hint.contains("\"run_super\": connect as that role"), "{error:?}");
        acting_as("run_super", || refused(&format!("SELECT pgq.run({id})"), "42501"));
        assert_eq!(number(&format!("SELECT count(*) FROM pgq.job WHERE id = {id} AND state = 'ready'")), 1);
    }

    #[pg_test]
    fn run_is_refused_to_other_roles_whatever_they_may_execute() {
        role("run_victim", &[]);
        role("run_other", &["admin"]);
        let id = of_role("run_victim");
        logged_in_as("run_other", || refused(&format!("SELECT pgq.run({id})"), "42501"));
        run("REVOKE EXECUTE ON FUNCTION public.run_victim() FROM PUBLIC");
        logged_in_as("run_other", || refused(&format!("SELECT pgq.run({id})"), "42501"));
    }

    #[pg_test]
    fn run_of_a_security_definer_function_of_a_superuser_is_allowed() {
        role("run_definer", &[]);
        role("run_client", &["admin"]);
        function("run_definer()", "text", "RETURN current_user;");
        run("ALTER FUNCTION public.run_definer() SECURITY DEFINER; SELECT pgq.register('run_definer', 'public.run_definer', run_as => 'run_definer')");
        let id = number("SELECT pgq.put('run_definer')");
        let result = logged_in_as("run_client", || text(&format!("SELECT pgq.run({id})")));
        assert_eq!(result, text("SELECT to_jsonb(current_user)"));
    }

    #[pg_test]
    fn current_job_is_the_job_that_runs_and_null_outside() {
        assert_eq!(value("SELECT pgq.current_job()"), None);
        function(
            "run_current()",
            "text",
            "RETURN (SELECT concat_ws(' ', id, queue, args, attempt) FROM pgq.current_job());",
        );
        run("SELECT pgq.register('run_current', 'run_current')");
        let id = number("SELECT pgq.put('run_current', '7')");
        assert_eq!(text(&format!("SELECT pgq.run({id}) #>> '{{}}'")), format!("{id} run_current 7 1"));
        assert_eq!(value("SELECT pgq.current_job()"), None);
    }

    #[pg_test]
    fn current_job_is_as_before_after_errors_and_nested_runs() {
        function("run_inner()", "void", "RAISE 'x' USING HINT = 'h';");
        function(
            "run_outer(args jsonb)",
            "boolean",
            "BEGIN PERFORM pgq.run(args::bigint); EXCEPTION WHEN OTHERS THEN END;
             RETURN (SELECT queue = 'run_outer' FROM pgq.current_job());",
        );
        run("SELECT pgq.register('run_inner', 'run_inner'), pgq.register('run_outer', 'run_outer')");
        let inner = number("SELECT pgq.put('run_inner')");
        refused(&format!("SELECT pgq.run({inner})"), "P0001");
        assert_eq!(value("SELECT pgq.current_job()"), None);
        let outer = number(&format!("SELECT pgq.put('run_outer', '{inner}')"));
        assert_eq!(text(&format!("SELECT pgq.run({outer})")), "true");
    }

    #[pg_test]
    fn an_eager_put_runs_the_job_before_it_returns() {
        run("CREATE TABLE pg_temp.eager (args jsonb)");
        function("eager_put(args jsonb)", "void", "INSERT INTO pg_temp.eager VALUES (args);");
        run("SELECT pgq.register('eager_put', 'eager_put'); SET LOCAL pgq.eager = on");
        assert!(number("SELECT pgq.put('eager_put', '7')") > 0);
        assert_eq!(rows("SELECT args FROM pg_temp.eager"), ["(7)"]);
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'eager_put'"), 0);
        run("SELECT pgq.put('eager_put', '8', delay => '1 h')");
        assert_eq!(rows("SELECT state FROM pgq.job WHERE queue = 'eager_put'"), ["(scheduled)"]);
        run("SELECT pgq.put('eager_no_handler')");
        assert_eq!(rows("SELECT state FROM pgq.job WHERE queue = 'eager_no_handler'"), ["(ready)"]);
    }

    #[pg_test]
    fn an_eager_put_raises_the_handlers_error() {
        function("eager_fails()", "void", "RAISE 'broken' USING ERRCODE = 'check_violation';");
        run("SELECT pgq.register('eager_fails', 'eager_fails'); SET LOCAL pgq.eager = on");
        assert_eq!(error_of("SELECT pgq.put('eager_fails')").map(|e| e.sqlstate).as_deref(), Some("23514"));
    }

    #[pg_test]
    fn an_eager_put_of_a_refused_handler_is_an_ordinary_put() {
        role("eager_low", &["produce"]);
        role("eager_client", &["produce"]);
        run("SET LOCAL pgq.eager = on");
        let id = of_role("eager_low");
        assert_eq!(text(&format!("SELECT state FROM pgq.job WHERE id = {id}")), "ready");
        run("REVOKE EXECUTE ON FUNCTION public.eager_low() FROM PUBLIC");
        let id = logged_in_as("eager_client", || number("SELECT pgq.put('eager_low')"));
        assert_eq!(text(&format!("SELECT state FROM pgq.job WHERE id = {id}")), "ready");
    }
}
