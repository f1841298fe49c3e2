-- T53: names and texts that are meant to become something else: in queues, tasks, keys, handlers, hints, plans.

--- case names that are none
--- low 22023
SELECT pgq.put('')
--- low 22023
SELECT pgq.put('own', task => '')
--- low 22023
SELECT pgq.put(' ')
--- low 22023
SELECT pgq.put('own', task => ' ')
--- low 22023
SELECT pgq.put('a b')
--- low 22023
SELECT pgq.put('own', task => 'a b')
--- low 22023
SELECT pgq.put('a''b')
--- low 22023
SELECT pgq.put('own', task => 'a''b')
--- low 22023
SELECT pgq.put('a"b')
--- low 22023
SELECT pgq.put('own', task => 'a"b')
--- low 22023
SELECT pgq.put('$1')
--- low 22023
SELECT pgq.put('own', task => '$1')
--- low 22023
SELECT pgq.put('; DROP TABLE canary; --')
--- low 22023
SELECT pgq.put('own', task => '; DROP TABLE canary; --')
--- low 22023
SELECT pgq.put('käse')
--- low 22023
SELECT pgq.put('own', task => 'käse')
--- low 22023
SELECT pgq.put(E'a\nb')
--- low 22023
SELECT pgq.put('own', task => E'a\nb')
--- low 22023
SELECT pgq.put(E'a\x7fb')
--- low 22023
SELECT pgq.put('own', task => E'a\x7fb')
--- low 22023
SELECT pgq.put('../x')
--- low 22023
SELECT pgq.put('own', task => '../x')
--- low 22023
SELECT pgq.put('%s%n')
--- low 22023
SELECT pgq.put('own', task => '%s%n')
--- low 22023
SELECT pgq.put('\')
--- low 22023
SELECT pgq.put('own', task => '\')
--- low 22023
SELECT pgq.put(repeat('x', 60))
--- low 22023
SELECT pgq.put('own', task => repeat('x', 60))
--- low 22023
SELECT pgq.put(repeat('x', 1000000))
--- low 22023
SELECT pgq.put('own', task => repeat('x', 1000000))
--- low 22023
SELECT pgq.put('q‮q')
--- low 22023
SELECT pgq.put('own', task => 'q‮q')
--- low 22023
SELECT pgq.put(E'\u00a0')
--- low 22023
SELECT pgq.put('own', task => E'\u00a0')

--- case names everywhere else
--- low 22023
SELECT pgq.bulk_put('x y', '[]')
--- low 22023
SELECT pgq.claim('x y')
--- low 22023
SELECT pgq.claim(queues => ARRAY['own', 'x y'])
--- low 22023
SELECT pgq.claim('own', tasks => ARRAY['x y'])
--- low 22023
SELECT pgq.register('x y', 'low.strike')
--- low 22023
SELECT pgq.register('own', 'pgq.version', 'x y')
--- low 22023
SELECT pgq.unregister('x y')
--- low 22023
SELECT pgq.configure('x y')
--- low 22023
SELECT pgq.pause('x y')
--- low 22023
SELECT pgq.resume('x y')
--- low 22023
SELECT pgq.redrive('x y')
--- low 22023
SELECT pgq.purge('x y', 'dead')
--- low 22023
SELECT pgq.purge('own', repeat('x', 1000000))
--- low 22023
SELECT pgq.stats('x y')
--- low 22023
SELECT pgq.put('own', on_conflict => repeat('x', 1000000), key => 'k')
--- low 22023
SELECT pgq.put('own', key => repeat('x', 1000000))
--- low 22023
SELECT pgq.put('own', key => '')
--- low 22023
SELECT pgq.bulk_put('own', '[{"task": "x y"}]')
--- low 22023
SELECT pgq.bulk_put('own', '[{"key": ""}]')

--- case handlers' names that are none
--- low 22023
SELECT pgq.register('own', '')
--- low 42602|42883|22P02
SELECT pgq.register('own', '(')
--- low 22023|42602
SELECT pgq.register('own', ')')
--- low 22023
SELECT pgq.register('own', '"')
--- low 0A000|42601|42883
SELECT pgq.register('own', 'a.b.c.d(jsonb)')
--- low 22P02|42602|42601|42883
SELECT pgq.register('own', 'low.f(jsonb); DROP TABLE canary')
--- low 42883|3F000|42704
SELECT pgq.register('own', 'low.f(no.such)')
--- low 42883
SELECT pgq.register('own', 'f(int[][][])')
--- low 42883
SELECT pgq.register('own', 'f(jsonb) ')
--- low 22023
SELECT pgq.register('own', repeat('x', 1000000))
--- low 22023
SELECT pgq.register('own', repeat('x', 1000000) || '(jsonb)')
--- low 22023
SELECT pgq.register('own', 'x(' || repeat('int,', 100000) || 'int)')
--- low 22023
SELECT pgq.register('own', repeat('(', 100000))
--- low 42602|42883
-- From 16 on to_regprocedure answers NULL where it raised before (regproc.c).
SELECT pgq.register('own', repeat('(', 900))
--- low 42601|42883|22023
SELECT pgq.register('own', 'x(setof int)')
--- low 42883|42601
SELECT pgq.register('own', 'x(low.seen.who%type)')
--- low 22023|42883
SELECT pgq.register('own', E'a\\nb')
--- low 42883|22023
SELECT pgq.register('own', '1234')
--- low 22023|42883
SELECT pgq.register('own', '-')
--- low 42883
SELECT pgq.register('own', 'low.strike')
--- low 22004
SELECT pgq.register('own', NULL)

--- case a schema, functions and a role whose names want out of their quotes
--- boss
CREATE ROLE "low""; ALTER ROLE low SUPERUSER; --" NOLOGIN
--- low
CREATE FUNCTION low."f(ird""'; ALTER ROLE low SUPERUSER; --"(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('f') $$;
CREATE PROCEDURE low."p(""$1'); --"(args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; PERFORM low.strike('p'); END $$;
CREATE PROCEDURE low.":x \g
 %s ☃"(id bigint, args jsonb) LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('q'); END $$;
CREATE FUNCTION low."two'); ALTER ROLE low SUPERUSER; --"() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION low."two'); ALTER ROLE low SUPERUSER; --"(args jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT pgq.register('own', p.oid::regprocedure::text, max_attempts => 1) FROM pg_proc AS p WHERE p.proname LIKE 'f(ird%';
SELECT pgq.register('next', p.oid::regprocedure::text, max_attempts => 1) FROM pg_proc AS p WHERE p.proname LIKE 'p("$1%';
SELECT pgq.register('last', p.oid::regprocedure::text, max_attempts => 1) FROM pg_proc AS p WHERE p.proname LIKE ':x%'
--- job own done
--- job next done
--- job last done
--- boss sees 3
SELECT count(*)::text FROM low.seen
--- low
DROP FUNCTION low."f(ird""'; ALTER ROLE low SUPERUSER; --"
--- job own parked
--- boss
DO $do$ DECLARE fix text; BEGIN SELECT d.fix INTO fix FROM pgq.doctor() AS d WHERE d.check_name = 'parked handlers' AND NOT d.ok;
    EXECUTE fix; EXCEPTION WHEN undefined_function THEN END $do$
--- boss
DO $do$ DECLARE hint text; BEGIN PERFORM pgq.register('own', 'low."two''); ALTER ROLE low SUPERUSER; --"');
EXCEPTION WHEN ambiguous_function THEN GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    BEGIN EXECUTE rtrim(replace(hint, 'Give the whole signature: ', 'SELECT '), '.'); EXCEPTION WHEN insufficient_privilege THEN END; END $do$
--- boss
DO $do$ DECLARE hint text; BEGIN
    CREATE FUNCTION boss.private() RETURNS void LANGUAGE sql AS ''; REVOKE ALL ON FUNCTION boss.private FROM PUBLIC;
    FOR n IN 1..5 LOOP
        BEGIN PERFORM pgq.register('own', 'boss.private', run_as => 'low"; ALTER ROLE low SUPERUSER; --'); EXIT;
        EXCEPTION WHEN insufficient_privilege OR object_not_in_prerequisite_state THEN GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT; END;
        IF n = 5 THEN RAISE 'no end of hints: %', hint; END IF;
        EXECUTE replace(hint, ' A worker connects as the role.', '');
    END LOOP;
    IF hint IS NULL THEN RAISE 'no hint'; END IF; DROP FUNCTION boss.private; END $do$
--- boss
DROP OWNED BY "low""; ALTER ROLE low SUPERUSER; --"; DROP ROLE "low""; ALTER ROLE low SUPERUSER; --"

--- case texts of errors, keys and tasks on their way to views, logs and hints
--- low
CREATE FUNCTION low.f(args jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION USING MESSAGE = E'"}; \n2000-01-01 PANIC:  x\u2028 %s %n $1 ''; DROP TABLE canary; --', DETAIL = repeat('x', 1000000),
        HINT = '\x', ERRCODE = 'ZZZZZ'; END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.put('own', key => E'a\u0001b''"\\;☃', delay => '1 h'),
       pgq.put('own', task => '--', key => '$1');
SELECT pgq.fail(id, attempt, repeat('x', 1000000)) FROM pgq.claim('own', lease => '1 h', tasks => ARRAY['--'])
--- job own dead ZZZZZ
--- boss
SELECT * FROM pgq.dead; SELECT * FROM pgq.stats(); SELECT * FROM pgq.doctor(); SELECT pgq.waiting(j.id) FROM pgq.job AS j

--- case JSON that goes deep, wide and far
--- low any
SELECT pgq.put('own', (repeat('[', 100000) || repeat(']', 100000))::jsonb)
--- low
SELECT pgq.put('own', (repeat('[', 3000) || repeat(']', 3000))::jsonb), pgq.put('own', ('1e' || 100000)::jsonb), pgq.put('own', '[-0.0, 1E-400]');
SELECT pgq.bulk_put('own', ('[{"args": ' || repeat('{"a":', 2000) || '1' || repeat('}', 2000) || '}]')::jsonb)
--- low
SELECT pgq.bulk_put('own', ('[' || repeat('{"args":', 2000) || '1' || repeat('}', 2000) || ']')::jsonb)
--- low 22023
SELECT pgq.bulk_put('own', '[{"args": 1, "priority": 1e400}]')
--- low 22023
SELECT pgq.bulk_put('own', '[{"args": 1, "Args": 2}]')
--- low 22P05
SELECT pgq.put('own', '"\u0000"')
--- low
CREATE FUNCTION low.f(args jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT args'; SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done

--- case a hundred thousand elements
--- low sees 100000 100000
SELECT (SELECT count(*) FROM pgq.bulk_put('own', args => array_fill('1'::jsonb, ARRAY[100000]))) || ' ' ||
       (SELECT count(*) FROM pgq.bulk_put('own', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 100000))))
--- low any
SELECT pgq.purge('own', 'ready')
