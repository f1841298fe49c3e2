-- T53: a role with EXECUTE on everything and "admin", "produce" and "consume" on queues of its own, in the queues of others;
-- and functions that change hands after they were registered.

--- each low 42501
SELECT pgq.put('vault')
SELECT pgq.put('vault', key => 'k', on_conflict => 'replace')
SELECT pgq.put('peer')
SELECT pgq.bulk_put('vault', '[{}]')
SELECT pgq.bulk_put('vault', args => ARRAY['1']::jsonb[])
SELECT * FROM pgq.claim('vault')
SELECT * FROM pgq.claim('vault', lease => '1 s')
SELECT * FROM pgq.claim(queues => '{own,vault}')
SELECT pgq.register('vault', 'low.strike')
SELECT pgq.register('vault', 'pgq.version', task => 'mine')
SELECT pgq.unregister('vault')
SELECT pgq.configure('vault', keep_done => '1 h')
SELECT pgq.pause('vault')
SELECT pgq.resume('vault')
SELECT pgq.pause(NULL)
SELECT pgq.resume()
SELECT pgq.redrive('vault')
SELECT pgq.purge('vault', 'dead')
SELECT pgq.purge('vault', 'ready')
SELECT * FROM pgq.stats('vault')
SELECT pgq.grant_usage('low', 'admin', 'vault')
SELECT pgq.grant_usage('low', 'admin')
SELECT pgq.grant_usage('low', 'produce', 'vault')
SELECT pgq.grant_usage('peer', 'produce', 'own')
SELECT pgq.revoke_usage('peer', 'produce', 'peer')
SELECT pgq.revoke_usage('postgres', 'admin')
TABLE pgq.queue_grant
INSERT INTO pgq.queue_grant DEFAULT VALUES

--- case ids of jobs of others: not there
--- low
SELECT pgq.complete(n, a), pgq.fail(n, a, permanent => true), pgq.extend(n, a, '1 h'), pgq.release(n, a), pgq.cancel(n), pgq.cancel(n, true),
       pgq.retry(n), pgq.waiting(n), pgq.wait(n, '0')
  FROM generate_series(-10, 300) AS n, generate_series(0, 3) AS a;
SELECT pgq.bulk_complete(array_agg(n), array_agg(1)) FROM generate_series(-10, 300) AS n
--- low sees 0
SELECT count(*)::text FROM generate_series(-10, 300) AS n, pgq.bulk_complete(ARRAY[n], ARRAY[1])
--- low sees gone
SELECT string_agg(DISTINCT state, ' ') FROM generate_series(-10, 20) AS n, pgq.wait(n, '0')
--- low sees 1
SELECT count(DISTINCT replace(pgq.waiting(n), n::text, ''))::text FROM generate_series(-10, 20) AS n
--- low
DO $$ BEGIN FOR n IN -10..300 LOOP BEGIN PERFORM pgq.run(n); EXCEPTION WHEN undefined_object OR object_not_in_prerequisite_state THEN END; END LOOP; END $$

--- case what is shown of others' queues
--- low
SELECT pgq.put('own')
--- low sees 0
SELECT count(*)::text FROM pgq.stats() WHERE queue IN ('vault', 'peer')
--- low sees 0
SELECT count(*)::text FROM pgq.doctor() AS d WHERE d::text LIKE '%vault%' OR d::text LIKE '%secret%'

--- case others' jobs through an own function with the rights of a superuser who only lends put
--- boss
CREATE FUNCTION low.lend() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT pgq.put('own') $$
--- low
SELECT low.lend()
--- low 42501
SELECT pgq.put('vault')

--- case SET ROLE to a member role, then the grants of the session's own
--- boss
CREATE ROLE team; GRANT team TO low
--- low
SET ROLE team
--- low 42501
SELECT pgq.put('own')
--- boss
DROP ROLE team

--- case a dropped function of a superuser's, created again by the low role
--- boss
CREATE FUNCTION public.mail(args jsonb) RETURNS void LANGUAGE sql AS ''; SELECT pgq.register('own', 'public.mail', max_attempts => 1)
--- job own done
--- boss
DROP FUNCTION public.mail
--- low
CREATE FUNCTION public.mail(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('again') $$
--- job own parked

--- case a superuser's handler that is given to the low role
--- boss
CREATE FUNCTION public.mail(args jsonb) RETURNS void LANGUAGE sql AS ''; SELECT pgq.register('own', 'public.mail', max_attempts => 1)
--- job own done
--- boss
ALTER FUNCTION public.mail OWNER TO low
--- low
CREATE OR REPLACE FUNCTION public.mail(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('given') $$
--- job own parked

--- case the same in a superuser's own session, by run and by an eager put
--- boss
CREATE FUNCTION public.mail(args jsonb) RETURNS void LANGUAGE sql AS ''; SELECT pgq.register('own', 'public.mail'), pgq.pause('own');
SELECT pgq.put('own'); DROP FUNCTION public.mail
--- low
CREATE FUNCTION public.mail(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('run') $$
--- boss 42501|55000
SELECT pgq.run((SELECT max(id) FROM pgq.job WHERE queue = 'own'))
--- boss any
SET pgq.eager = on; SELECT pgq.put('own')
--- boss sees 0
SELECT count(*)::text FROM low.seen

--- case a superuser's handler that is wrapped: procedure for function, trigger for function
--- boss
CREATE PROCEDURE public.mail(args jsonb) LANGUAGE sql AS ''; SELECT pgq.register('own', 'public.mail', max_attempts => 1); DROP PROCEDURE public.mail
--- low
CREATE PROCEDURE public.mail(args jsonb) LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('procedure'); END $$
--- job own parked

--- case a handler's row written by a member of pg_write_all_data
--- boss
GRANT pg_write_all_data TO low
--- low
CREATE FUNCTION low.f(args jsonb) RETURNS void LANGUAGE sql AS $$ SELECT low.strike('row') $$;
CREATE PROCEDURE low.p(args jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; PERFORM low.strike('row'); END $$;
INSERT INTO pgq.handler (id, queue, function, shape, is_procedure, run_as, run_as_oid, registered_at) VALUES
    (-1, 'own', 'low.f(jsonb)', 'args', false, 'postgres', 10, '2020-01-01'),
    (-2, 'next', 'low.p(jsonb)', 'args', true, 'postgres', 10, '2020-01-01'),
    (-3, 'last', 'low.f(jsonb)', 'nothing', true, 'postgres', 10, '2020-01-01');
INSERT INTO pgq.armed_handler SELECT -n, '2020-01-01', d.oid FROM pg_database AS d, generate_series(1, 3) AS n WHERE d.datname = 'bank'
--- job own parked
--- job next parked
--- job last parked
--- boss
REVOKE pg_write_all_data FROM low
