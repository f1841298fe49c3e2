-- A comment on every object and column. Words are those of the README; an index names the statement it serves.

COMMENT ON SCHEMA pgq IS 'pgq: a job queue with handlers that run in the database. All of it lives in this schema.';

-- Live jobs.
COMMENT ON TABLE pgq.job IS 'Live jobs: ready, scheduled, leased or waiting. A job that a function handler runs is a row whose removal has not committed yet. Jobs of a (queue, task) pair are run only by a handler registered for exactly that pair, or claimed by an outside worker. Use the functions, not DML. The row is the type that claim returns and that handlers may take.';
COMMENT ON COLUMN pgq.job.id IS 'Number of the job in this database; kept through retries and by the finished job.';
COMMENT ON COLUMN pgq.job.queue IS 'Queue of the job. A queue needs no creation.';
COMMENT ON COLUMN pgq.job.task IS 'Task: a kind of job inside the queue. NULL: none; only a handler registered without a task runs it.';
COMMENT ON COLUMN pgq.job.args IS 'What the handler gets: any JSON value.';
COMMENT ON COLUMN pgq.job.priority IS 'Larger is claimed first, inside one queue; among equals the smaller id.';
COMMENT ON COLUMN pgq.job.execute_at IS 'Ready: since when it may run. Scheduled: when it is due. Leased: end of its lease; infinity: an executor of this server runs it, as a procedure, and the lease does not end by time.';
COMMENT ON COLUMN pgq.job.created_at IS 'When it was put.';
COMMENT ON COLUMN pgq.job.state IS 'ready: may be claimed. scheduled: waits for execute_at, put so or after a failure. leased: claimed until execute_at. waiting: for other jobs, of its group or that it comes after; then ready or scheduled.';
COMMENT ON COLUMN pgq.job.attempt IS 'Attempts made or under way so far: 0 until the first. In the row that claim returns or a handler takes: the number of the attempt being made now. (id, attempt) names one claim for ever.';
COMMENT ON COLUMN pgq.job.failures IS 'Failures counted against max_attempts, recorded by an executor or by pgq.fail. Not counted: a release, and, up to a bound, a serialization failure, a deadlock or a lock that was not available.';
COMMENT ON COLUMN pgq.job.max_attempts IS 'Failures at which the job is dead, as put. NULL: the first given of the handler, the queue and the setting pgq.max_attempts.';
COMMENT ON COLUMN pgq.job.key IS 'At most one ready or scheduled job of a queue has a key. A job that runs or is leased no longer holds its key.';
COMMENT ON COLUMN pgq.job.crashes IS 'How often the server crashed, or its worker ended with FATAL, while the job ran alone. At pgq.max_crashes it is dead.';
COMMENT ON COLUMN pgq.job.error IS 'Last failure: an object with the keys sqlstate, message, detail, hint and context, as far as known. NULL: none yet.';
COMMENT ON COLUMN pgq.job.quarantined IS 'True: a process died while the job ran, so that it runs alone in its transaction until an attempt has ended, and for good if a crash was counted.';
COMMENT ON COLUMN pgq.job.group_key IS 'Group: jobs of one (queue, group) run one at a time, in the order of their ids. NULL: none.';
COMMENT ON COLUMN pgq.job.flow IS 'Flow that the job belongs to. NULL: none.';
COMMENT ON COLUMN pgq.job.parents IS 'How many of the jobs that it comes after have not ended.';
COMMENT ON COLUMN pgq.job.has_children IS 'Does some job come after it, so that its end is told?';
COMMENT ON CONSTRAINT job_pkey ON pgq.job IS 'One row for each id.';
COMMENT ON CONSTRAINT job_state_check ON pgq.job IS 'The states of a live job.';
COMMENT ON CONSTRAINT job_attempt_check ON pgq.job IS 'Counts are not negative, and there are no more failures than attempts.';
COMMENT ON CONSTRAINT job_max_attempts_check ON pgq.job IS 'At least one attempt.';
COMMENT ON INDEX pgq.job_pkey IS 'Serves every statement about one job: complete, fail, extend, release, cancel, run, wait, waiting.';
COMMENT ON INDEX pgq.job_task_idx IS 'Serves the claim for one task, in the same order.';
COMMENT ON INDEX pgq.job_ready_idx IS 'Serves the claim: ready jobs of a queue, in the order they are handed out.';
COMMENT ON INDEX pgq.job_due_idx IS 'Serves the scheduler: promotion of due jobs and end of leases, earliest first.';
COMMENT ON INDEX pgq.job_quarantine_idx IS 'Serves the claim of jobs in quarantine; empty where no process died.';
COMMENT ON INDEX pgq.job_key_idx IS 'Serves the keyed put: is there a ready or scheduled job with this key?';
COMMENT ON INDEX pgq.job_group_idx IS 'Serves put and claim: the jobs at the head of a group.';
COMMENT ON INDEX pgq.job_waiting_idx IS 'Serves put and the end of a job: those of a group that wait for others.';
COMMENT ON SEQUENCE pgq.job_id_seq IS 'Ids of jobs. A put that rolled back leaves a gap.';

-- Finished jobs.
COMMENT ON TABLE pgq.finished_job IS 'Finished jobs that are kept: dead and cancelled ones, and done ones where their queue keeps them. Pruned by age: see keep_done and keep_dead.';
COMMENT ON COLUMN pgq.finished_job.id IS 'Id it had as a live job.';
COMMENT ON COLUMN pgq.finished_job.queue IS 'Queue of the job.';
COMMENT ON COLUMN pgq.finished_job.task IS 'Task of the job; NULL: none.';
COMMENT ON COLUMN pgq.finished_job.args IS 'What the handler got.';
COMMENT ON COLUMN pgq.finished_job.priority IS 'Priority it had, and has again after a retry or redrive.';
COMMENT ON COLUMN pgq.finished_job.created_at IS 'When it was put.';
COMMENT ON COLUMN pgq.finished_job.attempt IS 'Number of its last attempt; goes on growing after a retry or redrive.';
COMMENT ON COLUMN pgq.finished_job.failures IS 'Failures counted; 0 again after a retry or redrive.';
COMMENT ON COLUMN pgq.finished_job.max_attempts IS 'Failures at which it is dead, as put; NULL: left to the handler, the queue and the setting.';
COMMENT ON COLUMN pgq.finished_job.key IS 'Key it was put with, or NULL. Finished jobs hold no key: another job may have it.';
COMMENT ON COLUMN pgq.finished_job.crashes IS 'How often the server crashed, or its worker ended with FATAL, while the job ran alone.';
COMMENT ON COLUMN pgq.finished_job.outcome IS 'done: it succeeded. dead: it failed too often, or for good. cancelled: somebody cancelled it.';
COMMENT ON COLUMN pgq.finished_job.result IS 'Done jobs: what the handler returned, or what complete was given; else NULL.';
COMMENT ON COLUMN pgq.finished_job.error IS 'Last failure: an object with the keys sqlstate, message, detail, hint and context, as far as known. NULL: it never failed.';
COMMENT ON COLUMN pgq.finished_job.finished_at IS 'When it became done, dead or cancelled; keep_done and keep_dead count from here.';
COMMENT ON COLUMN pgq.finished_job.group_key IS 'Group of the job; NULL: none.';
COMMENT ON COLUMN pgq.finished_job.flow IS 'Flow of the job; NULL: none.';
COMMENT ON CONSTRAINT finished_job_pkey ON pgq.finished_job IS 'One row for each id.';
COMMENT ON CONSTRAINT finished_job_outcome_check ON pgq.finished_job IS 'The outcomes of a finished job.';
COMMENT ON INDEX pgq.finished_job_pkey IS 'Serves retry and wait: a finished job by its id.';
COMMENT ON INDEX pgq.finished_job_queue_idx IS 'Serves redrive, purge, pruning and stats: finished jobs of a queue by outcome, oldest first.';

-- What comes after what.
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

-- Flows.
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

-- Settings of queues.
COMMENT ON TABLE pgq.queue_setting IS 'Settings of queues: only queues that were configured or paused have a row.';
COMMENT ON COLUMN pgq.queue_setting.queue IS 'Queue that the settings are for.';
COMMENT ON COLUMN pgq.queue_setting.max_attempts IS 'Failures at which a job of the queue is dead, unless the job or its handler says otherwise. NULL: the setting pgq.max_attempts.';
COMMENT ON COLUMN pgq.queue_setting.backoff IS 'Wait after the first failure; doubles with each, give or take a tenth. NULL: the setting pgq.backoff.';
COMMENT ON COLUMN pgq.queue_setting.max_backoff IS 'Longest wait between two attempts. NULL: the setting pgq.max_backoff.';
COMMENT ON COLUMN pgq.queue_setting.keep_done IS 'How long done jobs are kept; 0: not at all. NULL: the setting pgq.keep_done.';
COMMENT ON COLUMN pgq.queue_setting.keep_dead IS 'How long dead and cancelled jobs are kept. NULL: the setting pgq.keep_dead.';
COMMENT ON COLUMN pgq.queue_setting.notify IS 'Is NOTIFY sent on channel pgq_<queue> when jobs become ready? NULL: yes, unless the queue has a handler.';
COMMENT ON COLUMN pgq.queue_setting.paused IS 'Paused by a person: puts go on, running jobs finish, nothing is claimed.';
COMMENT ON COLUMN pgq.queue_setting.group_running IS 'Jobs of one group that run at a time. They begin in the order of their ids. NULL: 1.';
COMMENT ON COLUMN pgq.queue_setting.group_holds IS 'Does a job that failed hold its group until it is done or dead? False: the others pass until its next try. NULL: yes.';
COMMENT ON CONSTRAINT queue_setting_running_check ON pgq.queue_setting IS 'At least one at a time.';
COMMENT ON CONSTRAINT queue_setting_pkey ON pgq.queue_setting IS 'One row for each queue.';
COMMENT ON CONSTRAINT queue_setting_max_attempts_check ON pgq.queue_setting IS 'At least one attempt.';
COMMENT ON INDEX pgq.queue_setting_pkey IS 'Serves configure, pause and resume, and the look of claims at paused.';

-- Handlers.
COMMENT ON TABLE pgq.handler IS 'Handlers: the function or procedure that runs the jobs of a (queue, task) pair, and how. Written by register and unregister.';
COMMENT ON COLUMN pgq.handler.id IS 'Number of the handler; a registration of the same pair keeps it.';
COMMENT ON COLUMN pgq.handler.queue IS 'Queue whose jobs it runs.';
COMMENT ON COLUMN pgq.handler.task IS 'Task whose jobs it runs. NULL: jobs without a task, and no others.';
COMMENT ON COLUMN pgq.handler.function IS 'Function or procedure: schema, name and argument types. Looked up and checked again when it runs.';
COMMENT ON COLUMN pgq.handler.shape IS 'What it takes. nothing: no argument; args: (args jsonb); id_args: (id bigint, args jsonb); job: (job pgq.job); jobs: (jobs pgq.job[]), a set.';
COMMENT ON COLUMN pgq.handler.is_procedure IS 'True: a procedure, which may COMMIT, so its jobs run at least once. False: a function, whose database work is done exactly once.';
COMMENT ON COLUMN pgq.handler.run_as IS 'Role it runs as: executors connect as this role.';
COMMENT ON COLUMN pgq.handler.run_as_oid IS 'Oid of run_as at the registration.';
COMMENT ON COLUMN pgq.handler.timeout IS 'Longest time one job may run. NULL: the setting pgq.job_timeout.';
COMMENT ON COLUMN pgq.handler.concurrency IS 'Most executors that work for it at a time. NULL: the setting pgq.max_workers less one, but at least one.';
COMMENT ON COLUMN pgq.handler.batch IS 'Most jobs that share a transaction; 1: each has its own. NULL: as many as fit into pgq.batch_time. Of a function that takes a set, the most jobs in one call; NULL: 1000.';
COMMENT ON COLUMN pgq.handler.max_attempts IS 'Failures at which its jobs are dead, unless the job says otherwise. NULL: left to the queue and the setting.';
COMMENT ON COLUMN pgq.handler.backoff IS 'Wait after the first failure; doubles with each, give or take a tenth. NULL: left to the queue and the setting.';
COMMENT ON COLUMN pgq.handler.max_backoff IS 'Longest wait between two attempts. NULL: left to the queue and the setting.';
COMMENT ON COLUMN pgq.handler.registered_at IS 'When it was last registered.';
COMMENT ON COLUMN pgq.handler.parked IS 'Why pgq parked it: it cannot run. NULL: not parked. Written by the scheduler when it looks; stats, waiting and doctor say how it is now.';
COMMENT ON COLUMN pgq.handler.parked_at IS 'When it was parked, for this reason; NULL: not parked.';
COMMENT ON COLUMN pgq.handler.parked_until IS 'When it is tried again, for a reason that the catalog does not show. NULL: it runs again as soon as what the reason says is mended.';
COMMENT ON COLUMN pgq.handler.on_done IS 'Queue into which a job is put for each job that is done, with its result, in the same transaction. NULL: none.';
COMMENT ON COLUMN pgq.handler.on_dead IS 'Queue into which a job is put for each job that is dead, with its error, in the same transaction. NULL: none.';
COMMENT ON CONSTRAINT handler_pkey ON pgq.handler IS 'One row for each id.';
COMMENT ON CONSTRAINT handler_queue_task_key ON pgq.handler IS 'One handler for each (queue, task); no task counts as a task.';
COMMENT ON CONSTRAINT handler_shape_check ON pgq.handler IS 'The arguments that a handler may take; no procedure takes a set.';
COMMENT ON CONSTRAINT handler_numbers_check ON pgq.handler IS 'At least one executor, one job a transaction, one attempt.';
COMMENT ON CONSTRAINT handler_parked_check ON pgq.handler IS 'A parked handler has a reason and a time; only a parked one is tried again at a time.';
COMMENT ON INDEX pgq.handler_pkey IS 'Serves the parking of a handler, and the views.';
COMMENT ON INDEX pgq.handler_queue_task_key IS 'Serves register and unregister, and every look for the handler of a job.';
COMMENT ON SEQUENCE pgq.handler_id_seq IS 'Ids of handlers.';

-- Grants.
COMMENT ON TABLE pgq.queue_grant IS 'Grants: which role may do what with which queue. Written by grant_usage and revoke_usage only, never by hand: sessions keep what they read until these tell them.';
COMMENT ON COLUMN pgq.queue_grant.queue IS 'Queue. NULL: all queues of the database, also those to come.';
COMMENT ON COLUMN pgq.queue_grant.role IS 'Role that has the access, and its members.';
COMMENT ON COLUMN pgq.queue_grant.role_oid IS 'Oid of role at the grant. Where it is not that of role any more, the grant is void.';
COMMENT ON COLUMN pgq.queue_grant.access IS 'produce: put jobs, wait for them. consume: claim and finish them. monitor: see counts, workers and settings, no contents. admin: all of these, and change the queue.';
COMMENT ON CONSTRAINT queue_grant_key ON pgq.queue_grant IS 'One row for each grant; all queues count as a queue.';
COMMENT ON CONSTRAINT queue_grant_access_check ON pgq.queue_grant IS 'The accesses that there are.';
COMMENT ON INDEX pgq.queue_grant_key IS 'Serves grant_usage. Checks read the whole table, once for many.';

COMMENT ON TABLE pgq.armed_handler IS 'Handlers that may run: registered in this database, or armed in it. Not dumped, so that the handlers of a restored copy are held until pgq.arm. Written by register, unregister and arm.';
COMMENT ON COLUMN pgq.armed_handler.handler IS 'Id of the handler.';
COMMENT ON COLUMN pgq.armed_handler.registered_at IS 'Its registration: a later one is another handler.';
COMMENT ON COLUMN pgq.armed_handler.database IS 'Oid of the database in which it may run. One that was made from a template has another.';
COMMENT ON CONSTRAINT armed_handler_pkey ON pgq.armed_handler IS 'One row for each handler.';
COMMENT ON INDEX pgq.armed_handler_pkey IS 'Serves register, unregister and arm, and every look at handlers.';

-- Schedules.
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

-- Functions: what it does; what it returns; an example.
COMMENT ON FUNCTION pgq.put(text, jsonb, integer, timestamptz, interval, text, text, text, integer, text, bigint[], text, bigint) IS
$$Puts one job into a queue, due at execute_at, after delay, or now. With a key, and a job of that key ready or scheduled: on_conflict keep leaves it, replace gives it the new task, args, priority, time and max_attempts, error raises 23505. With a group_key, jobs of one group run one at a time, in the order of their ids. after: ids of jobs that must have ended before; if one of them is dead or cancelled, so is this one, or it runs, with after_failure run. flow: a set of jobs that it is counted in.
Returns the job's id; for keep and replace that of the job already there.
Example: SELECT pgq.put('mail', '{"to": "ada@example.org"}', delay => '5 min');$$;

COMMENT ON FUNCTION pgq.bulk_put(text, jsonb, jsonb[], integer, timestamptz, interval, text, text, bigint[], text, bigint) IS
$$Puts many jobs into a queue: either args, an array with the args of each, or jobs, an array of objects with the keys args, priority, execute_at, delay, task, key, max_attempts, group_key, after, after_failure and flow; what an object leaves out comes from the other arguments. A key is treated as put does with on_conflict keep.
Returns their ids, in the order given.
Example: SELECT pgq.bulk_put('mail', jobs => '[{"args": {"to": "ada@example.org"}, "priority": 5}]');$$;

COMMENT ON FUNCTION pgq.claim(text, integer, interval, text[], text[]) IS
$$Claims up to n ready jobs of a queue, or of several queues, for an outside worker. Without lease they are removed in the caller's transaction: ROLLBACK gives them back. With lease they stay, leased: end each with complete, fail or release before the lease ends.
Returns the jobs; attempt is the number of the attempt being made now.
Example: SELECT id, attempt, args FROM pgq.claim('mail', n => 10, lease => '30 s');$$;

COMMENT ON FUNCTION pgq.complete(bigint, integer, jsonb) IS
$$Ends a leased job as done. result is kept where the queue keeps done jobs.
Returns false when this attempt does not hold the job, or it is gone.
Example: SELECT pgq.complete(4711, 1, '{"sent": true}');$$;

COMMENT ON FUNCTION pgq.bulk_complete(bigint[], integer[]) IS
$$Ends many leased jobs as done: ids and attempts go in pairs.
Returns the ids that were accepted.
Example: SELECT pgq.bulk_complete(ARRAY[4711, 4712], ARRAY[1, 1]);$$;

COMMENT ON FUNCTION pgq.fail(bigint, integer, text, interval, boolean) IS
$$Records the failure of an attempt: of a leased job, or of a job claimed without lease whose transaction was rolled back. The job is due again after retry_in or its backoff, or dead at max_attempts failures or when permanent.
Returns the new state or outcome: scheduled, ready or dead; NULL when this attempt does not hold the job, or it is gone.
Example: SELECT pgq.fail(4711, 1, 'mailbox full', retry_in => '10 min');$$;

COMMENT ON FUNCTION pgq.extend(bigint, integer, interval) IS
$$Moves the end of a lease to now plus lease.
Returns the new end; NULL when this attempt does not hold the job, or it is gone.
Example: SELECT pgq.extend(4711, 1, '30 s');$$;

COMMENT ON FUNCTION pgq.release(bigint, integer, interval) IS
$$Gives a leased job back, due after delay. No failure is counted.
Returns false when this attempt does not hold the job, or it is gone.
Example: SELECT pgq.release(4711, 1);$$;

COMMENT ON FUNCTION pgq.register(text, text, text, name, interval, integer, integer, integer, interval, interval, text, text) IS
$$Registers a function or procedure as the handler of a (queue, task) pair; without task, of the queue's jobs that have none. It takes (args jsonb), (job pgq.job), (id bigint, args jsonb) or nothing, and runs as the role run_as. What was registered for the same pair is replaced, all of it. For each of its jobs that is done or dead, a job with its outcome is put into the queue on_done or on_dead, in the same transaction; the caller needs "produce" on these.
Returns the handler's signature as it was found.
Example: SELECT pgq.register('mail', 'app.send_mail', timeout => '1 min');$$;

COMMENT ON FUNCTION pgq.unregister(text, text) IS
$$Removes the handler of a (queue, task) pair. Its jobs wait for an outside worker or for another registration.
Returns false when there was none.
Example: SELECT pgq.unregister('mail');$$;

COMMENT ON FUNCTION pgq.configure(text, integer, interval, interval, interval, interval, boolean, boolean, integer, boolean) IS
$$Sets how a queue retries, keeps, notifies and treats its groups. NULL leaves a value as it is; with reset, values not given go back to the server's settings.
Returns the queue's settings, one row.
Example: SELECT * FROM pgq.configure('mail', max_attempts => 10, keep_done => '1 day');$$;

COMMENT ON FUNCTION pgq.pause(text) IS
$$Pauses a queue, or all queues of this database: puts go on, running jobs finish, nothing is claimed.
Returns the number of queues that changed.
Example: SELECT pgq.pause('mail');$$;

COMMENT ON FUNCTION pgq.resume(text) IS
$$Ends the pause of a queue, or of all queues of this database.
Returns the number of queues that changed.
Example: SELECT pgq.resume('mail');$$;

COMMENT ON FUNCTION pgq.arm() IS
$$Lets the handlers and schedules of a copy run: of a database that was restored from a dump or made from a template. Roles are taken by their names, where the caller may act as them.
Returns false when nothing was held.
Example: SELECT pgq.arm();$$;

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

COMMENT ON FUNCTION pgq.cancel(bigint, boolean) IS
$$Cancels a job; it is kept as cancelled. Never waits: a job that is running is left alone, unless force, which interrupts it if it is running here.
Returns the job's state or outcome after the call; NULL when it is gone.
Example: SELECT pgq.cancel(4711);$$;

COMMENT ON FUNCTION pgq.retry(bigint, timestamptz) IS
$$Makes a dead or cancelled job a live one again, due at execute_at or now, with no failures and without its key.
Returns false when there is no such job.
Example: SELECT pgq.retry(4711);$$;

COMMENT ON FUNCTION pgq.redrive(text, integer) IS
$$Makes the dead jobs of a queue ready again, oldest first, at most n, with no failures and without their keys.
Returns how many.
Example: SELECT pgq.redrive('mail', 100);$$;

COMMENT ON FUNCTION pgq.purge(text, text, interval) IS
$$Removes the jobs of a queue that are in a state (ready, scheduled) or have an outcome (done, dead, cancelled), were put or finished at least older_than ago, and are not running.
Returns how many.
Example: SELECT pgq.purge('mail', 'dead', older_than => '7 days');$$;

COMMENT ON FUNCTION pgq.run(bigint) IS
$$Runs a job here and now, in the caller's session and transaction: for debugging. Refused unless the session's user is the handler's role, or the function is SECURITY DEFINER and its owner is that user or a superuser.
Returns what the handler returned.
Example: SELECT pgq.run(4711);$$;

COMMENT ON FUNCTION pgq.wait(bigint, interval) IS
$$Waits until a job is finished, at most timeout. Cannot wait for a job put by the same transaction.
Returns its state or outcome, result, error and attempt: at the timeout the present state; gone for a job that is finished and not kept, or was never put.
Example: SELECT state, result FROM pgq.wait(4711, '10 s');$$;

COMMENT ON FUNCTION pgq.waiting(bigint) IS
$$Says why a job does not run: not due yet, paused, parked and why, no handler, no free executor, or running, and in which process.
Returns the reason, for people to read.
Example: SELECT pgq.waiting(4711);$$;

COMMENT ON FUNCTION pgq.stats(text) IS
$$Shows how many jobs a queue has, or each queue. Costs the number of queues, not of jobs.
Returns for each queue its ready, scheduled, leased and dead jobs, those that executors run now (until the commit also counted as ready or leased), the age of the oldest ready one, the jobs done and failed since the time in since, its executors, whether it is paused, why handlers are parked, how many handlers it has, and its jobs that wait for other jobs.
Example: SELECT queue, ready, running, dead FROM pgq.stats();$$;

COMMENT ON FUNCTION pgq.current_job() IS
$$The job that this session is running, for use in a handler.
Returns its row, with the number of the attempt being made now; NULL outside of a handler.
Example: SELECT id, attempt FROM pgq.current_job();$$;

COMMENT ON FUNCTION pgq.doctor() IS
$$Checks whether jobs can run on this server and in this database.
Returns one row for each check: its name, whether it is ok, what was found, and what to do.
Example: SELECT * FROM pgq.doctor() WHERE NOT ok;$$;

COMMENT ON FUNCTION pgq.start() IS
$$Starts the launcher, and with it the scheduler of this database, where they do not run yet. put and claim do it by themselves.
Returns true when there is a launcher.
Example: SELECT pgq.start();$$;

COMMENT ON FUNCTION pgq.version() IS
$$The version of pgq's library.
Returns it as text.
Example: SELECT pgq.version();$$;

COMMENT ON FUNCTION pgq.executors() IS
$$The executors of this database, from shared memory; the views pgq.running and pgq.workers read it.
Returns for each its process id, its role's oid, its state (starting, idle, busy), the id of the handler it works for and of the job it runs (0: none), the job's attempt, since when it runs, and when the executor was started.
Example: SELECT pid, state, job FROM pgq.executors();$$;

COMMENT ON FUNCTION pgq.grant_usage(name, text, text) IS
$$Gives a role an access (produce, consume, monitor, admin) to a queue, or without queue to all queues of the database, also those to come; with it USAGE of the schema and the privileges on exactly the functions and views that the access needs. Called by a superuser or the extension's owner; for all but admin also by who has admin on all queues.
Returns false when the role had it already.
Example: SELECT pgq.grant_usage('app', 'produce', 'mail');$$;

COMMENT ON FUNCTION pgq.revoke_usage(name, text, text) IS
$$Takes an access to a queue back from a role; without queue on every queue, grants for single queues included. Privileges that none of its other grants needs go with it.
Returns false when there was none.
Example: SELECT pgq.revoke_usage('app', 'produce', 'mail');$$;

COMMENT ON FUNCTION pgq.may(text, text) IS
$$Says whether the present role has an access to a queue, or without queue to all queues of the database; the views ask it.
Returns true or false.
Example: SELECT pgq.may('produce', 'mail');$$;

-- Views.
COMMENT ON VIEW pgq.running IS 'Jobs that executors of this database run now, from shared memory. Until the commit such a job also counts as ready or leased.';
COMMENT ON COLUMN pgq.running.pid IS 'Process id of the executor.';
COMMENT ON COLUMN pgq.running.queue IS 'Queue of the job.';
COMMENT ON COLUMN pgq.running.task IS 'Task of the job; NULL: none.';
COMMENT ON COLUMN pgq.running.job IS 'Id of the job.';
COMMENT ON COLUMN pgq.running.attempt IS 'Number of the attempt being made.';
COMMENT ON COLUMN pgq.running.handler IS 'Function or procedure that runs it, with its argument types.';
COMMENT ON COLUMN pgq.running.since IS 'Since when it runs.';

COMMENT ON VIEW pgq.workers IS 'Executors of this database, from shared memory.';
COMMENT ON COLUMN pgq.workers.pid IS 'Process id of the executor.';
COMMENT ON COLUMN pgq.workers.role IS 'Role it is connected as.';
COMMENT ON COLUMN pgq.workers.state IS 'starting: asked for, not connected yet. idle: has no job. busy: works for a handler.';
COMMENT ON COLUMN pgq.workers.queue IS 'Queue of the handler it works for; NULL: none.';
COMMENT ON COLUMN pgq.workers.task IS 'Task of the handler it works for; NULL: none.';
COMMENT ON COLUMN pgq.workers.started_at IS 'When it was started.';

COMMENT ON VIEW pgq.dead IS 'Dead jobs: failed too often, or for good. Bring them back with retry or redrive, remove them with purge.';
COMMENT ON COLUMN pgq.dead.id IS 'Id of the job.';
COMMENT ON COLUMN pgq.dead.queue IS 'Queue of the job.';
COMMENT ON COLUMN pgq.dead.task IS 'Task of the job; NULL: none.';
COMMENT ON COLUMN pgq.dead.args IS 'What the handler got.';
COMMENT ON COLUMN pgq.dead.priority IS 'Priority it had.';
COMMENT ON COLUMN pgq.dead.created_at IS 'When it was put.';
COMMENT ON COLUMN pgq.dead.finished_at IS 'When it became dead.';
COMMENT ON COLUMN pgq.dead.attempt IS 'Number of its last attempt.';
COMMENT ON COLUMN pgq.dead.failures IS 'Failures counted.';
COMMENT ON COLUMN pgq.dead.sqlstate IS 'SQLSTATE of its last failure.';
COMMENT ON COLUMN pgq.dead.message IS 'Message of its last failure.';
COMMENT ON COLUMN pgq.dead.error IS 'Last failure: an object with the keys sqlstate, message, detail, hint and context, as far as known.';

COMMENT ON VIEW pgq.queues IS 'Queues of this database: all that have a live job, a finished job, a handler or settings.';
COMMENT ON COLUMN pgq.queues.queue IS 'Name of the queue.';
COMMENT ON COLUMN pgq.queues.handlers IS 'Handlers registered for the queue and its tasks.';
COMMENT ON COLUMN pgq.queues.paused IS 'Paused by a person?';
COMMENT ON COLUMN pgq.queues.max_attempts IS 'Failures at which a job of the queue is dead; NULL: the setting pgq.max_attempts.';
COMMENT ON COLUMN pgq.queues.backoff IS 'Wait after the first failure; NULL: the setting pgq.backoff.';
COMMENT ON COLUMN pgq.queues.max_backoff IS 'Longest wait between two attempts; NULL: the setting pgq.max_backoff.';
COMMENT ON COLUMN pgq.queues.keep_done IS 'How long done jobs are kept; NULL: the setting pgq.keep_done.';
COMMENT ON COLUMN pgq.queues.keep_dead IS 'How long dead and cancelled jobs are kept; NULL: the setting pgq.keep_dead.';
COMMENT ON COLUMN pgq.queues.notify IS 'Is NOTIFY sent when jobs become ready? NULL: yes, unless the queue has a handler.';

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
