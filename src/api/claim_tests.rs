//! claim, complete, bulk_complete, fail, extend, release: a worker outside, step by step.

#![allow(clippy::expect_used)]

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::engine::time::Micros;
    use crate::outcome;
    use crate::pg::clock;
    use crate::pg::session_tests::{function, holds, number, refused, rows, run, text, value};
    use crate::store::{promote, registry};

    /// A job of this queue, leased.
    fn leased(queue: &str) -> i64 {
        run(&format!("SELECT pgq.put('{queue}')"));
        number(&format!("SELECT id FROM pgq.claim('{queue}', lease => '1 min')"))
    }

    #[pg_test]
    fn claim_takes_larger_priorities_first_then_smaller_ids() {
        run("SELECT pgq.put('claim_order', to_jsonb(n), p) FROM (VALUES (1, 0), (2, 5), (3, -5), (4, 5), (5, 0)) AS v (n, p)");
        assert_eq!(rows("SELECT args FROM pgq.claim('claim_order', 3)"), ["(2)", "(4)", "(1)"]);
        assert_eq!(rows("SELECT args FROM pgq.claim('claim_order', 10)"), ["(5)", "(3)"]);
        assert_eq!(rows("SELECT args FROM pgq.claim('claim_order', 10)"), [""; 0]);
    }

    #[pg_test]
    fn claim_takes_one_job_unless_told_otherwise() {
        run("SELECT pgq.bulk_put('claim_one', args => ARRAY['1', '2']::jsonb[])");
        assert_eq!(number("SELECT count(*) FROM pgq.claim('claim_one')"), 1);
        assert_eq!(number("SELECT count(*) FROM pgq.claim('claim_one', NULL)"), 1);
    }

    #[pg_test]
    fn claim_without_lease_returns_the_row_and_removes_it() {
        let id = number("SELECT pgq.put('claim_row', '{\"a\": 1}', 3, task => 't', key => 'k', max_attempts => 2)");
        assert_eq!(
            rows("SELECT id, queue, task, args->'a', priority, state, attempt, failures, max_attempts, key FROM pgq.claim('claim_row')"),
            [format!("({id},claim_row,t,1,3,ready,1,0,2,k)")]
        );
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'claim_row'"), 0);
    }

    #[pg_test]
    fn claim_rolled_back_gives_the_job_back_as_it_was() {
        run("SELECT pgq.put('claim_back')");
        let before = rows("SELECT * FROM pgq.job WHERE queue = 'claim_back'");
        run("DO $$ BEGIN PERFORM pgq.claim('claim_back'); RAISE 'x'; EXCEPTION WHEN OTHERS THEN END $$");
        assert_eq!(rows("SELECT * FROM pgq.job WHERE queue = 'claim_back'"), before);
    }

    #[pg_test]
    fn claim_with_a_lease_hides_the_job_and_counts_the_attempt() {
        run("SELECT pgq.put('claim_lease')");
        assert_eq!(
            rows("SELECT state, attempt, execute_at > clock_timestamp() + interval '25 s' FROM pgq.claim('claim_lease', lease => '30 s')"),
            ["(leased,1,t)"]
        );
        assert_eq!(rows("SELECT state, attempt FROM pgq.job WHERE queue = 'claim_lease'"), ["(leased,1)"]);
        assert_eq!(number("SELECT count(*) FROM pgq.claim('claim_lease')"), 0);
    }

    #[pg_test]
    fn claim_takes_only_the_tasks_it_names() {
        run("SELECT pgq.put('claim_tasks', '1', task => 'a'), pgq.put('claim_tasks', '2', task => 'b'), pgq.put('claim_tasks', '3')");
        assert_eq!(rows("SELECT args FROM pgq.claim('claim_tasks', 10, tasks => '{b,c}')"), ["(2)"]);
        assert_eq!(rows("SELECT args FROM pgq.claim('claim_tasks', 10, tasks => '{}')"), [""; 0]);
        assert_eq!(rows("SELECT args FROM pgq.claim('claim_tasks', 10)"), ["(1)", "(3)"]);
    }

    #[pg_test]
    fn claim_takes_from_several_queues_up_to_n() {
        run("SELECT pgq.put('claim_from_a', '1'), pgq.put('claim_from_b', '2'), pgq.put('claim_from_b', '3')");
        assert_eq!(rows("SELECT args FROM pgq.claim(queues => '{claim_from_b,claim_from_a}', n => 2)"), ["(2)", "(3)"]);
        assert_eq!(rows("SELECT args FROM pgq.claim(queues => '{claim_from_b,claim_from_a}', n => 2)"), ["(1)"]);
    }

    #[pg_test]
    fn claim_leaves_scheduled_jobs_and_paused_queues_alone() {
        run("SELECT pgq.put('claim_not', delay => '1 h'), pgq.put('claim_paused'), pgq.pause('claim_paused')");
        assert_eq!(number("SELECT count(*) FROM pgq.claim(queues => '{claim_not,claim_paused}')"), 0);
        assert_eq!(number("SELECT count(*) FROM pgq.claim('claim_paused', lease => '1 s')"), 0);
        run("SELECT pgq.resume('claim_paused')");
        assert_eq!(number("SELECT count(*) FROM pgq.claim('claim_paused')"), 1);
    }

    #[pg_test]
    fn claim_takes_from_1_to_10000_jobs() {
        run("SELECT pgq.bulk_put('claim_n', args => array_fill('1'::jsonb, ARRAY[3]))");
        refused("SELECT pgq.claim('claim_n', 0)", "22023");
        refused("SELECT pgq.claim('claim_n', -1)", "22023");
        refused("SELECT pgq.claim('claim_n', 10001)", "22023");
        assert_eq!(number("SELECT count(*) FROM pgq.claim('claim_n', 10000)"), 3);
    }

    #[pg_test]
    fn claim_wants_exactly_one_of_queue_and_queues() {
        refused("SELECT pgq.claim()", "22023");
        refused("SELECT pgq.claim('a', queues => '{b}')", "22023");
        refused("SELECT pgq.claim(queues => '{}')", "22023");
        refused("SELECT pgq.claim(queues => '{a,NULL}')", "22004");
    }

    #[pg_test]
    fn claim_refuses_wrong_names_and_leases() {
        refused("SELECT pgq.claim('a b')", "22023");
        refused("SELECT pgq.claim(queues => '{a,\"b c\"}')", "22023");
        refused("SELECT pgq.claim('a', tasks => '{\"b c\"}')", "22023");
        refused("SELECT pgq.claim('a', tasks => '{NULL}')", "22004");
        refused("SELECT pgq.claim('a', lease => '0')", "22023");
        refused("SELECT pgq.claim('a', lease => '-1 s')", "22023");
        refused("SELECT pgq.claim('a', lease => '200000 years')", "22023");
    }

    #[pg_test]
    fn complete_removes_a_leased_job_once() {
        let id = leased("complete_once");
        assert!(holds(&format!("SELECT pgq.complete({id}, 1)")));
        assert!(!holds(&format!("SELECT pgq.complete({id}, 1)")));
        assert_eq!(number(&format!("SELECT (SELECT count(*) FROM pgq.job WHERE id = {id}) + (SELECT count(*) FROM pgq.finished_job WHERE id = {id})")), 0);
    }

    #[pg_test]
    fn complete_keeps_the_result_where_the_queue_keeps_done_jobs() {
        run("SELECT pgq.configure('complete_keep', keep_done => '1 day')");
        let id = leased("complete_keep");
        assert!(holds(&format!("SELECT pgq.complete({id}, 1, '{{\"n\": 0.10}}')")));
        assert_eq!(
            rows(&format!(
                "SELECT outcome, result->'n', error, attempt, failures FROM pgq.finished_job WHERE id = {id}"
            )),
            ["(done,0.10,,1,0)"]
        );
    }

    #[pg_test]
    fn complete_of_another_attempt_changes_nothing() {
        let id = leased("complete_other");
        let before = rows("SELECT * FROM pgq.job WHERE queue = 'complete_other'");
        for attempt in [-1, 0, 2] {
            assert!(!holds(&format!("SELECT pgq.complete({id}, {attempt})")));
            assert!(!holds(&format!("SELECT pgq.release({id}, {attempt})")));
            assert_eq!(value(&format!("SELECT pgq.extend({id}, {attempt}, '1 h')")), None);
            assert_eq!(value(&format!("SELECT pgq.fail({id}, {attempt})")), None);
        }
        assert_eq!(rows("SELECT * FROM pgq.job WHERE queue = 'complete_other'"), before);
    }

    #[pg_test]
    fn complete_of_a_job_that_nobody_holds_is_false() {
        let id = number("SELECT pgq.put('complete_ready')");
        assert!(!holds(&format!("SELECT pgq.complete({id}, 0)")));
        assert!(!holds(&format!("SELECT pgq.complete({id}, 1)")));
        assert!(!holds("SELECT pgq.complete(-1, 1)"));
        assert!(!holds("SELECT pgq.release(-1, 1)"));
    }

    #[pg_test]
    fn complete_with_the_attempt_before_a_release_is_false() {
        let id = leased("complete_fence");
        assert!(holds(&format!("SELECT pgq.release({id}, 1)")));
        let second = number("SELECT attempt FROM pgq.claim('complete_fence', lease => '1 min')");
        assert!(second > 1);
        assert!(!holds(&format!("SELECT pgq.complete({id}, 1)")));
        assert!(holds(&format!("SELECT pgq.complete({id}, {second})")));
    }

    #[pg_test]
    fn the_calls_of_a_holder_refuse_nulls() {
        for call in [
            "complete(NULL, 1)",
            "complete(1, NULL)",
            "bulk_complete(NULL, '{1}')",
            "bulk_complete('{1}', NULL)",
            "bulk_complete('{NULL}', '{1}')",
            "bulk_complete('{1}', '{NULL}')",
            "fail(NULL, 1)",
            "fail(1, NULL)",
            "extend(NULL, 1, '1 s')",
            "extend(1, NULL, '1 s')",
            "extend(1, 1, NULL)",
            "release(NULL, 1)",
            "release(1, NULL)",
        ] {
            refused(&format!("SELECT pgq.{call}"), "22004");
        }
    }

    #[pg_test]
    fn bulk_complete_returns_what_it_accepted() {
        run("SELECT pgq.bulk_put('bulk_complete', args => array_fill('1'::jsonb, ARRAY[3]))");
        let ids = text("SELECT array_agg(id ORDER BY id) FROM pgq.claim('bulk_complete', 3, lease => '1 min')");
        let accepted = rows(&format!(
            "SELECT id = ('{ids}'::bigint[])[1], id = ('{ids}'::bigint[])[3]
               FROM pgq.bulk_complete('{ids}'::bigint[] || '{ids}'::bigint[] || -1::bigint, '{{1,2,1,1,1,1,1}}') AS c (id)"
        ));
        assert_eq!(accepted, ["(t,f)", "(f,t)", "(f,f)"]);
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'bulk_complete'"), 0);
    }

    #[pg_test]
    fn bulk_complete_refuses_arrays_that_do_not_pair() {
        refused("SELECT pgq.bulk_complete('{1,2}', '{1}')", "22023");
    }

    #[pg_test]
    fn fail_schedules_the_next_attempt_after_the_backoff() {
        run("SELECT pgq.configure('fail_backoff', backoff => '100 s', max_attempts => 3)");
        let id = leased("fail_backoff");
        assert_eq!(text(&format!("SELECT pgq.fail({id}, 1, 'mailbox full')")), "scheduled");
        assert_eq!(
            rows(&format!(
                "SELECT state, attempt, failures, error->>'message',
                        execute_at BETWEEN clock_timestamp() + interval '85 s' AND clock_timestamp() + interval '115 s'
                   FROM pgq.job WHERE id = {id}"
            )),
            ["(scheduled,1,1,\"mailbox full\",t)"]
        );
    }

    #[pg_test]
    fn fail_retries_when_it_is_told_to() {
        let id = leased("fail_retry_in");
        assert_eq!(text(&format!("SELECT pgq.fail({id}, 1, retry_in => '0')")), "ready");
        assert_eq!(number("SELECT attempt FROM pgq.claim('fail_retry_in', lease => '1 min')"), 2);
        assert_eq!(text(&format!("SELECT pgq.fail({id}, 2, retry_in => '1 h')")), "scheduled");
        assert!(holds(&format!(
            "SELECT execute_at > clock_timestamp() + interval '59 min' AND failures = 2 FROM pgq.job WHERE id = {id}"
        )));
        refused(&format!("SELECT pgq.fail({id}, 2, retry_in => '-1 s')"), "22023");
    }

    #[pg_test]
    fn fail_buries_a_job_at_its_last_failure() {
        run("SELECT pgq.put('fail_dead', '{\"a\": 1}', max_attempts => 2)");
        let id = number("SELECT id FROM pgq.claim('fail_dead', lease => '1 min')");
        run(&format!("SELECT pgq.fail({id}, 1, 'first', retry_in => '0'), pgq.claim('fail_dead', lease => '1 min')"));
        assert_eq!(text(&format!("SELECT pgq.fail({id}, 2, 'last')")), "dead");
        assert_eq!(
            rows(&format!(
                "SELECT outcome, args->'a', attempt, failures, error->>'message' FROM pgq.finished_job WHERE id = {id}"
            )),
            ["(dead,1,2,2,last)"]
        );
        assert_eq!(rows(&format!("SELECT message, failures FROM pgq.dead WHERE id = {id}")), ["(last,2)"]);
        assert_eq!(value(&format!("SELECT pgq.fail({id}, 2, 'again')")), None);
    }

    #[pg_test]
    fn fail_for_good_buries_at_once() {
        let id = leased("fail_permanent");
        assert_eq!(text(&format!("SELECT pgq.fail({id}, 1, 'no such user', permanent => true)")), "dead");
    }

    #[pg_test]
    fn fail_asks_job_then_handler_then_queue() {
        function("fail_places()", "void", "");
        run("SELECT pgq.configure('fail_places', max_attempts => 2, backoff => '100 s')");
        run("SELECT pgq.register('fail_places', 'public.fail_places', max_attempts => 1)");
        run("SELECT pgq.put('fail_places', '1'), pgq.put('fail_places', '2', max_attempts => 3), pgq.put('fail_places', '3', task => 't')");
        assert_eq!(
            rows("SELECT args, pgq.fail(id, attempt, 'x') FROM pgq.claim('fail_places', 10, lease => '1 min')"),
            ["(1,dead)", "(2,scheduled)", "(3,scheduled)"]
        );
        assert!(holds("SELECT bool_and(execute_at > clock_timestamp() + interval '85 s') FROM pgq.job WHERE queue = 'fail_places'"));
    }

    #[pg_test]
    fn fail_counts_a_claim_that_was_rolled_back() {
        run("SELECT pgq.put('fail_rolled')");
        run("DO $$ BEGIN PERFORM pgq.claim('fail_rolled'); RAISE 'x'; EXCEPTION WHEN OTHERS THEN END $$");
        let id = number("SELECT id FROM pgq.job WHERE queue = 'fail_rolled'");
        assert_eq!(text(&format!("SELECT pgq.fail({id}, 1, 'x')")), "scheduled");
        assert_eq!(rows(&format!("SELECT attempt, failures FROM pgq.job WHERE id = {id}")), ["(1,1)"]);
        assert_eq!(value(&format!("SELECT pgq.fail({id}, 1, 'x')")), None);
        run(&format!("SELECT pgq.retry({id})"));
        assert_eq!(number("SELECT attempt FROM pgq.claim('fail_rolled')"), 2);
    }

    #[pg_test]
    fn fail_loses_the_key_when_another_job_waits_with_it() {
        let run_with_key = |queue: &str| {
            run(&format!("SELECT pgq.put('{queue}', key => 'k')"));
            number(&format!("SELECT id FROM pgq.claim('{queue}', lease => '1 min')"))
        };
        let alone = run_with_key("fail_key_alone");
        run(&format!("SELECT pgq.fail({alone}, 1)"));
        assert_eq!(value(&format!("SELECT key FROM pgq.job WHERE id = {alone}")).as_deref(), Some("k"));
        let first = run_with_key("fail_key_two");
        let second = number("SELECT pgq.put('fail_key_two', key => 'k')");
        run(&format!("SELECT pgq.fail({first}, 1)"));
        assert_eq!(value(&format!("SELECT key FROM pgq.job WHERE id = {first}")), None);
        assert_eq!(text(&format!("SELECT key FROM pgq.job WHERE id = {second}")), "k");
    }

    #[pg_test]
    fn extend_moves_the_end_of_the_lease() {
        let id = leased("extend");
        assert!(holds(&format!(
            "SELECT pgq.extend({id}, 1, '1 h') BETWEEN clock_timestamp() + interval '59 min' AND clock_timestamp() + interval '1 h'"
        )));
        assert!(holds(&format!(
            "SELECT execute_at > clock_timestamp() + interval '59 min' FROM pgq.job WHERE id = {id}"
        )));
        refused(&format!("SELECT pgq.extend({id}, 1, '0')"), "22023");
        refused(&format!("SELECT pgq.extend({id}, 1, '-1 s')"), "22023");
        assert_eq!(value("SELECT pgq.extend(-1, 1, '1 s')"), None);
    }

    #[pg_test]
    fn extend_leaves_an_executors_lease_without_an_end() {
        let id = leased("extend_executor");
        run(&format!("UPDATE pgq.job SET execute_at = 'infinity' WHERE id = {id}"));
        assert_eq!(text(&format!("SELECT pgq.extend({id}, 1, '1 s')")), "infinity");
        assert_eq!(text(&format!("SELECT execute_at FROM pgq.job WHERE id = {id}")), "infinity");
    }

    #[pg_test]
    fn release_gives_back_without_counting() {
        let id = leased("release");
        assert!(holds(&format!("SELECT pgq.release({id}, 1)")));
        assert_eq!(rows(&format!("SELECT state, failures, error FROM pgq.job WHERE id = {id}")), ["(ready,0,)"]);
        assert!(!holds(&format!("SELECT pgq.release({id}, 1)")));
    }

    #[pg_test]
    fn release_with_a_delay_schedules() {
        let id = leased("release_delay");
        refused(&format!("SELECT pgq.release({id}, 1, '-1 s')"), "22023");
        assert!(holds(&format!("SELECT pgq.release({id}, 1, '1 h')")));
        assert!(holds(&format!("SELECT state = 'scheduled' AND execute_at > clock_timestamp() + interval '59 min' FROM pgq.job WHERE id = {id}")));
    }

    #[pg_test]
    fn a_lease_that_ended_counts_as_a_failure_and_is_ready_again() {
        let id = leased("lease_ended");
        let ended = |queue: &str| {
            run(&format!("UPDATE pgq.job SET execute_at = clock_timestamp() - interval '1 s' WHERE queue = '{queue}' AND state = 'leased'"));
            let jobs = promote::take_ended(Micros(clock::now()), Some(queue), 10).expect("readable");
            let retry = registry::setting(queue).expect("readable").retry;
            jobs.iter().map(|job| outcome::lease_ended(job, retry).expect("written")).collect::<Vec<_>>()
        };
        assert_eq!(ended("lease_ended"), ["ready"]);
        assert_eq!(
            rows(&format!("SELECT state, attempt, failures, error->>'message' FROM pgq.job WHERE id = {id}")),
            ["(ready,1,1,\"the lease ended\")"]
        );
        assert!(!holds(&format!("SELECT pgq.complete({id}, 1)")));
        function("lease_ended()", "void", "");
        run("SELECT pgq.register('lease_ended', 'public.lease_ended', max_attempts => 2)");
        run("SELECT pgq.claim('lease_ended', lease => '1 min')");
        assert_eq!(ended("lease_ended"), ["dead"]);
    }
}
