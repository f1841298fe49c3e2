//! CREATE EXTENSION where somebody was there before: hostile objects, squatted schemas, event triggers, default
//! privileges. It installs exactly what it always installs, or fails clearly and leaves nothing.

use pgq_tests::{count, one, run, Server};
use postgres::error::{DbError, SqlState};
use postgres::Client;
use std::process::Command;

/// Everything of ours as the catalog has it, written so that an operator or function of somebody else's shows.
const DEFINITIONS: &str = "
    SELECT string_agg(definition, E'\\n' ORDER BY definition) FROM (
        SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'pgq'::regnamespace
        UNION ALL SELECT pg_get_indexdef(oid) FROM pg_class WHERE relnamespace = 'pgq'::regnamespace AND relkind = 'i'
        UNION ALL SELECT pg_get_viewdef(oid) FROM pg_class WHERE relnamespace = 'pgq'::regnamespace AND relkind = 'v'
        UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'pgq'::regnamespace
        UNION ALL SELECT format('%s.%s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod),
                                (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
                                  WHERE adrelid = attrelid AND adnum = attnum))
                    FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
                   WHERE c.relnamespace = 'pgq'::regnamespace
    ) AS all_of (definition)";

/// Objects that our statements would mean if a name, an operator or a cast in them were not bound to PostgreSQL's
/// own. Each tells of being called.
const HOSTILE: &str = "
    CREATE TABLE public.caught (by text);
    GRANT ALL ON public.caught TO PUBLIC;
    GRANT CREATE ON SCHEMA public TO PUBLIC;
    SET ROLE attacker;
    CREATE FUNCTION public.catch(text) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.caught VALUES ($1 || ' as ' || current_user); RETURN true; END $$;
    CREATE FUNCTION public.equal(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT public.catch('=') $$;
    CREATE FUNCTION public.least(int, int) RETURNS boolean LANGUAGE sql AS $$ SELECT public.catch('>=') $$;
    CREATE OPERATOR public.= (FUNCTION = public.equal, LEFTARG = text, RIGHTARG = text);
    CREATE OPERATOR public.>= (FUNCTION = public.least, LEFTARG = int, RIGHTARG = int);
    CREATE OPERATOR public.<= (FUNCTION = public.least, LEFTARG = int, RIGHTARG = int);
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT pg_catalog.now() WHERE public.catch('clock_timestamp') $$;
    CREATE FUNCTION public.to_regnamespace(text) RETURNS regnamespace LANGUAGE sql
        AS $$ SELECT NULL::regnamespace WHERE public.catch('to_regnamespace') $$;
    CREATE FUNCTION public.pg_extension_config_dump(regclass, text) RETURNS void LANGUAGE sql
        AS $$ SELECT public.catch('pg_extension_config_dump') $$;
    CREATE FUNCTION public.count() RETURNS bigint LANGUAGE sql AS $$ SELECT 1 WHERE public.catch('count') $$;
    CREATE DOMAIN public.text AS pg_catalog.text CHECK (public.catch('text'));
    CREATE DOMAIN public.jsonb AS pg_catalog.jsonb CHECK (public.catch('jsonb'));
    CREATE DOMAIN public.name AS pg_catalog.name CHECK (public.catch('name'));
    CREATE DOMAIN public.oid AS pg_catalog.oid CHECK (public.catch('oid'));
    CREATE TABLE public.job (id int);
    CREATE TABLE public.handler (id int);
    CREATE TABLE public.pg_roles (oid oid, rolname name);
    CREATE COLLATION public.\"C\" (LOCALE = 'POSIX');
    RESET ROLE;";

/// A database in which the extension is not yet.
fn bare(server: &Server, name: &str) -> Client {
    let mut client = server.connect("postgres");
    run(&mut client, &format!("CREATE DATABASE {name}"));
    server.connect(name)
}

fn start() -> Server {
    let server = Server::builder().preload(true).conf("pgq.enabled", "off").start();
    run(&mut server.connect("postgres"), "CREATE ROLE attacker LOGIN");
    server
}

/// What CREATE EXTENSION gives, and must: nothing of it is left.
fn fails(client: &mut Client, statement: &str) -> DbError {
    let error = client.batch_execute(statement).expect_err(statement);
    assert_eq!(count(client, "pg_extension WHERE extname = 'pgq'"), 0, "{statement}");
    assert_eq!(count(client, "pg_proc WHERE prosrc = 'put_wrapper'"), 0, "{statement}");
    error.as_db_error().expect("of the server").clone()
}

/// In use too: by a superuser who still has the hostile path.
fn use_everything(client: &mut Client) {
    for call in [
        "put('q')",
        "put('q', key => 'k')",
        "put('q', key => 'k', on_conflict => 'replace')",
        "bulk_put('q', jobs => '[{\"args\": 1}]')",
        "claim('q', lease => '1 min')",
        "complete(1, 1)",
        "stats()",
        "doctor()",
        "waiting(2)",
        "configure('q', keep_done => '1 day')",
        "pause('q')",
        "resume()",
        "cancel(2)",
        "retry(2)",
        "redrive('q')",
        "purge('q', 'dead')",
        "grant_usage('attacker', 'produce')",
        "may('produce')",
        "revoke_usage('attacker', 'produce')",
    ] {
        run(client, &format!("SELECT pgq.{call}"));
    }
    for view in ["queues", "running", "workers", "dead"] {
        run(client, &format!("SELECT * FROM pgq.{view}"));
    }
}

#[test]
fn hostile_objects_change_nothing_of_what_is_installed() {
    let server = start();
    let mut clean = server.create_database("clean");
    // Under its own search_path every name of somebody else's would be written with its schema.
    let show = |client: &mut Client| -> String {
        run(client, "SET search_path = pg_catalog, pg_temp");
        one(client, DEFINITIONS)
    };
    let expected = show(&mut clean);
    let ways = [
        ("plain", ""),
        ("first", "SET search_path = public, pg_catalog, pg_temp"),
        ("temporary", "SET search_path = pg_temp, public, pg_catalog"),
        ("by_default", "ALTER DATABASE by_default SET search_path = public, pg_catalog"),
    ];
    for (name, way) in ways {
        let mut client = bare(&server, name);
        run(&mut client, HOSTILE);
        run(
            &mut client,
            "CREATE TEMP TABLE job (id int); CREATE TEMP TABLE pg_class (oid oid);
             CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql
                AS $$ SELECT pg_catalog.now() WHERE public.catch('pg_temp.clock_timestamp') $$",
        );
        run(&mut client, way);
        let mut client = if name == "by_default" { server.connect(name) } else { client };
        run(&mut client, "CREATE EXTENSION pgq");
        assert_eq!(show(&mut client), expected, "{name}");
        run(&mut client, &format!("RESET search_path; {way}"));
        use_everything(&mut client);
        let caught: Option<String> = one(&mut client, "SELECT pg_catalog.string_agg(by, ', ') FROM public.caught");
        assert_eq!(caught, None, "{name}");
    }
    // The traps are traps: whoever writes a bare name falls into them.
    let mut client = server.connect("by_default");
    run(&mut client, "SELECT clock_timestamp()");
    let caught: String = one(&mut client, "SELECT pg_catalog.string_agg(by, ', ') FROM public.caught");
    assert_eq!(caught, "clock_timestamp as postgres");
}

#[test]
fn a_squatted_schema_is_refused() {
    let server = start();
    let squats = [
        ("empty", "CREATE SCHEMA pgq AUTHORIZATION attacker", "schema for itself"),
        (
            "with_table",
            "CREATE SCHEMA pgq AUTHORIZATION attacker; SET ROLE attacker;
             CREATE TABLE pgq.job (id bigint, queue text); RESET ROLE",
            "schema for itself",
        ),
        (
            "with_function",
            "CREATE SCHEMA pgq AUTHORIZATION attacker; SET ROLE attacker;
             CREATE FUNCTION pgq.put(text, jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'; RESET ROLE",
            "schema for itself",
        ),
        (
            "older",
            "CREATE SCHEMA pgq; CREATE FUNCTION pgq.create_queue(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "older PgQ",
        ),
    ];
    for (name, squat, detail) in squats {
        let mut client = bare(&server, name);
        run(&mut client, squat);
        for statement in ["CREATE EXTENSION pgq", "CREATE EXTENSION IF NOT EXISTS pgq CASCADE"] {
            let error = fails(&mut client, statement);
            assert_eq!(*error.code(), SqlState::DUPLICATE_SCHEMA, "{name}");
            assert!(error.detail().unwrap_or_default().contains(detail), "{name}: {error:?}");
            assert!(error.hint().is_some(), "{name}");
        }
        run(&mut client, "DROP SCHEMA pgq CASCADE; CREATE EXTENSION pgq");
    }
}

#[test]
fn only_a_superuser_installs_and_only_where_it_belongs() {
    let server = start();
    let mut client = server.connect("postgres");
    run(&mut client, "CREATE DATABASE attackers OWNER attacker");
    let mut owner = server.connect_as("attackers", "attacker");
    let error = fails(&mut owner, "CREATE EXTENSION pgq");
    assert_eq!(*error.code(), SqlState::INSUFFICIENT_PRIVILEGE);
    let control = "pg_available_extension_versions WHERE name = 'pgq' AND superuser AND NOT trusted
                   AND NOT relocatable AND schema = 'pg_catalog'";
    let versions = "pg_available_extension_versions WHERE name = 'pgq'";
    assert!(count(&mut client, control) > 1, "this version and earlier ones");
    assert_eq!(count(&mut client, control), count(&mut client, versions));
    let mut client = server.connect("attackers");
    run(&mut client, "CREATE SCHEMA elsewhere");
    fails(&mut client, "CREATE EXTENSION pgq SCHEMA elsewhere");
    // Its functions are no loop-hole either.
    let direct = "CREATE FUNCTION public.own_put(text) RETURNS bigint LANGUAGE c AS 'pgq', 'put_wrapper'";
    let error = owner.batch_execute(direct).expect_err(direct);
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

/// An event trigger's function runs as whoever installs: a superuser put it there. It may stop the installation or
/// spoil it, and then nothing is left.
#[test]
fn an_event_trigger_in_the_way_leaves_all_or_nothing() {
    let server = start();
    let bodies = [
        ("at_start", "ddl_command_start", "RAISE 'not today'"),
        ("at_end", "ddl_command_end", "RAISE 'not today'"),
        ("late", "ddl_command_end", "IF to_regclass('pgq.dead') IS NOT NULL THEN RAISE 'too late'; END IF"),
        ("squats", "ddl_command_start", "IF tg_tag = 'CREATE EXTENSION' THEN CREATE SCHEMA pgq; END IF"),
        ("drops", "ddl_command_end", "IF tg_tag = 'CREATE VIEW' THEN DROP TABLE pgq.handler CASCADE; END IF"),
    ];
    for (name, event, body) in bodies {
        let mut client = bare(&server, name);
        run(
            &mut client,
            &format!(
                "CREATE FUNCTION public.hostile() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
                 CREATE EVENT TRIGGER hostile ON {event} EXECUTE FUNCTION public.hostile()"
            ),
        );
        fails(&mut client, "CREATE EXTENSION pgq");
        assert_eq!(count(&mut client, "pg_namespace WHERE nspname = 'pgq'"), 0, "{name}");
        run(&mut client, "ALTER EVENT TRIGGER hostile DISABLE; CREATE EXTENSION pgq; SELECT pgq.put('q')");
    }
}

/// ALTER DEFAULT PRIVILEGES of the installing superuser: PUBLIC gets nothing, and a role that gets EXECUTE along
/// with everything else has no right on a queue by it.
#[test]
fn default_privileges_open_nothing() {
    let server = start();
    let mut client = bare(&server, "generous");
    for objects in ["FUNCTIONS", "TABLES", "SEQUENCES", "TYPES", "SCHEMAS"] {
        run(&mut client, &format!("ALTER DEFAULT PRIVILEGES GRANT ALL ON {objects} TO PUBLIC"));
    }
    run(&mut client, "ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO attacker");
    run(&mut client, "ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO attacker");
    run(&mut client, "CREATE EXTENSION pgq");
    let public = "(SELECT proacl FROM pg_proc WHERE pronamespace = 'pgq'::regnamespace
        UNION ALL SELECT relacl FROM pg_class WHERE relnamespace = 'pgq'::regnamespace AND relkind <> 'i'
        UNION ALL SELECT typacl FROM pg_type WHERE typnamespace = 'pgq'::regnamespace AND typcategory <> 'A'
        UNION ALL SELECT nspacl FROM pg_namespace WHERE nspname = 'pgq') AS o (acl)";
    assert_eq!(count(&mut client, &format!("{public} WHERE acl IS NULL")), 0);
    assert_eq!(count(&mut client, &format!("{public}, aclexplode(acl) AS a WHERE a.grantee = 0")), 0);
    let mut attacker = server.connect_as("generous", "attacker");
    for call in ["put('q')", "claim('q')", "stats()", "doctor()", "pause()", "grant_usage('attacker', 'admin')"] {
        let error = attacker.batch_execute(&format!("SELECT pgq.{call}")).expect_err(call);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{call}");
    }
}

/// The script that is installed, as it was generated: nothing in it adopts an object that is there already, and
/// nothing is substituted into it.
#[test]
fn the_script_adopts_and_substitutes_nothing() {
    let config = std::env::var("PG_CONFIG").unwrap_or("/usr/lib/postgresql/15/bin/pg_config".into());
    let shared = Command::new(config).arg("--sharedir").output().expect("pg_config");
    let folder = String::from_utf8(shared.stdout).expect("a path");
    let script =
        std::path::Path::new(folder.trim()).join("extension").join(concat!("pgq--", env!("CARGO_PKG_VERSION"), ".sql"));
    let text = std::fs::read_to_string(&script).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let plain: String = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    for forbidden in ["or replace", "if not exists", "@ext", "create role", " execute '", "cascade"] {
        assert!(!plain.contains(forbidden), "{forbidden} in {}", script.display());
    }
    assert!(plain.contains("create schema pgq;") && plain.contains("set local search_path to pg_catalog, pg_temp;"));
    let first = plain.find("set local search_path").expect("it is there");
    assert!(first < plain.find("do $$").expect("the look at the schema"), "the path is set before anything else");
}
