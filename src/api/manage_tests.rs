//! pause, resume, cancel, retry, redrive, purge, start, version; and what holds for every function of the API.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{
        acting_as, error_of, function, holds, number, refused, role, rows, run, text, value,
    };

    #[pg_test]
    fn pause_and_resume_say_whether_they_changed_the_queue() {
        for (call, changed) in [("resume", 0), ("pause", 1), ("pause", 0), ("resume", 1), ("resume", 0)] {
            assert_eq!(number(&format!("SELECT pgq.{call}('pause_one')")), changed, "{call}");
        }
        refused("SELECT pgq.pause('a b')", "22023");
        refused("SELECT pgq.resume('a b')", "22023");
    }

    #[pg_test]
    fn pause_without_a_queue_pauses_all_that_there_are() {
        function("pause_all()", "void", "");
        run("SELECT pgq.put('pause_all_a'), pgq.put('pause_all_a'), pgq.configure('pause_all_b'), pgq.register('pause_all_c', 'public.pause_all')");
        let queues = number("SELECT count(*) FROM pgq.queues");
        assert_eq!(number("SELECT pgq.pause()"), queues);
        assert!(holds("SELECT bool_and(paused) FROM pgq.queues"));
        assert_eq!(number("SELECT pgq.pause(NULL)"), 0);
        assert_eq!(number("SELECT pgq.resume()"), queues);
        assert!(holds("SELECT NOT bool_or(paused) FROM pgq.queues"));
    }

    #[pg_test]
    fn pause_lets_puts_go_on() {
        run("SELECT pgq.pause('pause_put')");
        assert!(holds("SELECT pgq.put('pause_put') > 0"));
    }

    #[pg_test]
    fn cancel_buries_ready_and_scheduled_jobs_as_cancelled() {
        for put in ["pgq.put('cancel', '7', 3, key => 'a')", "pgq.put('cancel', '7', 3, delay => '1 h')"] {
            let id = number(&format!("SELECT {put}"));
            assert_eq!(text(&format!("SELECT pgq.cancel({id})")), "cancelled");
            assert_eq!(
                rows(&format!(
                    "SELECT outcome, args, priority, attempt, failures FROM pgq.finished_job WHERE id = {id}"
                )),
                ["(cancelled,7,3,0,0)"]
            );
            assert_eq!(value(&format!("SELECT pgq.cancel({id})")), None);
        }
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'cancel'"), 0);
    }

    #[pg_test]
    fn cancel_of_a_job_that_is_gone_is_null() {
        assert_eq!(value("SELECT pgq.cancel(-1)"), None);
        assert_eq!(value("SELECT pgq.cancel(-1, force => true)"), None);
        refused("SELECT pgq.cancel(NULL)", "22004");
    }

    #[pg_test]
    fn cancel_leaves_a_leased_job_untouched_unless_forced() {
        run("SELECT pgq.put('cancel_leased', key => 'k')");
        let id = number("SELECT id FROM pgq.claim('cancel_leased', lease => '1 min')");
        let before = rows(&format!("SELECT ctid, * FROM pgq.job WHERE id = {id}"));
        assert_eq!(text(&format!("SELECT pgq.cancel({id})")), "leased");
        assert_eq!(rows(&format!("SELECT ctid, * FROM pgq.job WHERE id = {id}")), before);
        assert_eq!(text(&format!("SELECT pgq.cancel({id}, force => true)")), "cancelled");
        assert!(!holds(&format!("SELECT pgq.complete({id}, 1)")));
        assert_eq!(text(&format!("SELECT outcome FROM pgq.finished_job WHERE id = {id}")), "cancelled");
    }

    #[pg_test]
    fn retry_brings_dead_and_cancelled_jobs_back_without_failures() {
        let dead = number("SELECT pgq.put('retry', '7', 3, task => 't', max_attempts => 1)");
        run("SELECT pgq.claim('retry', lease => '1 min')");
        run(&format!("SELECT pgq.fail({dead}, 1, 'x')"));
        let cancelled = number("SELECT pgq.put('retry')");
        run(&format!("SELECT pgq.cancel({cancelled})"));
        for id in [dead, cancelled] {
            assert!(holds(&format!("SELECT pgq.retry({id})")));
            assert_eq!(number(&format!("SELECT count(*) FROM pgq.finished_job WHERE id = {id}")), 0);
        }
        assert_eq!(
            rows(&format!("SELECT args, priority, task, state, attempt, failures, max_attempts, error->>'message' FROM pgq.job WHERE id = {dead}")),
            ["(7,3,t,ready,1,0,1,x)"]
        );
        assert_eq!(number(&format!("SELECT attempt FROM pgq.claim('retry', 2) WHERE id = {dead}")), 2);
    }

    #[pg_test]
    fn retry_at_a_time_schedules() {
        let id = number("SELECT pgq.put('retry_at')");
        run(&format!("SELECT pgq.cancel({id}), pgq.retry({id}, '2099-01-01')"));
        assert_eq!(text(&format!("SELECT state FROM pgq.job WHERE id = {id}")), "scheduled");
        assert!(holds(&format!("SELECT pgq.retry({id})")), "a job that waits runs at once");
        assert_eq!(text(&format!("SELECT state FROM pgq.job WHERE id = {id}")), "ready");
        refused(&format!("SELECT pgq.retry({id}, 'infinity')"), "22023");
    }

    #[pg_test]
    fn retry_of_leased_done_and_gone_jobs_is_false() {
        run("SELECT pgq.configure('retry_not', keep_done => '1 day'), pgq.put('retry_not')");
        let id = number("SELECT id FROM pgq.claim('retry_not', lease => '1 min')");
        assert!(!holds(&format!("SELECT pgq.retry({id})")));
        run(&format!("SELECT pgq.complete({id}, 1)"));
        assert!(!holds(&format!("SELECT pgq.retry({id})")));
        assert!(!holds("SELECT pgq.retry(-1)"));
        refused("SELECT pgq.retry(NULL)", "22004");
    }

    #[pg_test]
    fn redrive_brings_dead_jobs_back_oldest_first() {
        run("SELECT pgq.bulk_put('redrive', args => ARRAY['1', '2', '3']::jsonb[])");
        run("SELECT pgq.fail(id, attempt, 'x', permanent => true) FROM pgq.claim('redrive', 3, lease => '1 min')");
        run("SELECT pgq.cancel(pgq.put('redrive', '4'))");
        assert_eq!(number("SELECT pgq.redrive('redrive', 2)"), 2);
        assert_eq!(
            rows("SELECT args, state, attempt, failures FROM pgq.job WHERE queue = 'redrive' ORDER BY id"),
            ["(1,ready,1,0)", "(2,ready,1,0)"]
        );
        assert_eq!(number("SELECT pgq.redrive('redrive')"), 1);
        assert_eq!(number("SELECT pgq.redrive('redrive')"), 0);
        assert_eq!(rows("SELECT outcome FROM pgq.finished_job WHERE queue = 'redrive'"), ["(cancelled)"]);
        refused("SELECT pgq.redrive('redrive', 0)", "22023");
        refused("SELECT pgq.redrive(NULL)", "22004");
        refused("SELECT pgq.redrive('a b')", "22023");
    }

    #[pg_test]
    fn purge_removes_the_jobs_of_one_state() {
        run("SELECT pgq.configure('purge', keep_done => '1 day')");
        run("SELECT pgq.bulk_put('purge', args => array_fill('1'::jsonb, ARRAY[3]))");
        run("SELECT pgq.fail(id, attempt, permanent => true) FROM pgq.claim('purge', lease => '1 min')");
        run("SELECT pgq.complete(id, attempt) FROM pgq.claim('purge', lease => '1 min')");
        run("SELECT pgq.claim('purge', lease => '1 min')");
        run("SELECT pgq.cancel(pgq.put('purge')), pgq.put('purge'), pgq.put('purge', delay => '1 h'), pgq.put('purge_other')");
        for state in ["dead", "done", "cancelled", "ready", "scheduled"] {
            assert_eq!(number(&format!("SELECT pgq.purge('purge', '{state}', '1 h')")), 0, "{state}");
            assert_eq!(number(&format!("SELECT pgq.purge('purge', '{state}')")), 1, "{state}");
        }
        assert_eq!(rows("SELECT state FROM pgq.job WHERE queue = 'purge'"), ["(leased)"]);
        assert_eq!(number("SELECT count(*) FROM pgq.finished_job WHERE queue = 'purge'"), 0);
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'purge_other'"), 1);
    }

    #[pg_test]
    fn purge_refuses_other_states_and_negative_ages() {
        for state in ["leased", "running", "", "DEAD"] {
            refused(&format!("SELECT pgq.purge('purge_not', '{state}')"), "22023");
        }
        refused("SELECT pgq.purge('purge_not', 'dead', '-1 s')", "22023");
        refused("SELECT pgq.purge('purge_not', NULL)", "22004");
        refused("SELECT pgq.purge(NULL, 'dead')", "22004");
        assert_eq!(number("SELECT pgq.purge('purge_not', 'dead', NULL)"), 0);
    }

    #[pg_test]
    fn start_finds_the_launcher_of_a_preloaded_library() {
        assert!(holds("SELECT pgq.start()"));
    }

    #[pg_test]
    fn version_is_that_of_the_extension() {
        assert!(holds("SELECT pgq.version() = extversion FROM pg_extension WHERE extname = 'pgq'"));
    }

    #[pg_test]
    fn each_function_has_one_signature() {
        assert_eq!(
            rows("SELECT proname FROM pg_proc WHERE pronamespace = 'pgq'::regnamespace GROUP BY 1 HAVING count(*) > 1"),
            [""; 0]
        );
    }

    #[pg_test]
    fn every_object_has_a_comment() {
        // From 18 on NOT NULL is a constraint of its own (contype 'n', pg_constraint.h): its column has the comment.
        assert_eq!(
            rows(
                "SELECT 'column', c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.relnamespace = 'pgq'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0
                    AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
                 UNION ALL SELECT 'relation', c.relname FROM pg_class c
                  WHERE c.relnamespace = 'pgq'::regnamespace AND obj_description(c.oid, 'pg_class') IS NULL
                 UNION ALL SELECT 'constraint', c.conname FROM pg_constraint c
                  WHERE c.connamespace = 'pgq'::regnamespace AND c.contype <> 'n'
                    AND obj_description(c.oid, 'pg_constraint') IS NULL
                 UNION ALL SELECT 'function', p.proname FROM pg_proc p
                  WHERE p.pronamespace = 'pgq'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
                 UNION ALL SELECT 'schema', nspname FROM pg_namespace n
                  WHERE nspname = 'pgq' AND obj_description(n.oid, 'pg_namespace') IS NULL
                 UNION ALL SELECT 'extension', extname FROM pg_extension e
                  WHERE extname = 'pgq' AND obj_description(e.oid, 'pg_extension') IS NULL"
            ),
            [""; 0]
        );
    }

    #[pg_test]
    fn nothing_is_granted_to_public() {
        assert_eq!(
            rows(
                "SELECT p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                  WHERE p.pronamespace = 'pgq'::regnamespace AND a.grantee = 0
                 UNION ALL
                 SELECT c.relname FROM pg_class c,
                        aclexplode(coalesce(c.relacl, acldefault((CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\", c.relowner))) AS a
                  WHERE c.relnamespace = 'pgq'::regnamespace AND a.grantee = 0
                 UNION ALL
                 SELECT n.nspname FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
                  WHERE n.nspname = 'pgq' AND a.grantee = 0"
            ),
            [""; 0]
        );
    }

    #[pg_test]
    fn a_grant_suffices_and_gives_nothing_else() {
        role("manage_low", &["produce", "consume"]);
        acting_as("manage_low", || {
            assert!(holds("SELECT pgq.put('manage_low', key => 'k') > 0"));
            assert!(holds("SELECT pgq.complete(id, attempt) FROM pgq.claim('manage_low', lease => '1 min')"));
            run("SELECT pgq.put('manage_low')");
            assert_eq!(number("SELECT count(*) FROM pgq.claim('manage_low')"), 1);
            for other in
                ["pgq.cancel(1)", "pgq.purge('q', 'dead')", "pgq.doctor()", "pgq.register('q', 'f')", "pgq.executors()"]
            {
                assert_eq!(
                    error_of(&format!("SELECT {other}")).map(|e| e.sqlstate).as_deref(),
                    Some("42501"),
                    "{other}"
                );
            }
            for table in ["job", "finished_job", "queue_setting", "handler", "running", "workers", "dead", "queues"] {
                let error = error_of(&format!("SELECT * FROM pgq.{table}"));
                assert_eq!(error.map(|e| e.sqlstate).as_deref(), Some("42501"), "{table}");
            }
            let error =
                error_of("INSERT INTO pgq.job (queue, args, execute_at, state) VALUES ('q', '1', now(), 'ready')");
            assert_eq!(error.map(|e| e.sqlstate).as_deref(), Some("42501"));
        });
    }
}
