-- What put stores, for each argument.
SELECT pgq.put('plain');
SELECT pgq.put('plain', '{"exact": [1e40, 0.10, 12345678901234567890.123]}', 7, task => 't', max_attempts => 2);
SELECT pgq.put('plain', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT pgq.put('plain', '"later"', delay => '1 hour');
SELECT pgq.put('plain', '"long ago"', execute_at => '2001-01-01');
SELECT id, queue, task, args, priority, state, attempt, failures, max_attempts, key, crashes, error,
       execute_at > now() AS ahead
  FROM pgq.job ORDER BY id;
SELECT pgq.put('keyed', '1', key => 'k') AS first \gset
SELECT pgq.put('keyed', '2', key => 'k') = :first AS kept;
SELECT pgq.put('keyed', '3', key => 'k', on_conflict => 'replace') = :first AS replaced;
SELECT args FROM pgq.job WHERE queue = 'keyed';
SELECT count(*) FROM pgq.bulk_put('bulk', '[{"args": {"to": 1}, "priority": 5}, {"delay": "1 day"}, {"task": "t", "max_attempts": 3}]');
SELECT count(*) FROM pgq.bulk_put('bulk', args => ARRAY['{"n": 1}', '{"n": 2}']::jsonb[], priority => 9);
SELECT args, priority, task, state, max_attempts FROM pgq.job WHERE queue = 'bulk' ORDER BY id;
