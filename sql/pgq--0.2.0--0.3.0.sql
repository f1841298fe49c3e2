-- 0.2.0 → 0.3.0: schedules, jobs put by changes of tables, order within groups, and what comes after a job.
--
-- pgq.job, pgq.finished_job, pgq.queue_setting and pgq.handler get columns: running jobs are waited for, and everybody
-- else waits until the end, which takes as long as a look at all jobs. put, bulk_put, configure, register and stats are
-- made anew, with more arguments at their ends; what was granted on them is kept.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- What is under way is waited for, and then seen by the statements below: each takes a snapshot of its own.
DO $$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'extension pgq is upgraded in a transaction of isolation level READ COMMITTED',
            HINT = 'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; then type it again.';
    END IF;
END
$$;
LOCK TABLE pgq.job, pgq.finished_job, pgq.queue_setting, pgq.handler, pgq.queue_grant IN ACCESS EXCLUSIVE MODE;

-- The library of before may still run a procedure here, and that of now would not know of it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pgq.job AS j
                WHERE j.state OPERATOR(pg_catalog.=) 'leased' AND j.execute_at OPERATOR(pg_catalog.=) 'infinity')
       AND EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                    WHERE a.backend_type OPERATOR(pg_catalog.=) 'pgq executor'
                      AND a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_in_use',
            MESSAGE = 'a job of this database runs as a procedure',
            HINT = 'Wait for it (SELECT * FROM pgq.running), or pause its queue and wait; then type it again.';
    END IF;
END
$$;

-- And its workers would not know of groups. Those of a server that has it not in memory come back with the new one; their
-- jobs are there again.
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a
 WHERE a.backend_type OPERATOR(pg_catalog.=) 'pgq launcher'
    OR (a.backend_type OPERATOR(pg_catalog.=) ANY (ARRAY['pgq scheduler', 'pgq executor'])
        AND a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database());

ALTER TABLE pgq.job
    ADD COLUMN group_key text COLLATE "C", ADD COLUMN flow bigint, ADD COLUMN parents integer NOT NULL DEFAULT 0,
    ADD COLUMN has_children boolean NOT NULL DEFAULT false, DROP CONSTRAINT job_state_check,
    ADD CONSTRAINT job_state_check CHECK (state = 'ready' OR state = 'scheduled' OR state = 'leased' OR state = 'waiting');
ALTER TABLE pgq.finished_job ADD COLUMN group_key text COLLATE "C", ADD COLUMN flow bigint;
ALTER TABLE pgq.handler ADD COLUMN on_done text COLLATE "C", ADD COLUMN on_dead text COLLATE "C";
ALTER TABLE pgq.queue_setting
    ADD COLUMN group_running integer, ADD COLUMN group_holds boolean,
    ADD CONSTRAINT queue_setting_running_check CHECK (group_running >= 1);
CREATE INDEX job_group_idx ON pgq.job (queue, group_key, id) WHERE group_key IS NOT NULL AND state <> 'waiting';
CREATE INDEX job_waiting_idx ON pgq.job (queue, group_key, id) WHERE state = 'waiting';

-- What puts jobs by the clock. Written by the functions for it, and by the scheduler.
CREATE TABLE pgq.schedule (
    name         text COLLATE "C" NOT NULL,
    queue        text COLLATE "C" NOT NULL,
    task         text COLLATE "C",
    args         jsonb NOT NULL,
    priority     integer NOT NULL,
    cron         text,
    every        interval,
    timezone     text NOT NULL,
    overlap      text COLLATE "C" NOT NULL,
    catchup      text COLLATE "C" NOT NULL,
    active       boolean NOT NULL,
    starts_at    timestamptz,
    ends_at      timestamptz,
    scheduled_at timestamptz NOT NULL,
    next_run     timestamptz,
    last_run     timestamptz,
    last_job     bigint,
    skipped_at   timestamptz,
    skipped      text,
    CONSTRAINT schedule_pkey PRIMARY KEY (name),
    CONSTRAINT schedule_rhythm_check CHECK ((cron IS NULL) <> (every IS NULL)),
    CONSTRAINT schedule_overlap_check CHECK (overlap = 'skip' OR overlap = 'queue' OR overlap = 'allow'),
    CONSTRAINT schedule_catchup_check CHECK (catchup = 'none' OR catchup = 'last' OR catchup = 'all')
);

-- As pgq.armed_handler, for schedules.
CREATE TABLE pgq.armed_schedule (
    schedule     text COLLATE "C" NOT NULL,
    scheduled_at timestamptz NOT NULL,
    database     oid NOT NULL,
    CONSTRAINT armed_schedule_pkey PRIMARY KEY (schedule)
);

-- What a job comes after: a row for each job that has not ended, or whose end is not counted yet. Written by put, and by
-- the scheduler alone from then on.
CREATE TABLE pgq.dependency (
    child        bigint NOT NULL,
    parent       bigint NOT NULL,
    run_anyway   boolean NOT NULL,
    unsure       boolean NOT NULL,
    outcome      text COLLATE "C",
    CONSTRAINT dependency_pkey PRIMARY KEY (child, parent),
    CONSTRAINT dependency_outcome_check CHECK (outcome = 'done' OR outcome = 'dead' OR outcome = 'cancelled')
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

-- Ends of jobs that others wait for: written by whatever ends the job, removed by the scheduler when it has drawn the
-- consequences. No index: it is read as a whole, and mostly empty.
CREATE TABLE pgq.ended (
    job          bigint NOT NULL,
    outcome      text COLLATE "C" NOT NULL,
    flow         bigint,
    n            integer NOT NULL,
    CONSTRAINT ended_outcome_check CHECK (outcome = 'done' OR outcome = 'dead' OR outcome = 'cancelled'),
    CONSTRAINT ended_n_check CHECK (n = 1 OR n = -1)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

-- Flows: sets of jobs that are counted together. The counts are the scheduler's.
CREATE TABLE pgq.flow_state (
    id            bigint GENERATED BY DEFAULT AS IDENTITY,
    name          text,
    created_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    on_finished   text COLLATE "C",
    on_succeeded  text COLLATE "C",
    on_dead       text COLLATE "C",
    done          bigint NOT NULL DEFAULT 0,
    dead          bigint NOT NULL DEFAULT 0,
    cancelled     bigint NOT NULL DEFAULT 0,
    first_dead_at timestamptz,
    finished_at   timestamptz,
    CONSTRAINT flow_state_pkey PRIMARY KEY (id)
);

CREATE INDEX schedule_due_idx ON pgq.schedule (next_run) WHERE active;
CREATE INDEX job_flow_idx ON pgq.job (flow) WHERE flow IS NOT NULL;
CREATE INDEX flow_state_open_idx ON pgq.flow_state (id) WHERE finished_at IS NULL;
CREATE INDEX dependency_parent_idx ON pgq.dependency (parent);
CREATE INDEX dependency_settled_idx ON pgq.dependency (child) WHERE outcome IS NOT NULL;
CREATE INDEX dependency_unsure_idx ON pgq.dependency (parent) WHERE unsure;

SELECT pg_catalog.pg_extension_config_dump('pgq.schedule', '');
SELECT pg_catalog.pg_extension_config_dump('pgq.dependency', '');
SELECT pg_catalog.pg_extension_config_dump('pgq.ended', '');
SELECT pg_catalog.pg_extension_config_dump('pgq.flow_state', '');
SELECT pg_catalog.pg_extension_config_dump('pgq.flow_state_id_seq', '');

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

CREATE VIEW pgq.schedules WITH (security_barrier) AS
SELECT s.name, s.queue, s.task, s.priority, s.cron, s.every, s.timezone, s.overlap, s.catchup, s.active,
       NOT EXISTS (SELECT FROM pgq.armed_schedule AS a
                     JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) a.database
                    WHERE a.schedule OPERATOR(pg_catalog.=) s.name
                      AND a.scheduled_at OPERATOR(pg_catalog.=) s.scheduled_at
                      AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) AS held,
       s.starts_at, s.ends_at, s.next_run, s.last_run, s.last_job, s.skipped_at, s.skipped
  FROM pgq.schedule AS s
 WHERE pgq.may('monitor', s.queue);

CREATE VIEW pgq.flows WITH (security_barrier) AS
SELECT s.id, s.name, s.created_at,
       s.done OPERATOR(pg_catalog.+) s.dead OPERATOR(pg_catalog.+) s.cancelled OPERATOR(pg_catalog.+) e.pending
           OPERATOR(pg_catalog.+) l.live AS total,
       l.live, s.done, s.dead, s.cancelled, s.finished_at,
       CASE WHEN s.finished_at IS NOT NULL
            THEN s.dead OPERATOR(pg_catalog.=) 0::bigint AND s.cancelled OPERATOR(pg_catalog.=) 0::bigint END AS succeeded
  FROM pgq.flow_state AS s,
       LATERAL (SELECT pg_catalog.count(*) AS live FROM pgq.job AS j WHERE j.flow OPERATOR(pg_catalog.=) s.id) AS l,
       LATERAL (SELECT COALESCE(pg_catalog.sum(d.n), 0::bigint) AS pending FROM pgq.ended AS d
                 WHERE d.flow OPERATOR(pg_catalog.=) s.id) AS e
 WHERE pgq.may('monitor');

CREATE FUNCTION pgq.flow(
    name text DEFAULT NULL, on_finished text DEFAULT NULL, on_succeeded text DEFAULT NULL, on_dead text DEFAULT NULL)
RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'flow_wrapper';

-- What was granted on the functions that are made anew is kept: it is no part of the extension.
CREATE FUNCTION pgq.regrant(functions text[], roles oid[], options boolean[])
RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'regrant_wrapper';

DO $upgrade$
DECLARE
    owner name;
    made record;
    functions text[];
    roles oid[];
    options boolean[];
BEGIN
    SELECT pg_catalog.array_agg(p.proname::text), pg_catalog.array_agg(a.grantee), pg_catalog.array_agg(a.is_grantable)
      INTO functions, roles, options
      FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace,
           LATERAL pg_catalog.aclexplode(p.proacl) AS a
     WHERE n.nspname OPERATOR(pg_catalog.=) 'pgq'
       AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['put', 'bulk_put', 'configure', 'stats', 'arm', 'register']::pg_catalog.name[])
       AND a.grantee OPERATOR(pg_catalog.<>) p.proowner AND a.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid;

    -- What the script before granted on arm counts as part of the extension until it is taken back in a script.
    FOR made IN
        SELECT DISTINCT r.rolname FROM pg_catalog.unnest(roles) AS g (role)
          JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) g.role
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION pgq.arm() FROM %I', made.rolname);
    END LOOP;

    DROP FUNCTION pgq.put(text, jsonb, integer, timestamptz, interval, text, text, text, integer);
    DROP FUNCTION pgq.bulk_put(text, jsonb, jsonb[], integer, timestamptz, interval, text);
    DROP FUNCTION pgq.configure(text, integer, interval, interval, interval, interval, boolean, boolean);
    DROP FUNCTION pgq.stats(text);
    DROP FUNCTION pgq.register(text, text, text, name, interval, integer, integer, integer, interval, interval);

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

    CREATE FUNCTION pgq.configure(
        queue text, max_attempts integer DEFAULT NULL, backoff interval DEFAULT NULL, max_backoff interval DEFAULT NULL,
        keep_done interval DEFAULT NULL, keep_dead interval DEFAULT NULL, notify boolean DEFAULT NULL,
        reset boolean DEFAULT false, group_running integer DEFAULT NULL, group_holds boolean DEFAULT NULL)
    RETURNS pgq.queue_setting LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'configure_queue_wrapper';

    CREATE FUNCTION pgq.register(
        queue text, handler text, task text DEFAULT NULL, run_as name DEFAULT CURRENT_USER,
        timeout interval DEFAULT NULL, concurrency integer DEFAULT NULL, batch integer DEFAULT NULL,
        max_attempts integer DEFAULT NULL, backoff interval DEFAULT NULL, max_backoff interval DEFAULT NULL,
        on_done text DEFAULT NULL, on_dead text DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'register_handler_wrapper';

    CREATE FUNCTION pgq.stats(queue text DEFAULT NULL)
    RETURNS TABLE (queue text, ready bigint, scheduled bigint, leased bigint, running bigint, dead bigint,
        oldest_ready interval, done_total bigint, failed_total bigint, since timestamptz, workers bigint,
        paused boolean, parked text, handlers bigint, waiting bigint)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'queue_stats_wrapper';

    -- They belong to whoever types the upgrade, but everything of pgq must belong to who created the extension.
    SELECT r.rolname INTO STRICT owner
      FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) e.extowner
     WHERE e.extname OPERATOR(pg_catalog.=) 'pgq';
    EXECUTE pg_catalog.format('ALTER TABLE pgq.schedule OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER TABLE pgq.armed_schedule OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER TABLE pgq.dependency OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER TABLE pgq.ended OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER TABLE pgq.flow_state OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER VIEW pgq.flows OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER VIEW pgq.schedules OWNER TO %I', owner);
    FOR made IN
        SELECT p.oid::pg_catalog.regprocedure::text AS name
          FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'pgq'
           AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['schedule', 'unschedule', 'pause_schedule', 'resume_schedule',
                                                           'run_schedule', 'next_runs', 'on_change', 'off_change',
                                                           'change_trigger', 'put', 'bulk_put', 'configure', 'stats',
                                                           'register', 'flow']::pg_catalog.name[])
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', made.name, owner);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made.name);
    END LOOP;
    REVOKE ALL ON SEQUENCE pgq.flow_state_id_seq FROM PUBLIC;
    REVOKE ALL ON TABLE pgq.schedule, pgq.armed_schedule, pgq.dependency, pgq.ended, pgq.flow_state, pgq.schedules, pgq.flows FROM PUBLIC;
    REVOKE ALL ON TYPE pgq.schedule, pgq.armed_schedule, pgq.dependency, pgq.ended, pgq.flow_state, pgq.schedules, pgq.flows FROM PUBLIC;
    -- Last: what a script grants or revokes afterwards would make all of it part of the extension.
    PERFORM pgq.regrant(COALESCE(functions, '{}'), COALESCE(roles, '{}'), COALESCE(options, '{}'));
END
$upgrade$;

DROP FUNCTION pgq.regrant(text[], oid[], boolean[]);

COMMENT ON TABLE pgq.schedule IS 'Schedules: what puts jobs by the clock. A run is put and the next one stored in one transaction. Use the functions, not DML.';
COMMENT ON COLUMN pgq.schedule.name IS 'Name of the schedule in this database.';
COMMENT ON COLUMN pgq.schedule.queue IS 'Queue into which its jobs are put.';
COMMENT ON COLUMN pgq.schedule.task IS 'Task of its jobs; NULL: none.';
COMMENT ON COLUMN pgq.schedule.args IS 'What each of its jobs gets.';
COMMENT ON COLUMN pgq.schedule.priority IS 'Priority of its jobs.';
COMMENT ON COLUMN pgq.schedule.cron IS 'Cron pattern of its nominal times; NULL: every says them.';
COMMENT ON COLUMN pgq.schedule.every IS 'Time between two nominal times, counted from starts_at, else from scheduled_at; NULL: cron says them.';
COMMENT ON COLUMN pgq.schedule.timezone IS 'Time zone whose wall clock is meant. A time that the clock skips is the moment right after the gap; one that it repeats counts once.';
COMMENT ON COLUMN pgq.schedule.overlap IS 'What becomes of a run while the job of the run before is live. skip: it is skipped (with catchup all it waits). queue: it waits until that job has ended. allow: it is put beside it.';
COMMENT ON COLUMN pgq.schedule.catchup IS 'What becomes of runs that nobody was there to put. none: they are skipped, but for one that is at most a minute late. last: they become one run. all: each is put.';
COMMENT ON COLUMN pgq.schedule.active IS 'False: paused, or stopped for the reason in skipped.';
COMMENT ON COLUMN pgq.schedule.starts_at IS 'No run before this moment; every counts from it. NULL: from now on.';
COMMENT ON COLUMN pgq.schedule.ends_at IS 'No run after this moment. NULL: without end.';
COMMENT ON COLUMN pgq.schedule.scheduled_at IS 'When it was made, or made anew.';
COMMENT ON COLUMN pgq.schedule.next_run IS 'Nominal time of the next run; NULL: there is none any more.';
COMMENT ON COLUMN pgq.schedule.last_run IS 'Nominal time of the last run, or when run_schedule put its job.';
COMMENT ON COLUMN pgq.schedule.last_job IS 'Id of the job of the last run.';
COMMENT ON COLUMN pgq.schedule.skipped_at IS 'Nominal time of the last run that was skipped.';
COMMENT ON COLUMN pgq.schedule.skipped IS 'Why it was skipped.';
COMMENT ON CONSTRAINT schedule_pkey ON pgq.schedule IS 'One schedule for each name.';
COMMENT ON CONSTRAINT schedule_rhythm_check ON pgq.schedule IS 'Either a pattern or an interval.';
COMMENT ON CONSTRAINT schedule_overlap_check ON pgq.schedule IS 'The words of overlap.';
COMMENT ON CONSTRAINT schedule_catchup_check ON pgq.schedule IS 'The words of catchup.';
COMMENT ON INDEX pgq.schedule_pkey IS 'Serves every statement about one schedule.';
COMMENT ON INDEX pgq.schedule_due_idx IS 'Serves the scheduler: schedules that are due, earliest first.';

COMMENT ON TABLE pgq.armed_schedule IS 'Schedules that may run: made in this database, or armed in it. Not dumped, so that the schedules of a restored copy are held until pgq.arm. Written by schedule, unschedule and arm.';
COMMENT ON COLUMN pgq.armed_schedule.schedule IS 'Name of the schedule.';
COMMENT ON COLUMN pgq.armed_schedule.scheduled_at IS 'When it was made: a later one is another schedule.';
COMMENT ON COLUMN pgq.armed_schedule.database IS 'Oid of the database in which it may run. One that was made from a template has another.';
COMMENT ON CONSTRAINT armed_schedule_pkey ON pgq.armed_schedule IS 'One row for each schedule.';
COMMENT ON INDEX pgq.armed_schedule_pkey IS 'Serves schedule, unschedule and arm, and the scheduler''s look for schedules that are due.';

COMMENT ON FUNCTION pgq.schedule(text, text, text, interval, jsonb, text, integer, text, text, text, boolean, timestamptz, timestamptz) IS
$$Puts a job into a queue again and again: by a cron pattern (minute, hour, day of month, month, day of week; six fields begin with the second; L, W, # and words as @daily are understood), or every so often. What was scheduled under the name is replaced. timezone is the session's if not given.
overlap: skip, queue or allow, for a run while the job of the run before is live. catchup: none, last or all, for runs that nobody was there to put.
Returns the next run; NULL when there is none, or it is not active.
Example: SELECT pgq.schedule('nightly', 'report', cron => '30 3 * * *', timezone => 'Europe/Berlin');$$;

COMMENT ON FUNCTION pgq.unschedule(text) IS
$$Removes a schedule. Jobs that it has put stay.
Returns false when there was none.
Example: SELECT pgq.unschedule('nightly');$$;

COMMENT ON FUNCTION pgq.pause_schedule(text) IS
$$Pauses a schedule: no runs until resume_schedule.
Returns false when there is none, or it was paused.
Example: SELECT pgq.pause_schedule('nightly');$$;

COMMENT ON FUNCTION pgq.resume_schedule(text) IS
$$Lets a paused schedule go on. Runs that fell into the pause are not made up.
Returns the next run; NULL when there is no such schedule, or no run any more.
Example: SELECT pgq.resume_schedule('nightly');$$;

COMMENT ON FUNCTION pgq.run_schedule(text) IS
$$Puts a job as the schedule would, now, whether it is paused or not. Its next run stays as it is.
Returns the job's id; NULL when there is no such schedule.
Example: SELECT pgq.run_schedule('nightly');$$;

COMMENT ON FUNCTION pgq.next_runs(text, integer, text, timestamptz) IS
$$Tells when a cron pattern runs next: n times after a moment (now if not given), in a time zone (the session's if not given).
Returns the moments.
Example: SELECT * FROM pgq.next_runs('0 8 * * mon-fri', timezone => 'Europe/Berlin');$$;

COMMENT ON FUNCTION pgq.on_change(regclass, text, text[], text[], text[]) IS
$$Puts a job into a queue when a statement inserts, updates or deletes rows of a table: one job a statement, or one for each distinct value of key, in the statement's transaction. With columns, an update counts only where it changes one of them. What was set up for the same table and queue is replaced. The table's owner must have the access "produce".
args of the jobs: {"relation": "public.orders", "event": "insert", "key": {"id": 1}}.
Returns the number of triggers.
Example: SELECT pgq.on_change('orders', 'index', key => '{id}');$$;

COMMENT ON FUNCTION pgq.off_change(regclass, text) IS
$$Removes what on_change has set up for a table and a queue, or for all queues.
Returns the number of triggers that were removed.
Example: SELECT pgq.off_change('orders', 'index');$$;

COMMENT ON FUNCTION pgq.change_trigger() IS 'Function of the triggers that on_change makes.';

COMMENT ON VIEW pgq.schedules IS 'Schedules of the queues that the caller may monitor, without their args.';
COMMENT ON COLUMN pgq.schedules.name IS 'Name of the schedule.';
COMMENT ON COLUMN pgq.schedules.queue IS 'Queue into which its jobs are put.';
COMMENT ON COLUMN pgq.schedules.task IS 'Task of its jobs; NULL: none.';
COMMENT ON COLUMN pgq.schedules.priority IS 'Priority of its jobs.';
COMMENT ON COLUMN pgq.schedules.cron IS 'Cron pattern; NULL: every says when.';
COMMENT ON COLUMN pgq.schedules.every IS 'Time between two runs; NULL: cron says when.';
COMMENT ON COLUMN pgq.schedules.timezone IS 'Time zone whose wall clock is meant.';
COMMENT ON COLUMN pgq.schedules.overlap IS 'What becomes of a run while the job of the run before is live: skip, queue or allow.';
COMMENT ON COLUMN pgq.schedules.catchup IS 'What becomes of runs that nobody was there to put: none, last or all.';
COMMENT ON COLUMN pgq.schedules.active IS 'False: paused, or stopped for the reason in skipped.';
COMMENT ON COLUMN pgq.schedules.held IS 'True: it came with a copy of a database and does not run until pgq.arm.';
COMMENT ON COLUMN pgq.schedules.starts_at IS 'No run before this moment.';
COMMENT ON COLUMN pgq.schedules.ends_at IS 'No run after this moment.';
COMMENT ON COLUMN pgq.schedules.next_run IS 'Nominal time of the next run; NULL: there is none any more.';
COMMENT ON COLUMN pgq.schedules.last_run IS 'Nominal time of the last run, or when run_schedule put its job.';
COMMENT ON COLUMN pgq.schedules.last_job IS 'Id of the job of the last run.';
COMMENT ON COLUMN pgq.schedules.skipped_at IS 'Nominal time of the last run that was skipped.';
COMMENT ON COLUMN pgq.schedules.skipped IS 'Why it was skipped.';

COMMENT ON FUNCTION pgq.arm() IS
$$Lets the handlers and schedules of a copy run: of a database that was restored from a dump or made from a template. Roles are taken by their names, where the caller may act as them.
Returns false when nothing was held.
Example: SELECT pgq.arm();$$;

COMMENT ON TABLE pgq.dependency IS 'What live jobs come after: a row for each job whose end is not counted yet. Written by put and by the scheduler.';
COMMENT ON COLUMN pgq.dependency.child IS 'Id of the job that waits.';
COMMENT ON COLUMN pgq.dependency.parent IS 'Id of the job that it comes after.';
COMMENT ON COLUMN pgq.dependency.run_anyway IS 'Does it run when that job is dead or cancelled? False: it is cancelled then.';
COMMENT ON COLUMN pgq.dependency.unsure IS 'Somebody had that job when this row was written, so that its end may not be told: the scheduler looks.';
COMMENT ON COLUMN pgq.dependency.outcome IS 'What became of that job: done, dead or cancelled. NULL: it has not ended.';
COMMENT ON CONSTRAINT dependency_pkey ON pgq.dependency IS 'A job comes after another once.';
COMMENT ON CONSTRAINT dependency_outcome_check ON pgq.dependency IS 'The outcomes of a finished job.';
COMMENT ON INDEX pgq.dependency_pkey IS 'Serves waiting, and the scheduler: what a job comes after.';
COMMENT ON INDEX pgq.dependency_parent_idx IS 'Serves the scheduler: what comes after a job that ended.';
COMMENT ON INDEX pgq.dependency_settled_idx IS 'Serves the scheduler: jobs one of whose parents has ended.';
COMMENT ON INDEX pgq.dependency_unsure_idx IS 'Serves the scheduler: parents that it has to look for; mostly empty.';
COMMENT ON TABLE pgq.ended IS 'Ends of jobs that others wait for, or that belong to a flow, until the scheduler has seen them.';
COMMENT ON COLUMN pgq.ended.job IS 'Id of the job.';
COMMENT ON COLUMN pgq.ended.outcome IS 'done, dead or cancelled.';
COMMENT ON COLUMN pgq.ended.flow IS 'Its flow; NULL: none.';
COMMENT ON COLUMN pgq.ended.n IS '1: it ended so. -1: it had ended so, and is live again.';
COMMENT ON CONSTRAINT ended_outcome_check ON pgq.ended IS 'The outcomes of a finished job.';
COMMENT ON CONSTRAINT ended_n_check ON pgq.ended IS 'One end, or one taken back.';

COMMENT ON TABLE pgq.flow_state IS 'Flows: sets of jobs that are counted together. Counted by the scheduler, pruned by pgq.keep_dead after their end. Read pgq.flows.';
COMMENT ON COLUMN pgq.flow_state.id IS 'Number of the flow in this database.';
COMMENT ON COLUMN pgq.flow_state.name IS 'What it is called, for people; NULL: nothing.';
COMMENT ON COLUMN pgq.flow_state.created_at IS 'When it was made.';
COMMENT ON COLUMN pgq.flow_state.on_finished IS 'Queue into which a job is put when all its jobs have ended; NULL: none.';
COMMENT ON COLUMN pgq.flow_state.on_succeeded IS 'The same, if all of them are done.';
COMMENT ON COLUMN pgq.flow_state.on_dead IS 'Queue into which a job is put when its first job is dead; NULL: none.';
COMMENT ON COLUMN pgq.flow_state.done IS 'Its jobs that are done.';
COMMENT ON COLUMN pgq.flow_state.dead IS 'Its jobs that are dead.';
COMMENT ON COLUMN pgq.flow_state.cancelled IS 'Its jobs that were cancelled.';
COMMENT ON COLUMN pgq.flow_state.first_dead_at IS 'When the first of them was found dead; NULL: none was.';
COMMENT ON COLUMN pgq.flow_state.finished_at IS 'When all had ended; NULL: not yet.';
COMMENT ON CONSTRAINT flow_state_pkey ON pgq.flow_state IS 'One row for each flow.';
COMMENT ON INDEX pgq.flow_state_pkey IS 'Serves put, and the scheduler: a flow by its id.';
COMMENT ON INDEX pgq.flow_state_open_idx IS 'Serves the scheduler: flows that are not finished.';
COMMENT ON INDEX pgq.job_flow_idx IS 'Serves the scheduler and pgq.flows: live jobs of a flow.';
COMMENT ON SEQUENCE pgq.flow_state_id_seq IS 'Ids of flows.';
COMMENT ON VIEW pgq.flows IS 'Flows and how far they came, for whoever may monitor all queues.';
COMMENT ON COLUMN pgq.flows.id IS 'Number of the flow.';
COMMENT ON COLUMN pgq.flows.name IS 'What it is called.';
COMMENT ON COLUMN pgq.flows.created_at IS 'When it was made.';
COMMENT ON COLUMN pgq.flows.total IS 'Jobs that were put into it.';
COMMENT ON COLUMN pgq.flows.live IS 'Those that have not ended.';
COMMENT ON COLUMN pgq.flows.done IS 'Those that are done.';
COMMENT ON COLUMN pgq.flows.dead IS 'Those that are dead.';
COMMENT ON COLUMN pgq.flows.cancelled IS 'Those that were cancelled.';
COMMENT ON COLUMN pgq.flows.finished_at IS 'When all had ended; NULL: not yet.';
COMMENT ON COLUMN pgq.flows.succeeded IS 'Finished, and all of them done? NULL: not finished.';

COMMENT ON FUNCTION pgq.flow(text, text, text, text) IS
$$Makes a flow: a set of jobs that are put with flow => its id. When all of them have ended a job is put into the queue on_finished, and if all are done also into on_succeeded; when the first is dead, into on_dead. The caller needs "produce" on these queues.
args of these jobs: {"flow": 1, "name": "import", "done": 3, "dead": 0, "cancelled": 0}.
Returns the flow's id. Progress: pgq.flows.
Example: SELECT pgq.flow('import', on_finished => 'report');$$;

COMMENT ON COLUMN pgq.handler.on_done IS 'Queue into which a job is put for each job that is done, with its result, in the same transaction. NULL: none.';
COMMENT ON COLUMN pgq.handler.on_dead IS 'Queue into which a job is put for each job that is dead, with its error, in the same transaction. NULL: none.';
COMMENT ON COLUMN pgq.job.group_key IS 'Group: jobs of one (queue, group) run one at a time, in the order of their ids. NULL: none.';
COMMENT ON COLUMN pgq.job.flow IS 'Flow that the job belongs to. NULL: none.';
COMMENT ON COLUMN pgq.job.parents IS 'How many of the jobs that it comes after have not ended.';
COMMENT ON COLUMN pgq.job.has_children IS 'Does some job come after it, so that its end is told?';
COMMENT ON COLUMN pgq.job.state IS 'ready: may be claimed. scheduled: waits for execute_at, put so or after a failure. leased: claimed until execute_at. waiting: for other jobs, of its group or that it comes after; then ready or scheduled.';
COMMENT ON TABLE pgq.job IS 'Live jobs: ready, scheduled, leased or waiting. A job that a function handler runs is a row whose removal has not committed yet. Jobs of a (queue, task) pair are run only by a handler registered for exactly that pair, or claimed by an outside worker. Use the functions, not DML. The row is the type that claim returns and that handlers may take.';
COMMENT ON CONSTRAINT job_state_check ON pgq.job IS 'The states of a live job.';
COMMENT ON INDEX pgq.job_group_idx IS 'Serves put and claim: the jobs at the head of a group.';
COMMENT ON INDEX pgq.job_waiting_idx IS 'Serves put and the end of a job: those of a group that wait for others.';
COMMENT ON COLUMN pgq.finished_job.group_key IS 'Group of the job; NULL: none.';
COMMENT ON COLUMN pgq.finished_job.flow IS 'Flow of the job; NULL: none.';
COMMENT ON COLUMN pgq.queue_setting.group_running IS 'Jobs of one group that run at a time. They begin in the order of their ids. NULL: 1.';
COMMENT ON COLUMN pgq.queue_setting.group_holds IS 'Does a job that failed hold its group until it is done or dead? False: the others pass until its next try. NULL: yes.';
COMMENT ON CONSTRAINT queue_setting_running_check ON pgq.queue_setting IS 'At least one at a time.';

COMMENT ON FUNCTION pgq.put(text, jsonb, integer, timestamptz, interval, text, text, text, integer, text, bigint[], text, bigint) IS
$$Puts one job into a queue, due at execute_at, after delay, or now. With a key, and a job of that key ready or scheduled: on_conflict keep leaves it, replace gives it the new task, args, priority, time and max_attempts, error raises 23505. With a group_key, jobs of one group run one at a time, in the order of their ids. after: ids of jobs that must have ended before; if one of them is dead or cancelled, so is this one, or it runs, with after_failure run. flow: a set of jobs that it is counted in.
Returns the job's id; for keep and replace that of the job already there.
Example: SELECT pgq.put('mail', '{"to": "ada@example.org"}', delay => '5 min');$$;

COMMENT ON FUNCTION pgq.register(text, text, text, name, interval, integer, integer, integer, interval, interval, text, text) IS
$$Registers a function or procedure as the handler of a (queue, task) pair; without task, of the queue's jobs that have none. It takes (args jsonb), (job pgq.job), (id bigint, args jsonb) or nothing, and runs as the role run_as. What was registered for the same pair is replaced, all of it. For each of its jobs that is done or dead, a job with its outcome is put into the queue on_done or on_dead, in the same transaction; the caller needs "produce" on these.
Returns the handler's signature as it was found.
Example: SELECT pgq.register('mail', 'app.send_mail', timeout => '1 min');$$;

COMMENT ON FUNCTION pgq.bulk_put(text, jsonb, jsonb[], integer, timestamptz, interval, text, text, bigint[], text, bigint) IS
$$Puts many jobs into a queue: either args, an array with the args of each, or jobs, an array of objects with the keys args, priority, execute_at, delay, task, key, max_attempts, group_key, after, after_failure and flow; what an object leaves out comes from the other arguments. A key is treated as put does with on_conflict keep.
Returns their ids, in the order given.
Example: SELECT pgq.bulk_put('mail', jobs => '[{"args": {"to": "ada@example.org"}, "priority": 5}]');$$;

COMMENT ON FUNCTION pgq.configure(text, integer, interval, interval, interval, interval, boolean, boolean, integer, boolean) IS
$$Sets how a queue retries, keeps, notifies and treats its groups. NULL leaves a value as it is; with reset, values not given go back to the server's settings.
Returns the queue's settings, one row.
Example: SELECT * FROM pgq.configure('mail', max_attempts => 10, keep_done => '1 day');$$;

COMMENT ON FUNCTION pgq.stats(text) IS
$$Shows how many jobs a queue has, or each queue. Costs the number of queues, not of jobs.
Returns for each queue its ready, scheduled, leased and dead jobs, those that executors run now (until the commit also counted as ready or leased), the age of the oldest ready one, the jobs done and failed since the time in since, its executors, whether it is paused, why handlers are parked, how many handlers it has, and its jobs that wait for other jobs.
Example: SELECT queue, ready, running, dead FROM pgq.stats();$$;
