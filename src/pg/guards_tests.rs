//! What is paired is paired on the error path too: user id, settings, savepoints; and values that pass unread.

#![allow(clippy::expect_used)]

#[pgrx::pg_schema]
mod tests {
    use std::cell::Cell;

    use pgrx::prelude::*;

    use crate::pg::datum::Flat;
    use crate::pg::guc::Nest;
    use crate::pg::report::ErrorReport;
    use crate::pg::scan::Field;
    use crate::pg::session_tests::{acting_as, error_of, function, number, role, run, text, value};
    use crate::pg::spi::{Arg, Statement, Type};
    use crate::pg::xact::{self, Caught};
    use crate::pg::{clock, context, durable, function, user};

    static WHO: Statement = Statement::new(
        "SELECT pg_catalog.current_user()::text || ' ' || pg_catalog.current_setting('search_path')",
        &[],
    );
    static DIVIDE: Statement = Statement::new("SELECT 1 OPERATOR(pg_catalog./) $1", &[Type::Int]);
    static NOTHING: Statement = Statement::new("SELECT NULL::pg_catalog.text", &[]);

    fn divide(by: i32) -> i32 {
        DIVIDE.row(&[Arg::Int(by)], |row| row.must(1)).expect("no error of ours").expect("a row")
    }

    #[pg_test]
    fn statements_run_as_the_owner_under_a_pinned_search_path() {
        role("guard_low", &[]);
        run("SET LOCAL search_path = public");
        let owner = text("SELECT relowner::regrole FROM pg_class WHERE oid = 'pgq.job'::regclass");
        acting_as("guard_low", || {
            let seen: String = WHO.row(&[], |row| row.must(1)).expect("readable").expect("a row");
            assert_eq!(seen, format!("{owner} pg_catalog, pg_temp"));
            assert_eq!(text("SELECT current_user"), "guard_low");
        });
        assert_eq!(text("SELECT current_setting('search_path')"), "public");
    }

    #[pg_test]
    fn an_error_that_the_caller_catches_leaves_its_own_identity() {
        role("guard_caught", &["admin"]);
        // An id that is live and dead at once cannot come back: the error is raised while the owner's rights are on.
        let id = number("SELECT pgq.put('guard_caught')");
        run(&format!(
            "INSERT INTO pgq.finished_job (id, queue, args, priority, created_at, attempt, failures, crashes, outcome)
             VALUES ({id}, 'guard_caught', '1', 0, now(), 1, 1, 0, 'dead'); SET LOCAL search_path = public"
        ));
        acting_as("guard_caught", || {
            let error = error_of("SELECT pgq.redrive('guard_caught')");
            assert_eq!(error.map(|e| e.sqlstate).as_deref(), Some("23505"));
            assert_eq!(text("SELECT current_user"), "guard_caught");
            assert_eq!(text("SELECT current_setting('search_path')"), "public");
            let error = error_of("SELECT * FROM pgq.job");
            assert_eq!(error.map(|e| e.sqlstate).as_deref(), Some("42501"));
        });
    }

    #[pg_test]
    fn a_savepoint_that_fails_restores_identity_settings_and_data() {
        run("CREATE TABLE pg_temp.guard (n int); SET LOCAL work_mem = '100kB'");
        let before = user::current();
        let failed = xact::savepoint(|| {
            run("INSERT INTO pg_temp.guard VALUES (1); SET LOCAL work_mem = '200kB'");
            divide(0);
            Ok(())
        });
        let error = failed.expect_err("a division by zero");
        assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("22012", "division by zero"));
        assert_eq!(user::current(), before);
        assert_eq!(text("SELECT current_setting('work_mem')"), "100kB");
        assert_eq!(number("SELECT count(*) FROM pg_temp.guard"), 0);
        assert_eq!(divide(1), 1);
    }

    #[pg_test]
    fn a_savepoint_keeps_success_and_undoes_what_says_it_failed() {
        run("CREATE TABLE pg_temp.guard (n int)");
        let done = xact::savepoint(|| {
            run("INSERT INTO pg_temp.guard VALUES (1)");
            Ok(7)
        });
        assert_eq!(done.expect("no error"), 7);
        let failed: Result<(), Caught> = xact::savepoint(|| {
            run("INSERT INTO pg_temp.guard VALUES (2)");
            Err(Caught::new("AB123", "no"))
        });
        assert_eq!(failed.expect_err("it says so").sqlstate, "AB123");
        assert_eq!(text("SELECT array_agg(n) FROM pg_temp.guard"), "{1}");
    }

    #[pg_test]
    fn an_error_keeps_its_sqlstate_message_detail_and_hint() {
        let failed: Result<(), Caught> = context::watch(|| {
            xact::savepoint(|| {
                run("DO $$ BEGIN RAISE 'm' USING ERRCODE = 'AB123', DETAIL = 'd', HINT = 'h'; END $$");
                Ok(())
            })
        });
        let error = failed.expect_err("raised");
        // One that PostgreSQL's own list does not have.
        assert_eq!(error.sqlstate, "AB123");
        assert!(error.context.is_some_and(|c| c.contains("inline_code_block line 1 at RAISE")));
        assert_eq!(
            (error.message.as_str(), error.detail.as_deref(), error.hint.as_deref()),
            ("m", Some("d"), Some("h"))
        );
    }

    #[pg_test]
    fn a_level_of_settings_takes_back_all_that_was_set() {
        run("SET LOCAL work_mem = '100kB'");
        let nest = Nest::open();
        nest.set(c"work_mem", c"200kB");
        run("SET LOCAL statement_timeout = '1 h'");
        assert_eq!(text("SELECT current_setting('work_mem')"), "200kB");
        nest.close();
        assert_eq!(text("SELECT current_setting('work_mem')"), "100kB");
        assert_eq!(text("SELECT current_setting('statement_timeout')"), "0");
    }

    #[pg_test]
    fn a_null_where_none_may_be_is_an_error_and_not_a_crash() {
        let error = NOTHING.row(&[], |row| row.must::<String>(1)).expect_err("a NULL");
        let raised: Result<(), Caught> = xact::savepoint(|| {
            ErrorReport::from(error).report(PgLogLevel::ERROR);
            Ok(())
        });
        let raised = raised.expect_err("an error");
        assert_eq!(raised.sqlstate, "XX000");
        assert!(raised.hint.is_some());
        assert_eq!(divide(1), 1);
    }

    #[pg_test]
    fn json_passes_through_unread() {
        for json in ["1e400", "0.10", "null", "\"\\u00e4\"", "{\"a\": [0.10, null]}"] {
            let flat = Flat::jsonb(json).expect("json");
            assert_eq!(flat.json_text(), text(&format!("SELECT '{json}'::jsonb")));
        }
    }

    #[pg_test]
    fn a_row_gets_another_number_and_keeps_the_rest() {
        let id = number("SELECT pgq.put('guard_row', '{\"a\": 0.10}', key => 'k')");
        let seen = LOOK.row(&[Arg::Bigint(id)], |row| row.must::<Flat>(1));
        let row = seen.expect("readable").expect("a row").with_int(9, 77);
        let columns = [Field::Queue, Field::Args, Field::Attempt, Field::Key].map(|field| Arg::Column(&row, field));
        let shown: Option<String> = SHOW.row(&columns, |row| row.must(1)).expect("readable");
        assert_eq!(shown.as_deref(), Some("guard_row {\"a\": 0.10} 77 k"));
    }

    static LOOK: Statement = Statement::new("SELECT j FROM pgq.job AS j WHERE j.id = $1", &[Type::Bigint]);
    static SHOW: Statement = Statement::new(
        "SELECT pg_catalog.concat_ws(' ', $1, $2, $3, $4)",
        &[Type::Text, Type::Jsonb, Type::Int, Type::Text],
    );

    #[pg_test]
    fn a_callable_needs_a_function_and_the_right_to_execute_it() {
        function("guard_call(args jsonb)", "int", "RETURN args;");
        role("guard_call", &[]);
        let resolve = |name: &str| function::Callable::resolve(name, function::Shape::Args).map(|c| c.oid());
        assert!(resolve("public.guard_call(jsonb)").is_ok());
        assert!(resolve("public.guard_gone(jsonb)").is_err_and(|e| e.contains("does not exist")));
        run("REVOKE EXECUTE ON FUNCTION public.guard_call(jsonb) FROM PUBLIC");
        let denied = acting_as("guard_call", || resolve("public.guard_call(jsonb)"));
        assert!(denied.is_err_and(|e| e.starts_with("permission denied")));
    }

    #[pg_test]
    fn a_command_sees_what_was_done_before_it() {
        run("CREATE TABLE pg_temp.guard (n int)");
        let seen = Cell::new(0);
        xact::command(|| {
            run("INSERT INTO pg_temp.guard VALUES (1)");
            xact::command(|| seen.set(number("SELECT count(*) FROM pg_temp.guard")));
        });
        assert_eq!(seen.get(), 1);
    }

    #[pg_test]
    fn the_clock_adds_as_the_calendar_does_and_refuses_nonsense() {
        let at: Option<i64> = Spi::get_one(
            "SELECT (extract(epoch FROM '2024-01-31 UTC'::timestamptz - '2000-01-01 UTC') * 1000000)::bigint",
        )
        .expect("a number");
        run("SET LOCAL timezone = 'UTC'");
        let month = clock::parse_interval("1 month").expect("an interval");
        let later = clock::add(at.expect("a number"), month).expect("in range");
        assert_eq!(clock::text(later), "2024-02-29 00:00:00+00");
        assert!(clock::parse_moment("a\0b").is_err());
        assert!(clock::parse_interval("a\0b").is_err());
        let failed: Result<(), Caught> =
            xact::savepoint(|| clock::parse_moment("soon").map(|_| ()).map_err(Into::into));
        let message = failed.expect_err("no moment").message;
        assert_eq!(message, "invalid input syntax for type timestamp with time zone: \"soon\"");
    }

    #[pg_test]
    fn roles_have_names_and_rights() {
        role("guard_role", &[]);
        assert!(user::is_superuser(user::current()));
        let low = acting_as("guard_role", user::current);
        assert!(!user::is_superuser(low));
        assert_eq!(user::name(low).as_deref(), Some("guard_role"));
        assert_eq!(user::name(1), None);
        assert_ne!(low, user::session());
    }

    #[pg_test]
    fn what_is_on_disk_ends_where_the_last_record_ended() {
        const SEGMENT: u64 = 16 << 20;
        let end = |next| durable::end_of_last(next, SEGMENT);
        // Nothing but the header is on the page yet, on a segment's first page and on any other.
        assert_eq!(end(SEGMENT * 5 + 40), SEGMENT * 5);
        assert_eq!(end(SEGMENT * 5 + 8192 * 3 + 24), SEGMENT * 5 + 8192 * 3);
        // The rest of a record that began on the page before.
        for rest in [32, 40, 48] {
            assert_eq!(end(SEGMENT * 5 + 8192 * 3 + rest), SEGMENT * 5 + 8192 * 3 + rest);
        }
        assert_eq!(end(SEGMENT * 5 + 48), SEGMENT * 5 + 48);
        assert_eq!(end(SEGMENT * 5 + 8192 * 3 + 8000), SEGMENT * 5 + 8192 * 3 + 8000);
    }

    #[pg_test]
    fn none_of_our_settings_needs_a_restart() {
        assert_eq!(error_of("SET pgq.no_such_setting = 1").map(|e| e.sqlstate).as_deref(), Some("42602"));
        assert_eq!(error_of("SET pgq.max_args_size = '65MB'").map(|e| e.sqlstate).as_deref(), Some("22023"));
        assert!(number("SELECT count(*) FROM pg_settings WHERE name LIKE 'pgq.%'") > 0);
        assert_eq!(value("SELECT name FROM pg_settings WHERE name LIKE 'pgq.%' AND context = 'postmaster'"), None);
    }
}
