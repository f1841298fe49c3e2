-- Nothing for PUBLIC: neither what CREATE FUNCTION grants by itself, nor anything else.
REVOKE ALL ON SCHEMA pgq FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgq FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pgq FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgq FROM PUBLIC;
-- A type that anybody may use is one that keeps our tables from being changed.
REVOKE ALL ON TYPE pgq.job, pgq.finished_job, pgq.queue_setting, pgq.handler, pgq.queue_grant,
    pgq.armed_handler, pgq.schedule, pgq.armed_schedule, pgq.dependency, pgq.ended, pgq.flow_state, pgq.running, pgq.workers, pgq.dead, pgq.queues,
    pgq.schedules, pgq.flows FROM PUBLIC;
