-- Each index names the statements that it serves; store/ repeats it at the statement.
CREATE INDEX job_ready_idx ON pgq.job (queue, priority DESC, id) WHERE state = 'ready';
CREATE INDEX job_task_idx ON pgq.job (queue, task, priority DESC, id) WHERE state = 'ready' AND task IS NOT NULL;
CREATE INDEX job_quarantine_idx ON pgq.job (queue, priority DESC, id) WHERE quarantined AND state = 'ready';
CREATE INDEX job_due_idx ON pgq.job (execute_at) WHERE state = 'scheduled' OR state = 'leased';
CREATE INDEX job_key_idx ON pgq.job (queue, key) WHERE key IS NOT NULL;
CREATE INDEX job_group_idx ON pgq.job (queue, group_key, id) WHERE group_key IS NOT NULL AND state <> 'waiting';
CREATE INDEX job_waiting_idx ON pgq.job (queue, group_key, id) WHERE state = 'waiting';
CREATE INDEX finished_job_queue_idx ON pgq.finished_job (queue, outcome, finished_at);
CREATE INDEX schedule_due_idx ON pgq.schedule (next_run) WHERE active;
CREATE INDEX dependency_parent_idx ON pgq.dependency (parent);
CREATE INDEX dependency_settled_idx ON pgq.dependency (child) WHERE outcome IS NOT NULL;
CREATE INDEX dependency_unsure_idx ON pgq.dependency (parent) WHERE unsure;
CREATE INDEX job_flow_idx ON pgq.job (flow) WHERE flow IS NOT NULL;
CREATE INDEX flow_state_open_idx ON pgq.flow_state (id) WHERE finished_at IS NULL;
