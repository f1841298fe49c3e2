-- The whole API: one signature per name, defaults behind, arguments may be named.

CREATE FUNCTION pgq.put(
    queue text, args jsonb DEFAULT '{}', priority integer DEFAULT 0, execute_at timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL, task text DEFAULT NULL, key text DEFAULT NULL, on_conflict text DEFAULT 'keep',
    max_attempts integer DEFAULT NULL, group_key text DEFAULT NULL, after bigint[] DEFAULT NULL,
    after_failure text DEFAULT 'cancel', flow bigint DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'put_job_wrapper';

CREATE FUNCTION pgq.bulk_put(
    queue text, jobs jsonb DEFAULT NULL, args jsonb[] DEFAULT NULL, priority integer DEFAULT 0,
    execute_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL, task text DEFAULT NULL,
    group_key text DEFAULT NULL, after bigint[] DEFAULT NULL, after_failure text DEFAULT 'cancel',
    flow bigint DEFAULT NULL)
RETURNS SETOF bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'bulk_put_jobs_wrapper';

CREATE FUNCTION pgq.flow(
    name text DEFAULT NULL, on_finished text DEFAULT NULL, on_succeeded text DEFAULT NULL, on_dead text DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'flow_wrapper';

CREATE FUNCTION pgq.claim(
    queue text DEFAULT NULL, n integer DEFAULT 1, lease interval DEFAULT NULL, queues text[] DEFAULT NULL,
    tasks text[] DEFAULT NULL)
RETURNS SETOF pgq.job LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'claim_wrapper';

CREATE FUNCTION pgq.complete(id bigint, attempt integer, result jsonb DEFAULT NULL)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'complete_wrapper';

CREATE FUNCTION pgq.bulk_complete(ids bigint[], attempts integer[])
RETURNS SETOF bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'bulk_complete_wrapper';

CREATE FUNCTION pgq.fail(
    id bigint, attempt integer, error text DEFAULT NULL, retry_in interval DEFAULT NULL,
    permanent boolean DEFAULT false)
RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'fail_wrapper';

CREATE FUNCTION pgq.extend(id bigint, attempt integer, lease interval)
RETURNS timestamptz LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'extend_wrapper';

CREATE FUNCTION pgq.release(id bigint, attempt integer, delay interval DEFAULT '0')
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'release_wrapper';

CREATE FUNCTION pgq.register(
    queue text, handler text, task text DEFAULT NULL, run_as name DEFAULT CURRENT_USER,
    timeout interval DEFAULT NULL, concurrency integer DEFAULT NULL, batch integer DEFAULT NULL,
    max_attempts integer DEFAULT NULL, backoff interval DEFAULT NULL, max_backoff interval DEFAULT NULL,
    on_done text DEFAULT NULL, on_dead text DEFAULT NULL)
RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'register_handler_wrapper';

CREATE FUNCTION pgq.unregister(queue text, task text DEFAULT NULL)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'unregister_wrapper';

CREATE FUNCTION pgq.configure(
    queue text, max_attempts integer DEFAULT NULL, backoff interval DEFAULT NULL, max_backoff interval DEFAULT NULL,
    keep_done interval DEFAULT NULL, keep_dead interval DEFAULT NULL, notify boolean DEFAULT NULL,
    reset boolean DEFAULT false, group_running integer DEFAULT NULL, group_holds boolean DEFAULT NULL)
RETURNS pgq.queue_setting LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'configure_queue_wrapper';

CREATE FUNCTION pgq.pause(queue text DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'pause_wrapper';

CREATE FUNCTION pgq.resume(queue text DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'resume_wrapper';

CREATE FUNCTION pgq.arm()
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'arm_wrapper';

CREATE FUNCTION pgq.schedule(
    name text, queue text, cron text DEFAULT NULL, every interval DEFAULT NULL, args jsonb DEFAULT '{}',
    task text DEFAULT NULL, priority integer DEFAULT 0, timezone text DEFAULT NULL, overlap text DEFAULT 'skip',
    catchup text DEFAULT 'none', active boolean DEFAULT true, starts_at timestamptz DEFAULT NULL,
    ends_at timestamptz DEFAULT NULL)
RETURNS timestamptz LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'schedule_wrapper';

CREATE FUNCTION pgq.unschedule(name text)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'unschedule_wrapper';

CREATE FUNCTION pgq.pause_schedule(name text)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'pause_schedule_wrapper';

CREATE FUNCTION pgq.resume_schedule(name text)
RETURNS timestamptz LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'resume_schedule_wrapper';

CREATE FUNCTION pgq.run_schedule(name text)
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'run_schedule_wrapper';

CREATE FUNCTION pgq.next_runs(
    cron text, n integer DEFAULT 5, timezone text DEFAULT NULL, after timestamptz DEFAULT NULL)
RETURNS SETOF timestamptz LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'next_runs_wrapper';

CREATE FUNCTION pgq.on_change(
    relation regclass, queue text, events text[] DEFAULT '{insert,update,delete}', columns text[] DEFAULT NULL,
    key text[] DEFAULT NULL)
RETURNS integer LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'on_change_wrapper';

CREATE FUNCTION pgq.off_change(relation regclass, queue text DEFAULT NULL)
RETURNS integer LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'off_change_wrapper';

CREATE FUNCTION pgq.change_trigger()
RETURNS trigger LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'change_trigger_wrapper';

CREATE FUNCTION pgq.cancel(id bigint, force boolean DEFAULT false)
RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'cancel_wrapper';

CREATE FUNCTION pgq.retry(id bigint, execute_at timestamptz DEFAULT NULL)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'retry_wrapper';

CREATE FUNCTION pgq.redrive(queue text, n integer DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'redrive_wrapper';

CREATE FUNCTION pgq.purge(queue text, state text, older_than interval DEFAULT '0')
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'purge_wrapper';

CREATE FUNCTION pgq.run(id bigint)
RETURNS jsonb LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'run_wrapper';

CREATE FUNCTION pgq.wait(id bigint, timeout interval DEFAULT '30s',
    OUT state text, OUT result jsonb, OUT error jsonb, OUT attempt integer)
RETURNS SETOF record LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'wait_wrapper';

CREATE FUNCTION pgq.waiting(id bigint)
RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'waiting_wrapper';

CREATE FUNCTION pgq.stats(queue text DEFAULT NULL)
RETURNS TABLE (queue text, ready bigint, scheduled bigint, leased bigint, running bigint, dead bigint,
    oldest_ready interval, done_total bigint, failed_total bigint, since timestamptz, workers bigint,
    paused boolean, parked text, handlers bigint, waiting bigint)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'queue_stats_wrapper';

CREATE FUNCTION pgq.current_job()
RETURNS pgq.job LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'current_job_wrapper';

CREATE FUNCTION pgq.doctor()
RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'doctor_wrapper';

CREATE FUNCTION pgq.start()
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'start_wrapper';

CREATE FUNCTION pgq.version()
RETURNS text LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'version_wrapper';

-- What the views read from shared memory: the executors of this database.
CREATE FUNCTION pgq.executors()
RETURNS TABLE (pid integer, role oid, state text, handler integer, job bigint, attempt integer,
    since timestamptz, started_at timestamptz)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'executors_wrapper';

CREATE FUNCTION pgq.grant_usage(role name, access text, queue text DEFAULT NULL)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'grant_usage_wrapper';

CREATE FUNCTION pgq.revoke_usage(role name, access text, queue text DEFAULT NULL)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'revoke_usage_wrapper';

-- What the views ask: it acts as the caller, where their tables are read as their owner.
CREATE FUNCTION pgq.may(access text, queue text DEFAULT NULL)
RETURNS boolean LANGUAGE c STABLE COST 10 AS 'MODULE_PATHNAME', 'may_wrapper';
