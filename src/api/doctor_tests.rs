//! doctor: the rows, and the commands it gives.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::session_tests::{function, holds, role, rows, run, text};

    #[pg_test]
    fn doctor_checks_the_server_and_the_queues() {
        assert_eq!(
            rows("SELECT DISTINCT check_name FROM pgq.doctor() ORDER BY 1"),
            [
                "(\"crash journal\")",
                "(\"dead letters\")",
                "(enabled)",
                "(\"handlers resolvable\")",
                "(notify)",
                "(\"old snapshots\")",
                "(\"older PgQ\")",
                "(\"oldest ready job\")",
                "(\"parked handlers\")",
                "(\"paused queues\")",
                "(preloaded)",
                "(\"restored copy\")",
                "(schedules)",
                "(\"tables untouched\")",
                "(version)",
                "(\"worker slots\")",
                "(\"workers alive\")"
            ]
        );
        assert!(holds("SELECT bool_and(ok) FROM pgq.doctor() WHERE check_name IN ('enabled', 'preloaded')"));
    }

    #[pg_test]
    fn doctor_gives_a_fix_for_what_is_not_ok_only() {
        run("SELECT pgq.pause('doctor_fix')");
        assert!(holds("SELECT bool_and(ok = (fix IS NULL) AND detail <> '') FROM pgq.doctor()"));
    }

    #[pg_test]
    fn doctor_resumes_a_paused_queue() {
        run("SELECT pgq.pause('doctor_paused')");
        assert_eq!(
            rows("SELECT ok, fix FROM pgq.doctor() WHERE detail = 'queue \"doctor_paused\"'"),
            ["(f,\"SELECT pgq.resume('doctor_paused');\")"]
        );
        run("DO $$ BEGIN EXECUTE (SELECT fix FROM pgq.doctor() WHERE detail = 'queue \"doctor_paused\"'); END $$");
        assert!(holds("SELECT NOT paused FROM pgq.queues WHERE queue = 'doctor_paused'"));
    }

    #[pg_test]
    fn doctor_registers_a_parked_handler_again_as_it_was() {
        role("doctor_role", &[]);
        function("doctor_parked()", "void", "");
        run("ALTER FUNCTION public.doctor_parked() OWNER TO doctor_role");
        run("SELECT pgq.register('doctor_parked', 'public.doctor_parked', task => 't', run_as => 'doctor_role',
             timeout => '5 s', concurrency => 2, batch => 3, max_attempts => 4, backoff => '6 s', max_backoff => '7 s')");
        let row = "FROM pgq.doctor() WHERE check_name = 'parked handlers' AND detail LIKE 'queue \"doctor_parked\"%'";
        let registered = || {
            rows(
                "SELECT id, task, function, run_as, timeout, concurrency, batch, max_attempts, backoff, max_backoff, parked
                   FROM pgq.handler WHERE queue = 'doctor_parked'",
            )
        };
        let before = registered();
        run("UPDATE pgq.handler SET parked = 'why', parked_at = now(), parked_until = 'infinity' WHERE queue = 'doctor_parked'");
        assert!(holds(&format!("SELECT NOT ok AND detail LIKE '%public.doctor_parked(): why' {row}")));
        run(&text(&format!("SELECT fix {row}")));
        assert_eq!(registered(), before);
    }
}
