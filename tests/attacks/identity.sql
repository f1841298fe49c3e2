-- T52: reliability.md 3.2, each way as a handler of the low role's; then a superuser who runs its handlers.

--- case RESET ROLE in a function
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    RESET ROLE; PERFORM low.strike('RESET ROLE'); SET ROLE NONE; PERFORM low.strike('NONE'); END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- boss sees 2
SELECT count(*)::text FROM low.seen

--- case RESET SESSION AUTHORIZATION in a function
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    RESET SESSION AUTHORIZATION; PERFORM low.strike('RESET'); SET SESSION AUTHORIZATION DEFAULT; PERFORM low.strike('DEFAULT');
END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- boss sees 2
SELECT count(*)::text FROM low.seen

--- case ROLLBACK in a procedure, then ALTER ROLE
--- low
CREATE PROCEDURE low.p() LANGUAGE plpgsql AS $$ BEGIN
    ROLLBACK; PERFORM low.strike('ROLLBACK'); ALTER ROLE low SUPERUSER; END $$;
SELECT pgq.register('own', 'low.p', max_attempts => 1)
--- job own dead 42501

--- case COMMIT in a procedure, and what it leaves to the next job
--- low
CREATE PROCEDURE low.p() LANGUAGE plpgsql AS $$ BEGIN
    COMMIT; PERFORM low.strike('after COMMIT'); ROLLBACK AND CHAIN; PERFORM low.strike('ROLLBACK AND CHAIN');
    COMMIT AND CHAIN; RESET ROLE; RESET SESSION AUTHORIZATION; PERFORM low.strike('COMMIT AND CHAIN'); END $$;
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('the next job') $$;
SELECT pgq.register('own', 'low.p', max_attempts => 1), pgq.register('next', 'low.f', max_attempts => 1)
--- job own done
--- job next done
--- job own done
--- job next done
--- boss sees 6
SELECT count(*)::text FROM low.seen

--- case a deferred constraint trigger at COMMIT
--- low
CREATE TABLE low.t (n int);
CREATE FUNCTION low.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RESET ROLE; RESET SESSION AUTHORIZATION; PERFORM low.strike('at commit'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON low.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION low.late();
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ INSERT INTO low.t VALUES (1) $$;
CREATE PROCEDURE low.p() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO low.t VALUES (1); COMMIT; INSERT INTO low.t VALUES (2); END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.register('next', 'low.p', max_attempts => 1)
--- job own done
--- job next done
--- boss sees 3
SELECT count(*)::text FROM low.seen

--- case a WITH HOLD cursor, evaluated at COMMIT
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT low.strike(''cursor'')'; END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own done
--- boss sees 1
SELECT count(*)::text FROM low.seen

--- case operators and functions in a search_path that the handler sets, under our own bookkeeping
--- low
CREATE FUNCTION low.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN low.strike('= text'); END $$;
CREATE OPERATOR low.= (LEFTARG = text, RIGHTARG = text, FUNCTION = low.eq);
CREATE FUNCTION low.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN low.strike('= bigint'); END $$;
CREATE OPERATOR low.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = low.eq);
CREATE FUNCTION low.eq(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN low.strike('= integer'); END $$;
CREATE OPERATOR low.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = low.eq);
CREATE FUNCTION low.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('clock'); RETURN now(); END $$;
CREATE FUNCTION low.count() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('count'); RETURN 1; END $$;
CREATE FUNCTION low.f(args jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('search_path', 'low, pg_temp, pg_catalog', false); RETURN 'x'; END $$;
CREATE PROCEDURE low.p() LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('search_path', 'low, pg_temp, pg_catalog', false); COMMIT; END $$;
CREATE TABLE low.t (n int);
CREATE FUNCTION low.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('search_path', 'low, pg_temp, pg_catalog', false); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON low.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION low.late();
CREATE FUNCTION low.g() RETURNS void LANGUAGE sql AS $$ INSERT INTO low.t VALUES (1) $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1), pgq.register('next', 'low.p', max_attempts => 1),
       pgq.register('last', 'low.g', max_attempts => 1)
--- job own done
--- job own done
--- job next done
--- job last done
--- job own done
--- boss sees 0
SELECT count(*)::text FROM low.seen

--- case all of it in the deferred trigger of a procedure that fails
--- low
CREATE TABLE low.t (n int);
CREATE FUNCTION low.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RESET ROLE; RESET SESSION AUTHORIZATION; PERFORM low.strike('at commit'); RAISE 'no'; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON low.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION low.late();
CREATE PROCEDURE low.p() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO low.t VALUES (1); END $$;
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('the next job') $$;
SELECT pgq.register('own', 'low.p', max_attempts => 1), pgq.register('next', 'low.f', max_attempts => 1)
--- job own dead P0001
--- job next done

--- case SET ROLE and SET SESSION AUTHORIZATION to a superuser in a handler
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    BEGIN SET ROLE postgres; EXCEPTION WHEN OTHERS THEN PERFORM low.strike('role'); END;
    SET SESSION AUTHORIZATION postgres; END $$;
SELECT pgq.register('own', 'low.f', max_attempts => 1)
--- job own dead 42501

--- case a superuser runs a job of the low role's
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('run') $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own');
SELECT pgq.put('own')
--- boss 42501
SELECT pgq.run((SELECT max(id) FROM pgq.job WHERE queue = 'own'))
--- boss sees 0
SELECT count(*)::text FROM low.seen

--- case a superuser runs it after SET ROLE
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; PERFORM low.strike('run'); END $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own');
SELECT pgq.put('own')
--- boss
SELECT set_config('my.id', max(id)::text, false) FROM pgq.job WHERE queue = 'own';
SET ROLE low
--- boss 42501
SELECT pgq.run(current_setting('my.id')::bigint)

--- case a superuser runs it after SET SESSION AUTHORIZATION
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RESET SESSION AUTHORIZATION; PERFORM low.strike('run'); END $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own');
SELECT pgq.put('own')
--- boss
SELECT set_config('my.id', max(id)::text, false) FROM pgq.job WHERE queue = 'own';
SET SESSION AUTHORIZATION low
--- boss 42501
SELECT pgq.run(current_setting('my.id')::bigint)

--- case a SECURITY DEFINER function of the low role's, run after SET SESSION AUTHORIZATION, with a trigger for the COMMIT
--- low
CREATE TABLE low.t (n int);
CREATE FUNCTION low.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RESET SESSION AUTHORIZATION; PERFORM low.strike('at commit'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON low.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION low.late();
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO low.t VALUES (1) $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own');
SELECT pgq.put('own')
--- boss
SELECT set_config('my.id', max(id)::text, false) FROM pgq.job WHERE queue = 'own';
SET SESSION AUTHORIZATION low
--- boss 42501
SELECT pgq.run(current_setting('my.id')::bigint)

--- case a superuser runs a procedure of the low role's
--- low
CREATE PROCEDURE low.p() LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('run'); END $$;
SELECT pgq.register('own', 'low.p'), pgq.pause('own');
SELECT pgq.put('own')
--- boss 42501
SELECT pgq.run((SELECT max(id) FROM pgq.job WHERE queue = 'own'))

--- case an eager put by a superuser
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('eager') $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own')
--- boss
SET pgq.eager = on; SELECT pgq.put('own'); SET ROLE low; SELECT pgq.put('own'); RESET ROLE;
SET SESSION AUTHORIZATION low; SELECT pgq.put('own'); RESET SESSION AUTHORIZATION
--- boss sees 3 0
SELECT (SELECT count(*) FROM pgq.job WHERE queue = 'own') || ' ' || (SELECT count(*) FROM low.seen)

--- case eager in a superuser's trigger that the low role fires
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('eager') $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own')
--- boss
CREATE TABLE low.inbox (n int); GRANT ALL ON low.inbox TO low;
CREATE FUNCTION low.enqueue() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN PERFORM pgq.put('own'); RETURN NULL; END $$;
CREATE TRIGGER enqueue AFTER INSERT ON low.inbox FOR EACH ROW EXECUTE FUNCTION low.enqueue()
--- low
SET pgq.eager = on; INSERT INTO low.inbox VALUES (1)
--- boss
SET pgq.eager = on; INSERT INTO low.inbox VALUES (1)
--- boss sees 2 0
SELECT (SELECT count(*) FROM pgq.job WHERE queue = 'own') || ' ' || (SELECT count(*) FROM low.seen)

--- case a superuser's SECURITY DEFINER function puts while the low role has set eager
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('eager') $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own')
--- boss
CREATE FUNCTION low.enqueue() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT pgq.put('own') $$
--- low
SET pgq.eager = on; SELECT low.enqueue()
--- boss sees 0
SELECT count(*)::text FROM low.seen

--- case the same with a SECURITY DEFINER handler whose result has a cast to json
--- low
CREATE TYPE low.e AS ENUM ('a');
CREATE FUNCTION low.cast(low.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('cast'); RETURN '1'; END $$;
CREATE CAST (low.e AS json) WITH FUNCTION low.cast(low.e);
CREATE TYPE low.row AS (e low.e);
CREATE FUNCTION low.f() RETURNS low.e LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM low.strike('eager'); RETURN 'a'; END $$;
CREATE FUNCTION low.g() RETURNS low.row LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN ROW('a'::low.e); END $$;
CREATE FUNCTION low.h() RETURNS low.e[] LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN '{a}'; END $$;
SELECT pgq.register('own', 'low.f'), pgq.register('own', 'low.g', 'g'), pgq.register('own', 'low.h', 'h'), pgq.pause('own')
--- boss
CREATE FUNCTION low.enqueue(task text) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT pgq.put('own', task => task) $$;
CREATE FUNCTION low.debug(id bigint) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT pgq.run(id) $$
--- low
SELECT low.debug(low.enqueue(NULL)), low.debug(low.enqueue('g')), low.debug(low.enqueue('h'));
SET pgq.eager = on;
SELECT low.enqueue(NULL), low.enqueue('g'), low.enqueue('h')
--- boss sees 8 0
SELECT (SELECT count(*) FROM low.seen) || ' ' || (SELECT count(*) FROM pgq.job WHERE queue = 'own')

--- case a superuser's SECURITY DEFINER handler that returns a type of the low role's
--- low
CREATE TYPE low.e AS ENUM ('a');
CREATE FUNCTION low.cast(low.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('cast'); RETURN '1'; END $$;
CREATE CAST (low.e AS json) WITH FUNCTION low.cast(low.e)
--- boss
CREATE FUNCTION low.f() RETURNS low.e LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT 'a'::low.e $$;
SELECT pgq.register('own', 'low.f', run_as => 'low'), pgq.pause('own'); SELECT pgq.put('own');
SELECT pgq.run((SELECT max(id) FROM pgq.job WHERE queue = 'own'))
--- boss sees low
SELECT string_agg(who, ' ') FROM low.seen

--- case SET ROLE, held cursors and temporary tables in the cast of a result that a superuser's function asked for
--- low
CREATE TYPE low.e AS ENUM ('a');
CREATE FUNCTION low.cast(low.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN
    BEGIN RESET ROLE; PERFORM low.strike('RESET ROLE'); EXCEPTION WHEN OTHERS THEN END;
    BEGIN RESET SESSION AUTHORIZATION; PERFORM low.strike('RESET'); EXCEPTION WHEN OTHERS THEN END;
    BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT low.strike(''cursor'')'; EXCEPTION WHEN OTHERS THEN END;
    PERFORM set_config('search_path', 'low', false);
    RETURN '1'; END $$;
CREATE CAST (low.e AS json) WITH FUNCTION low.cast(low.e);
CREATE FUNCTION low.f() RETURNS low.e LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN 'a'; END $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own')
--- boss
CREATE FUNCTION low.enqueue() RETURNS text LANGUAGE sql SECURITY DEFINER
    AS $$ SELECT pgq.put('own'); SELECT current_user || ' ' || current_setting('search_path') $$
--- low
SET search_path = pg_catalog; SET pgq.eager = on
--- low sees postgres pg_catalog
SELECT low.enqueue()

--- case the low role runs a superuser's handler
--- boss
SELECT pgq.register('own', 'boss.guard'), pgq.pause('own'); SELECT pgq.put('own')
--- low 42501
DO $$ BEGIN FOR id IN 1..10000 LOOP
    BEGIN PERFORM pgq.run(id); EXCEPTION WHEN undefined_object OR object_not_in_prerequisite_state THEN END;
END LOOP; END $$
--- low
SET pgq.eager = on; SELECT pgq.put('own')

--- case run in an index, a view, a default and a policy that a superuser uses
--- low
CREATE FUNCTION low.f() RETURNS void LANGUAGE sql AS $$ SELECT low.strike('run') $$;
SELECT pgq.register('own', 'low.f'), pgq.pause('own');
CREATE TABLE low.ids AS SELECT pgq.put('own') AS id FROM generate_series(1, 5);
CREATE FUNCTION low.runs() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE n bigint; BEGIN
    SELECT min(id) INTO n FROM low.ids;
    BEGIN PERFORM pgq.run(n); EXCEPTION WHEN OTHERS THEN END;
    BEGIN PERFORM set_config('pgq.eager', 'on', true); PERFORM pgq.put('own'); EXCEPTION WHEN OTHERS THEN END;
    RETURN 1; END $$;
CREATE VIEW low.v AS SELECT low.runs();
CREATE TABLE low.t (n int DEFAULT low.runs(), CHECK (low.runs() = 1));
CREATE INDEX ON low.t ((low.runs()))
--- low
INSERT INTO low.t VALUES (1)
--- low
TRUNCATE low.seen
--- boss
SELECT * FROM low.v; INSERT INTO low.t DEFAULT VALUES; REINDEX TABLE low.t; ANALYZE low.t
--- boss sees 0
SELECT count(*)::text FROM low.seen
