-- 0.2.0 → 0.3.0: schedules, and jobs put by changes of tables.
--
-- New: pgq.schedule and pgq.armed_schedule, the functions for them, the view pgq.schedules; on_change and off_change. Nothing that was there
-- changes. Grants wait until the end, which takes milliseconds; jobs are put and run meanwhile.
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
LOCK TABLE pgq.queue_grant IN SHARE ROW EXCLUSIVE MODE;

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

CREATE INDEX schedule_due_idx ON pgq.schedule (next_run) WHERE active;

SELECT pg_catalog.pg_extension_config_dump('pgq.schedule', '');

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

-- They belong to whoever types the upgrade, but everything of pgq must belong to who created the extension.
DO $$
DECLARE
    owner name;
    made record;
BEGIN
    SELECT r.rolname INTO STRICT owner
      FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) e.extowner
     WHERE e.extname OPERATOR(pg_catalog.=) 'pgq';
    EXECUTE pg_catalog.format('ALTER TABLE pgq.schedule OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER TABLE pgq.armed_schedule OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER VIEW pgq.schedules OWNER TO %I', owner);
    FOR made IN
        SELECT p.oid::pg_catalog.regprocedure::text AS name
          FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'pgq'
           AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['schedule', 'unschedule', 'pause_schedule', 'resume_schedule',
                                                           'run_schedule', 'next_runs', 'on_change', 'off_change',
                                                           'change_trigger']::pg_catalog.name[])
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', made.name, owner);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made.name);
    END LOOP;
END
$$;

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

REVOKE ALL ON TABLE pgq.schedule, pgq.armed_schedule, pgq.schedules FROM PUBLIC;
REVOKE ALL ON TYPE pgq.schedule, pgq.armed_schedule, pgq.schedules FROM PUBLIC;

-- What grant_usage gives along with each access.
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT DISTINCT r.rolname, g.access
          FROM pgq.queue_grant AS g
          JOIN pg_catalog.pg_roles AS r
            ON r.oid OPERATOR(pg_catalog.=) g.role_oid AND r.rolname OPERATOR(pg_catalog.=) g.role
    LOOP
        EXECUTE pg_catalog.format(
            'GRANT EXECUTE ON FUNCTION pgq.next_runs(text, integer, text, timestamptz) TO %I', held.rolname);
        IF held.access OPERATOR(pg_catalog.=) ANY (ARRAY['produce', 'admin']) THEN
            EXECUTE pg_catalog.format(
                'GRANT EXECUTE ON FUNCTION pgq.on_change(regclass, text, text[], text[], text[]),
                     pgq.off_change(regclass, text), pgq.change_trigger() TO %I', held.rolname);
        END IF;
        IF held.access OPERATOR(pg_catalog.=) ANY (ARRAY['monitor', 'admin']) THEN
            EXECUTE pg_catalog.format('GRANT SELECT ON TABLE pgq.schedules TO %I', held.rolname);
        END IF;
        IF held.access OPERATOR(pg_catalog.=) 'admin' THEN
            EXECUTE pg_catalog.format(
                'GRANT EXECUTE ON FUNCTION pgq.schedule(text, text, text, interval, jsonb, text, integer, text, text, text,
                     boolean, timestamptz, timestamptz), pgq.unschedule(text), pgq.pause_schedule(text),
                     pgq.resume_schedule(text), pgq.run_schedule(text) TO %I', held.rolname);
        END IF;
    END LOOP;
END
$$;
