//! stats and the views: what is counted.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{function, holds, number, refused, rows, run};

    #[pg_test]
    fn stats_counts_the_jobs_of_a_queue_by_state() {
        run("SELECT pgq.bulk_put('stats_states', args => array_fill('1'::jsonb, ARRAY[5]))");
        run("SELECT pgq.put('stats_states', delay => '1 h')");
        run("SELECT pgq.fail(id, attempt, permanent => true) FROM pgq.claim('stats_states', lease => '1 min')");
        run("SELECT pgq.claim('stats_states', lease => '1 min')");
        assert_eq!(
            rows("SELECT queue, ready, scheduled, leased, running, dead, workers, paused, parked, handlers FROM pgq.stats('stats_states')"),
            ["(stats_states,3,1,1,0,1,0,f,,0)"]
        );
        assert!(holds("SELECT oldest_ready >= '0' AND oldest_ready < '1 min' FROM pgq.stats('stats_states')"));
        assert!(holds(
            "SELECT since <= clock_timestamp() AND done_total = 0 AND failed_total = 1 FROM pgq.stats('stats_states')"
        ));
    }

    #[pg_test]
    fn stats_has_no_oldest_where_nothing_is_ready() {
        run("SELECT pgq.put('stats_oldest', delay => '1 h')");
        assert!(holds("SELECT oldest_ready IS NULL FROM pgq.stats('stats_oldest')"));
        run("SELECT pgq.put('stats_oldest', execute_at => clock_timestamp() + interval '-1 h')");
        run("UPDATE pgq.job SET created_at = created_at - interval '2 h' WHERE queue = 'stats_oldest'");
        assert!(holds("SELECT oldest_ready BETWEEN '59 min' AND '61 min' FROM pgq.stats('stats_oldest')"));
    }

    #[pg_test]
    fn stats_shows_handlers_pauses_and_reasons() {
        function("stats_handler()", "void", "");
        run("SELECT pgq.register('stats_handler', 'public.stats_handler'), pgq.register('stats_handler', 'public.stats_handler', task => 't')");
        run("UPDATE pgq.handler SET parked = 'it is ' || coalesce(task, 'none'), parked_at = now(), parked_until = 'infinity' WHERE queue = 'stats_handler'");
        run("SELECT pgq.pause('stats_handler')");
        assert_eq!(
            rows("SELECT ready, paused, handlers, parked LIKE '%it is t%' AND parked LIKE '%it is none%' FROM pgq.stats('stats_handler')"),
            ["(0,t,2,t)"]
        );
    }

    #[pg_test]
    fn stats_without_a_queue_shows_each() {
        run("SELECT pgq.put('stats_each_a'), pgq.put('stats_each_b'), pgq.configure('stats_each_c')");
        assert_eq!(
            rows("SELECT queue, ready FROM pgq.stats() WHERE queue LIKE 'stats_each_%'"),
            ["(stats_each_a,1)", "(stats_each_b,1)", "(stats_each_c,0)"]
        );
        assert_eq!(number("SELECT count(*) FROM pgq.stats('stats_none')"), 0);
        refused("SELECT * FROM pgq.stats('a b')", "22023");
    }

    #[pg_test]
    fn the_views_show_queues_and_dead_jobs() {
        run("SELECT pgq.configure('view_queue', max_attempts => 7), pgq.put('view_queue', '{\"a\": 1}', 3, task => 't')");
        assert_eq!(
            rows("SELECT handlers, paused, max_attempts FROM pgq.queues WHERE queue = 'view_queue'"),
            ["(0,f,7)"]
        );
        run("SELECT pgq.fail(id, attempt, 'x', permanent => true) FROM pgq.claim('view_queue', lease => '1 min')");
        assert_eq!(
            rows("SELECT task, args->'a', priority, attempt, failures, sqlstate, message FROM pgq.dead WHERE queue = 'view_queue'"),
            ["(t,1,3,1,1,,x)"]
        );
        assert!(holds("SELECT count(*) >= 0 FROM pgq.running"));
        assert!(holds("SELECT count(*) >= 0 FROM pgq.workers"));
    }
}
