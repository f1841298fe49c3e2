-- T53: what a handler does to its job, its neighbours, its session; functions that are not what was registered.

--- case a function that claims, completes, fails, cancels and retries its own job and its neighbours
--- low
CREATE FUNCTION low.f(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pgq.complete(job.id, job.attempt), pgq.cancel(job.id, true), pgq.retry(job.id), pgq.release(job.id, job.attempt),
            pgq.extend(job.id, job.attempt, '1 h'), pgq.fail(job.id, job.attempt), pgq.waiting(job.id), pgq.put('own', key => 'again');
    PERFORM pgq.release(id, attempt) FROM pgq.claim('own', n => 100, lease => '1 h');
    PERFORM pgq.purge('own', 'ready'), pgq.unregister('own'), pgq.pause('own'); END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done

--- case a procedure that does the same to its lease
--- low
CREATE PROCEDURE low.p(job pgq.job) LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pgq.complete(job.id, job.attempt + 1), pgq.extend(job.id, job.attempt, '1 ms'), pgq.cancel(job.id); COMMIT;
    PERFORM pgq.complete(job.id, job.attempt, '"mine"'); COMMIT; PERFORM pgq.fail(job.id, job.attempt); COMMIT; END $$;
SELECT pgq.register('own', 'low.p', max_attempts => 1)
--- job own done

--- case a procedure that releases its own lease, cancels itself by force
--- low
CREATE PROCEDURE low.p(job pgq.job) LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pgq.cancel(job.id, true); COMMIT; PERFORM pg_sleep(10); END $$;
SELECT pgq.register('own', 'low.p', max_attempts => 1)
--- job own cancelled

--- case a handler that runs itself
--- low
CREATE FUNCTION low.f(job pgq.job) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    BEGIN PERFORM pgq.run(job.id); EXCEPTION WHEN undefined_object THEN END;
    PERFORM set_config('pgq.eager', 'on', true); IF job.task IS NULL THEN PERFORM pgq.put('own', task => 't'); END IF;
    PERFORM low.strike(COALESCE(job.task, 'first')); END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.register('own', 'low.f', 't', max_attempts => 1)
--- job own done

--- case eager without an end
--- boss
ALTER ROLE low SET max_stack_depth = '300kB'
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('pgq.eager', 'on', true), pgq.put('own'); END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own dead 54001
--- low
SET pgq.eager = on
--- low 54001
SELECT pgq.put('own')
--- low sees low
SELECT current_user

--- case a handler that drops itself, its table, its schema
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP FUNCTION low.f(); END $$;
CREATE FUNCTION low.g() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP OWNED BY low; END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.register('next', 'low.g', max_attempts => 1)
--- job own done
--- job own parked
--- job next done

--- case DROP OWNED and REASSIGN OWNED of its own
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS ''; SELECT pgq.register('own', 'low.f', max_attempts => 1);
DROP OWNED BY low
--- low 42501
REASSIGN OWNED BY low TO peer
--- job own parked

--- case a handler that listens, holds cursors, locks, prepared statements and temporary tables of our names
--- low
CREATE FUNCTION low.listens() RETURNS void LANGUAGE plpgsql AS $$ BEGIN LISTEN pgq_vault; END $$;
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    CREATE TEMP TABLE IF NOT EXISTS job (id int); CREATE TEMP TABLE IF NOT EXISTS handler (run_as name); CREATE TEMP TABLE IF NOT EXISTS pg_proc (oid oid);
    CREATE TEMP TABLE IF NOT EXISTS pg_authid (oid oid, rolname name); CREATE OR REPLACE TEMP VIEW queue_setting AS SELECT low.strike('queue_setting');
    PERFORM pg_advisory_lock(n) FROM generate_series(1, 100) AS n; SET search_path = pg_temp, low;
    EXECUTE 'PREPARE put AS SELECT 1'; EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1';
EXCEPTION WHEN duplicate_prepared_statement OR duplicate_cursor THEN END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.register('listens', 'low.listens', max_attempts => 1)
--- job listens dead 0A000
--- job own done
--- job own done
--- job peer done

--- case commands that end sessions and transactions, in a function
--- low
CREATE FUNCTION low.f(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
CREATE FUNCTION low.g(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DISCARD ALL'; END $$;
CREATE FUNCTION low.h(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'PREPARE TRANSACTION ''x'''; END $$;
CREATE FUNCTION low.i(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'VACUUM low.seen'; END $$;
CREATE FUNCTION low.j(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END $$;
SELECT pgq.register(f, 'low.' || f, max_attempts => 1) FROM unnest('{f,g,h,i}'::text[]) AS f
--- job f dead 2D000
--- job g dead 25001
--- job h dead 0A000
--- job i dead 25001

--- case commands that end sessions and transactions, in a procedure
--- low
CREATE PROCEDURE low.g(args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; EXECUTE 'DISCARD ALL'; END $$;
CREATE PROCEDURE low.h(args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; EXECUTE 'PREPARE TRANSACTION ''x'''; END $$;
CREATE PROCEDURE low.i(args jsonb) LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CLOSE ALL'; EXECUTE 'DEALLOCATE ALL'; COMMIT; EXECUTE 'DISCARD PLANS'; ROLLBACK; END $$;
CREATE PROCEDURE low.j(args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; EXECUTE 'CALL low.i(''1'')'; PERFORM set_config('role', 'low', false); END $$;
SELECT pgq.register(f, 'low.' || f, max_attempts => 1) FROM unnest('{g,h,i,j}'::text[]) AS f
--- job g dead 25001
--- job h dead 0A000
--- job i done
--- job j dead 2D000

--- case functions that cannot be handlers
--- low
CREATE AGGREGATE low.agg(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb);
CREATE FUNCTION low.trig() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION low.event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION low.many(args jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION low.tab(args jsonb) RETURNS TABLE (n int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION low.outs(args jsonb, OUT n int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE low.inout(INOUT args jsonb) LANGUAGE sql AS 'SELECT args';
CREATE FUNCTION low.vari(VARIADIC args jsonb[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION low.any(anyelement) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION low.two(args jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION low.two() RETURNS int LANGUAGE sql AS 'SELECT 1'
--- low 42P13
SELECT pgq.register('own', 'low.agg')
--- low 42P13
SELECT pgq.register('own', 'low.trig')
--- low 42P13
SELECT pgq.register('own', 'low.event')
--- low 42P13
SELECT pgq.register('own', 'low.many')
--- low 42P13
SELECT pgq.register('own', 'low.tab')
--- low 42P13
SELECT pgq.register('own', 'low.outs')
--- low 42P13
SELECT pgq.register('own', 'low.inout')
--- low 42883
SELECT pgq.register('own', 'low.vari')
--- low 42883
SELECT pgq.register('own', 'low.any')
--- low 42725
SELECT pgq.register('own', 'low.two')
--- low 42P13
SELECT pgq.register('own', 'pg_catalog.row_number')
--- low any
SELECT pgq.register('own', 'pg_catalog.plpgsql_call_handler'), pgq.register('own', 'pg_catalog.pg_current_xact_id')

--- case functions that became unfit after they were registered
--- low
CREATE FUNCTION low.a(args jsonb) RETURNS void LANGUAGE sql AS ''; CREATE FUNCTION low.b(args jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION low.c() RETURNS void LANGUAGE sql AS ''; CREATE FUNCTION low.d(args jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION low.e(args jsonb) RETURNS void LANGUAGE sql AS ''; CREATE PROCEDURE low.g(args jsonb) LANGUAGE sql AS '';
CREATE FUNCTION low.h() RETURNS void LANGUAGE sql AS '';
SELECT pgq.register(f, 'low.' || f, max_attempts => 1) FROM unnest('{a,b,c,d,e,g,h}'::text[]) AS f;
DROP FUNCTION low.a; CREATE FUNCTION low.a(args jsonb) RETURNS SETOF int LANGUAGE plpgsql AS 'BEGIN RETURN NEXT 1; END';
DROP FUNCTION low.b; CREATE FUNCTION low.b(args jsonb, OUT n int, OUT m int) LANGUAGE sql AS 'SELECT 1, 2';
DROP FUNCTION low.c; CREATE FUNCTION low.c() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM low.strike(''c''); RETURN NEW; END';
DROP FUNCTION low.d; CREATE AGGREGATE low.d(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb);
DROP FUNCTION low.e; CREATE PROCEDURE low.e(args jsonb) LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
DROP PROCEDURE low.g; CREATE FUNCTION low.g(args jsonb) RETURNS void LANGUAGE sql AS '';
DROP FUNCTION low.h; CREATE FUNCTION low.h() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM low.strike(''h''); END'
--- peer
SELECT pgq.put('peer', '[0]')
--- boss
SELECT pgq.put(q) FROM unnest('{a,b,c,d,e,g,h}'::text[]) AS q
--- job peer done

--- case a function renamed, moved and replaced between two jobs
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$; SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- low
ALTER FUNCTION low.f RENAME TO g; CREATE FUNCTION low.f() RETURNS int LANGUAGE plpgsql SET search_path = low AS $$ BEGIN PERFORM strike('new f'); RETURN 1; END $$
--- job own done
--- low
ALTER FUNCTION low.f SET SCHEMA public
--- job own parked

--- case a function whose right to be executed is taken away
--- boss
CREATE FUNCTION boss.may() RETURNS void LANGUAGE sql AS ''; GRANT USAGE ON SCHEMA boss TO low
--- low
SELECT pgq.register('own', 'boss.may', max_attempts => 1)
--- job own done
--- boss
REVOKE EXECUTE ON FUNCTION boss.may FROM PUBLIC
--- job own parked
--- boss
DROP FUNCTION boss.may; REVOKE USAGE ON SCHEMA boss FROM low

--- case register for other roles, others' functions, predefined roles
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS ''
--- low 42501
SELECT pgq.register('own', 'low.f', run_as => 'postgres')
--- low 42501
SELECT pgq.register('own', 'low.f', run_as => 'peer')
--- low 42501
SELECT pgq.register('own', 'low.f', run_as => 'pg_read_all_data')
--- low 42704
SELECT pgq.register('own', 'low.f', run_as => 'nobody')
--- low 42704
SELECT pgq.register('own', 'low.f', run_as => '')
--- low 42704
SELECT pgq.register('own', 'low.f', run_as => 'public')
--- boss 42501
SELECT pgq.register('own', 'low.f')
--- boss 42501
SELECT pgq.register('own', 'low.f', run_as => 'peer')

--- case a superuser's SECURITY DEFINER function that registers for whoever calls
--- boss
CREATE FUNCTION boss.reg(f text) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT pgq.register('own', f) $$;
GRANT USAGE ON SCHEMA boss TO low
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$
--- low 42501
SELECT boss.reg('low.f')
--- boss
DROP FUNCTION boss.reg; REVOKE USAGE ON SCHEMA boss FROM low

--- case sleepers in all the places that a handler gets leave one for others
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.bulk_put('own', args => array_fill('1'::jsonb, ARRAY[50]))
--- job peer done
--- low
SELECT pgq.unregister('own'), pgq.cancel(job, true) FROM (SELECT job FROM pgq.executors() WHERE job <> 0) AS e

--- case advisory locks of every kind, held
--- low
SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 1000) AS n;
SELECT pg_advisory_lock('pgq.job'::regclass::int, n) FROM generate_series(1, 100) AS n
--- boss
SET lock_timeout = '5 s'; SELECT pgq.put('own', key => 'k'), pgq.put('own', key => 'k')
--- job peer done

--- case numbers of attempts that are none
--- low
SELECT pgq.complete(-2, 0), pgq.complete(-2, 2), pgq.complete(-2, -1), pgq.complete(-2, 2147483647), pgq.fail(-2, 0), pgq.fail(-2, 2147483647),
       pgq.fail(1, -2147483648), pgq.extend(-2, 2, '1 h'), pgq.release(-2, 0), pgq.complete(9223372036854775807, 1), pgq.complete(-9223372036854775808, 1)

--- case keeping for longer than there is time does not stop the pruning
--- low 22023
SELECT pgq.configure('own', keep_dead => '90000 years')
--- low 22023
SELECT pgq.configure('own', keep_done => '178000000 years')
--- low
SELECT pgq.configure('own', keep_dead => '3999 years', keep_done => '48000 months', backoff => '3999 years', max_backoff => '3999 years');
SELECT pgq.purge('own', 'dead', '3999 years'), pgq.put('own')
--- low sees dead
SELECT pgq.fail(id, attempt, permanent => true) FROM pgq.claim('own', lease => '3999 years')
--- boss
DELETE FROM pgq.finished_job WHERE queue = 'own' AND clock_timestamp() - (SELECT keep_dead FROM pgq.queue_setting WHERE queue = 'own') > finished_at
