//! What a handler can leave in its session: how it does, and how another sees that it is not there.

/// One kind of session state.
#[derive(Debug)]
pub struct Kind {
    /// Its name, also part of its handlers' names.
    pub name: &'static str,
    /// Statements of PL/pgSQL that leave it.
    pub leave: &'static str,
    /// An expression that is true where it is not there.
    pub clean: &'static str,
    /// Needs a superuser.
    pub is_super: bool,
    /// Stays for the next job of the same handler, as README says.
    pub is_kept: bool,
}

const fn kind(name: &'static str, leave: &'static str, clean: &'static str) -> Kind {
    Kind { name, leave, clean, is_super: false, is_kept: false }
}

const fn kept(name: &'static str, leave: &'static str, clean: &'static str) -> Kind {
    Kind { name, leave, clean, is_super: false, is_kept: true }
}

const fn of_superuser(name: &'static str, leave: &'static str, clean: &'static str) -> Kind {
    Kind { name, leave, clean, is_super: true, is_kept: false }
}

/// What the handlers need besides the role `app`, made by a superuser in the schema `app`.
/// `raises` tells whether a statement fails with this SQLSTATE.
pub const NEEDED: &str = "
    CREATE ROLE other;
    GRANT other TO app;
    GRANT SET ON PARAMETER session_replication_role TO app;
    CREATE FUNCTION app.raises(statement text, state text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE statement;
        RETURN false;
    EXCEPTION WHEN OTHERS THEN
        RETURN SQLSTATE = state;
    END $$;
    CREATE FUNCTION app.deferred() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config('work_mem', '99MB', false), set_config('app.deferred', 'yes', false);
        PERFORM pg_advisory_lock(61);
        SET ROLE other;
        RETURN NULL;
    END $$;
    CREATE TABLE app.seeded (first float8);
    GRANT SELECT ON app.seeded TO app;
    DO 'BEGIN PERFORM setseed(0.5); INSERT INTO app.seeded VALUES (random()); END';
    SET ROLE app;
    CREATE TABLE app.shadowed (n int);
    INSERT INTO app.shadowed VALUES (1);
    CREATE SEQUENCE app.numbers;
    CREATE SEQUENCE app.cached CACHE 100;
    CREATE TABLE app.single (n int UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
    INSERT INTO app.single VALUES (1);
    CREATE TABLE app.late (n int);
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.late DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION app.deferred();
    RESET ROLE;";

/// All kinds.
pub const KINDS: &[Kind] = &[
    kind("set", "SET work_mem = '77MB';", "current_setting('work_mem') = '4MB'"),
    kind("set_local", "SET LOCAL enable_seqscan = off;", "current_setting('enable_seqscan') = 'on'"),
    kind(
        "custom",
        "PERFORM set_config('app.tenant', '42', false);",
        "coalesce(current_setting('app.tenant', true), '') = ''",
    ),
    kind("search_path", "SET search_path = other, app;", "current_setting('search_path') = '\"$user\", public'"),
    kind("role", "SET ROLE other;", "current_user = 'app'"),
    kind("own_session", "SET SESSION AUTHORIZATION app; SET ROLE other;", "current_user = 'app'"),
    of_superuser(
        "session",
        "SET SESSION AUTHORIZATION app;",
        "session_user = 'postgres' AND current_user = 'postgres' AND current_setting('is_superuser') = 'on'",
    ),
    kind("temp_table", "CREATE TEMP TABLE scratch (n int);", "to_regclass('pg_temp.scratch') IS NULL"),
    kind(
        "temp_rows",
        "CREATE TEMP TABLE shadowed ON COMMIT PRESERVE ROWS AS SELECT 666 AS n;",
        "(SELECT n FROM shadowed) = 1",
    ),
    kind("temp_view", "CREATE TEMP VIEW look AS SELECT 1 AS n;", "to_regclass('pg_temp.look') IS NULL"),
    kind("temp_sequence", "CREATE TEMP SEQUENCE count;", "to_regclass('pg_temp.count') IS NULL"),
    kind(
        "temp_function",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';",
        "to_regprocedure('pg_temp.f()') IS NULL",
    ),
    kind("temp_type", "CREATE TYPE pg_temp.pair AS (a int, b int);", "to_regtype('pg_temp.pair') IS NULL"),
    kind("prepared", "EXECUTE 'PREPARE p AS SELECT 1';", "NOT EXISTS (SELECT FROM pg_prepared_statements)"),
    kind(
        "held_cursor",
        "EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 100)';",
        "NOT EXISTS (SELECT FROM pg_cursors WHERE name = 'held')",
    ),
    kind(
        "cursor",
        "DECLARE c refcursor := 'opened'; BEGIN OPEN c FOR SELECT 1; END;",
        "NOT EXISTS (SELECT FROM pg_cursors WHERE name = 'opened')",
    ),
    kind(
        "lock",
        "PERFORM pg_advisory_lock(59), pg_advisory_lock(59);",
        "NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    ),
    kind(
        "shared_lock",
        "PERFORM pg_advisory_lock_shared(1, 2);",
        "NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    ),
    kept("lastval", "PERFORM nextval('app.numbers');", "raises('SELECT lastval()', '55000')"),
    kept("currval", "PERFORM nextval('app.numbers');", "raises('SELECT currval(''app.numbers'')', '55000')"),
    kept("cached_sequence", "PERFORM nextval('app.cached');", "nextval('app.cached') % 100 = 1"),
    kept("seed", "PERFORM setseed(0.5);", "random() <> (SELECT first FROM app.seeded)"),
    kind(
        "listen",
        "BEGIN EXECUTE 'LISTEN ears'; RAISE 'a worker can listen'; EXCEPTION WHEN feature_not_supported THEN END;",
        "NOT EXISTS (SELECT FROM pg_listening_channels())",
    ),
    kind("constraints", "SET CONSTRAINTS ALL DEFERRED;", "raises('INSERT INTO app.single VALUES (1)', '23505')"),
    kind("plan_cache", "SET plan_cache_mode = force_generic_plan;", "current_setting('plan_cache_mode') = 'auto'"),
    kind("datestyle", "SET DateStyle = 'German, DMY';", "'2020-02-29'::date::text = '2020-02-29'"),
    kind("timezone", "SET TimeZone = 'Asia/Kathmandu';", "current_setting('TimeZone') <> 'Asia/Kathmandu'"),
    kind("encoding", "SET client_encoding = 'LATIN1';", "pg_client_encoding() = 'UTF8'"),
    kind(
        "application_name",
        "SET application_name = 'somebody else';",
        "(SELECT application_name = 'pgq executor' FROM pg_stat_activity WHERE pid = pg_backend_pid())
         AND current_setting('application_name') = 'pgq executor'",
    ),
    kind("timeout", "SET statement_timeout = '1h';", "current_setting('statement_timeout') = '0'"),
    kind(
        "isolation",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;",
        "current_setting('default_transaction_isolation') = 'read committed'
         AND current_setting('transaction_isolation') = 'read committed'",
    ),
    kind(
        "read_only",
        "SET default_transaction_read_only = on;",
        "current_setting('default_transaction_read_only') = 'off' AND current_setting('transaction_read_only') = 'off'",
    ),
    kind(
        "replication_role",
        "SET session_replication_role = replica;",
        "current_setting('session_replication_role') = 'origin'",
    ),
    kind(
        "large_object",
        "DECLARE fd int; BEGIN fd := lo_open(lo_create(0), 131072); END;",
        "raises('SELECT lo_tell(0)', '42704')",
    ),
    kind(
        "plpgsql",
        "PERFORM set_config('plpgsql.check_asserts', 'off', false);",
        "current_setting('plpgsql.check_asserts') = 'on'",
    ),
    kind("messages", "SET client_min_messages = error;", "current_setting('client_min_messages') = 'notice'"),
    kind("row_security", "SET row_security = off;", "current_setting('row_security') = 'on'"),
    kind("eager", "SET pgq.eager = on;", "current_setting('pgq.eager') = 'off'"),
    of_superuser("log_jobs", "SET pgq.log_jobs = 'all';", "current_setting('pgq.log_jobs') = 'none'"),
    kind(
        "deferred_trigger",
        "INSERT INTO app.late VALUES (1);",
        "current_setting('work_mem') = '4MB' AND current_user = 'app'
         AND coalesce(current_setting('app.deferred', true), '') = ''
         AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    ),
    kind(
        "swallowed_error",
        "BEGIN
            PERFORM pg_advisory_lock(60), set_config('app.tenant', '43', false);
            EXECUTE 'PREPARE q AS SELECT 1';
            CREATE TEMP TABLE swallowed (n int);
            RAISE 'no';
         EXCEPTION WHEN raise_exception THEN END;",
        "to_regclass('pg_temp.swallowed') IS NULL AND NOT EXISTS (SELECT FROM pg_prepared_statements)
         AND coalesce(current_setting('app.tenant', true), '') = ''
         AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    ),
];
