-- Handlers that take a set: what register takes and refuses, and one job in the caller's own session.
\set SHOW_CONTEXT never
CREATE TABLE sent (id bigint, args jsonb, attempt int, current bigint);
CREATE FUNCTION send_all(jobs pgq.job[]) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO sent SELECT id, args, attempt, (pgq.current_job()).id FROM unnest(jobs);
    RETURN cardinality(jobs); END $$;
SELECT pgq.register('mail', 'send_all');
SELECT pgq.register('mail', 'public.send_all(pgq.job[])', batch => 1000);
SELECT queue, function, shape, is_procedure, batch FROM pgq.handler;
SELECT pgq.register('mail', 'send_all', batch => 1001);
\echo :SQLSTATE
SELECT pgq.register('mail', 'send_all', batch => 0);
\echo :SQLSTATE
CREATE PROCEDURE call_all(jobs pgq.job[]) LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
SELECT pgq.register('mail', 'call_all');
\echo :SQLSTATE
CREATE FUNCTION rows_of_all(jobs pgq.job[]) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
SELECT pgq.register('mail', 'rows_of_all');
\echo :SQLSTATE
CREATE FUNCTION variadic_all(VARIADIC jobs pgq.job[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT pgq.register('mail', 'variadic_all');
\echo :SQLSTATE
\set VERBOSITY terse
UPDATE pgq.handler SET is_procedure = true;
\set VERBOSITY default
\echo :SQLSTATE
-- A set of one, in this session: the function acts as its owner, who is a superuser here.
ALTER FUNCTION send_all SECURITY DEFINER;
SELECT queue, keep_done FROM pgq.configure('mail', keep_done => '1 day');
SELECT pgq.put('mail', '{"to": "ada"}') AS a \gset
SELECT pgq.run(:a);
SELECT state, result, attempt FROM pgq.wait(:a, '0');
SET pgq.eager = on;
SELECT pgq.put('mail', '{"to": "bob"}') AS b \gset
RESET pgq.eager;
SELECT state, result, attempt FROM pgq.wait(:b, '0');
SELECT args, attempt, current FROM sent ORDER BY id;
SELECT check_name, ok FROM pgq.doctor() WHERE NOT ok AND check_name LIKE '%handler%';
SELECT pgq.unregister('mail');
DROP FUNCTION send_all(pgq.job[]), rows_of_all(pgq.job[]), variadic_all(pgq.job[]);
DROP PROCEDURE call_all(pgq.job[]);
DROP TABLE sent;
