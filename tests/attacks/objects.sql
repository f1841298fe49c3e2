-- T53: our own objects, and the server's, each statement a case.

--- each low 42501
TABLE pgq.job
SELECT id FROM pgq.job LIMIT 0
SELECT xmin, ctid FROM pgq.job
TABLE pgq.finished_job
TABLE pgq.handler
TABLE pgq.queue_setting
TABLE pgq.running
TABLE pgq.workers
TABLE pgq.dead
TABLE pgq.queues
INSERT INTO pgq.job (queue, args, execute_at, state) VALUES ('vault', '{}', now(), 'ready')
INSERT INTO pgq.handler (queue, function, shape, is_procedure, run_as, run_as_oid) VALUES ('x', 'low.strike(text)', 'args', false, 'postgres', 10)
UPDATE pgq.handler SET run_as = 'postgres', run_as_oid = 10
UPDATE pgq.handler SET function = 'low.strike(text)' WHERE false
DELETE FROM pgq.job
DELETE FROM pgq.finished_job
TRUNCATE pgq.job
MERGE INTO pgq.job AS j USING low.loot AS l ON false WHEN MATCHED THEN DELETE
SELECT * FROM pgq.job FOR UPDATE
SELECT * FROM pgq.job FOR KEY SHARE SKIP LOCKED
BEGIN; LOCK TABLE pgq.job IN ACCESS SHARE MODE
BEGIN; LOCK TABLE pgq.handler
COPY pgq.job TO STDOUT
COPY (SELECT * FROM pgq.job) TO STDOUT
COPY pgq.handler FROM STDIN
COPY low.loot TO PROGRAM 'cat'
COPY low.loot FROM PROGRAM 'echo 1'
COPY low.loot FROM '/etc/passwd'
COPY low.loot TO '/tmp/pgq-loot'
EXPLAIN SELECT * FROM pgq.job
EXPLAIN DELETE FROM pgq.job WHERE id = 1
PREPARE p AS SELECT * FROM pgq.job; EXECUTE p
CREATE VIEW low.v AS SELECT * FROM pgq.job; SELECT * FROM low.v
CREATE MATERIALIZED VIEW low.m AS SELECT * FROM pgq.job
CREATE TABLE low.copy AS SELECT * FROM pgq.job
CREATE FUNCTION low.read() RETURNS SETOF pgq.job LANGUAGE sql SECURITY DEFINER AS 'TABLE pgq.job'; SELECT low.read()
CREATE TRIGGER t BEFORE INSERT ON pgq.job FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
CREATE CONSTRAINT TRIGGER t AFTER DELETE ON pgq.job DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
CREATE RULE r AS ON INSERT TO pgq.job DO ALSO NOTIFY x
CREATE RULE "_RETURN" AS ON SELECT TO pgq.finished_job DO INSTEAD SELECT * FROM pgq.finished_job
CREATE POLICY p ON pgq.job USING (true)
ALTER TABLE pgq.job ENABLE ROW LEVEL SECURITY
ALTER TABLE pgq.job DISABLE TRIGGER ALL
ALTER TABLE pgq.job ADD COLUMN evil int DEFAULT 1
ALTER TABLE pgq.job ALTER COLUMN created_at SET DEFAULT now()
ALTER TABLE pgq.job DROP CONSTRAINT job_state_check
ALTER TABLE pgq.job OWNER TO low
ALTER TABLE pgq.job SET SCHEMA low
ALTER TABLE pgq.job RENAME TO jobs
ALTER TABLE pgq.job SET (autovacuum_enabled = off)
ALTER TABLE pgq.job REPLICA IDENTITY FULL
CREATE TABLE low.child () INHERITS (pgq.job)
CREATE TABLE low.c (LIKE pgq.job); ALTER TABLE low.c INHERIT pgq.job
CREATE TABLE low.fk (id bigint REFERENCES pgq.job ON DELETE CASCADE)
CREATE INDEX ON pgq.job ((low.strike(queue)))
CREATE UNIQUE INDEX ON pgq.job (queue)
CREATE STATISTICS low.s ON queue, state FROM pgq.job
CREATE PUBLICATION p FOR TABLE pgq.job
CREATE PUBLICATION p FOR ALL TABLES
CLUSTER pgq.job USING job_pkey
REINDEX TABLE pgq.job
REINDEX SCHEMA pgq
COMMENT ON TABLE pgq.job IS 'x'
COMMENT ON COLUMN pgq.job.id IS 'x'
COMMENT ON FUNCTION pgq.version() IS 'x'
COMMENT ON EXTENSION pgq IS 'x'
GRANT ALL ON pgq.job TO low
GRANT SELECT (id) ON pgq.job TO low
ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO low
SELECT nextval('pgq.job_id_seq')
SELECT setval('pgq.job_id_seq', 1)
SELECT currval('pgq.job_id_seq')
SELECT last_value FROM pgq.job_id_seq
DO $$ BEGIN IF pg_sequence_last_value('pgq.job_id_seq') IS NULL THEN RAISE 'from 18 on NULL is its refusal' USING ERRCODE = '42501'; END IF; END $$
ALTER SEQUENCE pgq.job_id_seq RESTART
ALTER SEQUENCE pgq.handler_id_seq OWNED BY NONE
DROP TABLE pgq.job
DROP VIEW pgq.running
DROP FUNCTION pgq.put
DROP SCHEMA pgq CASCADE
DROP OWNED BY postgres
REASSIGN OWNED BY postgres TO low
CREATE FUNCTION pgq.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE OR REPLACE FUNCTION pgq.version() RETURNS text LANGUAGE sql STABLE AS $$ SELECT low.strike('version')::text $$
CREATE OR REPLACE VIEW pgq.running AS SELECT 1
CREATE TABLE pgq.mine (n int)
CREATE TYPE pgq.mine AS (n int)
CREATE OPERATOR pgq.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = int8eq)
CREATE FUNCTION pg_catalog.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
ALTER FUNCTION pgq.version() SET search_path = low
ALTER FUNCTION pgq.version() SECURITY DEFINER
ALTER FUNCTION pgq.version() OWNER TO low
ALTER FUNCTION pgq.version() RENAME TO v
ALTER FUNCTION pgq.version() COST 1000000
ALTER FUNCTION pgq.version() DEPENDS ON EXTENSION plpgsql
ALTER SCHEMA pgq OWNER TO low
ALTER SCHEMA pgq RENAME TO q
ALTER EXTENSION pgq UPDATE
ALTER EXTENSION pgq ADD FUNCTION low.strike(text)
ALTER EXTENSION pgq DROP FUNCTION pgq.version()
ALTER TYPE pgq.job ADD ATTRIBUTE evil int
CREATE EXTENSION pg_stat_statements
CREATE CAST (text AS jsonb) WITH FUNCTION low.strike(text)
CREATE CAST (jsonb AS boolean) WITH INOUT AS IMPLICIT
CREATE OPERATOR CLASS low.ops DEFAULT FOR TYPE text USING btree AS STORAGE text
CREATE FUNCTION low.c() RETURNS void LANGUAGE c AS 'pgq', 'pgq_executor_main'
CREATE FUNCTION low.c(jsonb) RETURNS void LANGUAGE c AS 'pgq', 'put_wrapper'
CREATE FUNCTION low.i(internal) RETURNS void LANGUAGE internal AS 'pg_stat_reset'
CREATE LANGUAGE evil HANDLER plpgsql_call_handler
LOAD 'pgq'
LOAD '/tmp/evil.so'
CREATE ROLE boss2 SUPERUSER
ALTER ROLE postgres NOLOGIN
ALTER ROLE low SUPERUSER
ALTER ROLE low CREATEROLE
ALTER ROLE low BYPASSRLS
ALTER ROLE peer PASSWORD 'x'
ALTER ROLE peer RENAME TO low2
GRANT postgres TO low
GRANT peer TO low
GRANT pg_write_all_data TO low
SET ROLE postgres
SET ROLE peer
SET SESSION AUTHORIZATION peer
ALTER SYSTEM SET pgq.enabled = off
SELECT pg_reload_conf()
SELECT pg_rotate_logfile()
SELECT pg_stat_reset()
SELECT pg_read_file('postgresql.conf')
SELECT pg_ls_dir('.')
SELECT lo_import('/etc/passwd')
SELECT lo_export(1, '/tmp/pgq-loot')
SELECT pg_create_logical_replication_slot('s', 'pgoutput')
SELECT pg_log_backend_memory_contexts(pg_backend_pid())
SELECT pgq.register('own', 'boss.guard')
SELECT pgq.register('own', 'peer.work')
SELECT pgq.register('own', 'low.strike', run_as => 'postgres') FROM (SELECT 1) AS x WHERE pgq.register('own', 'pgq.version', run_as => 'peer') IS NULL
SELECT pgq.register('own', 'pg_catalog.pg_reload_conf')
SELECT pgq.register('own', 'pgq.start', run_as => 'postgres')
SELECT pgq.register('own', 'pgq.version', run_as => 'pg_execute_server_program')
SELECT pgq.register('own', 'pgq.version', run_as => 'pg_database_owner')

--- case granting what one only has for oneself grants nothing
--- low
GRANT EXECUTE ON FUNCTION pgq.put TO PUBLIC; GRANT USAGE ON SCHEMA pgq TO peer WITH GRANT OPTION; REVOKE ALL ON FUNCTION pgq.put FROM peer

--- case VACUUM and ANALYZE of our tables pass them by
--- low
VACUUM pgq.job
--- low
ANALYZE pgq.job
--- low
ANALYZE (SKIP_LOCKED) pgq.handler

--- case large objects, statistics of its own, a table of our row type
--- low
SELECT lo_create(0); CREATE TABLE low.rows (j pgq.job, js pgq.job[]);
CREATE STATISTICS low.s ON what, who FROM low.seen; ANALYZE low.seen;
INSERT INTO low.rows VALUES (jsonb_populate_record(NULL::pgq.job, '{"id": -2, "queue": "vault", "args": {}, "state": "leased", "attempt": 1}'));
CREATE FUNCTION low.of(job pgq.job) RETURNS bigint LANGUAGE sql AS 'SELECT job.id'; SELECT low.of(j) FROM low.rows;
SELECT pgq.put('own', to_jsonb(j)) FROM low.rows

--- case NOTIFY in the name of a queue wakes nobody wrongly
--- low
SELECT pg_notify('pgq_vault', ''), pg_notify('pgq_own', repeat('x', 7999)), pg_notify('pgq_', 'x')

--- case what pg_stat and pg_locks show of others
--- low sees 0
SELECT count(*)::text FROM pg_stat_activity WHERE usename <> 'low' AND query NOT LIKE '%insufficient privilege%' AND query <> ''
--- low sees 0
SELECT count(*)::text FROM pg_stats WHERE schemaname = 'pgq'

--- case a subscription and an event trigger
--- low
CREATE FUNCTION low.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM low.strike('ddl'); END $$
--- low 42501
CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION low.on_ddl()
--- low 42501
CREATE SUBSCRIPTION s CONNECTION 'dbname=bank' PUBLICATION p

--- case cancelling and terminating the launcher, schedulers and executors of others
--- boss
SELECT pgq.start()
--- job peer done
--- low
DO $$ DECLARE worker record; n int := 0; BEGIN
    FOR worker IN SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (usename IS NULL OR usename <> 'low') LOOP
        BEGIN IF pg_terminate_backend(worker.pid) THEN RAISE 'terminated %', worker; END IF; EXCEPTION WHEN insufficient_privilege THEN n := n + 1; END;
        BEGIN IF pg_cancel_backend(worker.pid) THEN RAISE 'cancelled %', worker; END IF; EXCEPTION WHEN insufficient_privilege THEN END;
    END LOOP;
    IF n < 3 THEN RAISE 'only % processes', n; END IF; END $$
