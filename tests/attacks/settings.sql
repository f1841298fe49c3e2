-- T53: settings, by SET, for the role, the database, the connection, and before the library is loaded.

--- case the settings of pgq before the library is loaded
--- low
SET pgq.max_args_size = '64MB'
--- low
SET pgq.log_jobs = 'all'
--- low
SET pgq.max_workers = 64
--- low
SET pgq.enabled = off
--- low
SELECT pgq.version()
--- low sees 1MB failed 4 on
SELECT concat_ws(' ', current_setting('pgq.max_args_size'), 'failed', current_setting('pgq.max_workers'), current_setting('pgq.enabled'))
--- low 54000
SELECT pgq.put('own', to_jsonb(repeat('x', 2000000)))

--- case the same as options of the connection
--- low login -c pgq.max_args_size=65536 -c pgq.max_workers=64 -c pgq.allow_superuser_handlers=off
--- low
SELECT pgq.version()
--- low sees 1MB 4 on
SELECT concat_ws(' ', current_setting('pgq.max_args_size'), current_setting('pgq.max_workers'), current_setting('pgq.allow_superuser_handlers'))

--- case our settings after the library is loaded
--- low
SELECT pgq.version()
--- low 42501
SET pgq.max_args_size = '64MB'
--- low 42501
SET pgq.log_jobs = 'all'
--- low 55P02
SET pgq.enabled = off
--- low 55P02
SET pgq.max_workers = 1
--- low 55P02
SET LOCAL pgq.allow_superuser_handlers = on
--- low 55P02
SELECT set_config('pgq.poll_interval', '1h', false)
--- low 42501|55P02
ALTER ROLE low SET pgq.max_args_size = '64MB'
--- low 42501|55P02
ALTER ROLE low SET pgq.enabled = off
--- low 42501
ALTER DATABASE bank SET pgq.eager = on
--- low 42501
ALTER ROLE ALL SET pgq.eager = on
--- low 42501
ALTER ROLE postgres SET pgq.eager = on
--- low 42602
SET pgq.no_such = 1

--- case what only a superuser may set
--- low 42501
SET session_replication_role = replica
--- low 42501
SET session_preload_libraries = 'evil'
--- low 42501|42704
SET dynamic_library_path = '/tmp'
--- low 42501
SET log_statement = 'all'
--- low 42501
SET allow_system_table_mods = on
--- low 42501
SET lo_compat_privileges = on
--- low 42501
ALTER ROLE low SET session_preload_libraries = 'evil'
--- low 42501
ALTER ROLE low SET log_min_messages = debug5

--- case local_preload_libraries names a library that is nowhere
--- low
ALTER ROLE low SET local_preload_libraries = 'pgq'
--- low any
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- peer
SELECT pgq.put('peer', '[0]')

--- case ALTER ROLE SET role: in its own sessions another role, in its worker itself
--- boss
CREATE ROLE team; GRANT team TO low; GRANT USAGE, CREATE ON SCHEMA low TO team; ALTER ROLE low SET role = 'team'
--- low login
--- low sees low team
SELECT concat_ws(' ', session_user, current_user)
--- low
RESET ROLE; SET ROLE NONE;
CREATE FUNCTION low.f() RETURNS text LANGUAGE sql AS $$ SELECT concat_ws(' ', session_user, current_user) $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- boss sees "low low"
SELECT result::text FROM pgq.finished_job WHERE queue = 'own'
--- boss
DELETE FROM pgq.handler WHERE queue = 'own'; DELETE FROM pgq.finished_job WHERE queue = 'own';
ALTER ROLE low RESET role; REVOKE team FROM low; DROP OWNED BY team; DROP ROLE team

--- case ALTER ROLE SET role and session_authorization to one that it may not be
--- low any
ALTER ROLE low SET role = 'postgres'
--- low any
ALTER ROLE low SET session_authorization = 'postgres'
--- low login
--- low sees low low
SELECT concat_ws(' ', session_user, current_user)
--- low
CREATE FUNCTION low.f() RETURNS text LANGUAGE sql AS $$ SELECT concat_ws(' ', session_user, current_user) || low.strike('f') $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done

--- case a database's role for all, under a superuser's handler
--- boss
ALTER DATABASE bank SET role = 'low'
--- low
CREATE FUNCTION low.f() RETURNS text LANGUAGE sql AS $$ SELECT low.strike('f')::text $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- boss
RESET ROLE; ALTER DATABASE bank RESET role

--- case read only, serializable and deferrable by the role's own setting, in its sessions and its worker
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- low
ALTER ROLE low SET default_transaction_isolation = 'serializable'; ALTER ROLE low SET default_transaction_deferrable = on
--- job own done
--- low
SET default_transaction_read_only = on
--- low 25006
SELECT pgq.put('own')
--- low sees low
SELECT current_user

--- case row_security off
--- low
SET row_security = off; SELECT pgq.put('own'); SELECT * FROM pgq.claim('own')

--- case settings of the planner and of the parser
--- low login -c transform_null_equals=on -c standard_conforming_strings=off -c quote_all_identifiers=on -c array_nulls=off -c backslash_quote=on -c escape_string_warning=off
--- low
CREATE FUNCTION low.f(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$;
SET enable_indexscan = off; SET enable_seqscan = off; SET enable_nestloop = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query'); SET jit = on; SET jit_above_cost = 0; SET work_mem = '64kB'; SET plan_cache_mode = force_custom_plan;
SET from_collapse_limit = 1; SET join_collapse_limit = 1; SET geqo_threshold = 2; SET debug_print_plan = on; SET debug_print_parse = on;
SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'; SET TimeZone = '<X>-23:59'; SET extra_float_digits = -15; SET bytea_output = 'escape';
SET client_min_messages = debug5; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT pgq.register('own', 'low.f', timeout => '-1 days 25 hours', max_attempts => 1), pgq.pause('own');
SELECT pgq.put('own', key => 'k'), pgq.put('own', key => 'k', on_conflict => 'replace'), pgq.bulk_put('own', '[{"delay": "P1D"}, {"task": "t"}]');
SELECT * FROM pgq.stats(); SELECT * FROM pgq.doctor(); SELECT pgq.waiting(1), pgq.wait(1, '0');
SELECT pgq.resume('own'); SELECT pgq.complete(id, attempt) FROM pgq.claim('own', lease => '1 min', tasks => '{t}');
SELECT pgq.cancel(-1, true), pgq.redrive('own'), pgq.purge('own', 'ready'), pgq.unregister('own')

--- case a search_path of anything
--- low
CREATE FUNCTION low.f(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$;
SET search_path = ''; SELECT pgq.put('own'), pgq.register('own', 'low.f'); SELECT * FROM pgq.doctor();
SELECT set_config('search_path', string_agg('"s""' || n || '"', ','), false) FROM generate_series(1, 2000) AS n; SELECT pgq.put('own', key => 'k');
SET search_path = pg_temp; SELECT pgq.put('own', key => 'k'), pgq.register('own', 'low.f');
SET search_path = pgq, low; SELECT put('own', key => 'k'), register('own', 'f')
--- low sees pgq, low
SHOW search_path

--- case client encodings, and bytes that are none
--- low login -c client_encoding=EUC_JP
--- low any
SELECT pgq.put('own', '"ä"', key => 'ä')
--- low login -c client_encoding=SQL_ASCII
--- low any
SELECT pgq.put('own', key => E'\303')
--- low 22021
SELECT pgq.put('own', key => E'\303')
--- low sees low
SELECT current_user

--- case lock_timeout, statement_timeout and idle timeouts of the role, in its worker
--- low
ALTER ROLE low SET lock_timeout = '1 ms'; ALTER ROLE low SET statement_timeout = '1 ms'; ALTER ROLE low SET idle_in_transaction_session_timeout = '1 ms';
ALTER ROLE low SET idle_session_timeout = '1 ms'; ALTER ROLE low SET temp_buffers = 100; ALTER ROLE low SET work_mem = '64kB';
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$
--- boss
SELECT pgq.register('own', 'low.f', run_as => 'low', max_attempts => 1)
--- job own done

--- case a handler that sets what outlives it
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('default_transaction_read_only', 'on', false), set_config('search_path', 'low', false),
            set_config('pgq.eager', 'on', false), set_config('statement_timeout', '1', false), set_config('lock_timeout', '1', false),
            set_config('session_replication_role', 'origin', false); EXCEPTION WHEN OTHERS THEN END $$;
CREATE TABLE low.t (n int);
CREATE FUNCTION low.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('default_transaction_read_only', 'on', false), set_config('lock_timeout', '1', false); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON low.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION low.late();
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- job own done
--- job peer done

--- case SET TRANSACTION in a handler, before our bookkeeping
--- low
CREATE FUNCTION low.f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET TRANSACTION READ ONLY; SET CONSTRAINTS ALL IMMEDIATE; RETURN 1; END $$;
CREATE FUNCTION low.g() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET LOCAL role = 'low'; SET LOCAL search_path = 'low'; RETURN 1; END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.register('next', 'low.g', max_attempts => 1)
--- job own done
--- job next done
