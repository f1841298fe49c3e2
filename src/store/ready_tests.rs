//! `ready::take`, which walks from remembered positions, against `claim::take`, the statement, on the same jobs.

#![allow(clippy::expect_used)]

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{number, run};
    use crate::store::row::Job;
    use crate::store::{claim, ready};

    /// The same random jobs in two queues, half of them of a task.
    fn put_both(n: i32, seed: &str) {
        run(&format!(
            "SELECT setseed({seed});
             WITH made AS MATERIALIZED (
                SELECT n, (random() * 6)::int - 3 AS priority, random() < 0.5 AS has_task, random() < 0.05 AS alone
                  FROM generate_series(1, {n}) AS n)
             INSERT INTO pgq.job (queue, task, args, priority, execute_at, state, quarantined)
             SELECT q, CASE WHEN has_task THEN 't' END, to_jsonb(n), priority, now(), 'ready', alone
               FROM unnest(ARRAY['rd_walk', 'rd_statement']) AS q, made ORDER BY q, n"
        ));
    }

    fn shown(jobs: Vec<Job>) -> Vec<(String, i32, Option<String>)> {
        jobs.into_iter().map(|job| (job.args.json_text(), job.priority, job.task)).collect()
    }

    #[pg_test]
    fn a_walk_takes_what_the_statement_takes() {
        for round in 0..6 {
            put_both(120, &format!("0.{round}"));
            for n in [1, 7, 30, 2] {
                for task in [None, Some("t")] {
                    let offset =
                        format!("queue = 'rd_{{}}' AND task IS NOT DISTINCT FROM {}", task.map_or("NULL", |_| "'t'"));
                    let one = |queue: &str| {
                        let of = offset.replace("{}", queue);
                        number(&format!(
                            "SELECT coalesce((SELECT id FROM pgq.job WHERE {of} ORDER BY args::int DESC LIMIT 1), 0)"
                        ))
                    };
                    // The same job of each, by its place, is spoken for.
                    let (here, there) = (one("walk"), one("statement"));
                    let walked = shown(ready::take("rd_walk", task, n, 0, &[here]).expect("readable"));
                    let stated = shown(claim::take("rd_statement", task, n, &[there]).expect("readable"));
                    assert_eq!(walked, stated, "round {round}, {n} of {task:?}");
                }
            }
        }
        // To the end: what was spoken for is there again, what is in quarantine is not taken.
        for task in [None, Some("t")] {
            let walked = shown(ready::take("rd_walk", task, 1_000, 0, &[]).expect("readable"));
            let stated = shown(claim::take("rd_statement", task, 1_000, &[]).expect("readable"));
            assert!(!walked.is_empty());
            assert_eq!(walked, stated);
        }
        assert_eq!(number("SELECT count(*) FROM pgq.job WHERE queue = 'rd_walk' AND NOT quarantined"), 0);
        assert!(number("SELECT count(*) FROM pgq.job WHERE queue = 'rd_walk'") > 0);
    }

    #[pg_test]
    fn large_args_and_whole_rows_come_out_as_they_went_in() {
        run("SELECT pgq.put('rd_large', jsonb_build_object('a', repeat('x', 300000), 'b', 1e-7), key => 'k')");
        let job = ready::take("rd_large", None, 1, 0, &[]).expect("readable").remove(0);
        assert!(job.args.json_text().contains("0.0000001"));
        assert_eq!(job.key.as_deref(), Some("k"));
        crate::store::finish::give_back([&job].into_iter()).expect("written");
        assert_eq!(number("SELECT length(args ->> 'a') FROM pgq.job WHERE queue = 'rd_large' AND key = 'k'"), 300_000);
    }
}
