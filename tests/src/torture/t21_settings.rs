//! T21: settings that a database gives to every session in it, workers included, in random company: pgq's own
//! statements do not depend on any of them. What a setting means for jobs is in tests/settings.rs.

use super::{Part, Run};
use crate::shop;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T21",
    title: "a database with random settings for its sessions",
    unit: "databases",
    quick: 5,
    full: 200,
    run: settings,
}];

/// Each as it stands after ALTER DATABASE … SET. Those that a version does not have are left out there.
const SETTINGS: &[&str] = &[
    "allow_system_table_mods = on",
    "array_nulls = off",
    "bytea_output = escape",
    "check_function_bodies = off",
    "client_encoding = 'LATIN1'",
    "constraint_exclusion = on",
    "datestyle = 'SQL, DMY'",
    "deadlock_timeout = '1ms'",
    "debug_parallel_query = on",
    "default_transaction_deferrable = on",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_isolation = serializable",
    "enable_indexonlyscan = off",
    "enable_indexscan = off",
    "enable_nestloop = off",
    "enable_tidscan = off",
    "escape_string_warning = on",
    "exit_on_error = off",
    "extra_float_digits = -15",
    "force_parallel_mode = on",
    "idle_in_transaction_session_timeout = '1ms'",
    "idle_session_timeout = '1ms'",
    "intervalstyle = sql_standard",
    "jit_above_cost = 0",
    "join_collapse_limit = 1",
    "lock_timeout = '1ms'",
    "log_statement = 'all'",
    "max_parallel_workers_per_gather = 8",
    "parallel_setup_cost = 0",
    "plan_cache_mode = force_custom_plan",
    "quote_all_identifiers = on",
    "row_security = off",
    "search_path = nowhere",
    "session_replication_role = replica",
    "standard_conforming_strings = off",
    "statement_timeout = '1ms'",
    "synchronous_commit = off",
    "timezone = 'Asia/Kathmandu'",
    "track_activities = off",
    "track_counts = off",
    "transaction_timeout = '1ms'",
    "transform_null_equals = on",
    "work_mem = '64kB'",
    "xmloption = document",
    "zero_damaged_pages = on",
];

/// The name in such a line.
fn name(line: &str) -> &str {
    line.split(' ').next().unwrap_or(line)
}

fn settings(run: &mut Run) {
    let server = shop::start(run.server());
    let mut admin = server.connect("postgres");
    let all: Vec<&str> = SETTINGS.iter().copied().filter(|line| shop::has_setting(&mut admin, name(line))).collect();
    assert!(all.len() + 2 >= SETTINGS.len(), "two are younger than 15, one is gone from 16 on: {all:?}");
    while run.goes_on() {
        let chosen: Vec<&str> = all.iter().copied().filter(|_| run.rng.chance(50)).collect();
        let before = server.log().len();
        let database = format!("shop{}", run.done());
        let mut client = shop::open(&server, &database, &chosen);
        shop::everything_works(&mut client);
        let complaints = shop::complaints(&server, before);
        if !complaints.is_empty() {
            run.differ(format!("with {chosen:?}: {complaints:#?}"));
        }
        drop(client);
        crate::run(&mut server.connect("postgres"), &format!("DROP DATABASE {database}"));
        run.did(1);
    }
}
