-- Each refusal: SQLSTATE, message, detail and hint.
\set SHOW_CONTEXT never
SELECT pgq.put(NULL);
\echo :SQLSTATE
SELECT pgq.put('');
\echo :SQLSTATE
SELECT pgq.put('no spaces');
\echo :SQLSTATE
SELECT pgq.put(repeat('x', 60));
\echo :SQLSTATE
SELECT pgq.put('q', '{}', delay => '-1 s');
\echo :SQLSTATE
SELECT pgq.put('q', '{}', execute_at => 'infinity');
\echo :SQLSTATE
SELECT pgq.put('q', '{}', execute_at => now(), delay => '1 s');
\echo :SQLSTATE
SELECT pgq.put('q', '{}', on_conflict => 'maybe');
\echo :SQLSTATE
SELECT pgq.put('q', '{}', max_attempts => 0);
\echo :SQLSTATE
SELECT pgq.put('q', to_jsonb(repeat('x', 2000000)));
\echo :SQLSTATE
SELECT pgq.put('q', '{}', key => 'twice');
SELECT pgq.put('q', '{}', key => 'twice', on_conflict => 'error');
\echo :SQLSTATE
SELECT pgq.bulk_put('q');
\echo :SQLSTATE
SELECT pgq.bulk_put('q', '[{"to": 1}]');
\echo :SQLSTATE
SELECT pgq.bulk_put('q', '{"args": 1}');
\echo :SQLSTATE
SELECT pgq.bulk_put('q', '[{"args": 1}, {"delay": "-1 s"}]');
\echo :SQLSTATE
SELECT * FROM pgq.claim();
\echo :SQLSTATE
SELECT * FROM pgq.claim('q', 0);
\echo :SQLSTATE
SELECT * FROM pgq.claim('q', 10001);
\echo :SQLSTATE
SELECT * FROM pgq.claim('q', lease => '0');
\echo :SQLSTATE
SELECT * FROM pgq.claim('q', queues => '{a,b}');
\echo :SQLSTATE
SELECT pgq.complete(NULL, 1);
\echo :SQLSTATE
SELECT * FROM pgq.bulk_complete('{1,2}', '{1}');
\echo :SQLSTATE
SELECT pgq.register('q', 'no_such_function');
\echo :SQLSTATE
CREATE FUNCTION wrong_shape(a int) RETURNS void LANGUAGE sql AS '';
SELECT pgq.register('q', 'wrong_shape');
\echo :SQLSTATE
CREATE FUNCTION two_shapes(a jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION two_shapes() RETURNS void LANGUAGE sql AS '';
SELECT pgq.register('q', 'two_shapes');
\echo :SQLSTATE
CREATE FUNCTION gives_a_set(a jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
SELECT pgq.register('q', 'gives_a_set');
\echo :SQLSTATE
SELECT pgq.register('q', 'two_shapes(jsonb)', run_as => 'nobody_here');
\echo :SQLSTATE
SELECT pgq.register('q', 'two_shapes(jsonb)', concurrency => 0);
\echo :SQLSTATE
SELECT pgq.configure('q', backoff => '-1 s');
\echo :SQLSTATE
SELECT pgq.purge('q', 'leased');
\echo :SQLSTATE
SELECT pgq.run(4711);
\echo :SQLSTATE
SELECT pgq.extend(1, 1, NULL);
\echo :SQLSTATE
BEGIN;
SELECT pgq.put('q') AS own \gset
SELECT * FROM pgq.wait(:own);
\echo :SQLSTATE
ROLLBACK;
DROP FUNCTION wrong_shape(int), two_shapes(jsonb), two_shapes(), gives_a_set(jsonb);
