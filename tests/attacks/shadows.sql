-- T53: objects of the low role's in the way of ours: in public, in pg_temp, in its own schema; types with code in them.

--- case an operator in public that fits oid = regtype better than ours, while a superuser registers
--- low
CREATE FUNCTION public.eq(oid, regtype) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN low.strike('oid = regtype'); END $$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regtype, FUNCTION = public.eq);
CREATE FUNCTION public.eq(regprocedure, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN low.strike('regprocedure'); END $$;
CREATE OPERATOR public.= (LEFTARG = regprocedure, RIGHTARG = oid, FUNCTION = public.eq);
CREATE FUNCTION public.eq(oid, regprocedure) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN low.strike('oid = regprocedure'); END $$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regprocedure, FUNCTION = public.eq)
--- boss
SET search_path = "$user", public; SELECT pgq.register('own', 'boss.guard');
SELECT pgq.register('own', 'boss.guard(jsonb)'); SELECT pgq.unregister('own')
--- boss 42883
SELECT pgq.register('own', 'guard')

--- case every operator and function that our statements use, in public before pg_catalog
--- low
DO $do$ DECLARE o record; BEGIN
    CREATE FUNCTION public.hit(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike($1); RETURN $1; END $$;
    FOR o IN SELECT oprname, l::regtype AS l, r::regtype AS r
               FROM unnest(ARRAY['=', '<>', '<', '<=', '>', '>=', '||', '->>', '->', '-', '+', '*']) AS oprname,
                    unnest(ARRAY['text', 'name', 'oid', 'integer', 'bigint', 'jsonb', 'timestamptz', 'interval',
                                 'regtype', 'regprocedure', 'boolean', '"char"', 'text[]', 'oid[]', 'bigint[]', 'numeric']) AS l,
                    unnest(ARRAY['text', 'name', 'oid', 'integer', 'bigint', 'jsonb', 'timestamptz', 'interval',
                                 'regtype', 'regprocedure', 'boolean', '"char"', 'text[]', 'oid[]', 'bigint[]', 'numeric']) AS r
              WHERE l = r OR (l, r) IN (('oid', 'regtype'), ('oid', 'regprocedure'), ('name', 'text'), ('jsonb', 'text'),
                                        ('timestamptz', 'interval'), ('regprocedure', 'oid'), ('text', 'name'))
    LOOP
        EXECUTE format('CREATE FUNCTION public.%I(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN low.strike(%L); END $$',
                       'op' || md5(o::text), o.l, o.r, o::text);
        EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.%I)',
                       o.oprname, o.l, o.r, 'op' || md5(o::text));
    END LOOP;
    FOR o IN SELECT DISTINCT proname, pg_get_function_identity_arguments(oid) AS args, prorettype::regtype AS r FROM pg_proc
              WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND provariadic = 0 AND NOT proretset
                AND proargmodes IS NULL
                AND proname IN ('strpos', 'parse_ident', 'to_regprocedure', 'quote_ident', 'quote_literal', 'format_type', 'format',
                    'pg_function_is_visible', 'pg_has_role', 'has_function_privilege', 'has_schema_privilege', 'current_database',
                    'clock_timestamp', 'pg_notify', 'current_setting', 'pg_column_size', 'now', 'array_length', 'md5', 'extract')
                AND prorettype NOT IN ('anyelement'::regtype, 'internal'::regtype)
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike(%L); RETURN NULL; END $$',
                           o.proname, o.args, o.r, o.proname);
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
END $do$
--- boss
SET search_path = public, pg_catalog;
SELECT pgq.register('own', 'boss.guard', 't', timeout => '1 s'::pg_catalog.interval), pgq.configure('own', max_attempts => 3, keep_done => '1 h'),
       pgq.put('own', key => 'k'), pgq.put('own', key => 'k'), pgq.put('own', '1', on_conflict => 'replace', key => 'k'),
       pgq.put('own', delay => '1 h'), pgq.bulk_put('own', '[{"key": "x"}, {"delay": "1 h"}]'),
       pgq.bulk_put('own', args => ARRAY['1']::jsonb[]);
SELECT * FROM pgq.claim('own', lease => '1 min', tasks => ARRAY['a']); SELECT * FROM pgq.claim('own', lease => '1 min', n => 2);
SELECT pgq.complete(j.id, j.attempt), pgq.extend(j.id, j.attempt, '1 h'), pgq.fail(j.id, j.attempt), pgq.release(j.id, j.attempt),
       pgq.cancel(j.id), pgq.retry(j.id), pgq.waiting(j.id), pgq.wait(j.id, '0') FROM pgq.claim('own', lease => '1 min') AS j;
SELECT pgq.bulk_complete('{1}', '{1}'), pgq.pause('own'), pgq.resume('own'), pgq.redrive('own'), pgq.purge('own', 'ready'),
       pgq.purge('own', 'dead');
SELECT * FROM pgq.stats(); SELECT * FROM pgq.doctor(); SELECT * FROM pgq.current_job(); SELECT pgq.version(), pgq.start();
SELECT * FROM pgq.running; SELECT * FROM pgq.workers; SELECT * FROM pgq.dead; SELECT * FROM pgq.queues;
SELECT pgq.unregister('own', 't')
--- boss sees 0
SELECT pg_catalog.count(*)::text FROM low.seen

--- case tables, views and types of our names and the catalog's in pg_temp, before everything
--- low
CREATE TEMP TABLE job (LIKE low.loot); CREATE TEMP TABLE handler (id int); CREATE TEMP TABLE finished_job (id int);
CREATE TEMP TABLE queue_setting (queue text); CREATE TEMP TABLE pg_proc (oid oid); CREATE TEMP TABLE pg_authid (oid oid, rolname name);
CREATE TEMP TABLE pg_namespace (oid oid); CREATE TEMP VIEW pg_roles AS SELECT low.strike('pg_roles');
CREATE TEMP VIEW pgq_running AS SELECT low.strike('running'); CREATE TYPE pg_temp.jsonb AS (x int);
CREATE TEMP SEQUENCE job_id_seq;
SET search_path = pg_temp, low, pg_catalog;
SELECT pgq.put('own', key => 'k'), pgq.bulk_put('own', args => ARRAY['1']::pg_catalog.jsonb[]);
SELECT pgq.complete(id, attempt) FROM pgq.claim('own', lease => '1 min', n => 10);
SELECT * FROM pgq.stats(); SELECT * FROM pgq.doctor(); SELECT pgq.pause('own'), pgq.resume('own')
--- boss sees 0
SELECT count(*)::text FROM low.seen

--- case a superuser registers a bare name that the low role owns in public
--- low
CREATE FUNCTION public.mail(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('mail') $$
--- boss 42501
SELECT pgq.register('own', 'mail')

--- case domains over jsonb, text and interval with checks, as arguments
--- low
CREATE FUNCTION low.check(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    PERFORM low.strike('check'); PERFORM pgq.put('nested', key => 'k'); RETURN true; END $$;
CREATE DOMAIN low.j AS jsonb CHECK (low.check(VALUE::text)); CREATE DOMAIN low.t AS text CHECK (low.check(VALUE));
CREATE DOMAIN low.i AS interval CHECK (low.check(VALUE::text));
SELECT pgq.put('own'::low.t, '1'::low.j, delay => '1 s'::low.i, key => 'k'::low.t, task => 't'::low.t);
SELECT pgq.bulk_put('own', '[{"key": "x"}]'::low.j), pgq.configure('own', backoff => '1 s'::low.i)

--- case a type with implicit casts to jsonb, text and interval, as arguments
--- low
CREATE TYPE low.e AS ENUM ('own');
CREATE FUNCTION low.cast_text(low.e) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('text'); RETURN 'own'; END $$;
CREATE FUNCTION low.cast_jsonb(low.e) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('jsonb'); RETURN '1'; END $$;
CREATE CAST (low.e AS text) WITH FUNCTION low.cast_text AS IMPLICIT; CREATE CAST (low.e AS jsonb) WITH FUNCTION low.cast_jsonb AS IMPLICIT;
SELECT pgq.put('own'::low.e, 'own'::low.e)

--- case a handler whose result has a cast to json, in a worker
--- low
CREATE TYPE low.e AS ENUM ('a');
CREATE FUNCTION low.cast(low.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; PERFORM low.strike('cast'); RETURN '"cast"'; END $$;
CREATE CAST (low.e AS json) WITH FUNCTION low.cast(low.e);
CREATE FUNCTION low.f() RETURNS low.e LANGUAGE sql AS $$ SELECT 'a'::low.e $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- boss sees "cast" low
SELECT f.result::text || ' ' || s.who FROM pgq.finished_job AS f, low.seen AS s WHERE f.queue = 'own'

--- case a cast of the result that fails, then one that never ends
--- low
CREATE TYPE low.e AS ENUM ('a');
CREATE FUNCTION low.cast(low.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = 'AB123'; END $$;
CREATE CAST (low.e AS json) WITH FUNCTION low.cast(low.e);
CREATE FUNCTION low.f() RETURNS low.e LANGUAGE sql AS $$ SELECT 'a'::low.e $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own dead AB123
--- low
CREATE OR REPLACE FUNCTION low.cast(low.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN LOOP PERFORM pg_sleep(1); END LOOP; END $$;
SELECT pgq.register('own', 'low.f', timeout => '100 ms', max_attempts => 1)
--- job own dead 57014

--- case results of every odd kind
--- low
CREATE TYPE low.r AS RANGE (SUBTYPE = text); CREATE DOMAIN low.d AS int CHECK (VALUE > 1 OR low.strike('domain'));
CREATE FUNCTION low.a() RETURNS low.r LANGUAGE sql AS $$ SELECT low.r('a', 'b') $$;
CREATE FUNCTION low.b() RETURNS low.d LANGUAGE sql AS $$ SELECT 1::low.d $$;
CREATE FUNCTION low.c() RETURNS record LANGUAGE sql AS $$ SELECT 1, 2 $$;
CREATE FUNCTION low.d() RETURNS low.r[] LANGUAGE sql AS $$ SELECT ARRAY[low.r('a', 'b')] $$;
CREATE FUNCTION low.e() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE c refcursor; BEGIN OPEN c FOR SELECT 1; RETURN c; END $$;
CREATE FUNCTION low.f() RETURNS tsvector LANGUAGE sql AS $$ SELECT 'a:1'::tsvector $$;
CREATE FUNCTION low.g() RETURNS pgq.job LANGUAGE sql AS $$ SELECT NULL::pgq.job $$;
SELECT pgq.register(f, 'low.' || f, max_attempts => 1) FROM unnest('{a,b,c,d,e,f,g}'::text[]) AS f
--- job a done
--- job b done
--- job c done
--- job d done
--- job e done
--- job f done
--- job g done

--- case a hostile output of a result's text in a composite that a superuser reads
--- low
CREATE FUNCTION low.f() RETURNS text LANGUAGE sql AS $$ SELECT '"; DROP TABLE public.canary; --' $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- boss
SELECT * FROM pgq.stats(); SELECT * FROM pgq.doctor(); SELECT * FROM pgq.finished_job

--- case a leaky function on what is granted
--- low
CREATE FUNCTION low.leak(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$
--- low 42501
SELECT * FROM pgq.dead WHERE low.leak(args::text)
--- low 42501
CREATE FUNCTION low.proof(text) RETURNS boolean LEAKPROOF LANGUAGE sql AS 'SELECT true'
