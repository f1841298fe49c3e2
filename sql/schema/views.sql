-- Tables are read as the views' owner, functions called as whoever reads the view: these choose the rows that he may
-- see. security_barrier: no function of his own sees a row before that.
CREATE VIEW pgq.running WITH (security_barrier) AS
SELECT e.pid, h.queue, h.task, e.job, e.attempt, h.function AS handler, e.since
  FROM pgq.executors() AS e
  JOIN pgq.handler AS h ON h.id OPERATOR(pg_catalog.=) e.handler
 WHERE e.job OPERATOR(pg_catalog.<>) 0;

CREATE VIEW pgq.workers WITH (security_barrier) AS
SELECT e.pid, r.rolname AS role, e.state, h.queue, h.task, e.started_at
  FROM pgq.executors() AS e
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) e.role
  LEFT JOIN pgq.handler AS h ON h.id OPERATOR(pg_catalog.=) e.handler;

CREATE VIEW pgq.dead WITH (security_barrier) AS
SELECT f.id, f.queue, f.task, f.args, f.priority, f.created_at, f.finished_at, f.attempt, f.failures,
       f.error OPERATOR(pg_catalog.->>) 'sqlstate' AS sqlstate,
       f.error OPERATOR(pg_catalog.->>) 'message' AS message,
       f.error
  FROM pgq.finished_job AS f
 WHERE f.outcome OPERATOR(pg_catalog.=) 'dead' AND pgq.may('admin', f.queue);

CREATE VIEW pgq.queues WITH (security_barrier) AS
SELECT q.queue,
       (SELECT pg_catalog.count(*) FROM pgq.handler AS h WHERE h.queue OPERATOR(pg_catalog.=) q.queue) AS handlers,
       COALESCE(s.paused, false) AS paused,
       s.max_attempts, s.backoff, s.max_backoff, s.keep_done, s.keep_dead, s.notify
  FROM (SELECT j.queue FROM pgq.job AS j
        UNION SELECT h.queue FROM pgq.handler AS h
        UNION SELECT s.queue FROM pgq.queue_setting AS s
        UNION SELECT f.queue FROM pgq.finished_job AS f) AS q
  LEFT JOIN pgq.queue_setting AS s ON s.queue OPERATOR(pg_catalog.=) q.queue
 WHERE pgq.may('monitor', q.queue);

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
