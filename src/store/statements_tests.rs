//! Each statement prepares and does what its function says, also those that only workers run.

#![allow(clippy::expect_used)]

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::engine::state::State;
    use crate::engine::time::Micros;
    use crate::pg::session_tests::{error_of, function, number, role, rows, run, text, value};
    use crate::pg::{clock, user};
    use crate::store::finish::{self, Return};
    use crate::store::row::Job;
    use crate::store::{claim, counts, history, key, promote, registry, server};

    fn now() -> Micros {
        Micros(clock::now())
    }

    fn args_of(jobs: &[Job]) -> Vec<String> {
        jobs.iter().map(|job| job.args.json_text()).collect()
    }

    #[pg_test]
    fn take_gives_a_handlers_jobs_in_order_but_those_set_aside() {
        run("SELECT pgq.put('st_take', to_jsonb(n), n % 2) FROM generate_series(1, 5) AS n; SELECT pgq.put('st_take', '6', task => 't')");
        let first = number("SELECT id FROM pgq.job WHERE queue = 'st_take' AND args = '1'");
        let jobs = claim::take("st_take", None, 3, &[first]).expect("readable");
        assert_eq!(args_of(&jobs), ["3", "5", "2"]);
        assert_eq!(args_of(&claim::take("st_take", Some("t"), 9, &[]).expect("readable")), ["6"]);
        assert_eq!(args_of(&claim::take("st_take", None, 9, &[]).expect("readable")), ["1", "4"]);
    }

    #[pg_test]
    fn nothing_is_taken_from_a_paused_queue() {
        run("SELECT pgq.put('st_paused'), pgq.pause('st_paused')");
        assert!(claim::take("st_paused", None, 1, &[]).expect("readable").is_empty());
        assert!(claim::lease_one("st_paused", None, &[]).expect("readable").is_none());
    }

    #[pg_test]
    fn one_ready_job_is_taken_by_its_id_for_its_own_handler_only() {
        let id = number("SELECT pgq.put('st_ready', task => 't')");
        let later = number("SELECT pgq.put('st_ready', task => 't', delay => '1 h')");
        let take = |id, queue, task| claim::take_ready(id, queue, task).expect("readable").map(|job| job.id);
        assert_eq!(take(id, "st_ready", None), None);
        assert_eq!(take(id, "st_other", Some("t")), None);
        assert_eq!(take(later, "st_ready", Some("t")), None);
        assert_eq!(take(id, "st_ready", Some("t")), Some(id));
        assert_eq!(take(id, "st_ready", Some("t")), None);
    }

    #[pg_test]
    fn an_executors_lease_has_no_end_and_is_given_back_uncounted() {
        run("SELECT pgq.put('st_lease', '1'), pgq.put('st_lease', '2', 1, key => 'k')");
        let job = claim::lease_one("st_lease", None, &[]).expect("readable").expect("a job");
        assert_eq!((job.args.json_text().as_str(), job.attempt), ("2", 1));
        assert!(promote::held_here().expect("readable").contains(&job.id));
        assert!(promote::take_ended(now(), Some("st_lease"), 9).expect("readable").is_empty());
        assert_eq!(promote::give_back(job.id, now()).expect("readable").as_deref(), Some("st_lease"));
        assert_eq!(promote::give_back(job.id, now()).expect("readable"), None);
        let back = format!("SELECT state, attempt, failures, key FROM pgq.job WHERE id = {}", job.id);
        assert_eq!(rows(&back), ["(ready,1,0,k)"]);
    }

    #[pg_test]
    fn of_jobs_of_one_key_that_come_back_together_one_keeps_it() {
        // A claim that rolled back leaves two of a key.
        run("INSERT INTO pgq.job (queue, args, execute_at, state, key)
             SELECT 'st_together', '1', clock_timestamp(), 'ready', 'k' FROM generate_series(1, 2)");
        let jobs = claim::take("st_together", None, 2, &[]).expect("readable");
        let how = Return { state: State::Ready, execute_at: now(), attempt: 1, failures: 1, error: None };
        let back: Vec<(&Job, Return)> = jobs.iter().map(|job| (job, how)).collect();
        finish::put_back_all(&back).expect("written");
        let keys = "SELECT key FROM pgq.job WHERE queue = 'st_together' ORDER BY id";
        assert_eq!(rows(keys), ["(k)", "()"]);
    }

    #[pg_test]
    fn a_lease_that_is_given_back_loses_its_key_to_a_job_that_waits() {
        let first = number("SELECT pgq.put('st_lease_key', key => 'k')");
        claim::lease_one("st_lease_key", None, &[]).expect("readable").expect("a job");
        let second = number("SELECT pgq.put('st_lease_key', key => 'k')");
        promote::give_back(first, now()).expect("readable");
        assert_eq!(value(&format!("SELECT key FROM pgq.job WHERE id = {first}")), None);
        assert_eq!(text(&format!("SELECT key FROM pgq.job WHERE id = {second}")), "k");
    }

    #[pg_test]
    fn what_is_due_is_promoted_earliest_first_and_nothing_else() {
        run("SELECT pgq.put('st_due', to_jsonb(n), delay => '1 h') FROM generate_series(1, 3) AS n; SELECT pgq.put('st_due_other', delay => '1 h')");
        run("UPDATE pgq.job SET execute_at = clock_timestamp() - args::int * interval '1 min' WHERE queue = 'st_due' AND args > '1'");
        assert_eq!(promote::promote(now(), Some("st_due"), 1).expect("readable"), ["st_due"]);
        assert_eq!(rows("SELECT args FROM pgq.job WHERE queue = 'st_due' AND state = 'ready'"), ["(3)"]);
        assert_eq!(promote::promote(now(), Some("st_due"), 9).expect("readable"), ["st_due"]);
        assert!(promote::promote(now(), Some("st_due"), 9).expect("readable").is_empty());
        assert!(promote::promote(now(), Some("st_due_other"), 9).expect("readable").is_empty());
        assert_eq!(rows("SELECT args FROM pgq.job WHERE queue = 'st_due' AND state = 'scheduled'"), ["(1)"]);
    }

    #[pg_test]
    fn the_next_due_time_is_of_the_earliest_scheduled_or_leased_job() {
        run("SELECT pgq.put('st_next', execute_at => '2000-01-02 UTC')");
        run("UPDATE pgq.job SET state = 'scheduled' WHERE queue = 'st_next'");
        assert_eq!(promote::next_due().expect("readable"), Some(Micros(86_400_000_000)));
        run("UPDATE pgq.job SET state = 'leased' WHERE queue = 'st_next'");
        assert_eq!(promote::next_due().expect("readable"), Some(Micros(86_400_000_000)));
    }

    #[pg_test]
    fn a_claim_that_was_rolled_back_is_taken_by_its_attempt_only() {
        let id = number("SELECT pgq.put('st_waiting')");
        let take = |attempt| claim::take_waiting(id, attempt, None).expect("readable").map(|job| job.id);
        assert_eq!((take(0), take(2)), (None, None));
        assert_eq!(take(1), Some(id));
    }

    #[pg_test]
    fn ready_queues_are_told_of_where_no_handler_is_unless_set() {
        function("st_told()", "void", "");
        run("SELECT pgq.put('st_told_a'), pgq.put('st_told_b'), pgq.put('st_told_b'), pgq.put('st_told_c'), pgq.put('st_told_d'), pgq.put('st_told_e', delay => '1 h')");
        run("SELECT pgq.register('st_told_b', 'st_told'), pgq.register('st_told_c', 'st_told'),
                    pgq.configure('st_told_c', notify => true), pgq.pause('st_told_d')");
        let mut told = counts::ready_queues().expect("readable");
        told.retain(|(queue, _)| queue.starts_with("st_told"));
        told.sort();
        let expected = [("st_told_a", true), ("st_told_b", false), ("st_told_c", true), ("st_told_d", false)];
        assert_eq!(told, expected.map(|(queue, tell)| (queue.to_owned(), tell)));
        assert!(counts::notifies("st_told_a").expect("readable"));
        assert!(!counts::notifies("st_told_b").expect("readable"));
        assert!(counts::notifies("st_told_c").expect("readable"));
        counts::notify(&[Some("st_told_a".into())]).expect("sent");
    }

    #[pg_test]
    fn handlers_with_ready_jobs_are_found_and_counted_up_to_a_bound() {
        role("st_runnable", &[]);
        function("st_runnable()", "void", "");
        run("SELECT pgq.register('st_runnable', 'st_runnable', run_as => 'st_runnable', timeout => '2 s', batch => 1),
                    pgq.register('st_runnable', 'st_runnable', run_as => 'st_runnable', task => 'idle')");
        run("SELECT pgq.configure('st_runnable', backoff => '3 s'), pgq.bulk_put('st_runnable', args => array_fill('1'::jsonb, ARRAY[5]))");
        let oid = u32::try_from(number("SELECT 'st_runnable'::regrole::oid")).expect("an oid");
        let runnable = |role| {
            let mut found = registry::handlers(role, 3).expect("readable");
            found.retain(|handler| handler.queue == "st_runnable" && handler.ready > 0);
            found
        };
        let found = runnable(oid);
        assert_eq!(found.len(), 1);
        let handler = &found[0];
        assert_eq!((handler.ready, handler.batch, handler.role, &handler.task), (3, Some(1), oid, &None));
        assert_eq!(handler.timeout.map(|span| span.0), Some(2_000_000));
        assert_eq!(handler.retry[1].backoff.map(|span| span.0), Some(3_000_000));
        assert_eq!(runnable(0).len(), 1);
        assert_eq!(runnable(user::session()).len(), 0);
        run("SELECT pgq.pause('st_runnable')");
        assert_eq!(runnable(oid).len(), 0, "nothing runs of a paused queue");
        let all = registry::handlers(oid, 0).expect("readable");
        assert_eq!(all.iter().map(|h| h.ready).collect::<Vec<_>>(), [0, 0], "with bound 0 all, uncounted");
    }

    #[pg_test]
    fn finished_jobs_are_pruned_by_their_queues_age_or_the_settings() {
        run("SELECT pgq.configure('st_prune_own', keep_done => '1 h', keep_dead => '3 h')");
        run("INSERT INTO pgq.finished_job (id, queue, args, priority, created_at, attempt, failures, crashes, outcome, finished_at)
             SELECT -1 - row_number() OVER (), q, '1', 0, now(), 1, 0, 0, o, now() - interval '2 h'
               FROM unnest(ARRAY['st_prune_own', 'st_prune_any']) AS q, unnest(ARRAY['done', 'dead', 'cancelled']) AS o");
        let left = || rows("SELECT queue, outcome FROM pgq.finished_job WHERE queue LIKE 'st_prune%' ORDER BY 1, 2");
        let hour = 3_600_000_000;
        assert_eq!(history::prune(now().0 - 3 * hour, now().0 - 3 * hour, 9).expect("written"), 1);
        assert_eq!(left().len(), 5, "the queue's own: done after an hour");
        assert_eq!(history::prune(now().0 - hour, now().0 - hour, 1).expect("written"), 1, "at most so many");
        assert_eq!(history::prune(now().0 - hour, now().0 - hour, 9).expect("written"), 2);
        assert_eq!(left(), ["(st_prune_own,cancelled)", "(st_prune_own,dead)"]);
    }

    #[pg_test]
    fn a_key_may_return_when_nobody_waits_with_it() {
        assert!(key::may_return("st_key", "k").expect("readable"));
        run("SELECT pgq.put('st_key', key => 'k')");
        assert!(!key::may_return("st_key", "k").expect("readable"));
        assert!(key::may_return("st_key", "other").expect("readable"));
    }

    #[pg_test]
    fn a_look_says_whether_this_transaction_wrote_the_job() {
        let id = number("SELECT pgq.put('st_look')");
        let seen = claim::look(id).expect("readable").expect("a job");
        assert!(seen.own && seen.error.is_none());
        assert!(claim::look(-1).expect("readable").is_none());
    }

    #[pg_test]
    fn the_server_is_asked_for_its_limits() {
        let (most, taken) = server::worker_processes().expect("readable");
        assert_eq!(most, number("SELECT current_setting('max_worker_processes')"));
        // Logical replication has its launcher among them.
        assert!(taken >= 1 && taken <= most, "{taken} of {most}");
        assert!(!counts::has_prepared().expect("readable"));
        assert!(!registry::queue_ids().expect("readable").iter().any(|(_, queue)| queue == "st_none"));
    }

    #[pg_test]
    fn illegal_rows_are_refused_by_the_tables() {
        let job = |columns: &str| {
            let sql = format!("INSERT INTO pgq.job (queue, args, execute_at, state, attempt, failures, max_attempts) VALUES ({columns})");
            error_of(&sql).map(|e| e.sqlstate)
        };
        assert_eq!(job("'st_check', '1', now(), 'ready', 0, 0, NULL"), None);
        for wrong in ["'running', 0, 0, NULL", "'ready', -1, 0, NULL", "'ready', 1, 2, NULL", "'ready', 0, 0, 0"] {
            assert_eq!(job(&format!("'st_check', '1', now(), {wrong}")).as_deref(), Some("23514"), "{wrong}");
        }
    }
}
