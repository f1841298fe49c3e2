//! wait and waiting: the answers that need no other session.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{function, number, refused, rows, run, text};

    fn waiting(id: i64) -> String {
        text(&format!("SELECT pgq.waiting({id})"))
    }

    #[pg_test]
    fn wait_for_a_job_of_this_transaction_is_refused() {
        let id = number("SELECT pgq.put('wait_own')");
        let error = refused(&format!("SELECT pgq.wait({id})"), "55000");
        assert!(error.hint.starts_with("COMMIT"), "{error:?}");
        run("DO $$ BEGIN PERFORM pgq.put('wait_own_sub'); END $$");
        refused("SELECT pgq.wait(id) FROM pgq.job WHERE queue = 'wait_own_sub'", "55000");
    }

    #[pg_test]
    fn wait_answers_gone_at_once() {
        assert_eq!(rows("SELECT * FROM pgq.wait(-1)"), ["(gone,,,)"]);
        assert_eq!(waiting(-1), "it does not wait: finished and not kept, or never put");
    }

    #[pg_test]
    fn wait_shows_the_result_of_a_done_job() {
        run("SELECT pgq.configure('wait_done', keep_done => '1 h'), pgq.put('wait_done')");
        let id = number("SELECT id FROM pgq.claim('wait_done', lease => '1 min')");
        run(&format!("SELECT pgq.complete({id}, 1, '{{\"n\": 0.10}}')"));
        assert_eq!(
            rows(&format!("SELECT state, result->'n', error, attempt FROM pgq.wait({id}, '0')")),
            ["(done,0.10,,1)"]
        );
        assert_eq!(waiting(id), "it does not wait: done");
    }

    #[pg_test]
    fn wait_shows_the_error_of_a_dead_job() {
        run("SELECT pgq.put('wait_dead')");
        let id = number("SELECT id FROM pgq.claim('wait_dead', lease => '1 min')");
        run(&format!("SELECT pgq.fail({id}, 1, 'x', permanent => true)"));
        assert_eq!(
            rows(&format!("SELECT state, result, error->>'message', attempt FROM pgq.wait({id})")),
            ["(dead,,x,1)"]
        );
        assert_eq!(waiting(id), "it does not wait: dead");
    }

    #[pg_test]
    fn wait_shows_a_cancelled_job() {
        let id = number("SELECT pgq.put('wait_cancelled')");
        run(&format!("SELECT pgq.cancel({id})"));
        assert_eq!(rows(&format!("SELECT * FROM pgq.wait({id}, NULL)")), ["(cancelled,,,0)"]);
    }

    #[pg_test]
    fn wait_refuses_nulls_and_negative_timeouts() {
        refused("SELECT pgq.wait(NULL)", "22004");
        refused("SELECT pgq.wait(-1, '-1 s')", "22023");
        refused("SELECT pgq.waiting(NULL)", "22004");
    }

    #[pg_test]
    fn waiting_names_the_time_of_a_delayed_job() {
        run("SET LOCAL timezone = 'UTC'");
        let id = number("SELECT pgq.put('waiting_delay', execute_at => '2099-01-01 00:00+00')");
        assert_eq!(waiting(id), "delayed until 2099-01-01 00:00:00+00");
    }

    #[pg_test]
    fn waiting_names_the_next_try_and_the_end_of_a_lease() {
        run("SELECT pgq.put('waiting_retry')");
        let id = number("SELECT id FROM pgq.claim('waiting_retry', lease => '1 min')");
        let at = text(&format!("SELECT execute_at FROM pgq.job WHERE id = {id}"));
        assert_eq!(waiting(id), format!("leased until {at}, attempt 1"));
        run(&format!("SELECT pgq.fail({id}, 1, retry_in => '1 h')"));
        let at = text(&format!("SELECT execute_at FROM pgq.job WHERE id = {id}"));
        assert_eq!(waiting(id), format!("retry at {at}, after 1 failures"));
    }

    #[pg_test]
    fn waiting_says_what_a_ready_job_lacks() {
        let id = number("SELECT pgq.put('waiting_ready')");
        let with_task = number("SELECT pgq.put('waiting_ready', task => 't')");
        let none = "has no handler here: it waits for pgq.register or for pgq.claim";
        assert_eq!(waiting(id), format!("queue \"waiting_ready\" {none}"));
        function("waiting_ready()", "void", "");
        run("SELECT pgq.register('waiting_ready', 'public.waiting_ready')");
        assert_eq!(waiting(with_task), format!("task \"t\" of queue \"waiting_ready\" {none}"));
        assert_eq!(waiting(id), "ready: its turn comes next");
        run("UPDATE pgq.handler SET parked = 'its function is gone', parked_at = now(), parked_until = 'infinity' WHERE queue = 'waiting_ready'");
        assert_eq!(waiting(id), "its handler is parked: its function is gone");
        run("SELECT pgq.pause('waiting_ready')");
        assert_eq!(waiting(id), "queue \"waiting_ready\" is paused: SELECT pgq.resume('waiting_ready')");
    }
}
