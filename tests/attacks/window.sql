-- T53: errors, cancels and aborts while our statement runs with the owner's rights. Each block ends in a look at
-- who acts and what it may read.

--- case statement_timeout inside our statement, caught at the top
--- low
SET statement_timeout = '3 ms'
--- low any
SELECT pgq.bulk_put('own', args => array_fill('1'::jsonb, ARRAY[20000]))
--- low any
SELECT pgq.bulk_put('own', (SELECT jsonb_agg('{"delay": "1 h"}'::jsonb) FROM generate_series(1, 20000)))
--- low sees low low
SELECT concat_ws(' ', current_user, session_user)
--- low 42501
TABLE public.canary

--- case a cancel inside our statement, caught by the low role's own code
--- low
CREATE FUNCTION low.try(sql text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE sql; RETURN '';
EXCEPTION WHEN OTHERS OR query_canceled THEN PERFORM low.strike(SQLSTATE); RETURN SQLSTATE; END $$
--- low
SET statement_timeout = '20 ms'
--- low any
SELECT low.try($$SELECT pgq.bulk_put('own', args => array_fill('1'::jsonb, ARRAY[200000]))$$)
--- low any
SELECT low.try($$SELECT pgq.bulk_put('own', (SELECT jsonb_agg('{"delay": "1 h"}'::jsonb) FROM generate_series(1, 100000)))$$)
--- low
RESET statement_timeout
--- low sees low
SELECT current_user

--- case the lock of a key that another holds, and lock_timeout inside it
--- low
CREATE FUNCTION low.try(sql text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE sql; RETURN '';
EXCEPTION WHEN OTHERS THEN PERFORM low.strike(SQLSTATE); RETURN SQLSTATE; END $$
--- low2
BEGIN; SELECT pgq.put('own', key => 'k')
--- low
SET lock_timeout = '20 ms'
--- low sees 55P03
SELECT low.try($$SELECT pgq.put('own', key => 'k')$$)
--- low 55P03
SELECT pgq.put('own', key => 'k')
--- low sees low
SELECT current_user
--- low2
COMMIT

--- case the stack at its end, wherever that is
--- low
CREATE FUNCTION low.deep(n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    BEGIN
        PERFORM low.deep(n + 1);
    EXCEPTION WHEN statement_too_complex THEN
        BEGIN PERFORM pgq.put('own', key => 'k'); EXCEPTION WHEN statement_too_complex THEN END;
        IF n % 50 = 0 THEN PERFORM low.strike('deep ' || n); END IF;
    END;
END $$
--- low any
SELECT low.deep(0)
--- low sees low
SELECT current_user

--- case a subtransaction that ends after our statements
--- low
DO $$ BEGIN
    BEGIN PERFORM pgq.put('own', key => 'a'), pgq.put('own', key => 'b'); RAISE 'x'; EXCEPTION WHEN OTHERS THEN PERFORM low.strike('x'); END;
    BEGIN PERFORM pgq.put('own', key => 'a', on_conflict => 'error'), pgq.put('own', key => 'a', on_conflict => 'error');
    EXCEPTION WHEN unique_violation THEN PERFORM low.strike('23505'); END;
    BEGIN PERFORM pgq.put('own', '1', 2147483647, delay => '1000 years'), pgq.put('own', '1', execute_at => 'infinity');
    EXCEPTION WHEN OTHERS THEN PERFORM low.strike(SQLSTATE); END;
END $$
--- low
BEGIN; SAVEPOINT s; SELECT pgq.put('own', key => 'k'); ROLLBACK TO s; SELECT low.strike('ROLLBACK TO'); COMMIT

--- case a serialization failure inside our statement
--- low
SELECT pgq.put('own') FROM generate_series(1, 3)
--- low
BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM low.seen; SELECT pgq.purge('own', 'ready')
--- low2
BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM low.seen; SELECT pgq.put('own')
--- low any
COMMIT
--- low2 any
COMMIT
--- low sees low
SELECT current_user

--- case errors of our own statements, in a loop with savepoints
--- low
DO $$ DECLARE calls text[] := ARRAY[
    'pgq.purge(''own'', ''x'')', 'pgq.configure(''own'', max_attempts => 0)', 'pgq.register(''own'', ''nothing'')',
    'pgq.register(''own'', ''a.b.c'')', 'pgq.register(''own'', ''('')', 'pgq.put(''own'', key => '''')', 'pgq.claim(''own'', n => 0)',
    'pgq.claim(queues => ''{NULL}'')', 'pgq.bulk_put(''own'', ''[{"execute_at": "x"}]'')', 'pgq.bulk_put(''own'', ''[{"delay": "x"}]'')',
    'pgq.bulk_put(''own'', ''[{"key": "\u0001"}]'')', 'pgq.run(-1)', 'pgq.wait(1, ''-1 s'')', 'pgq.retry(1, ''infinity'')',
    'pgq.extend(1, 1, ''0'')', 'pgq.fail(1, 1, retry_in => ''-1 s'')']; call text;
BEGIN FOREACH call IN ARRAY calls LOOP
    BEGIN EXECUTE 'SELECT ' || call; EXCEPTION WHEN OTHERS THEN IF SQLSTATE LIKE 'XX%' THEN RAISE; END IF; PERFORM low.strike(call); END;
END LOOP; END $$

--- case memory at its end
--- low any
SELECT pgq.put('own', ('"' || repeat('x', 60000000) || '"')::jsonb)
--- low any
SELECT pgq.bulk_put('own', jsonb_build_array(jsonb_build_object('args', repeat('x', 40000000))))
--- low sees low
SELECT current_user

--- case a parallel query around our functions
--- low
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query'); SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
SELECT pgq.version(), pgq.waiting(n) FROM generate_series(1, 10) AS n
--- low
CREATE FUNCTION low.safe() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS $$ BEGIN RETURN pgq.put('own'); END $$
--- low any
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query'); SELECT low.safe()
--- low sees low
SELECT current_user

--- case a cursor over our functions, fetched after an error, held over the COMMIT
--- low
SELECT pgq.put('own') FROM generate_series(1, 20);
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT pgq.claim('own', n => 3), low.strike('cursor') FROM generate_series(1, 3); FETCH 2 FROM c; COMMIT;
FETCH ALL FROM c; CLOSE c
--- low sees low
SELECT string_agg(DISTINCT who, ' ') FROM low.seen

--- case deferred triggers of the low role's own tables that call us at COMMIT
--- low
CREATE TABLE low.t (n int);
CREATE FUNCTION low.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pgq.put('own', key => 'late'), pgq.claim('own', n => 10);
    INSERT INTO low.seen VALUES ('late', current_user, session_user); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON low.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION low.late();
BEGIN; INSERT INTO low.t VALUES (1); SELECT pgq.put('own'); SET CONSTRAINTS ALL DEFERRED; COMMIT
--- low sees low low
SELECT who || ' ' || session FROM low.seen

--- case the same with errors that are caught there
--- low
-- Not in a block: there the server's own assertions do not allow it (RollbackAndReleaseCurrentSubTransaction, xact.c).
CREATE TABLE low.t (n int);
CREATE FUNCTION low.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pgq.put('own', key => 'late'), low.strike('late'); PERFORM pgq.claim('own', n => 10);
    BEGIN PERFORM pgq.put('own', key => ''); EXCEPTION WHEN OTHERS THEN PERFORM low.strike('error'); END; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON low.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION low.late()
--- low
WITH put AS (SELECT pgq.put('own') AS id) INSERT INTO low.t SELECT id FROM put
--- low sees error low, late low
SELECT string_agg(DISTINCT what || ' ' || who, ', ') FROM low.seen

--- case PREPARE TRANSACTION with a raised and lowered id behind it
--- low 55000
BEGIN; SELECT pgq.put('own', key => 'k'); PREPARE TRANSACTION 'low'
--- low sees low
SELECT current_user

--- case a SECURITY DEFINER function of the low role's around ours, called by another
--- low
CREATE FUNCTION low.wrap() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    BEGIN PERFORM pgq.put('own', key => ''); EXCEPTION WHEN OTHERS THEN PERFORM low.strike('wrap'); END; RETURN pgq.put('own'); END $$;
GRANT EXECUTE ON FUNCTION low.wrap TO peer
--- peer
SELECT low.wrap()
--- peer sees peer
SELECT current_user
