-- A job's ways through the states, by hand.
SELECT queue, max_attempts, keep_done FROM pgq.configure('q', max_attempts => 2, backoff => '1 hour', keep_done => '1 day');
SELECT pgq.put('q', '{"n": 1}') AS a, pgq.put('q', '{"n": 2}', 5) AS b \gset
-- Larger priority first.
SELECT args, attempt, state FROM pgq.claim('q', 2, lease => '1 hour');
SELECT pgq.complete(:b, 1, '{"ok": true}'), pgq.complete(:b, 1) AS again;
SELECT state, result, error, attempt FROM pgq.wait(:b, '0');
-- Fails once, waits, fails for good, is dead, comes back.
SELECT pgq.fail(:a, 1, 'no luck');
SELECT state, attempt, failures, error FROM pgq.job WHERE id = :a;
SELECT pgq.waiting(:a) LIKE 'retry at %' AS waits;
SELECT pgq.retry(:a);
SELECT id = :a AS same, attempt FROM pgq.claim('q', lease => '1 hour');
SELECT pgq.fail(:a, 2, 'no luck again');
SELECT state, error, attempt FROM pgq.wait(:a, '0');
SELECT queue, args, attempt, failures, message FROM pgq.dead;
SELECT pgq.redrive('q');
SELECT state, attempt, failures FROM pgq.job WHERE id = :a;
SELECT pgq.cancel(:a), pgq.cancel(4711) AS unknown;
SELECT state FROM pgq.wait(:a, '0');
SELECT pgq.purge('q', 'cancelled'), pgq.purge('q', 'done'), pgq.purge('q', 'dead');
SELECT state FROM pgq.wait(:a, '0');
-- Paused: puts go on, claims return nothing.
SELECT pgq.pause('q');
SELECT pgq.put('q') AS c \gset
SELECT count(*) FROM pgq.claim('q', lease => '1 s');
SELECT pgq.waiting(:c);
SELECT pgq.resume('q');
SELECT count(*) FROM pgq.claim('q', lease => '1 hour');
-- Given back: nothing counted, a new attempt next.
SELECT pgq.release(:c, 1);
SELECT state, attempt, failures FROM pgq.job WHERE id = :c;
SELECT pgq.fail(:c, 2, 'the claim was rolled back', permanent => true);
SELECT queue, ready, scheduled, leased, dead, paused, handlers FROM pgq.stats();
SELECT queue, max_attempts, paused FROM pgq.configure('q', reset => true);
