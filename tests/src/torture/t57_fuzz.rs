//! T57: every function of the extension is called with arguments of every kind, by a low role and by a superuser.
//! The functions are read from the catalog, so that one that is new is called too.
//!
//! Calls go in batches, each under its own savepoint: an answer is a result or an error of the caller's. An
//! internal error (class XX), a cancel by the statement's time limit, a lost connection, a crash in the log or a
//! session that grows is a difference.

use super::{Part, Rng, Run};
use crate::server::Server;
use crate::{count, one, run as execute};
use postgres::Client;
use std::collections::BTreeMap;
use std::fs;

/// The parts of this file.
pub const PARTS: &[Part] = &[Part {
    id: "T57",
    title: "every function with arguments of every kind",
    unit: "calls",
    quick: 10_000,
    full: 1_000_000,
    run: fuzz,
}];

/// Calls in a round trip.
const BATCH: u64 = 200;
/// How much a session may grow, in kilobytes: its caches and the largest value it handled, and no more.
const GROWTH: u64 = 200 * 1024;
/// Jobs that may lie about, so that a call stays fast.
const JOBS: i64 = 5_000;

const SETUP: &str = "
    CREATE ROLE low LOGIN; GRANT USAGE ON SCHEMA pgq TO low; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgq TO low;
    SELECT pgq.grant_usage('low', access, queue) FROM unnest('{produce,consume,admin}'::text[]) AS access,
        unnest('{a,b}'::text[]) AS queue;
    CREATE SCHEMA fuzz; GRANT USAGE ON SCHEMA fuzz TO PUBLIC;
    CREATE FUNCTION fuzz.fine(args jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT args';
    CREATE FUNCTION fuzz.fails(job pgq.job) RETURNS void LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'no' USING ERRCODE = 'AB123'; END $$;
    CREATE PROCEDURE fuzz.commits(id bigint, args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
    CREATE FUNCTION fuzz.call(calls text[]) RETURNS TABLE (call text, state text, message text) LANGUAGE plpgsql AS $$
    BEGIN
        FOREACH call IN ARRAY calls LOOP
            BEGIN
                EXECUTE call;
                state := '00000';
                message := '';
            EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
                state := SQLSTATE;
                message := SQLERRM;
            END;
            RETURN NEXT;
        END LOOP;
    END $$;";

/// One function: its name, and of each argument the name, the type and whether it may be left out.
struct Function {
    name: String,
    arguments: Vec<(String, String, bool)>,
}

const FUNCTIONS: &str = "
    SELECT p.proname::text, p.pronargdefaults::int,
           ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n) ORDER BY n),
           COALESCE(p.proargnames[1:p.pronargs], '{}')
      FROM pg_proc AS p WHERE p.pronamespace = 'pgq'::regnamespace ORDER BY p.oid";

fn functions(client: &mut Client) -> Vec<Function> {
    let rows = client.query(FUNCTIONS, &[]).expect("the functions of pgq");
    let read = |row: &postgres::Row| {
        let (types, names): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
        let optional = usize::try_from(row.get::<_, i32>(1)).unwrap_or(0);
        let first_optional = types.len() - optional;
        let arguments = names.into_iter().zip(types).enumerate();
        let arguments = arguments.map(|(n, (name, kind))| (name, kind, n >= first_optional)).collect();
        Function { name: row.get(0), arguments }
    };
    rows.iter().map(read).collect()
}

fn fuzz(run: &mut Run) {
    let server = run.server().conf("pgq.max_workers", 2).start();
    let mut boss = server.create_database("fuzz");
    execute(&mut boss, SETUP);
    let (functions, pool) = (functions(&mut boss), Pool::read());
    let mut sessions = ["postgres", "low"].map(|role| open(&server, role));
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    while run.goes_on() {
        let ids = one::<i64>(&mut boss, "SELECT last_value FROM pgq.job_id_seq");
        let whose = usize::try_from(run.rng.below(2)).unwrap_or(0);
        let (client, pid, before) = &mut sessions[whose];
        let settings = settings(&mut run.rng);
        execute(client, &settings);
        let size = BATCH.min(run.left());
        let calls: Vec<String> = (0..size).map(|_| call(&mut run.rng, &pool, &functions, ids)).collect();
        let rows = match client.query("SELECT * FROM fuzz.call($1)", &[&calls]) {
            Ok(rows) => rows,
            Err(error) => {
                run.differ(format!("{settings}\n{}\n{error:?}", calls.join(";\n")));
                break;
            }
        };
        for row in rows {
            let (call, state, message): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            if state.starts_with("XX") || state == "57014" {
                run.differ(format!("{state} {message}: {settings}; {}", call.chars().take(500).collect::<String>()));
            }
            *answers.entry(state).or_default() += 1;
        }
        run.fault("call");
        run.did(size);
        let grown = resident(*pid).saturating_sub(*before);
        if grown > GROWTH {
            run.differ(format!("a session grew by {grown} kB"));
        }
        if count(&mut boss, "pgq.job") > JOBS {
            execute(&mut boss, "DELETE FROM pgq.job WHERE ctid IN (SELECT ctid FROM pgq.job FOR UPDATE SKIP LOCKED)");
            execute(&mut boss, "TRUNCATE pgq.finished_job");
        }
    }
    eprintln!("T57: {} functions; answers {answers:?}", functions.len());
    let bad = |line: &&str| line.contains("PANIC") || line.contains("server process");
    server.log().lines().filter(bad).for_each(|line| run.differ(line));
}

/// A session, its process, and how large it was.
fn open(server: &Server, role: &str) -> (Client, i32, u64) {
    let mut client = server.connect_as("fuzz", role);
    execute(&mut client, "SET statement_timeout = '60 s'; SELECT pgq.version()");
    let pid = one(&mut client, "SELECT pg_backend_pid()");
    (client, pid, resident(pid))
}

/// The memory that a process has for itself, in kilobytes.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn settings(rng: &mut Rng) -> String {
    let isolation = rng.pick(&["read committed", "read committed", "repeatable read", "serializable"]);
    let eager = rng.pick(&["off", "off", "on"]);
    let read_only = if rng.chance(3) { "on" } else { "off" };
    let path = rng.pick(&["\"$user\", public", "", "pg_temp, pgq", "fuzz, pg_catalog"]);
    format!(
        "SET default_transaction_isolation = '{isolation}'; SET pgq.eager = {eager};
         SET default_transaction_read_only = {read_only}; SELECT set_config('search_path', '{path}', false)"
    )
}

fn call(rng: &mut Rng, pool: &Pool, functions: &[Function], ids: i64) -> String {
    let function = rng.pick(functions);
    let named = rng.chance(60);
    let mut given = Vec::new();
    for (name, kind, may_miss) in &function.arguments {
        // A wait without a limit of its own takes half a minute.
        if named && *may_miss && name != "timeout" && rng.chance(60) {
            continue;
        }
        let value = value(rng, pool, (name, kind), ids);
        given.push(if named { format!("{name} => {value}") } else { value });
    }
    let from = if rng.chance(50) { "* FROM " } else { "" };
    format!("SELECT {from}pgq.{}({})", function.name, given.join(", "))
}

/// A value of a type, as an expression; now and then one that a function of ours has use for.
fn value(rng: &mut Rng, pool: &Pool, (name, kind): (&str, &str), ids: i64) -> String {
    if name == "timeout" {
        return (*rng.pick(&["'0'", "'1 ms'", "'-1 s'", "'178000000 years'", "'1 mon -30 days'"])).to_owned();
    }
    if rng.chance(8) {
        return format!("NULL::{kind}");
    }
    if let Some(element) = kind.strip_suffix("[]") {
        return array(rng, pool, (name, element), ids);
    }
    let fitting: &[&str] = match name {
        "queue" => &["'a'", "'b'", "'c'"],
        "handler" => &["'fuzz.fine'", "'fuzz.fails'", "'fuzz.commits'", "'fuzz.fine(jsonb)'", "'pg_catalog.version'"],
        "role" | "run_as" => &["'low'", "'postgres'"],
        _ => &[],
    };
    if !fitting.is_empty() && rng.chance(60) {
        return (*rng.pick(fitting)).to_owned();
    }
    match kind {
        "bigint" if rng.chance(70) => rng.between(1, u64::try_from(ids).unwrap_or(1)).to_string(),
        "integer" if rng.chance(50) => rng.between(0, 4).to_string(),
        _ => (*rng.pick(pool.of(kind))).to_owned(),
    }
}

fn array(rng: &mut Rng, pool: &Pool, (name, element): (&str, &str), ids: i64) -> String {
    match rng.below(10) {
        0 => format!("'{{}}'::{element}[]"),
        1 => format!("ARRAY[NULL]::{element}[]"),
        2 => format!("array_fill({}::{element}, ARRAY[2, 3])", value(rng, pool, ("", element), ids)),
        3 => format!("array_fill({}::{element}, ARRAY[{}])", value(rng, pool, ("", element), ids), rng.between(1, 300)),
        4 => format!("array_fill({}::{element}, ARRAY[2], ARRAY[-5])", value(rng, pool, ("", element), ids)),
        _ => {
            let values: Vec<String> = (0..rng.between(1, 4)).map(|_| value(rng, pool, (name, element), ids)).collect();
            format!("ARRAY[{}]::{element}[]", values.join(", "))
        }
    }
}

/// The values of each type.
struct Pool(Vec<(Vec<&'static str>, Vec<&'static str>)>);

impl Pool {
    fn read() -> Pool {
        let blocks = include_str!("../../attacks/values.txt").split("--- ").skip(1);
        let read = |block: &'static str| {
            let (kinds, values) = block.split_once('\n').expect("values below the types");
            (kinds.split(" | ").collect(), values.lines().collect())
        };
        Pool(blocks.map(read).collect())
    }

    /// Those of a type; of one that is not there, NULL.
    fn of(&self, kind: &str) -> &[&'static str] {
        self.0.iter().find(|(kinds, _)| kinds.contains(&kind)).map_or(&["NULL"], |(_, values)| values)
    }
}
