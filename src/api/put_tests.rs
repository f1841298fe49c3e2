//! put and bulk_put: what is stored, and what is refused.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{holds, number, refused, rows, run, text, value};

    #[pg_test]
    fn put_returns_the_id_of_a_ready_job_with_the_defaults() {
        let id = number("SELECT pgq.put('put_defaults')");
        assert_eq!(
            rows(&format!("SELECT queue, task, args, priority, state, attempt, failures, max_attempts, key, crashes, error FROM pgq.job WHERE id = {id}")),
            ["(put_defaults,,{},0,ready,0,0,,,0,)"]
        );
        assert!(holds(&format!(
            "SELECT execute_at <= clock_timestamp() AND created_at <= clock_timestamp() FROM pgq.job WHERE id = {id}"
        )));
    }

    #[pg_test]
    fn put_stores_every_argument() {
        run("SELECT pgq.put('put_every', '{\"a\": 1}', priority => -7, execute_at => '2099-01-02 03:04:05+00',
             task => 'T.a-s_k', key => 'k', on_conflict => 'error', max_attempts => 3)");
        run("SET LOCAL timezone = 'UTC'");
        assert_eq!(
            rows("SELECT task, args->'a', priority, execute_at, state, key, max_attempts FROM pgq.job WHERE queue = 'put_every'"),
            ["(T.a-s_k,1,-7,\"2099-01-02 03:04:05+00\",scheduled,k,3)"]
        );
    }

    #[pg_test]
    fn put_takes_null_for_what_was_not_given() {
        run("SELECT pgq.put('put_nulls', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL)");
        assert_eq!(
            rows("SELECT priority, state, task, key, max_attempts FROM pgq.job WHERE queue = 'put_nulls'"),
            ["(0,ready,,,)"]
        );
    }

    #[pg_test]
    fn put_stores_null_args_as_json_null() {
        run("SELECT pgq.put('put_null_args', NULL)");
        assert_eq!(text("SELECT jsonb_typeof(args) FROM pgq.job WHERE queue = 'put_null_args'"), "null");
    }

    #[pg_test]
    fn put_takes_any_json_value_unchanged() {
        for args in
            ["1e400", "0.10", "12345678901234567890123", "\"text\"", "[1, null]", "true", "null", "{\"a\": [0.10]}"]
        {
            let id = number(&format!("SELECT pgq.put('put_values', '{args}')"));
            let kept = text(&format!("SELECT args FROM pgq.job WHERE id = {id}"));
            assert_eq!(kept, text(&format!("SELECT '{args}'::jsonb")), "{args}");
        }
        assert!(holds(
            "SELECT args::text = '0.10' FROM pgq.job WHERE queue = 'put_values' ORDER BY id OFFSET 1 LIMIT 1"
        ));
    }

    #[pg_test]
    fn put_refuses_a_null_queue() {
        refused("SELECT pgq.put(NULL)", "22004");
        refused("SELECT pgq.bulk_put(NULL, args => '{}')", "22004");
    }

    #[pg_test]
    fn put_refuses_names_with_other_characters() {
        for name in ["", " ", "a b", "mail ", "a/b", "a\"b", "a;b", "käse", "a\nb"] {
            let error = refused(&format!("SELECT pgq.put('{name}')"), "22023");
            assert!(error.message.starts_with("invalid queue name"), "{error:?}");
            let error = refused(&format!("SELECT pgq.put('put_names', task => '{name}')"), "22023");
            assert!(error.message.starts_with("invalid task name"), "{error:?}");
            refused(&format!("SELECT pgq.bulk_put('{name}', args => ARRAY['1'::jsonb])"), "22023");
            refused(&format!("SELECT pgq.bulk_put('put_names', args => ARRAY['1'::jsonb], task => '{name}')"), "22023");
        }
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'put_names'"), 0);
    }

    #[pg_test]
    fn put_takes_names_of_59_bytes_and_refuses_60() {
        let longest = "q".repeat(59);
        run(&format!("SELECT pgq.put('{longest}', task => '{longest}')"));
        refused(&format!("SELECT pgq.put('{longest}q')"), "22023");
        refused(&format!("SELECT pgq.put('put_long', task => '{longest}q')"), "22023");
    }

    #[pg_test]
    fn put_is_due_after_a_delay() {
        run("SELECT pgq.put('put_delay', delay => '1 hour')");
        assert!(holds(
            "SELECT state = 'scheduled' AND abs(extract(epoch FROM execute_at - created_at) - 3600) < 5
               FROM pgq.job WHERE queue = 'put_delay'"
        ));
    }

    #[pg_test]
    fn put_adds_a_delay_as_the_calendar_does() {
        run("SELECT pgq.put('put_month', delay => '1 month')");
        assert!(holds(
            "SELECT execute_at BETWEEN created_at + interval '1 month' - interval '5 s' AND created_at + interval '1 month'
               FROM pgq.job WHERE queue = 'put_month'"
        ));
    }

    #[pg_test]
    fn put_is_ready_at_once_without_delay_or_in_the_past() {
        run("SELECT pgq.put('put_past', delay => '0'), pgq.put('put_past', execute_at => '2001-01-01')");
        assert_eq!(rows("SELECT DISTINCT state FROM pgq.job WHERE queue = 'put_past'"), ["(ready)"]);
    }

    #[pg_test]
    fn put_refuses_times_that_cannot_be_right() {
        for wrong in [
            "execute_at => 'infinity'",
            "execute_at => '-infinity'",
            "delay => '-1 s'",
            "delay => '-1 month'",
            "delay => '200000 years'",
            "delay => '1 s', execute_at => '2099-01-01'",
        ] {
            refused(&format!("SELECT pgq.put('put_times', {wrong})"), "22023");
            refused(&format!("SELECT pgq.bulk_put('put_times', args => ARRAY['1'::jsonb], {wrong})"), "22023");
        }
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'put_times'"), 0);
    }

    #[pg_test]
    fn put_refuses_max_attempts_below_one() {
        refused("SELECT pgq.put('put_attempts', max_attempts => 0)", "22023");
        refused("SELECT pgq.put('put_attempts', max_attempts => -1)", "22023");
    }

    #[pg_test]
    fn put_refuses_an_unrecognized_on_conflict() {
        let error = refused("SELECT pgq.put('put_conflict', on_conflict => 'ignore')", "22023");
        assert_eq!(error.message, "unrecognized on_conflict \"ignore\"");
    }

    #[pg_test]
    fn put_refuses_keys_that_are_empty_or_over_1000_bytes() {
        refused("SELECT pgq.put('put_key', key => '')", "22023");
        refused("SELECT pgq.put('put_key', key => repeat('k', 1001))", "22023");
        run("SELECT pgq.put('put_key', key => repeat('k', 1000))");
    }

    #[pg_test]
    fn put_refuses_args_over_the_limit_and_names_the_setting() {
        run("SET LOCAL pgq.max_args_size = '1kB'");
        for call in [
            "pgq.put('put_size', to_jsonb(repeat('x', 2000)))",
            "pgq.bulk_put('put_size', args => ARRAY['1', to_jsonb(repeat('x', 2000))])",
            "pgq.bulk_put('put_size', jobs => jsonb_build_array(jsonb_build_object('args', repeat('x', 2000))))",
        ] {
            let error = refused(&format!("SELECT {call}"), "54000");
            assert!(error.message.contains("\"pgq.max_args_size\" of 1024 bytes"), "{error:?}");
            assert!(!error.message.contains("xxx") && !error.detail.contains("xxx"), "args in {error:?}");
        }
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'put_size'"), 0);
        run("SELECT pgq.put('put_size', to_jsonb(repeat('x', 900)))");
        run("RESET pgq.max_args_size");
        run("SELECT pgq.put('put_size', to_jsonb(repeat('x', 2000)))");
    }

    #[pg_test]
    fn put_with_a_key_keeps_the_job_that_waits() {
        let first = number("SELECT pgq.put('put_keep', '1', key => 'k')");
        let second = number("SELECT pgq.put('put_keep', '2', key => 'k', priority => 9)");
        assert_eq!(first, second);
        assert_eq!(rows("SELECT args, priority FROM pgq.job WHERE queue = 'put_keep'"), ["(1,0)"]);
    }

    #[pg_test]
    fn put_with_a_key_keeps_a_scheduled_job_too() {
        let first = number("SELECT pgq.put('put_keep_late', '1', key => 'k', delay => '1 h')");
        assert_eq!(first, number("SELECT pgq.put('put_keep_late', '2', key => 'k')"));
        assert_eq!(rows("SELECT args, state FROM pgq.job WHERE queue = 'put_keep_late'"), ["(1,scheduled)"]);
    }

    #[pg_test]
    fn put_with_a_key_replaces_all_that_was_put() {
        let first =
            number("SELECT pgq.put('put_replace', '1', key => 'k', delay => '1 h', task => 't', max_attempts => 2)");
        let second = number("SELECT pgq.put('put_replace', '2', 5, key => 'k', on_conflict => 'replace')");
        assert_eq!(first, second);
        assert_eq!(
            rows("SELECT args, priority, state, task, max_attempts, execute_at <= clock_timestamp() FROM pgq.job WHERE queue = 'put_replace'"),
            ["(2,5,ready,,,t)"]
        );
    }

    #[pg_test]
    fn put_with_a_key_raises_when_asked_to() {
        let id = number("SELECT pgq.put('put_error', key => 'k')");
        let error = refused("SELECT pgq.put('put_error', key => 'k', on_conflict => 'error')", "23505");
        assert!(error.detail.contains(&id.to_string()), "{error:?}");
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'put_error'"), 1);
    }

    #[pg_test]
    fn put_holds_a_key_in_its_own_queue_only() {
        let one = number("SELECT pgq.put('put_key_a', key => 'k')");
        assert_ne!(one, number("SELECT pgq.put('put_key_b', key => 'k')"));
    }

    #[pg_test]
    fn put_with_the_key_of_a_leased_or_claimed_job_is_a_new_job() {
        let leased = number("SELECT pgq.put('put_key_run', '1', key => 'k')");
        run("SELECT pgq.claim('put_key_run', lease => '1 min')");
        let next = number("SELECT pgq.put('put_key_run', '2', key => 'k')");
        assert_ne!(leased, next);
        run("SELECT pgq.claim('put_key_run')");
        assert_ne!(next, number("SELECT pgq.put('put_key_run', '3', key => 'k')"));
    }

    #[pg_test]
    fn bulk_put_of_args_returns_the_ids_in_their_order() {
        assert_eq!(
            rows(
                "WITH put AS (SELECT id, place FROM pgq.bulk_put('bulk_args', args => ARRAY['3', '1', '2', 'null']::jsonb[], priority => 4, task => 't')
                                WITH ORDINALITY AS p (id, place))
                 SELECT place FROM put ORDER BY id"
            ),
            ["(1)", "(2)", "(3)", "(4)"]
        );
        assert_eq!(
            rows("SELECT args, priority, task, state FROM pgq.job WHERE queue = 'bulk_args' ORDER BY id"),
            ["(3,4,t,ready)", "(1,4,t,ready)", "(2,4,t,ready)", "(null,4,t,ready)"]
        );
    }

    #[pg_test]
    fn bulk_put_of_jobs_takes_what_is_missing_from_the_arguments() {
        run("SET LOCAL timezone = 'UTC'");
        run("SELECT pgq.bulk_put('bulk_jobs', priority => 7, task => 'other', jobs => '[
              {\"args\": {\"n\": 0.10}},
              {\"args\": [1e400], \"priority\": -1, \"task\": \"t\", \"max_attempts\": 3},
              {\"execute_at\": \"2099-01-01 00:00\", \"priority\": null},
              {\"delay\": \"1 h\", \"task\": null, \"key\": null, \"max_attempts\": null, \"execute_at\": null}]')");
        let big = text("SELECT '[1e400]'::jsonb");
        assert_eq!(
            rows("SELECT args, priority, task, max_attempts, state FROM pgq.job WHERE queue = 'bulk_jobs' ORDER BY id"),
            [
                "(\"{\"\"n\"\": 0.10}\",7,other,,ready)".to_owned(),
                format!("({big},-1,t,3,ready)"),
                "({},7,other,,scheduled)".to_owned(),
                "({},7,other,,scheduled)".to_owned(),
            ]
        );
        assert_eq!(
            text("SELECT execute_at FROM pgq.job WHERE queue = 'bulk_jobs' ORDER BY id OFFSET 2 LIMIT 1"),
            "2099-01-01 00:00:00+00"
        );
    }

    #[pg_test]
    fn bulk_put_of_jobs_returns_the_ids_in_their_order() {
        let jobs = "'[{\"args\": 3}, {\"args\": 1}, {\"args\": 2}]'";
        let order = |jobs: &str| {
            rows(&format!(
                "WITH put AS (SELECT id, place FROM pgq.bulk_put('bulk_order', jobs => {jobs}) WITH ORDINALITY AS p (id, place))
                 SELECT place FROM put ORDER BY id"
            ))
        };
        assert_eq!(order(jobs), ["(1)", "(2)", "(3)"]);
        assert_eq!(order("'[{\"key\": \"c\"}, {\"key\": \"a\"}, {}]'"), ["(1)", "(2)", "(3)"]);
        assert_eq!(
            rows("SELECT args FROM pgq.job WHERE queue = 'bulk_order' ORDER BY id LIMIT 3"),
            ["(3)", "(1)", "(2)"]
        );
    }

    #[pg_test]
    fn bulk_put_keeps_a_json_null_in_args() {
        run("SELECT pgq.bulk_put('bulk_null', jobs => '[{\"args\": null}, {}]')");
        assert_eq!(rows("SELECT args FROM pgq.job WHERE queue = 'bulk_null' ORDER BY id"), ["(null)", "({})"]);
    }

    #[pg_test]
    fn bulk_put_keeps_the_job_that_waits_with_a_key() {
        let first = number("SELECT pgq.put('bulk_keys', '0', key => 'a')");
        let ids = rows("SELECT pgq.bulk_put('bulk_keys', jobs => '[{\"args\": 1, \"key\": \"a\"}, {\"args\": 2, \"key\": \"b\"}, {\"args\": 3, \"key\": \"b\"}]')");
        assert_eq!(ids[0], format!("({first})"));
        assert_eq!(ids[1], ids[2]);
        assert_eq!(rows("SELECT args, key FROM pgq.job WHERE queue = 'bulk_keys' ORDER BY id"), ["(0,a)", "(2,b)"]);
    }

    #[pg_test]
    fn bulk_put_of_nothing_puts_nothing() {
        assert_eq!(rows("SELECT pgq.bulk_put('bulk_empty', jobs => '[]')"), [""; 0]);
        assert_eq!(rows("SELECT pgq.bulk_put('bulk_empty', args => '{}')"), [""; 0]);
    }

    #[pg_test]
    fn bulk_put_wants_exactly_one_of_jobs_and_args() {
        refused("SELECT pgq.bulk_put('bulk_both')", "22023");
        refused("SELECT pgq.bulk_put('bulk_both', jobs => '[]', args => '{}')", "22023");
    }

    #[pg_test]
    fn bulk_put_refuses_null_elements_of_args() {
        refused("SELECT pgq.bulk_put('bulk_null_args', args => ARRAY['1', NULL]::jsonb[])", "22023");
    }

    #[pg_test]
    fn bulk_put_names_an_unknown_key_and_shows_how_to_wrap() {
        let error = refused("SELECT pgq.bulk_put('bulk_unknown', jobs => '[{}, {\"to\": 1}]')", "22023");
        assert!(error.detail.starts_with("Element 2: unknown field `to`"), "{error:?}");
        assert!(error.hint.contains("[{\"args\": {\"to\": 1}}]"), "{error:?}");
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'bulk_unknown'"), 0);
    }

    #[pg_test]
    fn bulk_put_refuses_what_is_no_array_of_objects() {
        for jobs in ["{}", "5", "null", "\"text\""] {
            refused(&format!("SELECT pgq.bulk_put('bulk_shape', jobs => '{jobs}')"), "22023");
        }
        for element in ["5", "null", "\"secret\"", "[\"secret\"]"] {
            let error = refused(&format!("SELECT pgq.bulk_put('bulk_shape', jobs => '[{element}]')"), "22023");
            assert_eq!(error.detail, "Element 1: it is no object.");
        }
    }

    #[pg_test]
    fn bulk_put_names_the_element_with_a_wrong_value() {
        for wrong in [
            "\"priority\": \"high\"",
            "\"priority\": 1.5",
            "\"priority\": 3000000000",
            "\"max_attempts\": 0",
            "\"task\": \"a b\"",
            "\"task\": 5",
            "\"key\": \"\"",
            "\"execute_at\": \"infinity\"",
            "\"delay\": \"-1 s\"",
            "\"delay\": 5",
            "\"delay\": \"1 s\", \"execute_at\": \"2099-01-01\"",
        ] {
            let error =
                refused(&format!("SELECT pgq.bulk_put('bulk_wrong', jobs => '[{{}}, {{}}, {{{wrong}}}]')"), "22023");
            assert!(error.detail.to_lowercase().contains("element 3"), "{wrong}: {error:?}");
        }
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'bulk_wrong'"), 0);
    }

    #[pg_test]
    fn bulk_put_refuses_times_that_are_none() {
        for wrong in ["\"execute_at\": \"soon\"", "\"delay\": \"soon\""] {
            let error = refused(&format!("SELECT pgq.bulk_put('bulk_soon', jobs => '[{{}}, {{{wrong}}}]')"), "22007");
            assert!(error.detail.starts_with("It is element 2"), "{error:?}");
        }
        let late = "\"execute_at\": \"400000-01-01\"";
        refused(&format!("SELECT pgq.bulk_put('bulk_soon', jobs => '[{{{late}}}]')"), "22008");
    }

    #[pg_test]
    fn a_savepoint_that_is_rolled_back_takes_its_jobs_along() {
        run("DO $$ BEGIN PERFORM pgq.put('put_savepoint', key => 'k'); RAISE 'x'; EXCEPTION WHEN OTHERS THEN END $$");
        assert_eq!(value("SELECT id FROM pgq.job WHERE queue = 'put_savepoint'"), None);
        assert!(holds("SELECT pgq.put('put_savepoint', key => 'k') IS NOT NULL"));
    }
}
